"""`LabelledSet`: records in a fixed order that are told apart by their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, overload

from propscope.checks import shown
from propscope.errors import InputError
from propscope.records.display import as_html, as_page, as_text
from propscope.records.network import Label
from propscope.records.numerals import counted
from propscope.records.spec_labels import spec_label

if TYPE_CHECKING:
    from typing_extensions import Self

Wanted = Mapping[str, tuple[Label, ...]]
GroupKey = tuple[tuple[str, Label], ...]


class Labelled(Protocol):
    """A record that has labels, one value for each axis."""

    @property
    def labels(self) -> Mapping[str, Label]:
        """The label of each axis."""
        ...


Record = TypeVar("Record", bound=Labelled)


class LabelledSet(Generic[Record]):
    """What `ProfileSet` and `TrainingSet` share: both hold one tuple of records.

    `a + b` appends, and the set of no records is the neutral element.
    """

    __slots__ = ()
    # What one of the records is called in an error.
    _noun: ClassVar[str]

    def __init__(self, records: Sequence[Record], /) -> None:
        raise NotImplementedError

    @classmethod
    def of(cls, records: Iterable[Record]) -> Self:
        """Return the set of the records of any iterable."""
        return cls(tuple(records))

    @property
    def _records(self) -> Sequence[Record]:
        raise NotImplementedError

    def _every_label(self) -> Sequence[Mapping[str, Label]]:
        """The labels of each record."""
        return [record.labels for record in self._records]

    def _at(self, positions: Sequence[int]) -> Sequence[Record]:
        """Return the records at these positions, in that order."""
        return tuple(self._records[at] for at in positions)

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Record | Self:
        if isinstance(index, slice):
            return type(self)(self._records[index])
        try:
            return self._records[index]
        except TypeError:
            raise InputError(
                f"index must be a number or a slice, got {shown(index)}",
                hint=f"select(label=value) gives one {self._noun} by its labels",
            ) from None
        except IndexError:
            raise IndexError(f"the set holds {len(self)} {self._noun}s, got index {index}") from None

    def __add__(self, other: Self) -> Self:
        return type(self)((*self._records, *other._records))

    @property
    def axes(self) -> Mapping[str, tuple[Label, ...]]:
        """Each label's distinct values, in the order of their first appearance."""
        return _axes(self._every_label())

    def subset(self, **labels: Label | Iterable[Label]) -> Self:
        """Return the set of the records whose labels have these values, one value or several for each label.

        Raises `InputError` for a label that no record carries.
        """
        return type(self)(self._at(self._having(self._wanted(labels, self.axes))))

    def select(self, **labels: Label | Iterable[Label]) -> Record | Self:
        """Return the one record with these labels, or the set of the records that have them when several do.

        Raises `InputError` for a label that no record carries, and when no record is left.
        """
        if not labels and not self._records:
            raise InputError(f"the set holds no {self._noun} to select")
        axes = self.axes
        values = self._wanted(labels, axes)
        found = self._at(self._having(values))
        if not found:
            raise InputError(f"no {self._noun} has {_spell(values)}; there are {_spell(axes)}")
        return found[0] if len(found) == 1 else type(self)(found)

    def groups(self, over: str = "seed") -> dict[GroupKey, Self]:
        """Return a set for each group of records that differ only in the label `over`, keyed by their other labels."""
        together: dict[GroupKey, list[int]] = {}
        for at, labels in enumerate(self._every_label()):
            key = tuple((name, value) for name, value in labels.items() if name != over)
            together.setdefault(key, []).append(at)
        return {key: type(self)(self._at(members)) for key, members in together.items()}

    def _having(self, values: Wanted) -> list[int]:
        """Return the positions of the records whose labels have these values."""
        every = enumerate(self._every_label())
        return [at for at, own in every if all(own.get(name) in wanted for name, wanted in values.items())]

    def _wanted(self, labels: Mapping[str, Any], axes: Wanted) -> Wanted:
        for name in labels:
            if name not in axes:
                raise InputError(f'no {self._noun} has a label "{name}"; the labels are {", ".join(axes) or "none"}')
        return values_of(labels)

    def to_html(self, *, title: str = "", against: Any = None) -> str:
        """Return one self-contained HTML page of the set, as `propscope report` writes it; `title` stands above it.

        `against`: another set of profiles or run, which a section compares it with, as `propscope.compare(against,
        profiles)` does.

        The page holds what it draws as one JSON document, and loads nothing from the network. Raises `InputError` for a
        set that holds nothing.
        """
        return as_page(self, title, against)

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)

    def __repr__(self) -> str:
        axes = ", ".join(f"{name} {len(values)}" for name, values in self.axes.items())
        return f"{type(self).__name__}({counted(len(self), self._noun)}{axes and ': '}{axes})"


def values_of(labels: Mapping[str, Any]) -> Wanted:
    """Return the values asked for of each label: one value stands for a tuple of one, a spec for its label, too."""
    wanted: dict[str, tuple[Label, ...]] = {}
    for name, value in labels.items():
        values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
        meant = (spec_label(name, each) if isinstance(each, str) else each for each in values)
        wanted[name] = tuple(dict.fromkeys(each for pair in zip(values, meant, strict=True) for each in pair))
    return wanted


def axes_of(records: Iterable[Labelled]) -> Mapping[str, tuple[Label, ...]]:
    """Return each label's distinct values, in the order of their first appearance."""
    return _axes(record.labels for record in records)


def _axes(labels: Iterable[Mapping[str, Label]]) -> Mapping[str, tuple[Label, ...]]:
    values: dict[str, dict[Label, None]] = {}
    for own in labels:
        for name, value in own.items():
            values.setdefault(name, {})[value] = None
    return {name: tuple(seen) for name, seen in values.items()}


def _spell(labels: Wanted) -> str:
    return "; ".join(f"{name} {', '.join(map(str, values))}" for name, values in labels.items())
