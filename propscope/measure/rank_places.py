"""`Places`: which part of the samples and of the model a rank has, so that what several ranks hold counts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from propscope.errors import InputError
from propscope.measure.ranks import Ranks, refuse_differences
from propscope.measure.shards import Group, Sharding, data_groups, expert_groups, losses_of, model_groups
from propscope.measure.wrappers import require_module, unwrapped, unwrapped_parameters


@dataclass(frozen=True, slots=True)
class Places:
    """Where a rank is among the `ranks` that put their records together.

    `data`: its number among the ranks that see different samples, of `data_size`. `part`: its number among those that
    see the same samples, of `parts`. `losses`: by what the sum of the ranks' losses is divided. `of_data`, `of_model`:
    the groups of both kinds that lie within the ranks. `first`: those of them whose first rank it is.
    """

    ranks: Ranks
    data: int = 0
    data_size: int = 1
    part: int = 0
    parts: int = 1
    losses: float = 1.0
    of_data: frozenset[Group] = frozenset()
    of_model: frozenset[Group] = frozenset()
    first: frozenset[Group] = frozenset()

    @classmethod
    def of(cls, model: nn.Module, ranks: Ranks) -> Places:
        """Return the place of this rank, by the wrappers and the distributed parameters of the model.

        All ranks enter this together. Raises `InputError` on all of them where their models have other parameters, or
        experts of their own.
        """
        require_module(model)
        refuse_differences(
            "model must have the same parameters", [name for name, _ in unwrapped_parameters(unwrapped(model))], ranks
        )
        if experts := expert_groups(model):
            raise InputError(
                f"model must have the same layers on all ranks of the group, got experts spread over {experts[0]}",
                hint="a model with expert parallelism is recorded without group, on each rank alone",
            )
        members = frozenset(ranks.members)
        of_data = [group for group in data_groups(model) if members.issuperset(group.ranks)]
        of_model = [group for group in model_groups(model) if members.issuperset(group.ranks)]
        part, parts = _number(of_model)
        data, size = _number(of_data) if of_data else (ranks.rank // parts, max(ranks.size // parts, 1))
        return cls(
            ranks,
            data=data,
            data_size=size,
            part=part,
            parts=parts,
            losses=losses_of(model) or float(size),
            of_data=frozenset(of_data),
            of_model=frozenset(of_model),
            first=frozenset(group for group in (*of_data, *of_model) if not _place_in(group)),
        )

    def brings_value(self, sharding: Sharding | None) -> bool:
        """Return whether this rank brings the value of a site: of ranks that hold the same, the first one does.

        Where the sharding does not say it, ranks of data hold other samples, and those of the model the same.
        """
        return self._is_first(self.of_model | _groups(sharding), but=_groups(sharding, spread=True))

    def brings_samples(self, sharding: Sharding | None) -> bool:
        """Return whether the samples of a site count on this rank: the other parts of it are of the same samples."""
        return self._is_first(self.of_model | _groups(sharding), but=_groups(sharding, spread=True, axis="samples"))

    def splits_units(self, sharding: Sharding | None) -> bool:
        """Return whether the ranks of a model have different units of a site."""
        return bool(self.of_model & _groups(sharding, spread=True, axis="units"))

    def splits_positions(self, sharding: Sharding | None) -> bool:
        """Return whether the ranks of a model have different positions of a sequence."""
        return bool(self.of_model & _groups(sharding, spread=True, axis="positions"))

    def parts_differ(self, sharding: Sharding | None) -> bool:
        """Return whether the ranks of a model have different parts of a site."""
        return bool(self.of_model & _groups(sharding, spread=True))

    def brings_parameter(self, sharding: Sharding) -> bool:
        """Return whether this rank brings its part of a distributed parameter."""
        return self._is_first(self.of_data | self.of_model, but=_groups(sharding, spread=True))

    def _is_first(self, groups: frozenset[Group], *, but: frozenset[Group]) -> bool:
        return ((groups & (self.of_data | self.of_model)) - but) <= self.first


def numbers_of_one(model: nn.Module) -> str:
    """Return that numbers are those of this rank alone, where the model is spread over several; "" elsewhere."""
    if not (dist.is_available() and dist.is_initialized()) or not (data_groups(model) or model_groups(model)):
        return ""
    return (
        f'the numbers are those of rank {dist.get_rank()} alone, of {dist.get_world_size()}; group="world" puts '
        "together those of all"
    )


def _groups(sharding: Sharding | None, *, spread: bool = False, axis: str | None = None) -> frozenset[Group]:
    """Return the groups of a sharding; `spread`: those whose ranks hold different parts; `axis`: of it."""
    splits = () if sharding is None else sharding.splits
    return frozenset(
        one.group for one in splits if not spread or (one.kind != "replicated" and (axis is None or one.axis == axis))
    )


def _number(groups: Sequence[Group]) -> tuple[int, int]:
    """Return the number of this rank within nested groups, the first one outermost, and how many there are."""
    number, size = 0, 1
    for group in groups:
        number, size = number * len(group.ranks) + _place_in(group), size * len(group.ranks)
    return number, size


def _place_in(group: Group) -> int:
    return group.ranks.index(dist.get_rank())
