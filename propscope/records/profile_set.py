"""`ProfileSet`: many network profiles along named axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from propscope.records.labelled import LabelledSet
from propscope.records.network import NetworkProfile

if TYPE_CHECKING:
    import pandas
    import xarray

    from propscope.records.pair_summary import PairSummary
    from propscope.records.rows import TableName


@dataclass(frozen=True, slots=True, repr=False)
class ProfileSet(LabelledSet[NetworkProfile]):
    """Profiles in a fixed order; `a + b` appends, and `ProfileSet(())` is the neutral element."""

    profiles: Sequence[NetworkProfile]
    _noun = "profile"

    @property
    def _records(self) -> Sequence[NetworkProfile]:
        return self.profiles

    def pairs(self) -> tuple[PairSummary, ...]:
        """Return what the seeds of each pair of initializer and activation say together, in the set's order."""
        from propscope.records.pair_summary import summarize_pairs

        return summarize_pairs(self)

    def to_frame(self, table: TableName = "site") -> pandas.DataFrame:
        """Return a pandas frame of the `site`, `parameter` or `profile` table, one row for each, labels first.

        Columns are those of the file's table of that name. Raises `MissingDependencyError` without pandas.
        """
        from propscope.records.frames import to_frame

        return to_frame(self.profiles, table)

    def to_xarray(self) -> xarray.Dataset:
        """Return the numbers measured at the signal sites, dimensions (one for each label, layer).

        A cell that no profile fills is NaN. Raises `InputError` when two profiles have the same labels, and
        `MissingDependencyError` without xarray.
        """
        from propscope.records.frames import to_xarray

        return to_xarray(self.profiles)
