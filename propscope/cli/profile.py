"""`propscope profile`: a grid of MLPs, measured, stored, tabulated and drawn."""

from __future__ import annotations

from typing import Annotated, Any

from propscope.cli import options
from propscope.cli.options import INPUT, NETWORK, RUN, numbers, option, swept
from propscope.cli.view import View


def profile(
    *,
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
        str,
        option(
            "normal, uniform:low=-1:high=1, mixed, digits, mnist5k, mnist:path=DIR, or a .npy or .pt file.",
            INPUT,
        ),
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
    workers: options.Workers = None,
    engine: options.Engine = "joblib",
    output: options.Output = None,
    plots: options.Plots = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = None,
    view: View,
    json: options.Json = False,
) -> None:
    """Compare initializers on deep MLPs: measure every layer, save the profiles, print a table and draw plots.

    A LIST is separated by commas; 10..50:10 are 10, 20, 30, 40, 50, and 0.5..2:16 are 16 numbers from 0.5 to 2. Every
    combination of the lists is measured. Every finished network is kept: the same command again, or --resume, goes on
    from where a run was stopped.
    """
    from propscope.cli.grid_runs import run_grid
    from propscope.cli.phase_pictures import PHASE
    from propscope.experiments.engine import Recipe
    from propscope.plots.table import PLOTS

    which = options.plots_of(plots, (*PLOTS, PHASE))
    typed: dict[str, Any] = dict(
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
    run_grid(
        Recipe("propscope.experiments.profiling:typed_work", typed, finish="propscope.store.packed:pack"),
        "mlp",
        engine=engine,
        workers=workers,
        output=output,
        overwrite=overwrite,
        resume=resume,
        plots=which,
        view=view,
        json=json,
    )
