"""`propscope plot`: the pictures of a stored file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from propscope.cli.options import Act, Depth, File, Init, Overwrite, Seed, Width, load_selected


def plot(
    file: File,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Directory of the pictures. [default: that of the file]"),
    ] = None,
    only: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Only these: curves, activations, gradients, weights, weight-gradients, overview, jacobian; "
            "of trainings learning, signal, activation-map."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="png, pdf or svg; a comma-separated list.")] = "png",
    act: Act = None,
    init: Init = None,
    depth: Depth = None,
    width: Width = None,
    seed: Seed = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the curves, the histogram grids and the overview of a result file; of trainings, how they went."""
    from propscope.plots import draw_all

    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed)
    pictures = draw_all(
        profiles,
        file.parent if output is None else output,
        stem=file.stem,
        formats=tuple(part.strip() for part in format.split(",")),
        only=None if only is None else [part.strip() for part in only.split(",")],
        overwrite=overwrite,
    )
    for picture in pictures:
        print(picture)
