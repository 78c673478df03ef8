"""How text, tables and JSON reach the terminal, which may be narrow or lack box-drawing lines and blocks."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from propscope.printable import printable
from propscope.records.pair_summary import PairName
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingSet
from propscope.report.documents import json_text
from propscope.report.profile_tables import grid_tables
from propscope.report.table import Block, Table
from propscope.report.training_tables import training_tables

_PLAIN = str.maketrans(dict(zip("▁▂▃▄▅▆▇█│├└─…∞", "._-=+*%#||`-~I", strict=True)))
_RED, _PLAIN_COLOR = "\x1b[31m", "\x1b[0m"


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the width in characters of the terminal behind `stream` (None: stdout); None where there is none."""
    stream = sys.stdout if stream is None else stream
    return shutil.get_terminal_size().columns if stream.isatty() else None


def write(text: str, stream: TextIO | None = None) -> None:
    """Write text and a line feed to `stream` (None: stdout), in ASCII where its encoding lacks a character.

    Control characters other than line feeds are written as escapes. On a terminal, lines that start with `!` are red,
    unless NO_COLOR is set in the environment.
    """
    stream = sys.stdout if stream is None else stream
    text = encodable(printable(text, lines=True), stream)
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = "\n".join(f"{_RED}{line}{_PLAIN_COLOR}" if line[:2] == "! " else line for line in text.split("\n"))
    stream.write(text + "\n")


def encodable(text: str, stream: TextIO) -> str:
    """Return the text in ASCII where the encoding of `stream` lacks a character of it, else as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode("ascii", "replace").decode()
    return text


def print_table(table: Table) -> None:
    """Print a table to the width of the terminal, or at full width where stdout is no terminal."""
    write(table.to_text(width=terminal_width()))


def print_blocks(blocks: Iterable[Block]) -> None:
    """Print tables and paragraphs with an empty line between them."""
    for index, block in enumerate(blocks):
        if index:
            write("")
        print_table(block) if isinstance(block, Table) else write(block)


def print_grid(networks: Iterable[ProfileSet], more: Sequence[PairName] = ()) -> None:
    """Print the table of a grid; on a narrow terminal without intervals, then also without theory.

    `more`: pairs of the grid that get no row.
    """
    _print_first_that_fits(grid_tables(networks, more))


def print_training(runs: TrainingSet) -> None:
    """Print the table of trained pairs; on a narrow terminal without intervals."""
    _print_first_that_fits(training_tables(runs))


def print_json(document: Any) -> None:
    """Print one JSON document."""
    write(json_text(document))


def _print_first_that_fits(tables: Iterable[Table]) -> None:
    width = terminal_width()
    for table in tables:
        # The first line is the title, which may wrap; the last ones are the notes.
        if width is None or max(map(len, table.to_text().splitlines()[1 : len(table.rows) + 5])) <= width:
            break
    write(table.to_text(width=width))
