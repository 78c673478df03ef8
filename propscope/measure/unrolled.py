"""A fused recurrent module run once more in plain differentiable operations, so that every state has a gradient.

The states between two steps of nn.RNN, nn.LSTM and nn.GRU exist in no tensor, and the gradient of the module's output
at a step is only what the loss reads there. Here each layer and direction is run step by step. Backward, the steps are
run again in pieces of about sqrt(steps), so that memory grows with what enters and leaves each layer and not with what
happens inside it (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from propscope.measure.saturation import FLAT_THRESHOLD
from propscope.measure.sums import total, widest
from propscope.records.time_course import GateCourse, StateCourse, sampled_steps

GATES = {"RNN_TANH": "h", "RNN_RELU": "h", "LSTM": "ifgo", "GRU": "rzn"}
# The gates that end in a tanh; the others are sigmoids, and the relu of RNN_RELU.
_TANH = "hgn"
_SHORTEST_PIECE = 16


@dataclass(frozen=True, slots=True)
class Lane:
    """The weights of one layer in one direction, as torch holds them, in their order; `mode` as in nn.RNNBase."""

    mode: str
    weights: tuple[Tensor, ...]
    bias: bool = True
    reverse: bool = False

    @property
    def input(self) -> Tensor:
        """W_ih, shape (gates * hidden, inputs)."""
        return self.weights[0]

    @property
    def recurrent(self) -> Tensor:
        """W_hh, shape (gates * hidden, outputs)."""
        return self.weights[1]

    @property
    def biases(self) -> tuple[Tensor | None, Tensor | None]:
        """b_ih and b_hh, each of shape (gates * hidden,)."""
        return (self.weights[2], self.weights[3]) if self.bias else (None, None)

    @property
    def projection(self) -> Tensor | None:
        """W_hr, shape (outputs, hidden), None where h is not projected."""
        rest = self.weights[4 if self.bias else 2 :]
        return rest[0] if rest else None

    def entering(self, x: Tensor) -> Tensor:
        """Return W_ih x + b_ih, shape (rows, gates * hidden)."""
        return F.linear(x, self.input, self.biases[0])

    def own(self, h: Tensor) -> Tensor:
        """Return W_hh h + b_hh, shape (rows, gates * hidden)."""
        return F.linear(h, self.recurrent, self.biases[1])

    def step(
        self, entering: Tensor, own: Tensor, h: Tensor, c: Tensor | None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Return the next h and c, and the gates' values, all of shape (rows, ...)."""
        if self.mode == "GRU":
            r, z, n = entering.chunk(3, 1)
            r_h, z_h, n_h = own.chunk(3, 1)
            r, z = torch.sigmoid(r + r_h), torch.sigmoid(z + z_h)
            n = torch.tanh(n + r * n_h)
            return n + z * (h - n), None, [r, z, n]
        if c is None:
            h = torch.tanh(entering + own) if self.mode == "RNN_TANH" else torch.relu(entering + own)
            return h, None, [h]
        i, f, g, o = (entering + own).chunk(4, 1)
        i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h if self.projection is None else F.linear(h, self.projection), c, [i, f, g, o]


def gate_values(mode: str, gates: Sequence[Tensor]) -> list[Tensor]:
    """Return for each gate its mean and the share that is flat, 0-d tensors, one after the other."""
    found = []
    for name, values in zip(GATES[mode], gates, strict=True):
        wide = values.detach().to(widest(values))
        if mode == "RNN_RELU":
            flat = wide <= 0
        elif name in _TANH:
            flat = 1 - wide * wide < FLAT_THRESHOLD
        else:
            flat = 4 * wide * (1 - wide) < FLAT_THRESHOLD
        found += [wide.mean(), flat.to(wide.dtype).mean()]
    return found


def gate_courses(mode: str, values: Sequence[Sequence[float]]) -> tuple[GateCourse, ...]:
    """Return the courses of the gates from what `gate_values` gave at each step."""
    return tuple(
        GateCourse(name, *(tuple(_nan(step[2 * at + part]) for step in values) for part in (0, 1)))
        for at, name in enumerate(GATES[mode])
    )


@dataclass(slots=True)
class _Seen:
    """What one lane shows at the sampled steps, as 0-d tensors by step."""

    states: dict[int, list[Tensor]] = field(default_factory=dict)
    gates: dict[int, list[Tensor]] = field(default_factory=dict)
    gradients: dict[int, list[Tensor]] = field(default_factory=dict)
    passed: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def all(self) -> tuple[dict[int, list[Tensor]], ...]:
        return self.states, self.gates, self.gradients, self.passed


@dataclass(frozen=True, slots=True)
class _Piece:
    """What some steps in a row gave: `output`, the last `h` and `c`, the states before and after each sampled step.

    `products`: for each step the state before it, and what it adds to the gates.
    """

    output: Tensor
    h: Tensor
    c: Tensor | None
    about: dict[int, tuple[list[Tensor], list[Tensor]]]
    products: list[tuple[Tensor, Tensor]]


