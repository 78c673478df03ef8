"""`propscope compact`: the result file of a run that ended without writing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.loudness import quiet
from propscope.printable import printable


def compact(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file, or its journal.", show_default=False)],
) -> None:
    """Write the result file of a run that was killed, from its journal, .NAME.partial beside it.

    The journal is removed when the file is written. A run that still goes on is left alone.
    """
    from propscope.store import compact as compact_file

    path = printable(str(compact_file(file)))
    print(path if quiet() else f"saved as {path}")
