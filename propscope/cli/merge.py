"""`propscope merge`: several result files in one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.options import Overwrite


def merge(
    files: Annotated[list[Path], typer.Argument(help="Result files, in order.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Write the profiles of several result files into one."""
    from propscope.store import load
    from propscope.store import merge as merge_files

    merge_files(files, output, overwrite=overwrite)
    print(f"{len(load(output))} profiles in {output}")
