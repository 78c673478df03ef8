"""`propscope plot`: the plots of a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.loudness import timed
from propscope.cli.options import File, Overwrite, Selection, plots_of
from propscope.cli.phase_pictures import PHASE, draw_all_with_phase
from propscope.plots import table
from propscope.printable import printable


def _names(plots: tuple[table.Plot, ...]) -> str:
    return ", ".join(plot.name for plot in plots)


def plot(
    file: File,
    *,
    plots: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help=f"Plots to draw: main, all, none or names. For profiles: {_names((*table.PLOTS, PHASE))}; for "
            f"training runs: {_names(table.TRAINING_PLOTS)}; for a monitored run: {_names(table.MONITORED_PLOTS)}.",
        ),
    ] = "all",
    include: Annotated[
        str | None, typer.Option(help="Of a monitored run, only sites whose name matches this regular expression.")
    ] = None,
    format: Annotated[str, typer.Option(metavar="LIST", help=f"Formats: {', '.join(table.FORMATS)}.")] = "png",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Directory to write to. [default: the directory of the file]"),
    ] = None,
    selection: Selection,
    overwrite: Overwrite = False,
) -> None:
    """Draw the plots of a result file: curves, histograms and overview, how training went, or a monitored run.

    A LIST is separated by commas.
    """
    from propscope.store import target_of

    profiles = selection.load(file)
    own = table.plots_of(profiles)
    own = (*own, PHASE) if own is table.PLOTS else own
    names = table.chosen(own, plots_of(plots, own), pairs=0)
    if not names:
        return
    with timed(f"drawing {', '.join(names)}"):
        written = draw_all_with_phase(
            profiles,
            file.parent if output is None else output,
            stem=target_of(file).stem,
            formats=tuple(part.strip() for part in format.split(",")),
            only=names,
            sites=include,
            overwrite=overwrite,
        )
    for path in written:
        print(printable(str(path)))
