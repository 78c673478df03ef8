"""`Calibration`: what was scaled, by how much, and what was left alone and why."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from propscope.calibration.weights import Saved, put_back
from propscope.results.table import Table, number, percent

# Below this share of the variance between samples, a layer of unit variance tells its samples hardly apart.
ALIKE = 0.01
_NAMES = 4


@dataclass(frozen=True, slots=True)
class Scaled:
    """A weight that is calibrated: its `factor` in all, and the standard deviation that it gives before and after.

    `std_before` is met in turn, with every layer ahead of it calibrated already (and after an orthogonal start, where
    one was asked for): it tells what this layer alone does to a signal of the wanted size. `factor` is 1 and `steps` 0
    where it was within the tolerance already. `calls`: how often its module ran in the forward pass in which it was
    calibrated, of which the first one counts. `sample_fraction`: the share of the variance after that lies within
    units, over samples and positions; near 0, the layer gives every sample the same.
    """

    name: str
    kind: str
    factor: float
    std_before: float
    std_after: float
    target: float
    steps: int
    calls: int
    sample_fraction: float


@dataclass(frozen=True, slots=True)
class Left:
    """A weight that was left alone, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibrate` did: `layers` in execution order, `left`, and the number of forward `passes` of the model.

    `reruns`: how often a single layer was run again inside such a pass. Holds a copy of every weight that was changed,
    for `undo`; the copies go with the record.
    """

    layers: tuple[Scaled, ...]
    left: tuple[Left, ...]
    passes: int
    reruns: int
    saved: tuple[Saved, ...] = field(default=(), repr=False, compare=False)

    def undo(self) -> None:
        """Restore the weights bit for bit, in place.

        Raises `InputError`, and changes nothing, where a weight is no longer what `calibrate` left: after a training
        step, after loading a state, and after an undo.
        """
        put_back(self.saved)

    def table(self) -> Table:
        """Return the layers as a table, with what was left in its notes."""
        columns = ("layer", "kind", "std before", "std after", "factor", "steps", "samples")
        rows = tuple(
            (
                layer.name or "(model)",
                layer.kind,
                number(layer.std_before),
                number(layer.std_after),
                number(layer.factor),
                str(layer.steps),
                percent(layer.sample_fraction),
            )
            for layer in self.layers
        )
        title = f"Calibration: {len(rows)} weights, {self.passes} forward pass{'es' if self.passes > 1 else ''}"
        return Table(title, columns, rows, frozenset(columns[:2]), self._notes())

    def _notes(self) -> tuple[str, ...]:
        notes = ["samples: share of the variance that lies between samples and positions, not between units"]
        alike = [layer.name for layer in self.layers if layer.sample_fraction < ALIKE]
        if alike:
            notes.append(
                f"hardly different between samples, whatever the scale: {_listed(alike)}; "
                "a centred activation, or a norm, keeps samples apart"
            )
        several = [layer.name for layer in self.layers if layer.calls > 1]
        if several:
            notes.append(f"run several times in a pass, calibrated on the first: {_listed(several)}")
        reasons: dict[str, list[str]] = {}
        for entry in self.left:
            reasons.setdefault(entry.reason, []).append(entry.name or "(model)")
        notes += [f"left alone, {reason}: {_listed(names)}" for reason, names in reasons.items()]
        return tuple(notes)

    def __str__(self) -> str:
        return self.table().to_text()

    def _repr_html_(self) -> str:
        return self.table().to_html()

    @property
    def largest_error(self) -> float:
        """The largest abs(std_after / target - 1) of all layers; nan without any."""
        return max((abs(layer.std_after / layer.target - 1) for layer in self.layers), default=math.nan)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
