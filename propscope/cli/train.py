"""`propscope train`: a grid of MLPs, trained, stored, tabulated and drawn."""

from __future__ import annotations

from typing import Annotated, Any

from propscope.cli import options
from propscope.cli.options import NETWORK, RUN, decimals, numbers, option, swept
from propscope.cli.view import View

_DATA, _TRAINING = "Data", "Training"
_INITIALIZERS = "he_normal,xavier_normal,default,normal:std=0.01,zeros"


def train(
    *,
    data: Annotated[
        str,
        option(
            "digits, mnist5k, mnist:path=DIR, fashion_mnist:path=DIR, moons, linear, one_hidden, or a .pt file.",
            _DATA,
        ),
    ] = "digits",
    rows: Annotated[
        int | None, option("Rows of data to use. [default: all; 500 of moons, 10000 of linear and one_hidden]", _DATA)
    ] = None,
    validation: Annotated[float, option("Fraction of the rows held out for validation; 0 for none.", _DATA)] = 0.2,
    scale: Annotated[
        str | None, option("Scaling of each feature, from the training rows: zscore, minmax or none.", _DATA)
    ] = None,
    depth: options.Depths = "10",
    width: options.Widths = "64",
    act: options.Activations = "relu",
    init: Annotated[
        str | None,
        option(
            f"Initializers, or all; see `propscope list`. [default: {_INITIALIZERS}; normal with --weight-variance]",
            NETWORK,
            metavar="LIST",
        ),
    ] = None,
    seeds: options.Seeds = 3,
    bias: options.Bias = None,
    gain: options.Gains = None,
    weight_variance: options.WeightVariance = None,
    bias_variance: options.BiasVariance = None,
    norm: options.Norms = "none",
    residual: options.Residual = False,
    residual_scale: options.ResidualScale = None,
    dropout: options.Dropout = 0.0,
    alpha_dropout: options.AlphaDropout = 0.0,
    optimizer: Annotated[
        str, option("sgd, momentum, adam or adamw, with parameters as in adam:beta2=0.99.", _TRAINING)
    ] = "adam",
    lr: Annotated[
        str | None,
        option(
            "Learning rates; each network gets the best. [default: the optimizer's]",
            _TRAINING,
            metavar="LIST",
        ),
    ] = None,
    epochs: Annotated[int, option("Passes over the training rows.", _TRAINING)] = 20,
    batch: Annotated[str, option("Rows per step, at most all of them.", _TRAINING, metavar="LIST")] = "32",
    weight_decay: Annotated[
        float | None, option("Weight decay. [default: the optimizer's: 0, or 0.01 for adamw]", _TRAINING)
    ] = None,
    target: Annotated[
        float | None,
        option(
            "Accuracy (for regression: loss) to reach; the steps until then are counted. "
            "[default: 0.9; none for regression]",
            _TRAINING,
        ),
    ] = None,
    profile_every: Annotated[
        int | None,
        option(
            "Profile the signal every so many epochs; 0 for never. [default: before and after]",
            _TRAINING,
        ),
    ] = None,
    dtype: Annotated[str, option("float32, float64.", RUN, metavar="LIST")] = "float32",
    device: options.Device = "cpu",
    threads: Annotated[int, option("Threads of each run.", RUN)] = 1,
    workers: options.Workers = None,
    engine: options.Engine = "joblib",
    output: options.Output = None,
    plots: options.Plots = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = None,
    view: View,
    json: options.Json = False,
) -> None:
    """Train deep MLPs from several initializers: compare how fast and how well they learn with the signal they carry.

    A LIST is separated by commas; 10..50:10 are 10, 20, 30, 40, 50, and 0.5..2:16 are 16 numbers from 0.5 to 2. Every
    combination of the lists is trained. Every finished run is kept: the same command again, or --resume, goes on from
    where it was stopped.
    """
    from propscope.cli.grid_runs import run_grid
    from propscope.experiments.engine import Recipe
    from propscope.plots.table import TRAINING_PLOTS

    which = options.plots_of(plots, TRAINING_PLOTS)
    typed: dict[str, Any] = dict(
        width=width,
        learning_rate=None if lr is None else decimals(lr, "--lr"),
        data=data,
        depth=numbers(depth, "--depth"),
        activation=act,
        seeds=seeds,
        optimizer=optimizer,
        epochs=epochs,
        batch=numbers(batch, "--batch"),
        weight_decay=weight_decay,
        target=target,
        scale=scale,
        rows=rows,
        validation=validation,
        profile_every=profile_every,
        bias=bias,
        norm=norm,
        **swept(
            init=init,
            usual=_INITIALIZERS,
            gain=gain,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            residual=residual,
            residual_scale=residual_scale,
        ),
        dropout=dropout,
        alpha_dropout=alpha_dropout,
        dtype=dtype,
        device=device,
        threads=threads,
    )
    run_grid(
        Recipe("propscope.experiments.training.trainings:typed_work", typed, finish="propscope.store.packed:pack"),
        "train",
        engine=engine,
        workers=workers,
        output=output,
        overwrite=overwrite,
        resume=resume,
        plots=which,
        view=view,
        json=json,
    )
