"""`propscope train`: a grid of MLPs, trained, stored, tabulated and drawn."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from propscope.cli.options import Json, Overwrite, decimals, numbers, short_name, unused_file

if TYPE_CHECKING:
    from propscope.experiments.training import TrainingPlan
    from propscope.records import TrainingSet


def train(
    data: Annotated[
        str,
        typer.Option(
            help="digits, moons:noise=0.2, linear, one_hidden, mnist:path=DIR, fashion_mnist:path=DIR, or a .pt file."
        ),
    ] = "digits",
    depth: Annotated[str, typer.Option(help="Hidden layers; a comma-separated list.")] = "10",
    width: Annotated[str, typer.Option(help="Units a layer; 256-64 tapers; a comma-separated list.")] = "64",
    act: Annotated[str, typer.Option(help="Activations, comma-separated; see `propscope list`.")] = "relu",
    init: Annotated[str, typer.Option(help="Initializers, comma-separated; see `propscope list`.")] = (
        "he_normal,xavier_normal,default,normal:std=0.01,zeros"
    ),
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    optimizer: Annotated[str, typer.Option(help="sgd, momentum, adam or adamw, as in adam:beta2=0.99.")] = "adam",
    lr: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Learning rates, comma-separated; each network gets the best. [default: the optimizer's]"),
    ] = None,
    epochs: Annotated[int, typer.Option(help="Times that each training row is seen.")] = 20,
    batch: Annotated[int, typer.Option(help="Rows of a step; all of them where there are not more.")] = 32,
    weight_decay: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="[default: the optimizer's: 0, but 0.01 for adamw]"),
    ] = None,
    target: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Count the steps to this accuracy, or loss. [default: 0.9; none for regression]"),
    ] = None,
    scale: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="zscore, minmax or none, per feature, as the training rows are."),
    ] = None,
    rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Rows of data to take. [default: all; 500 moons; 10000 of a synthetic target]"),
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of the rows held out; 0 for none.")] = 0.2,
    profile_every: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Profile the signal every so many epochs, 0 for never. [default: before and after]"),
    ] = None,
    bias: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Standard deviation of the biases. [default: zeros, or the initializer's own]"),
    ] = None,
    norm: Annotated[str, typer.Option(help="none, batch, layer or rms, on the pre-activation.")] = "none",
    residual: Annotated[bool, typer.Option("--residual", help="Add each layer to the one before.")] = False,
    dropout: Annotated[float, typer.Option(help="Probability, after each activation.")] = 0.0,
    alpha_dropout: Annotated[float, typer.Option(help="The same, keeping mean and variance (for selu).")] = 0.0,
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of one run.")] = 1,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Runs at the same time. [default: as many as there are cores]"),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Result file. [default: a new name in outputs/]"),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the pictures beside the file.")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train deep MLPs from each initializer: how fast and how well they learn, beside the signal before and after."""
    started = time.perf_counter()
    plan = _plan(
        width,
        None if lr is None else decimals(lr, "--lr"),
        data=data,
        depth=numbers(depth, "--depth"),
        activation=act,
        initializer=init,
        seeds=seeds,
        optimizer=optimizer,
        epochs=epochs,
        batch=batch,
        weight_decay=weight_decay,
        target=target,
        scale=scale,
        rows=rows,
        validation=validation,
        profile_every=profile_every,
        bias=bias,
        norm=norm,
        residual=residual,
        dropout=dropout,
        alpha_dropout=alpha_dropout,
        dtype=dtype,
        device=device,
        threads=threads,
    )
    runs, stopped = _train(plan, output, workers=workers, overwrite=overwrite, quiet=json)
    if runs:
        # Only now: another run may have taken a name meanwhile.
        path = output or _unused(plan)
        _keep(runs, path, plots=plots, overwrite=overwrite, json=json, started=started)
    if stopped is not None:
        _say_stopped(plan, runs, stopped)


def _plan(width: str, rates: list[float] | None, **options: Any) -> TrainingPlan:
    from propscope.experiments.training import make_plan
    from propscope.networks import parse_width

    return make_plan(width=[parse_width(part) for part in width.split(",")], learning_rate=rates, **options)


def _train(
    plan: TrainingPlan, output: Path | None, *, workers: int | None, overwrite: bool, quiet: bool
) -> tuple[TrainingSet, BaseException | None]:
    from propscope.experiments.training import finish, run
    from propscope.store import check_target

    runs = run(plan, workers=workers)
    # After everything that may be wrong with what was asked for, and before any work.
    check_target(output or _unused(plan), overwrite=overwrite)
    return finish(plan, runs, quiet=quiet)


def _keep(runs: TrainingSet, path: Path, *, plots: bool, overwrite: bool, json: bool, started: float) -> None:
    from propscope.report.documents import print_json, print_training, training_document
    from propscope.store import save

    save(path, runs, overwrite=overwrite)
    pictures: list[Path] = []
    if plots:
        from propscope.plots import draw_all

        # The file is new or was to be replaced, so pictures of its name are an earlier run's.
        pictures = draw_all(runs, path.parent, stem=path.stem, overwrite=True)
    seconds = time.perf_counter() - started
    if json:
        document = {"file": str(path), "pictures": [str(picture) for picture in pictures], "seconds": seconds}
        print_json({"pairs": training_document(runs), **document})
        return
    print_training(runs)
    print(f"\nfile      {path}")
    for number, picture in enumerate(pictures):
        print(f"{'' if number else 'pictures':10}{picture}")
    print(f"{len(runs)} run{'s' * (len(runs) != 1)} in {seconds:.1f} s")


def _say_stopped(plan: TrainingPlan, runs: TrainingSet, stopped: BaseException) -> None:
    kept = "; those are kept" if runs else ""
    if runs or isinstance(stopped, KeyboardInterrupt):
        print(f"stopped after {len(runs)} of {len(plan.grid)} networks{kept}", file=sys.stderr)
    if isinstance(stopped, KeyboardInterrupt):
        raise typer.Exit(130)
    raise stopped


def _unused(plan: TrainingPlan) -> Path:
    names = (short_name(name) for name in (plan.data, *plan.grid.activation[:3]))
    return unused_file("-".join(["train", *names, *(f"d{depth}" for depth in plan.grid.depth[:3])]))
