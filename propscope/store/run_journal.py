"""What the journal of a run holds: first what the run has to do, then each finished entry by its number in the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from propscope.store.journal import Journal
from propscope.store.packed import REFERENCE_BYTES, PackedRows, reference_of

# The command in the description of a run whose end is not known beforehand.
MONITOR = "monitor"
# The bytes of an entry's number, which stands before the packed entry.
_NUMBER = 8


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What a run has to do: a `description` that is compared as a whole, and the number of its `networks`."""

    description: Mapping[str, Any]
    networks: int

    def progress(self, entries: int) -> str:
        """Return in words how much of the run this number of entries is."""
        if (command := self.description.get("command")) == MONITOR:
            return f"{entries} pieces of a monitored run"
        return f"{entries} of {self.networks} {'training run' if command == 'train' else 'network'}s"

    @property
    def has_end(self) -> bool:
        """Whether it is known how many networks the run has."""
        return self.description.get("command") != MONITOR

    @property
    def goes_on(self) -> str:
        """How the file is written after a failure, as the end of a message."""
        return "the same command goes on from it" if self.has_end else "`propscope compact` writes the file from it"

    def text(self, **more: Any) -> str:
        """Return it as JSON."""
        return json.dumps({"description": self.description, "networks": self.networks, **more})


def header_in(text: str | bytes) -> RunHeader | None:
    """Return the header that a JSON text holds; None for any other text."""
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(text)
        if isinstance(found["description"], dict):
            return RunHeader(found["description"], int(found["networks"]))
    return None


def record_of(number: int, packed: bytes) -> bytes:
    """Return the bytes of a journal's record for a packed entry and its number in the run."""
    return number.to_bytes(_NUMBER, "little") + packed


def numbers_in_journal(journal: Journal) -> dict[int, int]:
    """Return which record holds each entry, by the entry's number in the run; record 0 describes the run."""
    return {int.from_bytes(journal.part(record, 0, _NUMBER), "little"): record for record in range(1, len(journal))}


def rows_in_journal(
    journal: Journal, records: Sequence[int | bytes], find: Callable[[int], int | bytes] | None = None
) -> PackedRows:
    """Return the rows of these records, in this order; bytes in place of a record's number are an entry themselves.

    `find` returns the record of an entry's number in the run, None to look for it in the journal.
    """
    count, records = len(records), list(records)
    places = {each if isinstance(each, int) else id(each): place for place, each in enumerate(records)}
    like: list[int] = []

    def part(entry: int, start: int, stop: int) -> bytes:
        record = records[entry]
        return (
            record[start:stop] if isinstance(record, bytes) else journal.part(record, _NUMBER + start, _NUMBER + stop)
        )

    for entry in range(count):
        number = reference_of(part(entry, 0, REFERENCE_BYTES))
        if number:
            other = _record_of(journal, number - 1) if find is None else find(number - 1)
            key = other if isinstance(other, int) else id(other)
            if key not in places:
                places[key] = len(records)
                records.append(other)
        like.append(places[key] if number else -1)
    sizes = [len(each) if isinstance(each, bytes) else journal.size(each) - _NUMBER for each in records]
    return PackedRows(sizes, part, like=like + [-1] * (len(records) - count), count=count)


def _record_of(journal: Journal, number: int) -> int:
    """Return the record that holds the entry of this number in the run."""
    record = number + 1
    if 0 < record < len(journal) and int.from_bytes(journal.part(record, 0, _NUMBER), "little") == number:
        return record
    return numbers_in_journal(journal)[number]
