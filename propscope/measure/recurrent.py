"""What recurrent modules show over their steps.

A cell that is called step by step shows its states as it runs: each call is a site. A fused module (nn.RNN, nn.LSTM,
nn.GRU) hides them, so that it is run once more, unrolled, when the recorder closes: with what entered it, with copies
of its weights, and with the gradients that arrived at its outputs. Its own run is compared with that.
"""

from __future__ import annotations

import math
import re
import threading
import warnings
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from propscope.checks import bytes_text
from propscope.measure import calls
from propscope.measure.device_memory import Numbers
from propscope.measure.hooks import Guard, Hook, NotRecordableError, in_backward
from propscope.measure.module_info import ModuleInfo
from propscope.measure.observer import Observer
from propscope.measure.sites import Options
from propscope.measure.sums import widest
from propscope.measure.tensor_identity import version_of
from propscope.measure.unrolled import GATES, Lane, Unrolled, gate_courses, gate_values
from propscope.measure.wrappers import class_of
from propscope.records.network import CoverageNote, Site, signal_of
from propscope.records.time_course import (
    GateWeights,
    StateCourse,
    TimeCourse,
    sampled_steps,
)

OVERRIDDEN = "its states over time were not measured: its class overrides forward"
NOT_ASKED = "its states over time were not measured: `track(time=True)` runs it once more, unrolled, as `profile` does"
# Calls of one fused module in one pass that are run again; a loop over single steps is followed by its sites.
_CALLS = 8
_LOOP = 3
# Calls of a cell in one pass whose gates are seen, beside the last one.
_MOST_CALLS = 64
# What the unrolled run may take beside the user's own.
_LIMIT = 2 << 30
_WIDEST = 1024
_FORWARDS = (nn.RNN.forward, nn.LSTM.forward, nn.GRU.forward)
_CELLS = {nn.RNNCell: "RNN", nn.LSTMCell: "LSTM", nn.GRUCell: "GRU"}


def is_fused(module: nn.Module) -> TypeGuard[nn.RNNBase]:
    """Return whether a module runs all its steps in one call of torch's."""
    return isinstance(module, nn.RNNBase) and type(module).forward in _FORWARDS


def is_recurrent(module: nn.Module) -> bool:
    """Return whether a module is one of torch's recurrent ones, fused or a cell."""
    return is_fused(module) or isinstance(module, tuple(_CELLS))


@dataclass(slots=True)
class _Fused:
    """One call of a fused module: what entered it, what left it, and the gradients that arrived there."""

    module: nn.RNNBase
    dropout: float
    x: Tensor
    states: list[Tensor]
    sizes: Tensor | None
    order: Tensor | None
    weights: list[Tensor]
    random: Tensor | None
    outputs: list[Tensor]
    versions: list[int]
    gradients: list[Tensor | None]
    watched: bool = False
    handles: list[RemovableHandle] = field(default_factory=list)

    def forget(self) -> None:
        """Take the hooks off the outputs."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    @property
    def batched(self) -> bool:
        """Whether the input has an axis of sequences."""
        return self.sizes is not None or self.x.dim() == 3

    def lengths(self) -> list[int]:
        """Return the number of sequences at each step."""
        if self.sizes is not None:
            held: list[int] = self.sizes.tolist()
            return held
        if not self.batched:
            return [1] * len(self.x)
        steps, sequences = self.x.shape[:2][:: -1 if self.module.batch_first else 1]
        return [sequences] * steps

    def rows(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the shape of the input or output as rows, one a step and sequence, step by step."""
        if self.sizes is None and self.batched:
            tensor = (tensor.transpose(0, 1) if self.module.batch_first else tensor).reshape(-1, tensor.shape[-1])
        return tensor

    def sorted(self, state: Tensor) -> Tensor:
        """Return a state, shape (lanes, sequences, ...), with the sequences in the order of the rows."""
        state = state if self.batched else state.unsqueeze(1)
        return state if self.order is None else state.index_select(1, self.order)


