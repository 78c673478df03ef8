"""`UnreadStep`: what a step left on its device; once it is read, the row of the step, and the norms of a sample."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from propscope.measure.sums import widest
from propscope.monitoring.norms import NamedNorms
from propscope.monitoring.optimizer_steps import OptimizerStep
from propscope.monitoring.rank_group import Numbers, StepNumbers
from propscope.records.network import CoverageNote, NetworkProfile
from propscope.records.numerals import counted


@dataclass(frozen=True, slots=True)
class UnreadStep:
    """What one step left on its device: each number as a 0-d tensor.

    `broken`: the number of the first micro-batch whose loss is not finite, from 1, 0 where all are.
    `moments_left`: the share that the step leaves of Adam's mean of the squared gradient, at least.
    `gradients`: of what each optimizer stepped with. `accumulated`: of what the backward passes left, on sampled
    steps; of two norms of one parameter the last one counts. `scale`: of the loss. `found_inf`: above 0 where a fused
    optimizer skipped its step.
    """

    number: int
    seconds: float
    loss: Tensor | None = None
    broken: Tensor | None = None
    gradients: Sequence[NamedNorms] = ()
    accumulated: Sequence[NamedNorms] = ()
    scale: Tensor | None = None
    found_inf: Sequence[Tensor] = ()
    learning_rate: float | None = None
    moments_left: float = 1.0
    skipped: bool = False
    error: str = ""
    monitor_share: float = math.nan

    @property
    def tensors(self) -> list[Tensor | None]:
        """All that waits on a device."""
        return [self.loss, self.scale, self.broken, *self.found_inf, *_tensors_of((self.gradients, self.accumulated))]


def row_of(
    step: UnreadStep, values: Iterator[Numbers | None]
) -> tuple[dict[str, Any], dict[str, float], dict[str, float]]:
    """Return a step as a row of `STEP_FIELDS`, and the norms of its gradients by parameter, both kinds.

    `values`: the numbers of its tensors.
    """
    loss, scale, _ = next(values), next(values), next(values)
    left_out = [next(values) for _ in step.found_inf]
    stepped = _joined(step.gradients, values)
    before = _joined(step.accumulated, values)
    norm = _length(stepped)
    both = stepped.keys() & before.keys()
    whole, clipped = (_length({name: norms[name] for name in both}) for norms in (before, stepped))
    row = {
        "number": step.number,
        "loss": math.nan if loss is None else float(loss[0]),
        "loss_given": loss is not None,
        "gradient_norm": norm,
        "clip_factor": clipped / whole if 0 < whole < math.inf and clipped < math.inf else math.nan,
        "loss_scale": math.nan if scale is None else float(scale[0]),
        "learning_rate": math.nan if step.learning_rate is None else float(step.learning_rate),
        "nonfinite_gradients": sum(not math.isfinite(one) for one in stepped.values()) if stepped else -1,
        "skipped": int(step.skipped or any(one is not None and one[0] > 0 for one in left_out)),
        "superseded": 0,
        "seconds": step.seconds,
        "error": step.error,
        "monitor_share": step.monitor_share,
    }
    return row, stepped, before


def _joined(found: Sequence[NamedNorms], values: Iterator[Numbers | None]) -> dict[str, float]:
    joined: dict[str, float] = {}
    for one in found:
        numbers, scale = next(values), next(values)
        joined |= norms_by_name(one, numbers or [], scale)
    return joined


def norms_by_name(found: NamedNorms, values: Numbers, scale: Numbers | None = None) -> dict[str, float]:
    """Return the norms that count, by parameter, from the numbers of `found.values` and `found.scale`."""
    factor = scale[0] if scale is not None and scale[0] > 0 else 1.0
    pairs = zip(found.names, values, strict=True)
    return {
        name: value / factor if math.isfinite(value) else math.inf
        for name, value in pairs
        if not value < 0 and (found.only is None or name in found.only)
    }


def _length(norms: Mapping[str, float]) -> float:
    return math.hypot(*norms.values()) if norms else math.nan


def numbers_of(tensors: Sequence[Tensor | None]) -> list[Numbers | None]:
    """Return the numbers of each tensor, after waiting once for each device."""
    found: list[Numbers | None] = [None] * len(tensors)
    groups: dict[torch.device, list[tuple[int, Tensor]]] = {}
    for at, tensor in enumerate(tensors):
        if tensor is not None and tensor.is_cpu:
            found[at] = tensor.reshape(-1).tolist()
        elif tensor is not None:
            groups.setdefault(tensor.device, []).append((at, tensor.reshape(-1)))
    for entries in groups.values():
        flat = torch.cat([one.to(widest(one)) for _, one in entries]).tolist()
        for at, tensor in entries:
            found[at], flat = flat[: len(tensor)], flat[len(tensor) :]
    return found


def step_numbers(steps: Sequence[UnreadStep], stepped: Sequence[OptimizerStep]) -> StepNumbers:
    """Return the numbers of steps, and behind them those of what the optimizers did in the last one, once all are read.

    They are in the order of the steps' `tensors`, and of those that `with_step` takes.
    """
    parts = _parts_of(stepped)
    values = numbers_of([*(tensor for step in steps for tensor in step.tensors), *_tensors_of(parts)])
    losses, norms, at = [], [], 0
    for step in steps:
        broken = values[at + 2]
        losses.append((at, 0 if broken is None else int(broken[0])))
        at += 3 + len(step.found_inf)
        for one in (*step.gradients, *step.accumulated):
            norms.append((at, one.names))
            at += 2
    for one in chain.from_iterable(parts):
        norms.append((at, one.names))
        at += 2
    return StepNumbers(values, losses, norms, [step.number for step in steps])


def _parts_of(steps: Sequence[OptimizerStep]) -> list[list[NamedNorms]]:
    """Return the norms of the gradients, values, updates and both means of Adam that the optimizers' steps showed."""
    parts: list[list[NamedNorms | None]] = [
        [one.gradients for one in steps],
        [one.before for one in steps],
        [one.updates for one in steps],
        [one.moments[0] for one in steps if one.moments],
        [one.moments[1] for one in steps if one.moments],
    ]
    return [[one for one in part if one is not None] for part in parts]


