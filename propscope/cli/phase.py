"""`propscope phase`: the order-to-chaos diagram of an activation, and where initializers stand on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from propscope.cli.options import Overwrite
from propscope.errors import InputError


def phase(
    act: Annotated[str, typer.Option("--act", help="Activation; see `propscope list`.", show_default=False)],
    init: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Initializers to mark, comma-separated. [default: all that suit a square MLP]"),
    ] = None,
    weight_variance: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="LOW:HIGH of sigma_w^2 = fan_in Var[W]. [default: around the critical point]"),
    ] = None,
    bias_variance: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="LOW:HIGH of sigma_b^2 = Var[b]. [default: along the critical line]"),
    ] = None,
    width: Annotated[int, typer.Option(help="Units a layer, for initializers of a fixed std.")] = 256,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Picture, .png, .pdf or .svg. [default: a new name in outputs/]"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Draw the order-to-chaos diagram: how deep a signal reaches by the two variances, and the critical line."""
    from propscope.plots.gallery import FORMATS, write_figure
    from propscope.plots.phase import draw_phase, prepare_phase
    from propscope.plots.style import styled

    # What can be told without torch comes first.
    weights, biases = _range(weight_variance, "--weight-variance"), _range(bias_variance, "--bias-variance")
    path = _unused(act) if output is None else output
    if path.suffix[1:] not in FORMATS:
        raise InputError(f"--output is {path}; valid is a name that ends in .{', .'.join(FORMATS)}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists", hint="overwrite it (--overwrite), or choose another name")

    from propscope.networks import SQUARE_DEFAULTS, split_list
    from propscope.theory.phase_chart import phase_chart

    initializers = SQUARE_DEFAULTS if init is None else split_list(init)
    chart = phase_chart(act, initializers=initializers, weight_variance=weights, bias_variance=biases, width=width)
    with styled():
        write_figure(draw_phase(prepare_phase(chart, note=f"initializers of {width} units a layer")), path)
    print(path)


def _range(text: str | None, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        low, high = 0.0, 0.0
    if not 0 <= low < high < float("inf"):
        raise InputError(
            f"{option} is {text!r}; valid is LOW:HIGH, two finite numbers of at least 0, LOW < HIGH",
            hint=f"{option} 0:4",
        )
    return low, high


def _unused(act: str) -> Path:
    """Return a path in outputs/ that does not exist yet, numbered from the second on."""
    # An activation of the user's may be the path of a file.
    name = Path(act.split(":")[0]).stem
    for number in range(1, 100_000):
        path = Path("outputs") / (f"phase-{name}.png" if number == 1 else f"phase-{name}-{number}.png")
        if not path.exists():
            return path
    raise InputError(f"outputs/ is full of files named phase-{name}; name one with --output")