@dataclass(slots=True)
class _Loop:
    """The calls of a cell in one pass: the gates of some of them, and what entered the last one."""

    lane: Lane
    seen: int
    calls: int = 0
    stride: int = 1
    gates: dict[int, list[Tensor]] = field(default_factory=dict)
    last: tuple[Tensor, ...] = ()
    kept: Numbers | None = None

    def see(self, entered: tuple[Tensor, ...]) -> None:
        """Note what enters the next call."""
        self.calls += 1
        self.last = entered
        # Every call of a multiple of `stride`: at least 16, at most 64 of them, however many are to come.
        if (self.calls - 1) % self.stride == 0:
            self.note()
            if len(self.gates) == _MOST_CALLS:
                self.stride *= 2
                self.gates = {call: held for call, held in self.gates.items() if (call - 1) % self.stride == 0}

    def keep(self, options: Options) -> None:
        """Compute the gates of the last call, and put those of all calls where one wait serves all."""
        self.note()
        values = [value for held in self.gates.values() for value in held]
        if not values or options.may_sync(values[0]):
            return
        if self.kept is None:
            self.kept = Numbers(
                options.memory, (_MOST_CALLS + 1) * len(next(iter(self.gates.values()))), values[0].device
            )
        self.kept.keep(torch.stack(values))

    def numbers(self) -> dict[int, list[float]]:
        """Return what `gate_values` gave at each call; waits for the device."""
        if self.kept is None:
            return {call: torch.stack(values).tolist() for call, values in self.gates.items()}
        left = iter(self.kept.read().tolist())
        return {call: [next(left) for _ in values] for call, values in self.gates.items()}

    def note(self) -> None:
        """Compute the gates of the last call."""
        if self.calls not in self.gates and self.last:
            x, h, *c = self.last
            with torch.no_grad(), _without_autocast(x.device.type):
                dtype = self.lane.input.dtype
                x, h = x.to(dtype), h.to(dtype)
                gates = self.lane.step(self.lane.entering(x), self.lane.own(h), h, c[0].to(dtype) if c else None)[2]
                self.gates[self.calls] = gate_values(self.lane.mode, gates)


