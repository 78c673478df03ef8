"""How text with box-drawing lines and blocks reaches a terminal that may not have them."""

from __future__ import annotations

import os
import shutil
from typing import TextIO

_PLAIN = str.maketrans(dict(zip("▁▂▃▄▅▆▇█│├└─…∞", "._-=+*%#||`-~I", strict=True)))
_RED, _PLAIN_COLOR = "\x1b[31m", "\x1b[0m"


def width_of(stream: TextIO) -> int | None:
    """Return the width in characters of the terminal that `stream` writes to; None where it is no terminal."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def write(text: str, stream: TextIO) -> None:
    """Write text and a line feed: lines that start with `!` in red on a terminal, in ASCII where need be.

    NO_COLOR in the environment keeps the colour away.
    """
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode("ascii", "replace").decode()
    if stream.isatty() and not os.environ.get("NO_COLOR"):
        text = "\n".join(f"{_RED}{line}{_PLAIN_COLOR}" if line[:2] == "! " else line for line in text.split("\n"))
    stream.write(text + "\n")
