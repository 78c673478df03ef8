"""`propscope inspect`: the signal in an existing model, as a tree of its modules."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propscope.cli import options
from propscope.cli.loudness import quiet, timed
from propscope.cli.options import MODEL, RESULTS, RUN, VIEW, option
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.cli.model_runs import ModelRun
    from propscope.plots.table import Choice
    from propscope.records import Diagnosis, NetworkProfile
    from propscope.records.finding import Stage
    from propscope.records.remedy_trials import RemedyTrials


def inspect(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", help=f"What returns your model: {options.TARGETS}.", show_default=False),
    ],
    arg: options.Arg = None,
    config: options.Config = None,
    checkpoint: options.Checkpoint = None,
    init: Annotated[str | None, option("Initializer for every layer it fits; see `propscope list`.", MODEL)] = None,
    train: options.Train = True,
    input_shape: options.InputShape = None,
    input_kind: options.InputKind = None,
    input: options.InputFile = None,
    batches: options.Batches = 1,
    loss: options.Loss = "cotangent",
    seeds: Annotated[int, option("Models to build, each with new weights and input.", RUN)] = 1,
    dtype: options.Dtype = "float32",
    device: options.Device = "cpu",
    include: options.Include = None,
    exclude: options.Exclude = None,
    stage: options.JudgedStage = None,
    sort: Annotated[
        str | None, option("List the sites, worst first by gain, backward, flat, dead or nonfinite.", VIEW)
    ] = None,
    top: Annotated[int | None, option("Show only this many sites.", VIEW)] = None,
    levels: Annotated[int | None, option("Levels of modules to show. [default: as many as fit]", VIEW)] = None,
    costs: Annotated[
        bool, option("Show parameters, multiply-adds and memory of each module, down to --levels.", VIEW, "--costs")
    ] = False,
    precision: Annotated[bool, option("Show which values fp16, bf16 and fp8 would lose.", VIEW, "--precision")] = False,
    fix: Annotated[bool, option("Try remedies on a copy and show the one that helps.", VIEW, "--fix")] = False,
    output: Annotated[Path | None, option("Result file to write. [default: none]", RESULTS, "--output", "-o")] = None,
    plots: Annotated[
        str,
        option(
            "Plots beside the result file or in outputs/: main, all, none or the names that `propscope plot --help` "
            "lists.",
            RESULTS,
            metavar="LIST",
        ),
    ] = "none",
    overwrite: options.Overwrite = False,
    json: options.Json = False,
) -> None:
    """Run your own model and show the signal, forward and backward, module by module, with a verdict on top.

    Example: propscope inspect net.py:build --input-shape 8,3,32,32
    """
    from propscope import checks
    from propscope.cli.grid_runs import print_paths
    from propscope.cli.model_runs import RunRequest, remedy_trials, run_model
    from propscope.plots.table import PLOTS
    from propscope.report.costs import costs_document
    from propscope.report.documents import inspection_document, trials_document
    from propscope.report.findings import verdict_lines
    from propscope.report.remedies import trials_text
    from propscope.report.terminal import print_json, terminal_width, write
    from propscope.store import check_output, save

    started = time.perf_counter()
    _check_view(sort, top, levels)
    judged_as = options.stage_of(stage)
    which = options.plots_of(plots, PLOTS)
    if output is not None:
        check_output(output, overwrite=overwrite)
    checks.count("--seeds", seeds)
    checks.count("--batches", batches)
    request = RunRequest.of(context.params, target=target, seeds=seeds)
    with timed(f"running {target}"):
        run = run_model(request, costs=not quiet())
    files = [output] if output is not None and len(run.profiles) else []
    for file in files:
        save(file, run.profiles, overwrite=overwrite)
    # What is measured is saved and printed before a picture or a remedy can fail, or be interrupted.
    if run.shown is not None and not json:
        found = _diagnosis(run, judged_as)
        if quiet():
            write("\n".join([verdict_lines(run.shown, found)[0], *map(str, files)]))
        else:
            _print(run, run.shown, found, sort=sort, top=top, levels=levels, costs=costs, precision=precision)
            print_paths("file", files)
        sys.stdout.flush()
    trials: RemedyTrials | None = None
    pictures: list[Path] = []
    try:
        if fix and run.stopped is None:
            trials = remedy_trials(request, stage=judged_as)
            if not json:
                # Remedies are tried on the first seed.
                text = f"fix{', seed 0' if seeds > 1 else ''}: {trials_text(trials, width=terminal_width())}"
                write(text if quiet() else f"\n{text}")
        if which != "none" and run.stopped is None:
            with timed(f"drawing {plots}"):
                pictures = _draw(run, which, output, target, overwrite)
    finally:
        seconds = time.perf_counter() - started
        if run.shown is not None and json:
            print_json({
                "target": target,
                "model": run.title,
                "input": run.input,
                "file": str(output) if files else None,
                "pictures": [str(path) for path in pictures],
                "stopped": run.stopped,
                **({} if trials is None else {"fix": trials_document(trials)}),
                "seconds": seconds,
                "costs": None if run.costs is None else costs_document(run.costs),
                **inspection_document(run.shown, _diagnosis(run, judged_as)),
            })  # fmt: skip
    if run.shown is not None and not json and not quiet():
        print_paths("plots", pictures)
        print(f"{seconds:.1f} s")
    if run.stopped is not None:
        raise InputError(run.stopped, hint=run.hint)


def _check_view(sort: str | None, top: int | None, levels: int | None) -> None:
    """Refuse the options of the view that the report would refuse, before the model runs."""
    from propscope import checks
    from propscope.records import NetworkProfile
    from propscope.records.finding import Diagnosis
    from propscope.report.inspection import inspection

    if levels is not None:
        checks.count("--levels", levels, also=" (all levels: leave it out)")
    inspection(NetworkProfile(()), Diagnosis(), sort=sort, top=top)


def _draw(
    run: ModelRun, which: Choice | list[str] | None, output: Path | None, target: str, overwrite: bool
) -> list[Path]:
    from propscope.plots import draw_all
    from propscope.plots.table import PLOTS, chosen

    only = chosen(PLOTS, which, pairs=0)

    directory = Path("outputs") if output is None else output.parent
    stem = f"inspect-{target.rpartition(':')[2]}" if output is None else output.stem
    # Plots beside a new file replace an earlier run's; without a file, existing plots are kept unless asked.
    return draw_all(run.profiles, directory, stem=stem, only=only, overwrite=overwrite or output is not None)


def _diagnosis(run: ModelRun, stage: Stage | None) -> Diagnosis:
    """Return the diagnosis, each seed judged on its own; for a run that stopped, with unequal profiles, of the last."""
    from propscope.diagnosis import diagnose

    return diagnose(run.profiles if run.stopped is None or run.shown is None else run.shown, stage=stage)


def _print(
    run: ModelRun,
    shown: NetworkProfile,
    diagnosis: Diagnosis,
    *,
    sort: str | None,
    top: int | None,
    levels: int | None,
    costs: bool,
    precision: bool,
) -> None:
    from propscope.report.costs import costs_table
    from propscope.report.inspection import inspection
    from propscope.report.precision import precision_table
    from propscope.report.table import filled
    from propscope.report.terminal import print_blocks, terminal_width, write

    width = terminal_width()
    write(run.headline if width is None else filled(run.headline, width))
    write(inspection(shown, diagnosis, run.costs, title=run.title, sort=sort, top=top, depth=levels, width=width))
    if costs and run.costs is not None:
        print()
        print_blocks([costs_table(run.costs, depth=levels, totals=False)])
    if precision:
        print()
        print_blocks([precision_table(shown)])