class TimeWatch:
    """Watches recurrent modules beside the recorder, and runs the fused ones once more when it closes."""

    def __init__(self, observer: Observer, options: Options) -> None:
        self.courses: dict[str, list[TimeCourse]] = {}
        self.loops: dict[str, _Loop] = {}
        self._observer = observer
        self._options = options
        self._fused: dict[str, list[_Fused]] = {}
        self._counts: dict[str, tuple[int, int, int]] = {}
        self._handed: dict[str, weakref.ref[Tensor]] = {}

    def call(
        self, info: ModuleInfo, run: calls.Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module, and keep what a second run needs; what it raises passes through."""
        observer = self._observer
        if (threading.get_ident() != observer.thread and not in_backward()) or observer.hidden_by():
            return run(module, *args, **kwargs)
        guard = observer.guard
        random = guard(info.path, "module", "its random state", _random_state, module)
        output = run(module, *args, **kwargs)
        entered = guard(info.path, "module", "its input", _entering, args, kwargs)
        if entered is not None and is_fused(module):
            run_ = (info.path, module, *entered, output, random)
            guard(info.path, "module", "its states over time", self._see_fused, *run_)
        elif entered is not None:
            guard(info.path, "module", "its gates", self._see_cell, info.path, module, *entered, output)
        return output

    def _see_cell(self, path: str, module: nn.RNNCellBase, x: Tensor, states: list[Tensor], output: Any) -> None:
        if in_backward():
            return
        loop = self.loops.get(path)
        if loop is None or loop.seen != self._observer.batches:
            kept = None if loop is None else loop.kept
            loop = self.loops[path] = _Loop(_cell_lane(module), self._observer.batches, kept=kept)
        made = output if isinstance(output, tuple) else (output,)
        x, *states = (tensor.detach() if tensor.dim() > 1 else tensor.detach().unsqueeze(0) for tensor in (x, *states))
        states = states or [torch.zeros_like(each.detach()).reshape(len(x), -1) for each in made]
        loop.see((x, *states))

    def _see_fused(
        self, path: str, module: nn.RNNBase, given: Any, states: list[Tensor], output: Any, random: Tensor | None
    ) -> None:
        tensors = _leaving(output)
        if in_backward():
            # A checkpoint ran the module without a graph first; gradients arrive at what it computes now.
            call = next((call for call in reversed(self._fused.get(path, ())) if not call.watched), None)
            if call is not None:
                self._watch(path, call, tensors)
            return
        batch, count, fed = self._counts.get(path, (-1, 0, 0))
        if batch != self._observer.batches:
            self._drop(path)
            count = fed = 0
        before = self._handed.get(path)
        fed += bool(states) and before is not None and before() is states[0]
        self._handed[path] = weakref.ref(tensors[1])
        self._counts[path] = (self._observer.batches, count + 1, fed)
        if count >= _CALLS:
            return
        packed = isinstance(given, PackedSequence)
        x = given.data if packed else given
        dropping = module.training and module.num_layers > 1
        call = _Fused(
            module,
            dropout=float(module.dropout) if dropping else 0.0,
            x=x.detach(),
            states=[state.detach() for state in states],
            sizes=given.batch_sizes if packed else None,
            order=given.sorted_indices if packed else None,
            weights=[weight.detach().clone() for weight in _flat(module)],
            random=random,
            outputs=[tensor.detach() for tensor in tensors],
            versions=[version_of(tensor) for tensor in (x, *states, *tensors)],
            gradients=[None] * len(tensors),
        )
        self._fused.setdefault(path, []).append(call)
        self._watch(path, call, tensors)

    def _watch(self, path: str, call: _Fused, tensors: Sequence[Tensor]) -> None:
        for at, tensor in enumerate(tensors):
            if tensor.requires_grad:
                call.watched = True
                bound = (self._see_gradient, call, at)
                hook = Hook(self._observer.guard, path, "module", "its gradient over time", *bound)
                call.handles.append(tensor.register_hook(hook))

    def _see_gradient(self, call: _Fused, at: int, gradient: Tensor) -> None:
        def add(given: Tensor) -> None:
            before = call.gradients[at]
            call.gradients[at] = given.detach() if before is None else before + given.detach()

        self._observer.see_gradient(add, gradient)

    def _drop(self, path: str) -> None:
        for call in self._fused.pop(path, ()):
            call.forget()

    def finish(self) -> None:
        """Run the fused modules of the last pass once more."""
        guard = self._observer.guard
        for path, held in list(self._fused.items()):
            count, fed = self._counts[path][1:]
            # A module that is called step by step is a cell: its sites show it.
            if not (count >= _LOOP and fed >= count - 2):
                self.courses[path] = []
                if count > len(held):
                    reason = f"called {count} times in one pass: its states over time are those of the first {_CALLS}"
                    guard.add(path, "module", reason, key="calls over time")
                for number, call in enumerate(held):
                    name = f"{path}#{number}" if count > 1 else path
                    found = guard(name, "module", "its states over time", _run_again, name, call, guard)
                    reason = "the unrolled run failed, as the coverage says"
                    self.courses[path] += found or _unseen(name, call.module, call.weights, reason)
            self._drop(path)
        for path, loop in self.loops.items():
            guard(path, "module", "its gates", loop.keep, self._options)

    def forget(self) -> None:
        """Forget what the modules were called with."""
        for path in list(self._fused):
            self._drop(path)
        self._handed.clear()
        for loop in self.loops.values():
            loop.last = ()


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    # Some devices know no autocast, depending on the version of torch.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _random_state(module: nn.Module) -> Tensor | None:
    if not is_fused(module) or not module.dropout or not module.training or _flat(module)[0].is_cuda:
        return None
    return torch.get_rng_state()


def _entering(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, list[Tensor]]:
    """Return a recurrent module's input and its first states, none where none were given."""
    given = args[0] if args else kwargs["input"]
    states = args[1] if len(args) > 1 else kwargs.get("hx")
    if states is None:
        return given, []
    return given, list(states) if isinstance(states, (tuple, list)) else [states]


def _leaving(output: Any) -> list[Tensor]:
    """Return the tensors that a fused module returned: its output, h and, of an LSTM, c."""
    made, states = output
    rows = made.data if isinstance(made, PackedSequence) else made
    return [rows, *(states if isinstance(states, tuple) else (states,))]


def _flat(module: nn.RNNBase) -> list[Tensor]:
    """Return the weights that a fused module runs with, in torch's order."""
    return [weight for weight in module._flat_weights if weight is not None]


def _mode(module: nn.Module) -> str:
    if isinstance(module, nn.RNNBase):
        return str(module.mode)
    mode = next(mode for kind, mode in _CELLS.items() if isinstance(module, kind))
    return f"RNN_{str(module.nonlinearity).upper()}" if mode == "RNN" else mode


def _cell_lane(module: nn.RNNCellBase) -> Lane:
    """Return the weights of a cell, copied."""
    names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
    return Lane(_mode(module), tuple(getattr(module, name).detach().clone() for name in names), bool(module.bias))


def _lanes(module: nn.RNNBase, weights: Sequence[Tensor]) -> list[Lane]:
    directions = 2 if module.bidirectional else 1
    each = len(weights) // (module.num_layers * directions)
    return [
        Lane(module.mode, tuple(weights[at * each : (at + 1) * each]), module.bias, at % directions == 1)
        for at in range(module.num_layers * directions)
    ]


def _run_again(name: str, call: _Fused, guard: Guard) -> list[TimeCourse]:
    """Return the courses of one call of a fused module; raises `NotRecordableError` where there are none."""
    module = call.module
    devices = sorted({weight.device.index or 0 for weight in call.weights if weight.is_cuda})
    device = call.weights[0].device.type
    with (
        torch.inference_mode(False),
        torch.random.fork_rng(devices=devices),
        _without_autocast(device),
        warnings.catch_warnings(),
    ):
        # cuDNN wants the weights in one block of memory.
        warnings.simplefilter("ignore")
        second = _Second(call)
        if second.sampled:
            guard.add(name, "module", second.sampled, key="sequences")
        return second.courses(name, module)


class _Second:
    """The second run of one call of a fused module, fused and unrolled."""

    def __init__(self, call: _Fused) -> None:
        if call.dropout and call.random is None:
            raise NotRecordableError("its dropout masks are cuDNN's own and cannot be drawn again")
        changed = [version_of(tensor) for tensor in (call.x, *call.states)]
        if changed != call.versions[: len(changed)]:
            raise NotRecordableError("its input was changed in place after it ran")
        self._call, self._module = call, call.module
        self._sizes = call.lengths()
        if not self._sizes or not self._sizes[0]:
            raise NotRecordableError("its input is empty")
        self._dtype = call.outputs[0].dtype
        self._directions = 2 if call.module.bidirectional else 1
        self._weights = [self._own(weight) for weight in call.weights]
        self._sequences: Tensor | None = None
        self._kept: Tensor | None = None
        self.sampled = self._sample()
        self._x = self._own(self._rows(call.x))
        given = [self._own(self._sorted(state)) for state in call.states]
        self._states = given or [torch.zeros_like(self._sorted(self._own(end))) for end in call.outputs[1:]]
        self._masks = self._dropout_masks()
        arrived = call.gradients
        self._arrived = any(gradient is not None for gradient in arrived)
        shaped = [self._rows, *[self._sorted] * (len(arrived) - 1)]
        self._gradients = [
            shape(self._own(torch.zeros_like(made) if gradient is None else gradient))
            for gradient, made, shape in zip(arrived, call.outputs, shaped, strict=True)
        ]

    def _own(self, tensor: Tensor) -> Tensor:
        # What was made in inference mode takes part in no graph.
        return (tensor.clone() if tensor.is_inference() else tensor).to(self._dtype)

    def _rows(self, tensor: Tensor) -> Tensor:
        rows = self._call.rows(tensor)
        return rows if self._kept is None else rows[self._kept]

    def _sorted(self, state: Tensor) -> Tensor:
        state = self._call.sorted(state)
        return state if self._sequences is None else state[:, self._sequences]

    def _sample(self) -> str:
        """Keep so many of the sequences, evenly spread, as the limit of memory allows; return a note if not all."""
        module, sizes, x = self._module, self._sizes, self._call.x
        lanes = module.num_layers * self._directions
        width = module.hidden_size * lanes * (len(GATES[module.mode]) + 6) + 4 * x.shape[-1]
        size, most = sum(sizes) * width * self._weights[0].element_size(), sizes[0]
        if size <= _LIMIT:
            return ""
        sequences = int(most * _LIMIT / size)
        if self._call.dropout or not sequences:
            raise NotRecordableError(
                f"the unrolled run would need {bytes_text(size)}, more than {bytes_text(_LIMIT)}; "
                "use fewer or shorter sequences"
            )
        # The longest one, which is the first, is among them.
        chosen = torch.arange(sequences) * most // sequences
        self._sizes = [int((chosen < size).sum()) for size in sizes]
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        rows = [start + chosen[:count] for start, count in zip(starts, self._sizes, strict=True)]
        self._sequences, self._kept = chosen.to(x.device), torch.cat(rows).to(x.device)
        return (
            f"its states over time are those of {sequences} of {most} sequences: all would need {bytes_text(size)}, "
            f"more than {bytes_text(_LIMIT)}"
        )

    def _dropout_masks(self) -> list[Tensor | None]:
        layers, width = self._module.num_layers, self._call.outputs[0].shape[-1]
        if self._call.random is None:
            return [None] * layers
        torch.set_rng_state(self._call.random)
        ones = self._x.new_ones(len(self._x), width)
        return [*(F.dropout(ones, self._call.dropout, True) for _ in range(layers - 1)), None]

    def courses(self, name: str, module: nn.RNNBase) -> list[TimeCourse]:
        ours, unrolled = self._unrolled(self._dtype)
        theirs = self._fused()
        # One wait for all.
        parts = [torch.stack([_apart(a, b) for a, b in zip(ours, theirs, strict=True)]), *unrolled.numbers()]
        apart, *numbers = (part.tolist() for part in torch.cat(parts).cpu().split([len(part) for part in parts]))
        self._compare(ours, theirs, apart)
        weights = gate_weights(unrolled.lanes, radius=True)
        reason = "" if self._arrived else "no gradient arrived at its outputs"
        found = []
        for at, lane in enumerate(unrolled.lanes):
            hidden, cell, gates = unrolled.courses(at, numbers[at])
            found.append(
                TimeCourse(
                    name,
                    class_of(module).__name__,
                    layer=at // self._directions + 1,
                    reverse=lane.reverse,
                    length=len(self._sizes),
                    steps=unrolled.steps,
                    hidden=hidden,
                    cell=cell,
                    gates=gates,
                    weights=weights[at],
                    reason=reason,
                )
            )
        return found

    def _unrolled(self, dtype: torch.dtype) -> tuple[list[list[Tensor]], Unrolled]:
        """Return outputs, states, and the gradients of input, states and weights, as groups; and the run."""
        lanes = _lanes(self._module, [weight.to(dtype) for weight in self._weights])
        masks = [None if mask is None else mask.to(dtype) for mask in self._masks]
        unrolled = Unrolled(lanes, self._directions, self._sizes, masks)
        h, *c = (state.to(dtype) for state in self._states)
        output, h_end, c_end = unrolled.forward(self._x.to(dtype), h, c[0] if c else None)
        groups = [[output], [h_end] if c_end is None else [h_end, c_end]]
        if self._arrived:
            given, of_h, *of_c = (gradient.to(dtype) for gradient in self._gradients)
            of_x, first_h, first_c, of_weights = unrolled.backward(given, of_h, of_c[0] if of_c else None)
            groups += [[of_x], [first_h] if first_c is None else [first_h, first_c], of_weights]
        return groups, unrolled

    def _fused(self) -> list[list[Tensor]]:
        """Return the same groups of the fused module, run again."""
        call, module = self._call, self._module
        if call.random is not None:
            torch.set_rng_state(call.random)
        x = self._x.requires_grad_(False).detach().requires_grad_(self._arrived)
        states = [state.detach().requires_grad_(self._arrived) for state in self._states]
        weights = [weight.detach().requires_grad_(self._arrived) for weight in self._weights]
        run = getattr(torch, module.mode.lower())
        layout = (
            module.bias,
            module.num_layers,
            call.dropout,
            bool(call.dropout) or self._arrived,
            module.bidirectional,
        )
        hx = states if len(states) > 1 else states[0]
        with torch.set_grad_enabled(self._arrived):
            if call.sizes is not None:
                made = run(x, torch.tensor(self._sizes), hx, weights, *layout)
            else:
                made = run(x.reshape(len(self._sizes), -1, x.shape[1]), hx, weights, *layout, False)
            output, *ends = made
            output = output.reshape(len(x), -1)
        if self._intact():
            groups = [[self._rows(call.outputs[0])], [self._sorted(end) for end in call.outputs[1:]]]
        else:
            groups = [[output], list(ends)]
        if self._arrived:
            found = torch.autograd.grad([output, *ends], [x, *states, *weights], self._gradients, allow_unused=True)
            given = [
                torch.zeros_like(of) if gradient is None else gradient
                for gradient, of in zip(found, (x, *states, *weights), strict=True)
            ]
            groups += [given[:1], given[1 : 1 + len(states)], given[1 + len(states) :]]
        return groups

    def _intact(self) -> bool:
        made = self._call.outputs
        return [version_of(tensor) for tensor in made] == self._call.versions[-len(made) :]

    def _compare(self, ours: list[list[Tensor]], theirs: list[list[Tensor]], apart: list[float]) -> None:
        """Raise `NotRecordableError` where the unrolled run is another than the fused one; `apart`: by `_apart`.

        Each of the steps errs by a few eps, and a sum over n weights by sqrt(n) eps. Where a network amplifies its
        errors over time, no limit for two runs follows from eps: then both are held against the unrolled run in
        float64, to which the fused one must be about as near as the unrolled one is.
        """
        depth = len(self._sizes) * self._module.num_layers
        allowed = 8 * torch.finfo(self._dtype).eps * (depth + math.sqrt(self._weights[0].shape[1]))
        if max(apart) <= allowed:
            return
        exact = self._unrolled(torch.float64)[0] if self._x.device.type != "mps" else ours
        for group, other, right, distance in zip(ours, theirs, exact, apart, strict=True):
            if distance > allowed and _apart(other, right) > 16 * _apart(group, right) + allowed:
                raise NotRecordableError(
                    f"the unrolled run differs from the module's own by {distance:.1g} of its norm, more than "
                    f"rounding ({allowed:.1g})"
                )


def _apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Return the L2 distance of two groups of tensors over the norm of the second, of their finite elements, 0-d."""
    distances, norms = [], []
    for a, b in zip(ours, theirs, strict=True):
        a, b = (one.detach().to(widest(one)) for one in (a, b))
        finite = torch.isfinite(a) & torch.isfinite(b)
        a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
        distances.append(torch.linalg.vector_norm(a - b))
        norms.append(torch.linalg.vector_norm(b))
    distance, norm = (torch.linalg.vector_norm(torch.stack(one)) for one in (distances, norms))
    return torch.where(norm > 0, distance / norm, distance)


def gate_weights(lanes: Sequence[Lane], *, radius: bool) -> list[tuple[GateWeights, ...]]:
    """Return for each lane what the rows of W_ih and W_hh of each gate do; `radius`: whether to compute that of W_hh.

    The spectral radius is computed for the part that the state passes through last, the tanh of an LSTM or GRU, up to
    1024 units. Waits for the device once.
    """
    held = [(lane.input, lane.recurrent, *([] if lane.projection is None else [lane.projection])) for lane in lanes]
    flat = torch.cat([matrix.detach().flatten() for matrices in held for matrix in matrices]).cpu().double()
    left = iter(flat.split([matrix.numel() for matrices in held for matrix in matrices]))
    return [
        _gate_weights(lane.mode, *(next(left).view(matrix.shape) for matrix in matrices), radius=radius)
        for lane, matrices in zip(lanes, held, strict=True)
    ]


def _gate_weights(
    mode: str, entering: Tensor, own: Tensor, projection: Tensor | None = None, *, radius: bool
) -> tuple[GateWeights, ...]:
    names = GATES[mode]
    found = []
    for name, of_x, of_h in zip(names, entering.chunk(len(names)), own.chunk(len(names)), strict=True):
        size: float | None = None
        if radius and name in "hgn" and max(of_h.shape) <= _WIDEST and bool(torch.isfinite(of_h).all()):
            square = of_h if projection is None else projection @ of_h
            size = float(torch.linalg.eigvals(square).abs().max())
        found.append(GateWeights(name, _gain(of_x), _gain(of_h), size))
    return tuple(found)


def _gain(matrix: Tensor) -> float:
    found = float(torch.linalg.vector_norm(matrix)) / math.sqrt(len(matrix))
    return found if math.isfinite(found) else math.inf


def _unseen(name: str, module: nn.RNNBase, flat: Sequence[Tensor], reason: str) -> list[TimeCourse]:
    directions = 2 if module.bidirectional else 1
    lanes = _lanes(module, flat)
    return [
        TimeCourse(
            name,
            class_of(module).__name__,
            layer=at // directions + 1,
            reverse=lane.reverse,
            weights=weights,
            reason=reason,
        )
        for at, (lane, weights) in enumerate(zip(lanes, gate_weights(lanes, radius=False), strict=True))
    ]


def time_courses(
    watch: TimeWatch | None, modules: Mapping[str, ModuleInfo], observer: Observer, sites: Mapping[str, Site]
) -> Iterator[TimeCourse | CoverageNote]:
    """Yield the courses of all recurrent modules in the order of the modules, and notes on those that were not seen.

    `watch`: None where they were not asked for. `sites`: by the observer's keys.
    """
    loops = _loops(modules, sites, observer.returned)
    for path, info in modules.items():
        module = info.module
        if not observer.passes_of(path)[0]:
            continue
        if path in loops:
            gates = watch.loops.get(path) if watch is not None else None
            yield _loop_course(path, module, loops[path], gates)
        elif is_fused(module):
            if watch is not None:
                yield from watch.courses.get(path, ())
            else:
                yield CoverageNote(path, "module", NOT_ASKED)
                yield from _unseen(path, module, _flat(module), NOT_ASKED)
        elif isinstance(module, nn.RNNBase):
            yield CoverageNote(path, "module", OVERRIDDEN)


_CALL = re.compile(r"(.*?)(?:#(\d+))?((?:\[[^\[\]]*\])*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Recurrence:
    """A module whose output feeds its next call: its `states`, each as its sites, one a call.

    `through`: the names, without the number of the call, of what has weights on the way from one call to the next.
    """

    states: list[list[Site]]
    through: set[str]


def _loops(
    modules: Mapping[str, ModuleInfo], sites: Mapping[str, Site], returned: Mapping[str, str]
) -> dict[str, list[list[Site]]]:
    """Return the states of each module that is called at least three times and whose output feeds its next call.

    On the way lie only operations without weights, and layers that are called again at each step too. Of several
    modules on one way, and of a module inside another one, the recurrent one of torch's is taken, else the outer or
    first one.
    """
    calls: dict[str, dict[str, dict[int, Site]]] = {}
    # A call that is not the first has a number.
    if not any("#" in key for key in (*sites, *returned)):
        return {}
    for key in (*sites, *returned):
        path, number, suffix = _parts_of(key)
        if path in modules and (site := sites.get(returned.get(key, key))) is not None:
            calls.setdefault(path, {}).setdefault(suffix, {})[number] = site
    by_name = {site.name: site for site in sites.values()}
    found: dict[str, _Recurrence] = {}
    for path, by_suffix in calls.items():
        outputs = [[held[at] for at in range(len(held)) if at in held] for held in by_suffix.values()]
        outputs = [held for held in outputs if len(held) >= _LOOP]
        if not outputs or next(modules[path].module.parameters(), None) is None:
            continue
        ways = [_way_back(path, modules[path].module, held, outputs, by_name) for held in outputs]
        fed = [(held, way) for held, way in zip(outputs, ways, strict=True) if way is not None]
        # An output that comes back through other layers is no state where another one comes back as it is.
        fed = [(held, way) for held, way in fed if not way] or fed
        if fed:
            found[path] = _Recurrence([held for held, _ in fed], set().union(*(way for _, way in fed)))
    place = {site.name: at for at, site in enumerate(sites.values())}
    own = [path for path in found if is_recurrent(modules[path].module)]
    others = sorted((path for path in found if path not in own), key=lambda path: place[found[path].states[0][0].name])
    outer = [path for path in others if not any(_is_inside(path, other) for other in found)]
    outermost = list(own)
    for path in outer:
        around = any(_is_inside(cell, path) for cell in own)
        if not around and not any(
            name == other or _is_inside(name, other) for name in found[path].through for other in outermost
        ):
            outermost.append(path)
    return {path: found[path].states for path in outermost}


def _parts_of(key: str) -> tuple[str, int, str]:
    """Return the path of a site's name, the number of the call, and what tells its outputs apart."""
    path, number, suffix = _CALL.fullmatch(key).groups()  # type: ignore[union-attr]
    return path, int(number or 0), suffix


def _is_inside(name: str, path: str) -> bool:
    return name.startswith(f"{path}.") or (not path and bool(name))


def _way_back(
    path: str, module: nn.Module, state: list[Site], outputs: list[list[Site]], by_name: Mapping[str, Site]
) -> set[str] | None:
    """Return what has weights on the way back from a call's outputs to a state of the call before; None without a way.

    Where the sites do not know their parents, a cell of torch's is taken to feed itself.
    """
    through: set[str] = set()
    for earlier, later in ((0, 1), (1, 2)):
        start = [site for held in outputs for site in held[later : later + 1]]
        if any(site.parents is None for site in start):
            return set() if isinstance(module, nn.RNNCellBase) else None
        # From each site to those that it was reached from.
        reached: dict[str, list[str]] = {site.name: [] for site in start}
        waiting = list(start)
        while waiting:
            site = waiting.pop()
            for parent in site.parents or ():
                is_reached = parent.name in reached
                reached.setdefault(parent.name, []).append(site.name)
                before = by_name.get(parent.name)
                if not is_reached and before is not None and parent.name != state[earlier].name:
                    base, number, _ = _parts_of(before.name)
                    again = number or f"{base}#2" in by_name
                    if again or _is_inside(before.name, path) or not before.parameters:
                        waiting.append(before)
        if state[earlier].name not in reached:
            return None
        back = [state[earlier].name]
        visited = set(back)
        while back:
            new = set(reached[back.pop()]) - visited
            visited |= new
            back += new
        ends = {state[earlier].name, *(site.name for site in start)}
        through |= {
            _parts_of(name)[0]
            for name in visited - ends
            if not _is_inside(name, path) and name in by_name and by_name[name].parameters
        }
    return through


def _loop_course(path: str, module: nn.Module, states: list[list[Site]], loop: _Loop | None) -> TimeCourse:
    length = min(map(len, states))
    gated_steps = sorted(step for step in loop.gates if step <= length) if loop is not None else []
    steps = tuple(gated_steps[at - 1] for at in sampled_steps(len(gated_steps))) or sampled_steps(length)
    hidden, *others = (_state_course([held[step - 1] for step in steps]) for held in states)
    lanes: list[Lane] = []
    if isinstance(module, nn.RNNCellBase):
        lanes = [_cell_lane(module)]
    elif is_fused(module):
        lanes = _lanes(module, _flat(module))
    weights: tuple[GateWeights, ...] = ()
    if len(lanes) == 1:
        (weights,) = gate_weights(lanes, radius=loop is not None)
    numbers = {} if loop is None else loop.numbers()
    return TimeCourse(
        path,
        class_of(module).__name__,
        length=length,
        steps=steps,
        hidden=hidden,
        cell=others[0] if len(others) == 1 else None,
        gates=() if loop is None else gate_courses(loop.lane.mode, [numbers[step] for step in steps]),
        weights=weights,
        reason="no gradient arrived at its outputs" if hidden.backward is None else "",
    )


def _state_course(sites: list[Site]) -> StateCourse:
    forward, backward = (
        tuple(math.nan if math.isnan(rms := signal_of(summary)) else rms for summary in held)
        for held in ([site.forward for site in sites], [site.backward for site in sites])
    )
    return StateCourse(forward, None if all(site.backward is None for site in sites) else backward)
