"""`propscope merge`: several result files joined into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.options import Overwrite


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Result files (.h5), in order.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Result file to write.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Join the profiles and training runs of several result files into one file."""
    from propscope.records import TrainingSet
    from propscope.store import check_output, load, load_profiles
    from propscope.store import merge as merge_files

    check_output(output, overwrite=overwrite)
    merge_files(files, output, overwrite=overwrite)
    found = load(output)
    parts = [f"{len(found)} training runs"] if isinstance(found, TrainingSet) else []
    single = len(load_profiles(output)) if parts else len(found)
    if single or not parts:
        parts.append(f"{single} profiles")
    print(f"{' and '.join(parts)} in {output}")
