"""`propscope profile`: a grid of MLPs, measured, stored, tabulated and drawn."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from propscope.cli import options
from propscope.cli.options import INPUT, NETWORK, RUN, numbers, option, short_name, swept

if TYPE_CHECKING:
    from propscope.store.run_file import Entry


def profile(
    depth: options.Depths = "20",
    width: options.Widths = "256",
    act: options.Activations = "relu",
    init: Annotated[
        str | None,
        option(
            "Initializers, or all; see `propscope list`. [default: all; normal with --weight-variance]",
            NETWORK,
            metavar="LIST",
        ),
    ] = None,
    seeds: options.Seeds = 5,
    bias: options.Bias = None,
    gain: options.Gains = None,
    weight_variance: options.WeightVariance = None,
    bias_variance: options.BiasVariance = None,
    norm: options.Norms = "none",
    residual: options.Residual = False,
    residual_scale: options.ResidualScale = None,
    dropout: options.Dropout = 0.0,
    alpha_dropout: options.AlphaDropout = 0.0,
    input_size: Annotated[
        int | None, option("Input features. [default: the width, or the number that the data has]", NETWORK)
    ] = None,
    output_size: Annotated[
        int | None, option("Outputs of a linear layer added at the end. [default: no such layer]", NETWORK)
    ] = None,
    input: Annotated[
        str, option("normal, uniform:low=-1:high=1, mixed, digits, or a .npy or .pt file.", INPUT)
    ] = "normal",
    scale: Annotated[str | None, option("Scaling of each input feature: zscore, minmax or none.", INPUT)] = None,
    batch: Annotated[str, option("Rows of input.", INPUT, metavar="LIST")] = "256",
    loss: Annotated[
        str, option("cotangent (an N(0, 1) gradient at the output), mse or cross-entropy.", INPUT)
    ] = "cotangent",
    jacobian: Annotated[
        bool, option("Also compute the Jacobian's singular values at every layer (slower).", RUN, "--jacobian")
    ] = False,
    dtype: options.Dtypes = "float32",
    device: options.Device = "cpu",
    output: options.Output = None,
    plots: options.Plots = None,
    no_plots: options.NoPlots = False,
    overwrite: options.Overwrite = False,
    resume: options.Resume = None,
    json: options.Json = False,
) -> None:
    """Compare initializers on deep MLPs: measure every layer, save the profiles, print a table and draw plots.

    A LIST is separated by commas; 10..50:10 are 10, 20, 30, 40, 50, and 0.5..2:16 are 16 numbers from 0.5 to 2. Every
    combination of the lists is measured. Every finished network is kept: the same command again, or --resume, goes on
    from where a run was stopped.
    """
    from propscope.cli.grid_runs import conclude, finished, open_run
    from propscope.experiments import make_grid, run

    which = options.plots_of(plots, no_plots=no_plots)
    started = time.perf_counter()
    grid = make_grid(
        depth=numbers(depth, "--depth"),
        width=width,
        activation=act,
        seeds=seeds,
        batch=numbers(batch, "--batch"),
        bias=bias,
        norm=norm,
        **swept(
            init=init,
            usual="all",
            gain=gain,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            residual=residual,
            residual_scale=residual_scale,
        ),
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

    numbers_of = {_key(cell.labels): number for number, cell in enumerate(grid.cells())}

    def number_of(entry: Entry) -> int | None:
        return numbers_of.get(_key(entry.labels))

    # Whatever is wrong with the input is known before a file is made.
    run(grid)
    names = (short_name(activation.label) for activation in grid.activation[:3])
    depths = (f"d{depth}" for depth in grid.depth[:3])
    with open_run(
        "-".join(["mlp", *names, *depths]),
        {"command": "profile", **grid.description()},
        number_of,
        networks=len(grid),
        output=output,
        overwrite=overwrite,
        resume=resume,
    ) as file:
        waiting = [number for number in range(len(grid)) if number not in file.finished]
        stopped = finished(file, zip(waiting, run(grid, leave_out=file.finished), strict=True), len(grid), quiet=json)
        conclude(stopped, file, networks=len(grid), plots=which, json=json, started=started)


def _key(labels: Mapping[str, object]) -> frozenset[tuple[str, object]]:
    return frozenset(labels.items())
