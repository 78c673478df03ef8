"""`RankGroup`: what the ranks of a monitored training put together beside their records: losses, norms, origins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from propscope.measure.parts import Part, added, joint, largest, vector
from propscope.measure.rank_places import Places
from propscope.measure.ranks import Origin, Share, origin_of
from propscope.measure.shards import flat_shardings, sharding_of
from propscope.measure.wrappers import unwrapped, unwrapped_parameters
from propscope.monitoring.norms import NONE

Numbers = list[float]


@dataclass(frozen=True, slots=True)
class StepNumbers:
    """What waits to be put together: `values` of several tensors, of which some are losses and norms.

    `losses`: the positions of losses among the values, with the number of the micro-batch whose loss is not finite, 0
    where all are. `norms`: the positions of norms of parameters, with their names. `moments`: the numbers of the steps.
    """

    values: list[Numbers | None]
    losses: Sequence[tuple[int, int]]
    norms: Sequence[tuple[int, Sequence[str]]]
    moments: Sequence[int]


class RankGroup:
    """The ranks that train one model, of which this process is one."""

    def __init__(self, model: nn.Module, places: Places) -> None:
        self.places = places
        self._model = model

    @property
    def is_first(self) -> bool:
        """Whether this is the rank that writes."""
        return not self.places.ranks.rank

    def share(self, numbers: StepNumbers) -> Share:
        """Return what this rank brings of its steps, from which come the values of all ranks and origins of losses.

        A loss is the mean over the ranks. The norm of a distributed parameter is that of all its parts; others are the
        same on all ranks.
        """
        layout = (list(numbers.moments), [[at, len(names)] for at, names in numbers.norms])
        return Share(layout, self._merged(numbers))

    def _merged(self, numbers: StepNumbers) -> Part[tuple[list[Numbers | None], dict[int, Origin]]]:
        brings, rank = self._brings(), self.places.ranks.members[self.places.ranks.rank]
        values = list(numbers.values)
        codes, losses = [], []
        for at, batch in numbers.losses:
            given = values[at]
            losses += [0.0, 0.0] if given is None else [given[0], 1.0]
            broken = given is not None and not math.isfinite(given[0])
            codes.append(Origin(rank, max(batch - 1, 0)).code if broken else -math.inf)
        spots = [(at, place, name) for at, names in numbers.norms for place, name in enumerate(names) if name in brings]
        found = vector([NONE if (given := values[at]) is None else given[place] for at, place, _ in spots])
        brought = np.array([brings[name] for *_, name in spots], bool)
        squares = np.where(brought & (found != NONE), found**2, 0.0)
        parts = [largest(codes), added(losses), largest(np.nan_to_num(found)), added(squares)]
        seen, means, most, sums = yield from joint(parts)
        whole = np.where(most < 0, NONE, np.sqrt(sums))
        for (at, place, _), norm in zip(spots, whole.tolist(), strict=True):
            if (given := values[at]) is not None:
                values[at] = [*given[:place], norm, *given[place + 1 :]]
        origins = {}
        for number, (at, _), (loss, count), code in zip(
            numbers.moments, numbers.losses, means.reshape(-1, 2).tolist(), seen.tolist(), strict=True
        ):
            values[at] = [loss / count] if count else None
            if (origin := origin_of(code)) is not None:
                origins[number] = origin
        return values, origins

    def _brings(self) -> Mapping[str, bool]:
        """Return of each distributed parameter whether this rank brings its part."""
        flat = flat_shardings(self._model)
        found = {}
        for name, parameter in unwrapped_parameters(unwrapped(self._model)):
            if (sharding := flat.get(id(parameter)) or sharding_of(parameter)) is not None:
                found[name] = self.places.brings_parameter(sharding)
        return found
