"""`ProfileSet`: many network profiles along named axes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from propscope.errors import InputError
from propscope.results.network import Label, NetworkProfile

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.results.rows import TableName


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
        values: dict[str, dict[Label, None]] = {}
        for profile in self.profiles:
            for name, value in profile.labels.items():
                values.setdefault(name, {})[value] = None
        return {name: tuple(seen) for name, seen in values.items()}

    def subset(self, **labels: Label | Iterable[Label]) -> ProfileSet:
        """Return the profiles whose labels have these values (one value or several for each), always as a set."""
        return self._having(self._wanted(labels))

    def select(self, **labels: Label | Iterable[Label]) -> NetworkProfile | ProfileSet:
        """Return the one profile with these labels, or the `ProfileSet` of those that have them when several do.

        Raises `InputError` for a label that no profile carries and when nothing is left.
        """
        if not labels and not self.profiles:
            raise InputError("the set holds no profile to select")
        wanted = self._wanted(labels)
        found = self._having(wanted)
        if not found.profiles:
            raise InputError(f"no profile has {_spell(wanted)}; there are {_spell(self.axes)}")
        return found.profiles[0] if len(found) == 1 else found

    def _wanted(self, labels: Mapping[str, Any]) -> dict[str, tuple[Label, ...]]:
        known = self.axes
        for name in labels:
            if name not in known:
                raise InputError(f"no profile has a label {name!r}; the labels are {', '.join(known) or 'none'}")
        return {
            name: tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
            for name, value in labels.items()
        }

    def _having(self, wanted: Mapping[str, tuple[Label, ...]]) -> ProfileSet:
        return ProfileSet(tuple(profile for profile in self.profiles if _matches(profile, wanted)))

    def groups(self, over: str = "seed") -> dict[tuple[tuple[str, Label], ...], ProfileSet]:
        """Return the profiles that differ in the label `over` alone together, keyed by their other labels."""
        together: dict[tuple[tuple[str, Label], ...], list[NetworkProfile]] = {}
        for profile in self.profiles:
            key = tuple((name, value) for name, value in profile.labels.items() if name != over)
            together.setdefault(key, []).append(profile)
        return {key: ProfileSet(tuple(members)) for key, members in together.items()}

    def to_frame(self, table: TableName = "site") -> pandas.DataFrame:
        """Return a pandas frame of the `site`, `parameter` or `profile` table, one row an entry, labels first.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.results.frames import to_frame

        return to_frame(self, table)

    def to_xarray(self) -> xarray.Dataset:
        """Return the signal of every profile, dimensions (one per label, layer), NaN where a cell has no profile.

        Raises `MissingDependencyError` without xarray.
        """
        from propscope.results.frames import to_xarray

        return to_xarray(self)

    def __str__(self) -> str:
        from propscope.results.layout import grid_table

        return grid_table(self).to_text()

    def _repr_html_(self) -> str:
        from propscope.results.layout import grid_table

        return grid_table(self).to_html()


def _matches(profile: NetworkProfile, wanted: Mapping[str, tuple[Label, ...]]) -> bool:
    return all(profile.labels.get(name) in values for name, values in wanted.items())


def _spell(labels: Mapping[str, tuple[Label, ...]]) -> str:
    return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in labels.items())
