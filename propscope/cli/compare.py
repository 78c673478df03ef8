"""`propscope compare`: where the signals of two models, profiles or trainings part first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli import options
from propscope.cli.file_or_target import is_file, loaded, run_target, seeds_of
from propscope.cli.loudness import quiet
from propscope.cli.options import JUDGEMENT, MODEL, RESULTS, RUN, Selection, option
from propscope.cli.view import View
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import Comparison, ProfileSet

# What a second value is for the second model; the same value holds for both where it is given once.
_TWICE = ("checkpoint", "init", "dtype")
_FOR_A_FILE = {"act", "depth", "width", "seed", "step"}
_FOR_BOTH = {"a", "b", "tolerance", "output", "overwrite", "json", "init", "wide", "explain", "quiet", "verbose"}


def compare(
    context: typer.Context,
    a: Annotated[
        str,
        typer.Argument(metavar="A", help="Result file (.h5), or what returns your model.", show_default=False),
    ],
    b: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]", help="The same; without it A with the second of two checkpoints, dtypes or initializers."
        ),
    ] = None,
    *,
    tolerance: Annotated[
        float | None,
        option(
            "Relative difference that is none. [default: 0.01; float16 0.02, bfloat16 0.05]",
            JUDGEMENT,
        ),
    ] = None,
    output: Annotated[
        Path | None, option("Picture to draw: .png, .pdf or .svg. [default: none]", RESULTS, "--output", "-o")
    ] = None,
    overwrite: options.Overwrite = False,
    view: View,
    json: options.Json = False,
    init: Annotated[
        list[str] | None,
        option("TARGET: initializer for every layer it fits; twice: of A, of B. FILE: only these.", MODEL),
    ] = None,
    selection: Selection,
    arg: options.Arg = None,
    config: options.Config = None,
    checkpoint: Annotated[
        list[Path] | None, option("Weights to load, a state_dict saved by torch.save; twice: of A, of B.", MODEL)
    ] = None,
    train: options.Train = True,
    input_shape: options.InputShape = None,
    input_kind: options.InputKind = None,
    input: options.InputFile = None,
    batches: options.Batches = 1,
    loss: options.Loss = "cotangent",
    seeds: Annotated[
        int | None,
        option("Models to build, each with new weights and input. [default: as many as a FILE has, else 1]", RUN),
    ] = None,
    dtype: Annotated[
        list[str] | None,
        option("float32, float64, bfloat16 or float16; twice: of A, of B. [default: float32]", RUN),
    ] = None,
    device: options.Device = "cpu",
    include: options.Include = None,
    exclude: options.Exclude = None,
) -> int:
    """Say where the signal of B parts from that of A first, forward and backward, and whether they began alike.

    A and B are result files, of profiles or of monitored runs, or targets as `inspect` takes them, which run on the
    same batch and seeds. Exit codes: 0 the same, 1 different, 2 wrong use or bad input. "Model", "Input and loss" and
    "Run" hold options for targets, "Selection" options for files.

    Example: propscope compare net.py:build --checkpoint before.pt --checkpoint after.pt --input-shape 8,3,32,32
    """
    from propscope.cli.grid_runs import print_paths
    from propscope.comparison import compare as find
    from propscope.report.comparison import comparison_blocks, verdict
    from propscope.report.terminal import print_json, terminal_width, write

    given = (a, a if b is None else b)
    files = [is_file(each) for each in given]
    _check_options(context, files)
    if output is not None:
        options.check_picture(output, overwrite=overwrite)
    # The initializer of a target is not one to look for in a file.
    chosen = replace(selection, init=",".join(init) if init and all(files) else None)
    read = [loaded(Path(what), chosen) if of_file else None for what, of_file in zip(given, files, strict=True)]
    count = seeds_of(next((each for each in read if each is not None), None), 1) if seeds is None else seeds
    sides: list[ProfileSet] = []
    names: list[str] = []
    for at, (what, profiles) in enumerate(zip(given, read, strict=True)):
        ran = (profiles, what) if profiles is not None else _run(context.params, what, at, count)
        sides.append(ran[0])
        names.append(ran[1])
    found = replace(find(sides[0], sides[1], tolerance=tolerance), names=(names[0], names[1]))
    if json:
        print_json({**found.to_dict(), "picture": None if output is None else str(output)})
    elif quiet():
        write(verdict(found))
    else:
        view.print(comparison_blocks(found, width=None if view.wide else terminal_width()))
    if output is not None:
        _draw(found, output)
        if not json and not quiet():
            print_paths("plots", [output])
    return found.exit_code


def _draw(found: Comparison, path: Path) -> None:
    from propscope.plots import styled, write_figure
    from propscope.plots.comparison import draw_comparison, prepare_comparison

    prepared = prepare_comparison(found)
    if prepared is None:
        raise InputError("there is no site of both to draw", hint="leave --output out")
    with styled():
        write_figure(draw_comparison(prepared), path)


def _twice(values: list[Any] | None) -> bool:
    return values is not None and len(values) > 1


def _run(parameters: Mapping[str, Any], target: str, at: int, seeds: int) -> tuple[ProfileSet, str]:
    """Return the profiles of the target on one side, 0 or 1, and what ran, in words."""
    from propscope.cli.model_runs import RunRequest

    own = {name: values[min(at, len(values) - 1)] if (values := parameters[name]) else None for name in _TWICE}
    own["dtype"] = "float32" if own["dtype"] is None else own["dtype"]
    return run_target(RunRequest.of({**parameters, **own}, target=target, seeds=seeds))


def _check_options(context: typer.Context, files: list[bool]) -> None:
    from propscope import checks

    given = context.params
    if given["tolerance"] is not None:
        checks.number("--tolerance", given["tolerance"])
    for name in _TWICE:
        if given[name] and len(given[name]) > 2:
            raise InputError(
                f"--{name} must be given at most twice, got {len(given[name])}",
                hint="the first is of A, the second of B",
            )
    if given["b"] is None and (files[0] or not any(_twice(given[name]) for name in _TWICE)):
        raise InputError(
            f"there is nothing to compare {given['a']} with",
            hint="name a second file or target, or give --checkpoint, --init or --dtype twice",
        )
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is None or source.name != "COMMANDLINE" or parameter.name in _FOR_BOTH:
            continue
        wrong = not any(files) if parameter.name in _FOR_A_FILE else all(files)
        if wrong:
            kind, other = ("FILE", "TARGET") if all(files) else ("TARGET", "FILE")
            raise InputError(
                f"{parameter.opts[0]} is for a {other}, but A and B are both a {kind}",
                hint="leave it out; propscope compare --help lists the options for each",
            )
    for name in ("seeds", "batches"):
        if given[name] is not None:
            checks.count(f"--{name}", given[name])
