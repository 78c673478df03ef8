"""`Ranks`: the processes whose records become one, and how they put them together."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.distributed as dist

from propscope.checks import shown
from propscope.errors import InputError, PropscopeError
from propscope.measure.parts import Part, Vector, ended, pieces, vector
from propscope.records.numerals import listed

# What must be the same on all ranks for a part to be put together: numbers and texts.
Layout = tuple[Any, ...]
# So many ranks are named where several differ.
_SHOWN = 8
_MOST_RANKS = 1 << 20


class Ranks(Protocol):
    """Processes that enter each call together, and get the same from it."""

    @property
    def rank(self) -> int:
        """The number of this process among them, from 0."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def members(self) -> tuple[int, ...]:
        """Their numbers in the whole job."""

    def maximum(self, values: Vector) -> Vector:
        """Return the largest of each number over all ranks."""

    def total(self, values: Vector) -> Vector:
        """Return the sum of each number over all ranks."""

    def exchange(self, value: Any) -> list[Any]:
        """Return what each rank gives, in the order of the ranks."""


@dataclass(frozen=True, slots=True, eq=False)
class GroupRanks:
    """The ranks of a process group, on a group of its own, so that the user's collectives keep their order."""

    group: dist.ProcessGroup
    device: torch.device
    members: tuple[int, ...]
    rank: int

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self.members)

    def maximum(self, values: Vector) -> Vector:
        """Return the largest of each number over all ranks."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def total(self, values: Vector) -> Vector:
        """Return the sum of each number over all ranks."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def _reduced(self, values: Vector, operation: Any) -> Vector:
        if not len(values):
            return values
        tensor = torch.from_numpy(values.copy()).to(self.device)
        dist.all_reduce(tensor, operation, group=self.group)
        found: Vector = tensor.cpu().numpy()
        return found

    def exchange(self, value: Any) -> list[Any]:
        """Return what each rank gives, in the order of the ranks."""
        found: list[Any] = [None] * self.size
        # As text in tensors: what torch exchanges as objects it pickles.
        text = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = self.total(vector([len(text) if at == self.rank else 0 for at in range(self.size)])).astype(int)
        own = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=self.device)
        own[: len(text)] = torch.from_numpy(text.copy())
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own, group=self.group)
        for at, part in enumerate(parts):
            found[at] = json.loads(part.cpu().numpy()[: lengths[at]].tobytes())
        return found


def ranks_of(group: Any) -> GroupRanks | None:
    """Return the ranks of `group`: a process group of torch.distributed, or "world" for all processes; None for None.

    Every process of the group must ask, since a group of its own is made, once for each. Raises `InputError` where no
    process group was started, and for anything else.
    """
    if group is None:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            'group must be a process group or "world", and no process group was started',
            hint="call torch.distributed.init_process_group first, or start the program with torchrun",
        )
    if isinstance(group, str) and group == "world":
        group = dist.group.WORLD
    if isinstance(group, type(dist.GroupMember.NON_GROUP_MEMBER)) and group == dist.GroupMember.NON_GROUP_MEMBER:
        raise InputError(f"group must have this process in it, rank {dist.get_rank()}, got one of others")
    if not isinstance(group, dist.ProcessGroup):
        raise InputError(f'group must be a process group of torch.distributed or "world", got {shown(group)}')
    members = tuple(dist.get_process_group_ranks(group))
    on_device = "nccl" in dist.get_backend(group)
    device = torch.device("cuda", torch.cuda.current_device()) if on_device else torch.device("cpu")
    rank = members.index(dist.get_rank())
    given = GroupRanks(group, device, members, rank)
    return GroupRanks(_own_group(given, id(dist.group.WORLD)), device, members, rank)


_own_groups: dict[tuple[int, tuple[int, ...]], dist.ProcessGroup] = {}


def _own_group(given: GroupRanks, world: int) -> dist.ProcessGroup:
    """Return a group of the same members of the world that has this id, made once; the given one if none can be made.

    It gives up as early as the given one does.
    All processes make a group of all together. What some of them make by themselves torch names after the number of
    groups that each is in, and waits for ever where these differ.
    """
    key = world, given.members
    if key not in _own_groups:
        backend, timeout = dist.get_backend(given.group), _timeout(given)
        if given.size == dist.get_world_size():
            own = dist.new_group(backend=backend, timeout=timeout)
        elif _agree(vector([len(dist.distributed_c10d._world.pg_names)]), given):
            members = list(given.members)
            own = dist.new_group(members, backend=backend, timeout=timeout, use_local_synchronization=True)
        else:
            own = given.group
        _own_groups[key] = own
    return _own_groups[key]


def _timeout(given: GroupRanks) -> Any:
    """Return the time after which a collective of a group gives up; None, torch's own, where it cannot be read."""
    backend = getattr(given.group, "_get_backend", lambda device: None)(given.device)
    return getattr(getattr(backend, "options", None), "_timeout", None)


