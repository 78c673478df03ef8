"""How text, tables and JSON reach the terminal, which may be narrow or lack box-drawing lines and blocks."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from propscope.printable import printable
from propscope.records.pair_summary import PairName
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingSet
from propscope.report.documents import json_text
from propscope.report.profile_tables import judged_table
from propscope.report.table import Block, Table
from propscope.report.training_tables import training_table

_PLAIN = str.maketrans(dict(zip("▁▂▃▄▅▆▇█│├└─…∞", "._-=+*%#||`-~I", strict=True)))
_COLORS = {"broken": "\x1b[31m", "! ": "\x1b[31m", "strained": "\x1b[33m", "healthy": "\x1b[32m"}
_NO_COLOR = "\x1b[0m"
# A verdict at the start of a line or of a cell, up to the end of the cell; and lines that are marked.
_COLORED = re.compile(r"(?:^|(?<=  )|(?<=verdict: ))(broken|strained|healthy)\b(?::? ?\S)*|^(! ).*", re.MULTILINE)


def terminal_width(stream: TextIO | None = None) -> int | None:
    """Return the width in characters of the terminal behind `stream` (None: stdout); None where there is none.

    COLUMNS in the environment is the width of whatever is behind it.
    """
    stream = sys.stdout if stream is None else stream
    columns = os.environ.get("COLUMNS", "")
    return shutil.get_terminal_size().columns if stream.isatty() or columns.isdecimal() else None


def write(text: str, stream: TextIO | None = None) -> None:
    """Write text and a line feed to `stream` (None: stdout), in ASCII where its encoding lacks a character.

    Control characters other than line feeds are written as escapes. On a terminal verdicts are coloured, and lines that
    start with `!` are red, unless NO_COLOR is set in the environment.
    """
    stream = sys.stdout if stream is None else stream
    text = encodable(printable(text, lines=True), stream)
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = _COLORED.sub(lambda found: f"{_COLORS[found[1] or found[2]]}{found[0]}{_NO_COLOR}", text)
    stream.write(text + "\n")


def encodable(text: str, stream: TextIO) -> str:
    """Return the text in ASCII where the encoding of `stream` lacks a character of it, else as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode("ascii", "replace").decode()
    return text


def print_table(table: Table, *, wide: bool = False, explain: bool = False) -> None:
    """Print a table to the width of the terminal, or at full width with `wide` or where stdout is no terminal.

    `explain`: with all that explains its columns.
    """
    write(table.to_text(width=None if wide else terminal_width(), explain=explain))


def print_blocks(blocks: Iterable[Block], *, wide: bool = False, explain: bool = False) -> None:
    """Print tables, as `print_table` does, and paragraphs, with an empty line between them."""
    for index, block in enumerate(blocks):
        if index:
            write("")
        print_table(block, wide=wide, explain=explain) if isinstance(block, Table) else write(block)


def print_grid(
    networks: Iterable[ProfileSet], more: Sequence[PairName] = (), *, wide: bool = False, explain: bool = False
) -> None:
    """Print the table of a grid as `print_table` does; `more`: pairs of the grid that get no row."""
    print_table(judged_table(networks, more), wide=wide, explain=explain)


def print_training(runs: TrainingSet, *, wide: bool = False, explain: bool = False) -> None:
    """Print the table of trained pairs as `print_table` does."""
    print_table(training_table(runs), wide=wide, explain=explain)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    write(json_text(document))
