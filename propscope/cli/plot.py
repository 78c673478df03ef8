"""`propscope plot`: the plots of a result file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.options import Act, Depth, File, Init, Overwrite, Seed, Width, load_selected, plots_of
from propscope.cli.phase_pictures import PHASE, draw_all_with_phase
from propscope.errors import InputError
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
            f"{_names(table.TRAINING_PLOTS)}; for a monitored run: {_names(table.MONITORED_PLOTS)}.",
        ),
    ] = None,
    plots: Annotated[
        str | None, typer.Option(metavar="NAME", help="Instead of --only: main, all or none. [default: all]")
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Of a monitored run, only the sites that match this regular expression."),
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
    """Draw the plots of a result file: curves, histograms and overview, how training went, or a monitored run.

    A LIST is separated by commas; names must be written as in the file.
    """
    from propscope.store import target_of

    choice = plots_of(plots, no_plots=False)
    if choice is not None and only is not None:
        raise InputError("--only and --plots cannot both be given", hint="--only LIST names plots one by one")
    names = None if only is None else [part.strip() for part in only.split(",")]
    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed)
    if choice is not None:
        own = table.plots_of(profiles)
        names = table.chosen(own if own is not table.PLOTS else (*own, PHASE), choice, pairs=0)
    if names == [] and choice is not None:
        return
    written = draw_all_with_phase(
        profiles,
        file.parent if output is None else output,
        stem=target_of(file).stem,
        formats=tuple(part.strip() for part in format.split(",")),
        only=names,
        sites=site,
        overwrite=overwrite,
    )
    for path in written:
        print(printable(str(path)))
