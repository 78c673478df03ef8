"""`propscope profile`: a grid of MLPs, measured, stored, tabulated and drawn."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from propscope.cli.options import (
    INPUT,
    NETWORK,
    RUN,
    Activations,
    AlphaDropout,
    Bias,
    Depths,
    Device,
    Dropout,
    Dtype,
    Json,
    Norm,
    Output,
    Overwrite,
    Plots,
    Residual,
    Seeds,
    Widths,
    numbers,
    option,
    short_name,
    unused_path,
)
from propscope.errors import PropscopeError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from propscope.experiments import Grid
    from propscope.records import NetworkProfile, ProfileSet


def profile(
    depth: Depths = "20",
    width: Widths = "256",
    act: Activations = "relu",
    init: Annotated[
        str | None,
        option(
            "Initializers; see `propscope list`. [default: all for layers of equal width]",
            NETWORK,
            metavar="LIST",
        ),
    ] = None,
    seeds: Seeds = 5,
    bias: Bias = None,
    norm: Norm = "none",
    residual: Residual = False,
    dropout: Dropout = 0.0,
    alpha_dropout: AlphaDropout = 0.0,
    input_size: Annotated[
        int | None, option("Input features. [default: the width, or as the data has]", NETWORK)
    ] = None,
    output_size: Annotated[
        int | None, option("Outputs of a linear layer added at the end. [default: no such layer]", NETWORK)
    ] = None,
    input: Annotated[
        str, option("normal, uniform:low=-1:high=1, mixed, digits, or a .npy or .pt file.", INPUT)
    ] = "normal",
    scale: Annotated[str | None, option("Scaling of each input feature: zscore, minmax or none.", INPUT)] = None,
    batch: Annotated[int, option("Rows of input.", INPUT)] = 256,
    loss: Annotated[
        str, option("cotangent (an N(0, 1) gradient at the output), mse or cross-entropy.", INPUT)
    ] = "cotangent",
    jacobian: Annotated[
        bool, option("Also compute the Jacobian's singular values at every layer (slower).", RUN, "--jacobian")
    ] = False,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    output: Output = None,
    plots: Plots = True,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare initializers on deep MLPs: measure every layer, save the profiles, print a table and draw plots.

    A LIST is separated by commas. Every combination of depth, width, activation and initializer is measured.
    """
    from propscope.cli.grid_runs import conclude
    from propscope.experiments import make_grid
    from propscope.networks import SQUARE_DEFAULTS, parse_width

    started = time.perf_counter()
    grid = make_grid(
        depth=numbers(depth, "--depth"),
        width=[parse_width(part) for part in width.split(",")],
        activation=act,
        initializer=SQUARE_DEFAULTS if init is None else init,
        seeds=seeds,
        batch=batch,
        bias=bias,
        norm=norm,
        residual=residual,
        dropout=dropout,
        alpha_dropout=alpha_dropout,
        input=input,
        scale=scale,
        input_size=input_size,
        output_size=output_size,
        loss=loss,
        jacobian=jacobian,
        dtype=dtype,
        device=device,
    )

    def path() -> Path:
        names = (short_name(activation.label) for activation in grid.activation[:3])
        depths = (f"d{depth}" for depth in grid.depth[:3])
        return output or unused_path("-".join(["mlp", *names, *depths]), ".h5")

    profiles, stopped = _measure(grid, path, overwrite=overwrite, quiet=json)
    conclude(
        profiles, stopped, networks=len(grid), path=path, plots=plots, overwrite=overwrite, json=json, started=started
    )


def _measure(
    grid: Grid, path: Callable[[], Path], *, overwrite: bool, quiet: bool
) -> tuple[ProfileSet, KeyboardInterrupt | PropscopeError | None]:
    """Return the finished profiles, and what stopped the run before its end."""
    from tqdm import tqdm

    from propscope.experiments import run
    from propscope.records import ProfileSet
    from propscope.store import check_target

    profiles = run(grid)
    # After every check of the options and before any work.
    check_target(path(), overwrite=overwrite)
    done: list[NetworkProfile] = []
    silent = quiet or not sys.stderr.isatty()
    try:
        for profile in tqdm(profiles, total=len(grid), unit="net", disable=silent, leave=False, file=sys.stderr):
            done.append(profile)  # noqa: PERF402  an interrupt must find what is finished
    except (KeyboardInterrupt, PropscopeError) as error:
        return ProfileSet.of(done), error
    return ProfileSet.of(done), None
