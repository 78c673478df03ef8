"""`ProfileSet`: many network profiles along named axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from propscope.errors import InputError
from propscope.records.display import as_html, as_text
from propscope.records.labelled import axes_of, grouped, having, nothing_has, wanted
from propscope.records.network import Label, NetworkProfile

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.records.pair_summary import PairSummary
    from propscope.records.rows import TableName


@dataclass(frozen=True, slots=True)
class ProfileSet:
    """Profiles in a fixed order; `a + b` appends, `ProfileSet(())` is the neutral element."""

    profiles: tuple[NetworkProfile, ...]

    @classmethod
    def of(cls, profiles: Iterable[NetworkProfile]) -> ProfileSet:
        """Return the set of any iterable of profiles."""
        return cls(tuple(profiles))

    def __len__(self) -> int:
        return len(self.profiles)

    def __iter__(self) -> Iterator[NetworkProfile]:
        return iter(self.profiles)

    @overload
    def __getitem__(self, index: int) -> NetworkProfile: ...
    @overload
    def __getitem__(self, index: slice) -> ProfileSet: ...
    def __getitem__(self, index: int | slice) -> NetworkProfile | ProfileSet:
        if isinstance(index, slice):
            return ProfileSet(self.profiles[index])
        return self.profiles[index]

    def __add__(self, other: ProfileSet) -> ProfileSet:
        return ProfileSet(self.profiles + other.profiles)

    @property
    def axes(self) -> Mapping[str, tuple[Label, ...]]:
        """Each label's distinct values, in the order of their first appearance."""
        return axes_of(self.profiles)

    def subset(self, **labels: Label | Iterable[Label]) -> ProfileSet:
        """Return the profiles whose labels have these values (one value or several for each), always as a set."""
        return ProfileSet(having(self.profiles, wanted(labels, self.axes, noun="profile")))

    def select(self, **labels: Label | Iterable[Label]) -> NetworkProfile | ProfileSet:
        """Return the one profile with these labels, or the `ProfileSet` of those that have them when several do.

        Raises `InputError` for a label that no profile carries and when nothing is left.
        """
        if not labels and not self.profiles:
            raise InputError("the set holds no profile to select")
        axes = self.axes
        values = wanted(labels, axes, noun="profile")
        found = having(self.profiles, values)
        if not found:
            raise nothing_has(values, axes, noun="profile")
        return found[0] if len(found) == 1 else ProfileSet(found)

    def groups(self, over: str = "seed") -> dict[tuple[tuple[str, Label], ...], ProfileSet]:
        """Return the profiles that differ in the label `over` alone together, keyed by their other labels."""
        return {key: ProfileSet(members) for key, members in grouped(self.profiles, over).items()}

    def pairs(self) -> tuple[PairSummary, ...]:
        """Return what the seeds of each pair of initializer and activation say together, in the set's order."""
        from propscope.records.pair_summary import summarize_pairs

        return summarize_pairs(self)

    def to_frame(self, table: TableName = "site") -> pandas.DataFrame:
        """Return a pandas frame of the `site`, `parameter` or `profile` table, one row an entry, labels first.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import to_frame

        return to_frame(self, table)

    def to_xarray(self) -> xarray.Dataset:
        """Return the signal of every profile, dimensions (one per label, layer), NaN where a cell has no profile.

        Raises `MissingDependencyError` without xarray.
        """
        from propscope.records.frames import to_xarray

        return to_xarray(self)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
