"""`propscope plot`: the plots of a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.options import Act, Depth, File, Init, Overwrite, Seed, Width, load_selected
from propscope.cli.phase_pictures import PHASE, draw_all_with_phase
from propscope.plots import table
from propscope.printable import printable


def _names(plots: tuple[table.Plot, ...]) -> str:
    return ", ".join(plot.name for plot in plots)


def plot(
    file: File,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help=f"Only these plots. For profiles: {_names((*table.PLOTS, PHASE))}; for training runs: "
            f"{_names(table.TRAINING_PLOTS)}.",
        ),
    ] = None,
    format: Annotated[str, typer.Option(metavar="LIST", help=f"Formats: {', '.join(table.FORMATS)}.")] = "png",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory to write to. [default: the directory of the file]"),
    ] = None,
    act: Act = None,
    init: Init = None,
    depth: Depth = None,
    width: Width = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the plots of a result file: curves, histograms and overview, or how training went.

    A LIST is separated by commas; names must be written as in the file.
    """
    from propscope.store import target_of

    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed)
    written = draw_all_with_phase(
        profiles,
        file.parent if output is None else output,
        stem=target_of(file).stem,
        formats=tuple(part.strip() for part in format.split(",")),
        only=None if only is None else [part.strip() for part in only.split(",")],
        overwrite=overwrite,
    )
    for path in written:
        print(printable(str(path)))