def refuse_differences(what: str, names: Sequence[str], ranks: Ranks) -> None:
    """Raise `InputError` on all ranks, which enter this together, where they give other names; `what` must be so."""
    words = _words(list(names))
    if _agree(words, ranks):
        return
    everywhere = ranks.exchange(list(names))
    known = set(everywhere[0])
    rank = next(at for at, one in enumerate(everywhere) if one != everywhere[0])
    other = sorted(known.symmetric_difference(everywhere[rank]))
    named = other[0] if other else "their order"
    raise InputError(
        f"{what} on all ranks of the group, got others on rank {ranks.members[rank]} than on rank "
        f"{ranks.members[0]}: {named}",
        hint="stages of a pipeline and experts that ranks have for themselves are recorded without group, each alone",
    )


def _agree(words: Vector, ranks: Ranks) -> bool:
    same = ranks.maximum(np.concatenate([words, -words]))
    return bool((same[: len(words)] == -same[len(words) :]).all())


class Origin(NamedTuple):
    """Where numbers that are not finite came up first: the number of the rank, and of the pass, both from 0."""

    rank: int
    batch: int

    def __str__(self) -> str:
        return f"on rank {self.rank}, in micro-batch {self.batch + 1}"

    @property
    def code(self) -> float:
        """A number that is larger for an earlier pass, and then for a lower rank."""
        return -float(self.batch * _MOST_RANKS + self.rank)


def origin_of(code: float) -> Origin | None:
    """Return what a code says; None for -Inf, that of no rank."""
    if code == -math.inf:
        return None
    batch, rank = divmod(-round(code), _MOST_RANKS)
    return Origin(rank, batch)


class Share(NamedTuple):
    """What this rank has of a thing that several ranks may have: what must agree, and its part."""

    layout: Layout
    part: Part[Any]


class Whole(NamedTuple):
    """What the ranks have together, by name, and what is not of all of them, with the reason."""

    found: dict[str, Any]
    differences: dict[str, str]


class RanksApartError(PropscopeError):
    """The ranks do not do the same, so that nothing can be put together; the message says what differs."""


def together(shares: Mapping[str, Share], ranks: Ranks, *, moment: int = 0) -> Whole:
    """Put together what the ranks share: a hash of all layouts, one maximum and one sum over all ranks.

    A name that some ranks lack is put together from the others. One whose layouts differ is left out. Both are told in
    `differences`; the ranks exchange names only then. `moment`: the number of the step. Raises `RanksApartError` on
    all ranks where they are at different steps, or have no name in common.
    """
    maxima = {name: next(share.part) for name, share in shares.items()}
    own = {name: [*share.layout, len(maxima[name])] for name, share in shares.items()}
    equal = _agree(_words([moment, list(own.items())]), ranks)
    differences: dict[str, str] = {}
    if not equal:
        layouts, differences = _common(ranks.exchange([moment, own]))
        maxima = {name: maxima[name] if name in own else np.full(each[-1], -np.inf) for name, each in layouts.items()}
    got = _over(ranks.maximum, maxima)
    sums = {name: shares[name].part.send(one) if name in own else vector(()) for name, one in got.items()}
    if not equal:
        lengths = [max(each) for each in zip(*ranks.exchange([len(one) for one in sums.values()]), strict=True)]
        sums = {name: one if name in own else np.zeros(n) for (name, one), n in zip(sums.items(), lengths, strict=True)}
    got = _over(ranks.total, sums)
    return Whole({name: ended(shares[name].part, one) for name, one in got.items() if name in own}, differences)


def _words(value: Any) -> Vector:
    """Return two whole numbers below 2^52 that are the same for the same value only."""
    digest = hashlib.sha256(json.dumps(value).encode()).digest()
    return vector([int.from_bytes(digest[at : at + 8], "big") >> 12 for at in (0, 8)])


def _over(reduce: Callable[[Vector], Vector], vectors: Mapping[str, Vector]) -> dict[str, Vector]:
    """Return the vectors reduced over all ranks in one call."""
    whole = reduce(np.concatenate([vector(()), *vectors.values()]))
    return dict(zip(vectors, pieces(whole, [len(one) for one in vectors.values()]), strict=True))


def _common(everywhere: Sequence[Any]) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """Return the layouts of what can be put together, and what differs, by name; the same on all ranks."""
    moments, layouts = [one[0] for one in everywhere], [one[1] for one in everywhere]
    if len(set(moments)) > 1:
        raise RanksApartError(f"the ranks are at different steps: {_by_rank(moments)}")
    names = {name: [rank for rank, one in enumerate(layouts) if name in one] for each in layouts for name in each}
    found, differences = {}, {}
    for name, having in names.items():
        first = layouts[having[0]][name]
        if any(layouts[rank][name] != first for rank in having):
            differences[name] = f"it is not the same on all ranks: {_by_rank([one.get(name) for one in layouts])}"
            continue
        found[name] = first
        if len(having) < len(layouts):
            differences[name] = f"seen on {_said(having)} of {len(layouts)} only"
    return found, differences


def _said(ranks: Sequence[int]) -> str:
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {listed(list(map(str, ranks)), _SHOWN)}"


def _by_rank(values: Sequence[Any]) -> str:
    """Return which ranks have each value, the most frequent first."""
    having: dict[str, list[int]] = {}
    for rank, value in enumerate(values):
        having.setdefault("none" if value is None else str(value), []).append(rank)
    return "; ".join(f"{value} on {_said(ranks)}" for value, ranks in having.items())
