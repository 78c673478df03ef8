"""Sinks that are files of text: a table as CSV, and one JSON document a line."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from propscope.monitoring.sinks.sink import Sites
from propscope.printable import printable
from propscope.records.monitored import Alarm
from propscope.store import check_output


class _Lines:
    """A file to which whole lines are added; it is made with the first of them.

    Where the name is taken, a free number is added to it, but a run that was resumed goes on in its file. What a
    killed process left behind the last whole line is cut off.
    """

    def __init__(self, path: Path) -> None:
        check_output(path, overwrite=True)
        self.path = path
        self.resumes = False
        self._file: BinaryIO | None = None

    def whole(self) -> bytes:
        """Return the whole lines so far."""
        with suppress(FileNotFoundError):
            if self.resumes or self._file is not None:
                text = self.path.read_bytes()
                return text[: text.rfind(b"\n") + 1]
        return b""

    def append(self, text: str) -> None:
        """Add lines; a disk that takes only a part of them keeps none."""
        if self._file is None:
            self._file = self._opened()
        end = self._file.seek(0, os.SEEK_END)
        view = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            raise

    def replace(self, text: bytes) -> None:
        """Put this in the place of all lines so far."""
        part = self.path.with_name(f".{self.path.name}.part")
        try:
            part.write_bytes(text)
            self.close()
            part.replace(self.path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self.resumes = True

    def _opened(self) -> BinaryIO:
        if self.resumes and self.path.exists():
            whole = len(self.whole())
            file = self.path.open("r+b", buffering=0)
            file.truncate(whole)
            return file
        asked = self.path
        names = (asked, *(asked.with_name(f"{asked.stem}-{at}{asked.suffix}") for at in range(2, 10_000)))
        for self.path in names:
            with suppress(FileExistsError):
                file = self.path.open("xb", buffering=0)
                if self.path != asked:
                    taken, free = printable(str(asked)), printable(str(self.path))
                    print(f"{taken} is there already; this run is written to {free}", file=sys.stderr)
                return file
        raise FileExistsError(f"{asked} and all its numbers are taken")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class JsonLinesSink:
    """Writes each sample and each alarm as one JSON object on a line of its own.

    A sample is {"step": 50, "loss": 2.3, ...}, an alarm {"step": 50, "alarm": {"kind": ..., ...}}. JSON has no NaN,
    which is null, and no infinities, which are "inf" and "-inf". A resumed run appends: of two lines of one step, the
    later one counts. Raises `StoreError` for a directory that is missing.
    """

    def __init__(self, path: Path, *, sites: Sites = "worst") -> None:
        self.sites = sites
        self._lines = _Lines(path)

    def resume(self, step: int) -> None:
        """Go on in the file."""
        self._lines.resumes = True

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the line of a sample."""
        self._add({"step": step, **_plain(values)})

    def alarm(self, alarm: Alarm) -> None:
        """Add the line of an alarm."""
        self._add({"step": alarm.step, "alarm": _plain(asdict(alarm))})

    def _add(self, document: Mapping[str, Any]) -> None:
        self._lines.append(json.dumps(document, allow_nan=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values with what JSON lacks as null and text."""
    return {
        key: (None if math.isnan(value) else str(value))
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for key, value in values.items()
    }


class CsvSink:
    """Writes a table: one row a sample and one row an alarm, with the columns `step`, `alarm` and one a number.

    The columns are those of the first sample; one that comes later is added behind them. A row has fewer cells where
    its columns were added later. NaN and infinities are `nan`, `inf` and `-inf`; what was not seen is empty. A resumed
    run appends: of two rows of one step, the later one counts. Raises `StoreError` for a directory that is missing.
    """

    def __init__(self, path: Path, *, sites: Sites = "worst") -> None:
        self.sites = sites
        self._lines = _Lines(path)
        self._columns: list[str] = []

    def resume(self, step: int) -> None:
        """Go on in the file."""
        self._lines.resumes = True
        header = self._lines.whole().partition(b"\n")[0].decode("utf-8", "replace")
        self._columns = next(csv.reader([header]), []) if header else []

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the row of a sample."""
        self._add({"step": step, **values})

    def alarm(self, alarm: Alarm) -> None:
        """Add the row of an alarm."""
        self._add({"step": alarm.step, "alarm": str(alarm)})

    def _add(self, row: Mapping[str, Any]) -> None:
        columns = list(dict.fromkeys((*self._columns, "step", "alarm", *row)))
        cells = _csv([[row.get(name, "") for name in columns]])
        if columns == self._columns:
            self._lines.append(cells)
        elif self._columns and (whole := self._lines.whole()):
            rest = whole.partition(b"\n")[2]
            self._lines.replace(_csv([columns]).encode() + rest + cells.encode())
        else:
            self._lines.append(_csv([columns]) + cells)
        self._columns = columns

    def close(self) -> None:
        """Close the file."""
        self._lines.close()


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def _cell(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value
