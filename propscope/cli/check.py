"""`propscope check`: a model or a result file judged for continuous integration, by its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from propscope.cli.model_options import (
    Arg,
    Batches,
    Checkpoint,
    Config,
    Device,
    Dtype,
    Exclude,
    Include,
    InputFile,
    InputKind,
    InputShape,
    Loss,
    Train,
)
from propscope.cli.options import Act, Depth, Json, Width, load_selected
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.cli.model_runs import Request
    from propscope.records import ProfileSet

_SEEDS = 5
_FILES = (".h5", ".hdf5")
_OF_BOTH = {"what", "fail_on", "baseline", "tolerance", "json", "init"}
_OF_A_FILE = {"act", "depth", "width"}


def check(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            metavar="TARGET|FILE",
            help="module:callable or file.py:callable that returns a model, or a result file.",
            show_default=False,
        ),
    ],
    fail_on: Annotated[str, typer.Option(help="Fail on findings as grave as this: broken or strained.")] = "broken",
    baseline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Result file from which the signal must not have moved, layer by layer."),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="Changes of up to this share never count as moved.")] = 0.01,
    json: Json = False,
    init: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="TARGET: initializer for every layer that it fits. FILE: only these initializers."),
    ] = None,
    act: Act = None,
    depth: Depth = None,
    width: Width = None,
    arg: Arg = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    train: Train = True,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    input_shape: InputShape = None,
    input_kind: InputKind = "float",
    input: InputFile = None,
    loss: Loss = "cotangent",
    seeds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Models built anew, judged together. [default: as the baseline, else 5]"),
    ] = None,
    batches: Batches = 1,
    include: Include = None,
    exclude: Exclude = None,
) -> int:
    """Judge a model, or a result file: exit code 0 fine, 1 broken or moved from the baseline, 2 wrong use or bad input.

    Findings come worst first, each with its remedy. Options of a TARGET are those of `propscope inspect`.
    """
    from propscope.report.check import Verdict, print_verdict

    of_file = _is_file(what)
    _check_options(context, fail_on, of_file=of_file)
    filters = {"act": act, "init": init if of_file else None, "depth": depth, "width": width}
    held = None if baseline is None else _loaded(baseline, filters)
    if of_file:
        profiles = _loaded(Path(what), filters)
        headline = _contents(what, profiles)
    else:
        from propscope.cli.model_runs import Request

        request = Request(
            target=what,
            arguments=tuple(arg or ()),
            config=config,
            checkpoint=checkpoint,
            init=init,
            train=train,
            dtype=dtype,
            device=device,
            shapes=tuple(input_shape or ()),
            kinds=input_kind,
            file=input,
            loss=loss,
            seeds=_seeds(held) if seeds is None else seeds,
            batches=batches,
            include=include,
            exclude=exclude,
        )
        profiles, headline = _run(request)
    verdict = Verdict.of(profiles, headline, held, baseline, fail_on=fail_on, tolerance=tolerance)
    print_verdict(verdict, json=json)
    return verdict.exit_code


def _is_file(what: str) -> bool:
    path = Path(what)
    if path.suffix in _FILES or (path.is_file() and path.suffix != ".py"):
        return True
    if ":" not in what:
        raise InputError(
            f"{what!r} is neither a result file nor a target",
            hint="a file ends in .h5; a target is package.module:callable or path/to/file.py:callable",
        )
    return False


def _check_options(context: typer.Context, fail_on: str, *, of_file: bool) -> None:
    if fail_on not in ("broken", "strained"):
        raise InputError(f"--fail-on is {fail_on!r}; valid is broken or strained")
    if not 0 <= context.params["tolerance"] < float("inf"):
        raise InputError(f"--tolerance is {context.params['tolerance']}; valid is a share of at least 0, such as 0.01")
    valid = _OF_BOTH | _OF_A_FILE if of_file else context.params.keys() - _OF_A_FILE
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        given = source is not None and source.name == "COMMANDLINE"
        if given and parameter.name not in valid:
            of_what, other = ("TARGET", "FILE") if of_file else ("FILE", "TARGET")
            raise InputError(f"{parameter.opts[0]} is an option for a {of_what}; what is given is a {other}")
    for name in ("seeds", "batches"):
        number = context.params[name]
        if number is not None and number < 1:
            raise InputError(f"--{name} is {number}; valid is a whole number of at least 1")


def _loaded(file: Path, filters: dict[str, str | None]) -> ProfileSet:
    """Return the profiles of a file; raises `InputError` for one of training runs and for one without any."""
    from propscope.records import TrainingSet

    held = load_selected(
        file, act=filters["act"], init=filters["init"], depth=filters["depth"], width=filters["width"], seed=None
    )
    if isinstance(held, TrainingSet):
        raise InputError(
            f"{file} holds training runs; what is checked are profiles",
            hint="propscope profile -o FILE and propscope inspect TARGET --store FILE write them",
        )
    if not len(held):
        raise InputError(f"{file} holds no profile", hint="profile a network into it first")
    if not any(profile.sites for profile in held):
        raise InputError(f"{file} holds profiles without a site: nothing can be judged")
    return held


def _contents(what: str, profiles: ProfileSet) -> str:
    from propscope.report.check import counted

    networks = len(profiles.groups("seed"))
    return f"{what}: {counted(networks, 'network')}, {counted(len(profiles), 'profile')}"


def _seeds(baseline: ProfileSet | None) -> int:
    """Return as many seeds as the baseline has of one network, so that each is held against itself."""
    if baseline is None:
        return _SEEDS
    return max(map(len, baseline.groups("seed").values()))


def _run(request: Request) -> tuple[ProfileSet, str]:
    """Return the profiles of a target and what ran, in words; raises `InputError` when the model stops."""
    from propscope.cli.model_runs import run

    outcome = run(request)
    if outcome.stopped is not None:
        raise InputError(outcome.stopped, hint=outcome.hint)
    if not any(profile.sites for profile in outcome.profiles):
        raise InputError("no site was recorded: nothing can be judged", hint="look at --include and --exclude")
    return outcome.profiles, outcome.headline
