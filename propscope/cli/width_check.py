"""`propscope width-check`: how sizes and changes in a model grow with its width, against a parametrization."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli import options
from propscope.cli.loudness import quiet, timed
from propscope.cli.options import JUDGEMENT, MODEL, RESULTS, RUN, option
from propscope.cli.view import View
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.experiments.widths.run import MakeOptimizer
    from propscope.records.width_check import WidthCheck


def width_check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="What returns your model for width=...: module:callable or file.py:callable.",
            show_default=False,
        ),
    ],
    *,
    width: Annotated[
        str, option("Widths to compare, two or more, ascending; each is passed as width=.", MODEL, metavar="LIST")
    ],
    arg: options.Arg = None,
    train: options.Train = True,
    input_shape: options.InputShape = None,
    input_kind: options.InputKind = None,
    input: options.InputFile = None,
    loss: options.Loss = "cotangent",
    optimizer: Annotated[
        str,
        option(
            "Optimizer, see `propscope list`; or module:callable or file.py:callable, which takes the model and lr.",
            RUN,
        ),
    ] = "adam",
    lr: Annotated[float | None, option("Learning rate. [default: the optimizer's usual one]", RUN)] = None,
    steps: Annotated[int, option("Training steps on one batch.", RUN)] = 4,
    seeds: Annotated[int, option("Models to build of each width, for the intervals.", RUN)] = 3,
    dtype: options.Dtype = "float32",
    device: options.Device = "cpu",
    expect: Annotated[
        str | None, option("Parametrization to hold the exponents against: standard, mup or ntk.", JUDGEMENT)
    ] = None,
    tolerance: Annotated[float, option("Largest difference of an exponent that is as expected.", JUDGEMENT)] = 0.25,
    output: Annotated[
        Path | None, option("Picture to draw: .png, .pdf or .svg. [default: none]", RESULTS, "--output", "-o")
    ] = None,
    overwrite: options.Overwrite = False,
    view: View,
    json: options.Json = False,
) -> int:
    """Train a model a few steps at several widths and fit how its sizes and changes grow with the width.

    Exit codes: 0 as expected or nothing expected, 1 not as expected, 2 wrong use or bad input.

    Example: propscope width-check net.py:build --width 32,64,128 --input-shape 64,16 --lr 0.01 --expect mup
    """
    from propscope.cli.grid_runs import print_paths
    from propscope.report.terminal import print_json, terminal_width, write
    from propscope.report.width_check import width_blocks, width_document

    given = options.numbers(width, "--width")
    if output is not None:
        options.check_picture(output, overwrite=overwrite)
    with timed(f"training at widths {width}"):
        check = _run(
            target,
            widths=given,
            arguments=arg or (),
            train=train,
            batch=(input_shape or (), input_kind, input),
            loss=loss,
            optimizer=optimizer,
            lr=lr,
            dtype=dtype,
            device=device,
            steps=steps,
            seeds=seeds,
            expect=expect,
            tolerance=tolerance,
        )
    if json:
        print_json({**width_document(check), "picture": None if output is None else str(output)})
    else:
        *tables, conclusion = width_blocks(check, width=None if view.wide else terminal_width())
        if quiet():
            write(str(conclusion).splitlines()[-1])
        else:
            view.print([*tables, conclusion])
    if output is not None:
        _draw(check, output)
        if not json and not quiet():
            print_paths("plots", [output])
    return check.exit_code


def _run(
    target: str,
    *,
    widths: Sequence[int],
    arguments: Sequence[str],
    train: bool,
    batch: tuple[Any, str | None, Path | None],
    loss: str,
    optimizer: str,
    lr: float | None,
    dtype: str,
    device: str,
    **options: Any,
) -> WidthCheck:
    import torch
    from torch import nn

    from propscope.cli.targets import load_target, make_loss, on_import_path, parse_input
    from propscope.experiments.widths.check import ordered_widths, width_check
    from propscope.networks.devices import named_dtype, usable_device

    make_loss(loss, seed=0)
    ordered_widths(widths)
    place: dict[str, Any] = {"device": usable_device("--device", device), "dtype": named_dtype("--dtype", dtype)}
    # With --json nothing else may reach stdout, and models print.
    with on_import_path(target), redirect_stdout(sys.stderr):
        found = load_target(target, arguments=arguments)
        if isinstance(found.callable, nn.Module):
            raise InputError(
                f'target must be a callable that takes width=, got the module "{target}", which has one width',
                hint="name a function or class that builds the model",
            )
        if "width" in found.arguments:
            raise InputError("--arg must not set width, which --width sets", hint="leave it out of --arg")
        source = parse_input(*batch)

        def built(width: int, seed: int) -> nn.Module:
            of = replace(found, arguments={**found.arguments, "width": width})
            return of.build(seed=seed, **place).model.train(train)

        def make_model(width: int) -> nn.Module:
            # The check has seeded the global generator, the same at every width.
            return built(width, int(torch.randint(2**62, ())))

        rows = source.batch(built(widths[0], 0), seed=0, number=0, **place)
        return width_check(make_model, widths, rows, _optimizer(optimizer), lr, loss=loss, title=target, **options)


def _optimizer(text: str) -> str | MakeOptimizer:
    """Return the name of a known optimizer as it is, and what any other text with a colon refers to."""
    from propscope.experiments.training.optimizers import OPTIMIZERS
    from propscope.networks.spec import load_callable

    home = text.partition(":")[0]
    known = {name for kind in OPTIMIZERS for name in (kind.name, *kind.aliases)}
    return text if ":" not in text or home in known else load_callable(text, "optimizer")


def _draw(check: WidthCheck, path: Path) -> None:
    from propscope.plots import write_figure
    from propscope.plots.style import styled
    from propscope.plots.width_check import draw_width_check, prepare_width_check

    with styled():
        write_figure(draw_width_check(prepare_width_check(check)), path)
