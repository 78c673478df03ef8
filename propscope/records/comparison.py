"""`Comparison`: where the signals of two networks, sets of networks or trainings part, and whether they began alike."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from propscope.records.display import as_document, as_html, as_text
from propscope.records.monitored import Alarm
from propscope.records.network import Direction, Label
from propscope.records.numerals import counted

Quantity = Literal["rms", "gain", "state", "structure", "loss", "gradient norm", "learning rate", "error"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference at one site, or of one step of a training.

    `quantity`: "rms"; "gain", the rms divided by that of the site before (backward: after); "state", whether there is a
    signal, NaN, Inf or zeros; "structure", the site itself; of a step that has no site also "loss", "gradient norm",
    "learning rate", "error". `before`, `after`: its values in the first and in the second, geometric means over seeds;
    `ratio` = after / before with its simultaneous interval `low` to `high`; NaN where there is none. `place`: the
    position of the site among those of both in execution order. `renamed`: its name in the first where that is another
    one, else "". `step`: of the training, None outside one.
    """

    site: str
    direction: Direction | None
    quantity: Quantity
    message: str
    before: float = math.nan
    after: float = math.nan
    ratio: float = math.nan
    low: float = math.nan
    high: float = math.nan
    labels: Mapping[str, Label] | None = None
    place: int = 0
    renamed: str = ""
    step: int | None = None

    @property
    def of_whole_step(self) -> bool:
        """Whether it is one of a step of a training, such as its loss, and of no site."""
        return self.quantity not in _OF_SITES


@dataclass(frozen=True, slots=True)
class ParameterChange:
    """A parameter whose values differ: the rms `before` and `after`, NaN where only one side has it.

    `renamed`: its name in the first where that is another one, else "". `taken_from`: the parameter of the first whose
    values it seems to have now, by their moments, "" for none.
    """

    name: str
    before: float
    after: float
    renamed: str = ""
    taken_from: str = ""


@dataclass(frozen=True, slots=True)
class SiteSizes:
    """The rms at a site that both have, in the first and in the second, as geometric means over seeds.

    `forward`, `backward`: NaN where it was not seen, Inf where a value is not finite, 0 where all are zero. `labels`,
    `place` and `renamed` are as in `Difference`.
    """

    site: str
    forward: tuple[float, float]
    backward: tuple[float, float]
    labels: Mapping[str, Label] | None = None
    place: int = 0
    renamed: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `propscope.compare` found between a first and a second: `differences`, network by network, gains first.

    `names`: what the two are called, "" where they have no name. `networks`, `sites` (without inputs), `steps`: how
    many were held against each other; `comparisons`: the number of intervals, which share one rate of false alarms.
    `method`: how the seeds were compared, in words. `tolerance`: the relative difference that is none, and
    `tolerance_of`, what it follows from. `visible`: the factor of change that half of the comparisons would have
    detected; NaN without any.

    `same_batch`, `same_weights`: whether the first batch and the weights that it met are equal to the bit, None where
    that was not recorded; `inputs` says both in words. `parameters`: those that differ; `renamed`: the names of sites
    that were matched by their place in the graph, first and second. `only_first`, `only_second`: alarms that the other
    training lacks. `equal_until`: the first step whose loss is not equal to the bit, None where all are. `sizes`: the
    rms at every site that both have, of trainings at the last step that both have sampled. `notes`: what was not
    compared, or was measured differently. `axes`: the labels that tell the networks apart.
    """

    differences: tuple[Difference, ...]
    networks: int = 1
    sites: int = 0
    steps: int = 0
    comparisons: int = 0
    method: str = ""
    tolerance: float = math.nan
    tolerance_of: str = ""
    visible: float = math.nan
    same_batch: bool | None = None
    same_weights: bool | None = None
    inputs: tuple[str, ...] = ()
    parameters: tuple[ParameterChange, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    only_first: tuple[Alarm, ...] = ()
    only_second: tuple[Alarm, ...] = ()
    equal_until: int | None = None
    sizes: tuple[SiteSizes, ...] = ()
    notes: tuple[str, ...] = ()
    axes: tuple[str, ...] = ()
    names: tuple[str, str] = ("", "")

    @property
    def same(self) -> bool:
        """Whether nothing differs beyond the intervals, or the tolerance."""
        return not (self.differences or self.only_first or self.only_second)

    @property
    def drawn(self) -> tuple[SiteSizes, ...]:
        """The sizes of the network that pictures show: the first one that differs, else the first one."""
        labels = next((each.labels for each in self.differences if not each.of_whole_step), None)
        among = [each for each in self.sizes if labels is None or each.labels == labels]
        return tuple(each for each in among if each.labels == among[0].labels)

    def distinct(self, labels: Mapping[str, Label] | None) -> dict[str, Label]:
        """Return those of a network's labels that tell it from the others, by `axes`."""
        return {name: labels[name] for name in self.axes if labels is not None and name in labels}

    @property
    def exit_code(self) -> int:
        """0 for the same, 1 for a difference."""
        return 0 if self.same else 1

    def first(self, direction: Direction) -> Difference | None:
        """Return where the signal first parts: forward from the input on, backward from the output on.

        Of several networks that of the first one which differs, of a training that of the first step. A site that only
        one side has counts in both directions. None where nothing differs.
        """
        found = [each for each in self.differences if each.direction in (direction, None) and not each.of_whole_step]
        if not found:
            return None
        among = [each for each in found if each.labels == found[0].labels]
        sign = 1 if direction == "forward" else -1
        return min(among, key=lambda each: (-1 if each.step is None else each.step, sign * each.place))

    def to_dict(self) -> dict[str, Any]:
        """Return what `propscope compare --json` prints, of numbers, texts, lists and objects alone."""
        return as_document(self)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __repr__(self) -> str:
        found = "the same" if self.same else counted(len(self.differences), "difference")
        return f"Comparison({found})"


_OF_SITES = ("rms", "gain", "state", "structure")
