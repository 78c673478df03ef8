"""`propscope phase`: the order-to-chaos diagram of an activation, with the places of initializers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from propscope.cli.loudness import timed
from propscope.cli.options import Overwrite, UnitsPerLayer, check_picture, short_name, unused_path
from propscope.errors import InputError
from propscope.printable import printable


def phase(
    act: Annotated[str, typer.Option("--act", help="Activation; see `propscope list`.", show_default=False)],
    init: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Initializers to mark. [default: all for layers of equal width]"),
    ] = None,
    weight_variance: Annotated[
        str | None,
        typer.Option(
            metavar="LOW..HIGH", help="Axis of sigma_w^2 = fan_in Var[W]. [default: around the critical point]"
        ),
    ] = None,
    bias_variance: Annotated[
        str | None,
        typer.Option(metavar="LOW..HIGH", help="Axis of sigma_b^2 = Var[b]. [default: along the critical line]"),
    ] = None,
    width: UnitsPerLayer = 256,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .png, .pdf or .svg. [default: a new name in outputs/]"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the order-to-chaos diagram of an activation: how deep a signal reaches for each weight and bias variance.

    The critical line and the places of initializers are marked. A LIST is separated by commas.
    """
    from propscope.plots import write_figure
    from propscope.plots.phase_map import draw_phase, prepare_phase
    from propscope.plots.style import styled

    # These checks need no torch, so they come first.
    weights, biases = _range(weight_variance, "--weight-variance"), _range(bias_variance, "--bias-variance")
    path = unused_path(f"phase-{short_name(act)}", ".png") if output is None else output
    if output is not None:
        check_picture(path, overwrite=overwrite)

    from propscope.networks import SQUARE_DEFAULTS, split_list
    from propscope.theory.phase import phase_chart

    initializers = SQUARE_DEFAULTS if init is None else split_list(init)
    chart = phase_chart(act, initializers=initializers, weight_variance=weights, bias_variance=biases, width=width)
    with timed(f"drawing {path}"), styled():
        write_figure(draw_phase(prepare_phase(chart, note=f"initializers for {width} units per layer")), path)
    print(printable(str(path)))


def _range(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(".."))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high < float("inf"):
        raise InputError(
            f'{option} must be LOW..HIGH, two finite numbers with 0 <= LOW < HIGH, got "{text}"',
            hint=f"for example {option} 0..4",
        )
    return low, high
