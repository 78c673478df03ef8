"""How text, tables and JSON reach the terminal, which may be narrow or lack box-drawing lines and blocks."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from propscope.printable import printable
from propscope.report.documents import json_text
from propscope.report.table import Block, filled

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
    start with `!` are red, unless NO_COLOR is set in the environment or TERM is dumb.
    """
    stream = sys.stdout if stream is None else stream
    text = encodable(printable(text, lines=True), stream)
    if stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb":
        text = _COLORED.sub(lambda found: f"{_COLORS[found[1] or found[2]]}{found[0]}{_NO_COLOR}", text)
    stream.write(text + "\n")


def encodable(text: str, stream: TextIO) -> str:
    """Return the text in ASCII where the encoding of `stream` lacks a character of it, else as it is."""
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_PLAIN).encode("ascii", "replace").decode()
    return text


def print_blocks(blocks: Iterable[Block], *, wide: bool = False, explain: bool = False) -> None:
    """Print tables and paragraphs, with an empty line between them.

    Tables are as wide as the terminal, or at full width with `wide` or where stdout is no terminal. `explain`: with all
    that explains their columns.
    """
    for index, block in enumerate(blocks):
        if index:
            write("")
        width = None if wide else terminal_width()
        write(_filled(block, width) if isinstance(block, str) else block.to_text(width=width, explain=explain))


def _filled(text: str, width: int | None) -> str:
    lines = text.split("\n")
    return text if width is None else "\n".join(line if len(line) <= width else filled(line, width) for line in lines)


def print_json(document: Any) -> None:
    """Print one JSON document."""
    write(json_text(document))
