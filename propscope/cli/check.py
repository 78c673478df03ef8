"""`propscope check`: a model or a result file judged for continuous integration, by its exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propscope.cli import options
from propscope.cli.file_or_target import is_file, loaded, run_target, seeds_of
from propscope.cli.loudness import quiet
from propscope.cli.options import RUN, Selection, option
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import ProfileSet

_SEEDS = 5
_SEVERITIES = ("broken", "strained")
_FOR_BOTH = {"what", "fail_on", "baseline", "tolerance", "json", "init", "stage", "quiet", "verbose"}
_FOR_A_FILE = {"act", "depth", "width", "seed", "step"}
_CHECK = "Check"


def check(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="TARGET|FILE",
            help=f"What returns your model: {options.TARGETS}; or a result file (.h5).",
            show_default=False,
        ),
    ],
    *,
    fail_on: Annotated[str, option("Lowest severity that fails the check: strained or broken.", _CHECK)] = "broken",
    baseline: Annotated[
        Path | None, option("Result file to compare with; the check fails where the signal has moved.", _CHECK)
    ] = None,
    tolerance: Annotated[
        float | None,
        option("Relative change from the baseline that never fails the check. [default: 0.01; bfloat16 0.05]", _CHECK),
    ] = None,
    json: options.Json = False,
    stage: options.JudgedStage = None,
    init: Annotated[
        str | None, option("TARGET: initializer for every layer it fits. FILE: only these initializers.", _CHECK)
    ] = None,
    selection: Selection,
    arg: options.Arg = None,
    config: options.Config = None,
    checkpoint: options.Checkpoint = None,
    train: options.Train = True,
    input_shape: options.InputShape = None,
    input_kind: options.InputKind = None,
    input: options.InputFile = None,
    batches: options.Batches = 1,
    loss: options.Loss = "cotangent",
    seeds: Annotated[
        int | None,
        option("Models to build, each with new weights and input. [default: as many as the baseline has, else 5]", RUN),
    ] = None,
    dtype: options.Dtype = "float32",
    device: options.Device = "cpu",
    include: options.Include = None,
    exclude: options.Exclude = None,
) -> int:
    """Judge a model or a result file by the exit code, for continuous integration.

    Exit codes: 0 the check passed, 1 it failed, 2 wrong use or bad input. Findings are listed worst first, each with
    its remedy. "Model", "Input and loss" and "Run" hold options for a TARGET, "Selection" options for a FILE.
    """
    from propscope.diagnosis.check import check as judge
    from propscope.report.check import check_text, conclusion
    from propscope.report.documents import check_document
    from propscope.report.terminal import print_json, terminal_width, write

    of_file, judged_as = is_file(what), options.stage_of(stage)
    _check_options(context, fail_on, of_file=of_file)
    # The initializer of a target is not one to look for in the baseline.
    chosen = selection if of_file else replace(selection, init=None)
    recorded = None if baseline is None else loaded(baseline, chosen)
    if of_file:
        profiles = loaded(Path(what), chosen)
        headline = _contents(what, profiles)
    else:
        from propscope.cli.model_runs import RunRequest

        count = seeds_of(recorded, _SEEDS) if seeds is None else seeds
        request = RunRequest.of(context.params, target=what, seeds=count)
        profiles, headline = run_target(request)
    outcome = judge(
        profiles,
        headline,
        fail_on=fail_on,
        baseline=recorded,
        baseline_file=baseline,
        tolerance=tolerance,
        stage=judged_as,
    )
    if json:
        print_json(check_document(outcome))
    else:
        write(conclusion(outcome) if quiet() else check_text(outcome, width=terminal_width()))
    return outcome.exit_code


def _check_options(context: typer.Context, fail_on: str, *, of_file: bool) -> None:
    from propscope import checks

    checks.one_of("--fail-on", fail_on, _SEVERITIES)
    if context.params["tolerance"] is not None:
        checks.number("--tolerance", context.params["tolerance"])
    valid = _FOR_BOTH | _FOR_A_FILE if of_file else context.params.keys() - _FOR_A_FILE
    given, other = ("FILE", "TARGET") if of_file else ("TARGET", "FILE")
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE" and parameter.name not in valid:
            raise InputError(
                f"{parameter.opts[0]} is for a {other} only, but {context.params['what']} is a {given}",
                hint="leave it out; propscope check --help lists the options for each",
            )
    for name in ("seeds", "batches"):
        if context.params[name] is not None:
            checks.count(f"--{name}", context.params[name])


def _contents(what: str, profiles: ProfileSet) -> str:
    from propscope.records import MonitoredRun
    from propscope.records.numerals import counted

    if isinstance(profiles, MonitoredRun):
        return f"{what}: {counted(len(profiles.steps), 'step')}, {counted(len(profiles), 'sample')}"
    networks = len(profiles.groups("seed"))
    return f"{what}: {counted(networks, 'network')}, {counted(len(profiles), 'profile')}"
