"""`Samples`: the samples of a run that lie in a file, each read when it is asked for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from propscope.records.figures import EntryTable
from propscope.records.network import Label, NetworkProfile
from propscope.records.over_steps import HistogramsOverSteps, OverSteps

if TYPE_CHECKING:
    from propscope.records.rows import TableName


class Samples(Sequence[NetworkProfile]):
    """A sequence of profiles that are not in memory; what is asked of all of them is read without making them."""

    @property
    @abstractmethod
    def labels(self) -> Sequence[Mapping[str, Label]]:
        """The labels of each profile."""

    @abstractmethod
    def at(self, positions: Sequence[int]) -> Samples:
        """Return the profiles at these positions, in that order."""

    @abstractmethod
    def over_steps(self, quantity: str, table: EntryTable | None) -> OverSteps:
        """Return what `over_steps` would."""

    @abstractmethod
    def histograms_over_steps(self, name: str, part: str) -> HistogramsOverSteps:
        """Return what `histograms_over_steps` would."""

    @abstractmethod
    def columns(self, table: TableName) -> tuple[NDArray[Any], Mapping[str, NDArray[Any]]]:
        """Return the position of the profile of each row of a table, and the recorded columns of these rows."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An open file does not go to another process.
        return tuple, (list(self),)
