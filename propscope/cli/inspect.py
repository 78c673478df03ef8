"""`propscope inspect`: the signal in an existing model, as a tree of its modules."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from propscope.cli.model_options import (
    INPUT,
    MODEL,
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
from propscope.cli.options import Json, Overwrite
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.cli.model_runs import Outcome, Request

_VIEW, _OUTPUT = "View", "Results"


def inspect(
    target: Annotated[
        str, typer.Argument(help="module:callable or file.py:callable that returns a model.", show_default=False)
    ],
    arg: Arg = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    init: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Initializer for every layer that it fits; see `propscope list`.", rich_help_panel=MODEL),
    ] = None,
    train: Train = True,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    input_shape: InputShape = None,
    input_kind: InputKind = "float",
    input: InputFile = None,
    loss: Loss = "cotangent",
    seeds: Annotated[int, typer.Option(help="Models built anew, taken together.", rich_help_panel=INPUT)] = 1,
    batches: Batches = 1,
    include: Include = None,
    exclude: Exclude = None,
    sort: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Worst site first by gain, backward, flat, dead or nonfinite.", rich_help_panel=_VIEW),
    ] = None,
    top: Annotated[Optional[int], typer.Option(help="Only so many sites.", rich_help_panel=_VIEW)] = None,  # noqa: UP045
    depth: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Collapse modules this many levels down. [default: what fits]", rich_help_panel=_VIEW),
    ] = None,
    precision: Annotated[
        bool, typer.Option("--precision", help="Add what fp16, bf16 and fp8 would lose.", rich_help_panel=_VIEW)
    ] = False,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend a copy, and say what changed it for the better.", rich_help_panel=_VIEW)
    ] = False,
    store: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Result file to write.", rich_help_panel=_OUTPUT),
    ] = None,
    plots: Annotated[
        bool,
        typer.Option("--plots", help="Draw the pictures, beside the file or in outputs/.", rich_help_panel=_OUTPUT),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run an existing model and show its signal, forward and backward, module by module; the verdict on top."""
    from propscope.cli.model_runs import Request, run

    started = time.perf_counter()
    _check_view(sort, top, depth)
    if store is not None:
        from propscope.store import check_target

        check_target(store, overwrite=overwrite)
    for name, number in (("--seeds", seeds), ("--batches", batches)):
        if number < 1:
            raise InputError(f"{name} is {number}; valid is a whole number of at least 1")
    request = Request(
        target=target,
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
        seeds=seeds,
        batches=batches,
        include=include,
        exclude=exclude,
    )
    outcome = run(request)
    document: dict[str, Any] = {"target": target, "model": outcome.title, "input": outcome.input, "file": None}
    document |= {"pictures": [], "stopped": outcome.stopped}
    if store is not None and len(outcome.profiles):
        from propscope.store import save

        save(store, outcome.profiles, overwrite=overwrite)
        document["file"] = str(store)
    if plots and outcome.stopped is None:
        document["pictures"] = _draw(outcome, store, target, overwrite)
    mending = _fixed(request, document) if fix and outcome.stopped is None else None
    document["seconds"] = time.perf_counter() - started
    if outcome.shown is not None:
        _print(outcome, document, json=json, sort=sort, top=top, depth=depth, precision=precision, fix=mending)
    if outcome.stopped is not None:
        raise InputError(outcome.stopped, hint=outcome.hint)


def _check_view(sort: str | None, top: int | None, depth: int | None) -> None:
    """Refuse what the tree would refuse, before the work."""
    from propscope.records import NetworkProfile
    from propscope.records.finding import Diagnosis
    from propscope.report.inspection import inspection

    inspection(NetworkProfile(()), Diagnosis(), sort=sort, top=top, depth=depth)


def _fixed(request: Request, document: dict[str, Any]) -> str:
    """Put what helps the model into the document, and return it as text."""
    from propscope.cli.diagnose import trials_document
    from propscope.cli.fix import fixed
    from propscope.report.remedies import trials_text

    mending = fixed(request)
    document["fix"] = trials_document(mending)
    return f"fix{', seed 0' if request.seeds > 1 else ''}: {trials_text(mending)}"


def _draw(outcome: Outcome, store: Path | None, target: str, overwrite: bool) -> list[str]:
    from propscope.plots import draw_all

    directory = Path("outputs") if store is None else store.parent
    stem = f"inspect-{target.rpartition(':')[2]}" if store is None else store.stem
    # A new file's pictures are new too; without a file they belong to whoever drew them.
    pictures = draw_all(outcome.profiles, directory, stem=stem, overwrite=overwrite or store is not None)
    return [str(picture) for picture in pictures]


def _print(
    outcome: Outcome,
    document: dict[str, Any],
    *,
    json: bool,
    sort: str | None,
    top: int | None,
    depth: int | None,
    precision: bool,
    fix: str | None,
) -> None:
    from propscope.diagnosis import diagnose
    from propscope.report.documents import print_json, print_table
    from propscope.report.inspection import inspection
    from propscope.report.inspection_document import inspection_document
    from propscope.report.precision import precision_table
    from propscope.report.terminal import width_of, write

    shown = outcome.shown
    assert shown is not None
    # The seeds one by one: what is shown of them is taken together. Those of a run that stopped are not alike.
    diagnosis = diagnose(outcome.profiles if outcome.stopped is None else shown)
    if json:
        print_json(document | inspection_document(shown, diagnosis))
        return
    print(outcome.headline)
    width = width_of(sys.stdout)
    report = inspection(shown, diagnosis, title=outcome.title, sort=sort, top=top, depth=depth, width=width)
    write(report, sys.stdout)
    if precision:
        print()
        print_table(precision_table(shown))
    if fix is not None:
        print(f"\n{fix}")
    for name in ("file", "pictures"):
        for place, path in enumerate(filter(None, [document[name]] if name == "file" else document[name])):
            print(f"{'' if place else name:10}{path}")
    print(f"{document['seconds']:.1f} s")