class Unrolled:
    """A stack of layers over packed sequences.

    `lanes`: layer by layer, the directions of each. `sizes`: the number of sequences at each step, falling. `masks`:
    what the outputs of each layer but the last are multiplied by, each of shape (rows, outputs), or None.
    """

    def __init__(
        self, lanes: Sequence[Lane], directions: int, sizes: Sequence[int], masks: Sequence[Tensor | None]
    ) -> None:
        self.lanes = lanes
        self.seen = [_Seen() for _ in lanes]
        self._directions = directions
        self._sizes = sizes
        self._offsets = [0]
        for size in sizes:
            self._offsets.append(self._offsets[-1] + size)
        self.steps = sampled_steps(len(sizes))
        self._masks = masks
        self._inputs: list[Tensor] = []
        self._starts: list[list[tuple[Tensor, Tensor | None]]] = []
        self._piece = max(_SHORTEST_PIECE, math.isqrt(len(sizes)))

    def forward(self, x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what the fused module returns.

        `x`: packed rows, shape (rows, inputs); `h`, `c`: first states, shape (lanes, sequences, outputs or hidden).
        """
        ends: list[tuple[Tensor, Tensor | None]] = []
        with torch.no_grad():
            for layer in range(0, len(self.lanes), self._directions):
                self._inputs.append(x)
                outputs = []
                for at in range(layer, layer + self._directions):
                    output, end = self._run(at, x, h[at], None if c is None else c[at])
                    outputs.append(output)
                    ends.append(end)
                x = torch.cat(outputs, 1)
                mask = self._masks[layer // self._directions]
                x = x if mask is None else x * mask
            cells = [end[1] for end in ends if end[1] is not None]
            return x, torch.stack([end[0] for end in ends]), torch.stack(cells) if cells else None

    def backward(
        self, output: Tensor, h: Tensor, c: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
        """Return the gradients of x, of the first h and c, and of the weights lane by lane.

        Given are the gradients of what `forward` returned.
        """
        of_lanes: list[tuple[Tensor, Tensor | None, list[Tensor]]] = []
        for layer in reversed(range(0, len(self.lanes), self._directions)):
            mask = self._masks[layer // self._directions]
            output = output if mask is None else output * mask
            parts = output.chunk(self._directions, 1)
            below = []
            for at in reversed(range(layer, layer + self._directions)):
                ending = None if c is None else c[at]
                x = self._inputs[layer // self._directions]
                of_x, of_h, of_c, of_weights = self._back(at, x, parts[at - layer], h[at], ending)
                below.append(of_x)
                of_lanes.insert(0, (of_h, of_c, of_weights))
            output = below[0] if len(below) == 1 else below[0] + below[1]
        first_c = [each[1] for each in of_lanes if each[1] is not None]
        weights = [weight for each in of_lanes for weight in each[2]]
        return output, torch.stack([each[0] for each in of_lanes]), torch.stack(first_c) if first_c else None, weights

    def _order(self, lane: Lane) -> list[int]:
        order = range(len(self._sizes))
        return list(reversed(order)) if lane.reverse else list(order)

    def _pieces(self, lane: Lane) -> list[list[int]]:
        order = self._order(lane)
        return [order[at : at + self._piece] for at in range(0, len(order), self._piece)]

    def _rows(self, piece: Sequence[int]) -> slice:
        return slice(self._offsets[min(piece)], self._offsets[max(piece) + 1])

    def _run(self, at: int, x: Tensor, h: Tensor, c: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor | None]]:
        lane, starts, outputs = self.lanes[at], [], []
        for number, piece in enumerate(self._pieces(lane)):
            starts.append((h, c))
            ran = self._steps(lane, x[self._rows(piece)], h, c, piece, number, seen=self.seen[at])
            outputs.append(ran.output)
            h, c = ran.h, ran.c
        self._starts.append(starts)
        return torch.cat(outputs[::-1] if lane.reverse else outputs), (h, c)

    def _steps(
        self,
        lane: Lane,
        x: Tensor,
        h: Tensor,
        c: Tensor | None,
        piece: Sequence[int],
        number: int,
        *,
        seen: _Seen | None = None,
    ) -> _Piece:
        """Run the steps of the piece of that number; `seen`: what notes the states and gates."""
        entering = lane.entering(x)
        first = self._rows(piece).start
        outputs: list[Tensor] = []
        about: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        products: list[tuple[Tensor, Tensor]] = []
        sampled = set(self.steps)
        for count, step in enumerate(piece, start=number * self._piece + 1):
            size = self._sizes[step]
            rows = entering[self._offsets[step] - first : self._offsets[step] - first + size]
            # Each slice is a tensor of its own: its gradient is what passes through this step.
            h_before, c_before = h[:size], None if c is None else c[:size]
            products.append((h_before, lane.own(h_before)))
            h_after, c_after, gates = lane.step(rows, products[-1][1], h_before, c_before)
            if count in sampled:
                after = [h_after] if c_after is None else [h_after, c_after]
                about[count] = ([h_before] if c_before is None else [h_before, c_before], after)
                if seen is not None:
                    seen.states[count] = [_rms(state) for state in after]
                    seen.gates[count] = gate_values(lane.mode, gates)
            outputs.append(h_after)
            h = h_after if size == len(h) else torch.cat([h_after, h[size:]])
            if c is not None and c_after is not None:
                c = c_after if size == len(c) else torch.cat([c_after, c[size:]])
        return _Piece(torch.cat(outputs[::-1] if lane.reverse else outputs), h, c, about, products)

    def _back(
        self, at: int, x: Tensor, output: Tensor, h: Tensor, c: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, list[Tensor]]:
        lane, seen = self.lanes[at], self.seen[at]
        # The gradients of W_hh and b_hh are one product a piece: one a step takes five times as long for 1024 units.
        by_hand = (1, 3) if lane.bias else (1,)
        weights = [weight.detach().requires_grad_(n not in by_hand) for n, weight in enumerate(lane.weights)]
        learned = [n for n in range(len(weights)) if n not in by_hand]
        of_weights = [torch.zeros_like(weight) for weight in weights]
        of_x = torch.zeros_like(x)
        pieces = self._pieces(lane)
        again = Lane(lane.mode, tuple(weights), lane.bias, lane.reverse)
        for number in reversed(range(len(pieces))):
            piece, rows = pieces[number], self._rows(pieces[number])
            start = [state.detach().requires_grad_() for state in self._starts[at][number] if state is not None]
            entering = x[rows].detach().requires_grad_()
            with torch.enable_grad():
                ran = self._steps(again, entering, start[0], start[1] if len(start) > 1 else None, piece, number)
            ends = [(ran.output, output[rows]), (ran.h, h)]
            if ran.c is not None and c is not None:
                ends.append((ran.c, c))
            groups = [
                [entering],
                start,
                [weights[n] for n in learned],
                [own for _, own in ran.products],
                [state for befores, afters in ran.about.values() for state in (*befores, *afters)],
            ]
            wanted = [tensor for group in groups for tensor in group]
            found = torch.autograd.grad(
                [end for end, _ in ends], wanted, [gradient for _, gradient in ends], allow_unused=True
            )
            given = iter([_or_zeros(gradient, of) for gradient, of in zip(found, wanted, strict=True)])
            (of_x[rows],), of_start, of_learned, of_owns, of_states = ([next(given) for _ in group] for group in groups)
            h, c = of_start[0], of_start[1] if len(of_start) > 1 else None
            for n, gradient in zip(learned, of_learned, strict=True):
                of_weights[n] += gradient
            of_own = torch.cat(of_owns)
            of_weights[1] += of_own.T @ torch.cat([before.detach() for before, _ in ran.products])
            if lane.bias:
                of_weights[3] += of_own.sum(0)
            taken = iter(of_states)
            for step, (befores, _) in ran.about.items():
                passed = [_rms(next(taken)) for _ in befores]
                seen.gradients[step] = [_rms(next(taken)) for _ in befores]
                seen.passed[step] = [rms / own for rms, own in zip(passed, seen.gradients[step], strict=True)]
        return of_x, h, c, of_weights

    def numbers(self) -> list[Tensor]:
        """Return what `courses` makes the courses of, shape (numbers,) of each lane; they stay on the device."""
        return [
            torch.stack([value for held in seen.all for step in self.steps for value in held.get(step, ())])
            for seen in self.seen
        ]

    def courses(
        self, at: int, numbers: Sequence[float]
    ) -> tuple[StateCourse, StateCourse | None, tuple[GateCourse, ...]]:
        """Return the courses of h, of c and of the gates of one lane; `numbers`: its own of what `numbers` returned."""
        left = iter(numbers)
        forward, gates, backward, passed = (
            [[next(left) for _ in held[step]] for step in self.steps if step in held] for held in self.seen[at].all
        )
        states = [
            StateCourse(
                tuple(_finite(step[part]) for step in forward),
                tuple(_finite(step[part]) for step in backward) if backward else None,
                tuple(_nan(step[part]) for step in passed) if passed else None,
            )
            for part in range(len(forward[0]))
        ]
        return states[0], states[1] if len(states) > 1 else None, gate_courses(self.lanes[at].mode, gates)


def _rms(tensor: Tensor) -> Tensor:
    # Squares of vanishing gradients would be zero in float32.
    values = tensor.detach().to(widest(tensor))
    return (total(values.square()) / values.numel()).sqrt()


def _or_zeros(gradient: Tensor | None, of: Tensor) -> Tensor:
    return torch.zeros_like(of) if gradient is None else gradient


def _finite(value: float) -> float:
    """Return an rms, Inf where an element was not finite."""
    return value if math.isfinite(value) else math.inf


def _nan(value: float) -> float:
    # One object, so that records that hold it are equal.
    return math.nan if math.isnan(value) else value