def _tensors_of(parts: Sequence[Sequence[NamedNorms]]) -> list[Tensor | None]:
    return [tensor for one in chain.from_iterable(parts) for tensor in (one.values, one.scale)]


def with_step(
    profile: NetworkProfile,
    steps: Sequence[OptimizerStep],
    *,
    gradients: Mapping[str, float],
    numbers: Sequence[Numbers | None] | None = None,
) -> NetworkProfile:
    """Return a sample whose parameters have what the optimizers' steps showed.

    `gradients`: the norms before clipping; what is not among them was put in place without a backward pass. `numbers`:
    of the steps' norms, where they were read from their device, as by `step_numbers`.
    """
    found = _parts_of(steps)
    if numbers is None:
        numbers = numbers_of(_tensors_of(found))
    values = iter(numbers)
    stepped, sizes, changes, first, second = (_joined(part, values) for part in found)

    def ratio(name: str) -> float | None:
        size, change = sizes.get(name, 0.0), changes.get(name)
        return None if change is None or not 0 < size < math.inf else change / size

    late = stepped.keys() - gradients.keys()
    return replace(
        profile,
        parameters=tuple(
            replace(
                parameter,
                step_gradient_norm=gradients.get(parameter.name, stepped.get(parameter.name)),
                update_norm=changes.get(parameter.name),
                update_ratio=ratio(parameter.name),
                first_moment_norm=first.get(parameter.name),
                second_moment_norm=second.get(parameter.name),
            )
            for parameter in profile.parameters
        ),
        coverage=(
            *profile.coverage,
            *_late([one.name for one in profile.parameters if one.name in late]),
        ),
    )


def _late(names: Sequence[str]) -> list[CoverageNote]:
    """Return a note of the parameters whose gradients were not seen before clipping."""
    if not names:
        return []
    others = f" and {counted(len(names) - 1, 'other parameter')}" if len(names) > 1 else ""
    reason = (
        f"step_gradient_norm of it{others} is that of what the optimizer got, after clipping: no backward pass was "
        "seen to end"
    )
    return [CoverageNote(names[0], "parameter", reason)]
