"""What the journal of a run holds: first what the run has to do, then each finished entry by its number in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from propscope.store.journal import Journal
from propscope.store.packed import PackedRows

# What wrote a run that nobody knows the end of.
MONITOR = "monitor"
# Before a packed entry is its number.
_NUMBER = 8


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What a run has to do: a `description` that is compared as a whole, and the number of its `networks`."""

    description: Mapping[str, Any]
    networks: int

    def progress(self, entries: int) -> str:
        """Return how much of the run so many entries are."""
        if (command := self.description.get("command")) == MONITOR:
            return f"{entries} pieces of a monitored run"
        return f"{entries} of {self.networks} {'training run' if command == 'train' else 'network'}s"

    @property
    def has_end(self) -> bool:
        """Whether it is known how many networks the run has."""
        return self.description.get("command") != MONITOR

    @property
    def goes_on(self) -> str:
        """How the file of the run is written after a failure."""
        return "the same command goes on from it" if self.has_end else "`propscope compact` writes the file from it"

    def text(self, **more: Any) -> str:
        """Return it as JSON."""
        return json.dumps({"description": self.description, "networks": self.networks, **more})


def header_in(text: str | bytes) -> RunHeader | None:
    """Return the header of a JSON text; None of another text."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(text)
        if isinstance(found["description"], dict):
            return RunHeader(found["description"], int(found["networks"]))
    return None


def record_of(number: int, packed: bytes) -> bytes:
    """Return the record of a journal that holds a packed entry, the one of this number in the run."""
    return number.to_bytes(_NUMBER, "little") + packed


def numbers_in_journal(journal: Journal) -> dict[int, int]:
    """Return the record of each entry by its number in the run; the first record, which describes it, is none."""
    return {int.from_bytes(journal.part(record, 0, _NUMBER), "little"): record for record in range(1, len(journal))}


def rows_in_journal(journal: Journal, records: Sequence[int | bytes]) -> PackedRows:
    """Return the rows of these records, in this order; of what is no number, of these bytes instead."""

    def part(entry: int, start: int, stop: int) -> bytes:
        record = records[entry]
        return (
            record[start:stop] if isinstance(record, bytes) else journal.part(record, _NUMBER + start, _NUMBER + stop)
        )

    sizes = [len(each) if isinstance(each, bytes) else journal.size(each) - _NUMBER for each in records]
    return PackedRows(sizes, part)
