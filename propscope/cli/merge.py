"""`propscope merge`: several result files joined into one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.loudness import note, quiet, timed
from propscope.cli.options import Overwrite, warnings_as_lines
from propscope.printable import printable


def merge(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="Result files (.h5), in order.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Result file to write.", show_default=False)],
    overwrite: Overwrite = False,
) -> None:
    """Join the profiles and training runs of several result files into one file.

    A profile or run that occurs more than once is written once.
    """
    from propscope.records.numerals import counted
    from propscope.store import check_output, numbers_in
    from propscope.store import merge as merge_files

    check_output(output, overwrite=overwrite)
    with warnings_as_lines(), timed(f"joining {len(files)} files"):
        left_out = merge_files(files, output, overwrite=overwrite)
    for file, (same_runs, same_profiles) in zip(files, left_out, strict=True):
        for count, noun in ((same_runs, "training run"), (same_profiles, "profile")):
            if count:
                what = f"{counted(count, noun)} of {printable(str(file))}"
                note(f"left out {what}: they were measured once and are in the file already")
    if quiet():
        print(printable(str(output)))
        return
    runs, single = numbers_in(output)
    parts = [] if runs is None else [f"{runs} training runs"]
    if single or not parts:
        parts.append(f"{single} profiles")
    print(f"{' and '.join(parts)} in {printable(str(output))}")
