"""`propscope inspect`: the signal in an existing model, as a tree of its modules."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli.options import (
    MODEL,
    RESULTS,
    RUN,
    VIEW,
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
    Json,
    Loss,
    Overwrite,
    Train,
    option,
)
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.cli.model_runs import ModelRun, RunRequest


def inspect(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET", help="What returns your model: module:callable or file.py:callable.", show_default=False
        ),
    ],
    arg: Arg = None,
    config: Config = None,
    checkpoint: Checkpoint = None,
    init: Annotated[str | None, option("Initializer for every layer it fits; see `propscope list`.", MODEL)] = None,
    train: Train = True,
    input_shape: InputShape = None,
    input_kind: InputKind = "float",
    input: InputFile = None,
    batches: Batches = 1,
    loss: Loss = "cotangent",
    seeds: Annotated[int, option("Models to build, each with new weights and input.", RUN)] = 1,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    include: Include = None,
    exclude: Exclude = None,
    sort: Annotated[
        str | None, option("List the sites, worst first by gain, backward, flat, dead or nonfinite.", VIEW)
    ] = None,
    top: Annotated[int | None, option("Show only this many sites.", VIEW)] = None,
    depth: Annotated[int | None, option("Levels of modules to show. [default: as many as fit]", VIEW)] = None,
    precision: Annotated[bool, option("Show which values fp16, bf16 and fp8 would lose.", VIEW, "--precision")] = False,
    fix: Annotated[bool, option("Try remedies on a copy and show the one that helps.", VIEW, "--fix")] = False,
    store: Annotated[Path | None, option("Result file to write.", RESULTS)] = None,
    plots: Annotated[
        bool, option("Draw the plots, beside the result file or in outputs/.", RESULTS, "--plots")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Run your own model and show the signal, forward and backward, module by module, with a verdict on top.

    Example: propscope inspect net.py:build --input-shape 8,3,32,32
    """
    from propscope import checks
    from propscope.cli.model_runs import RunRequest, run_model

    started = time.perf_counter()
    _check_view(sort, top, depth)
    if store is not None:
        from propscope.store import check_target

        check_target(store, overwrite=overwrite)
    checks.count("--seeds", seeds)
    checks.count("--batches", batches)
    request = RunRequest.of(context.params, target=target, seeds=seeds)
    outcome = run_model(request)
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


def _fixed(request: RunRequest, document: dict[str, Any]) -> str:
    """Put what helps the model into the document, and return it as text."""
    from propscope.cli.model_runs import try_remedies
    from propscope.report.documents import trials_document
    from propscope.report.remedies import trials_text

    mending = try_remedies(request)
    document["fix"] = trials_document(mending)
    return f"fix{', seed 0' if request.seeds > 1 else ''}: {trials_text(mending)}"


def _draw(outcome: ModelRun, store: Path | None, target: str, overwrite: bool) -> list[str]:
    from propscope.plots import draw_all

    directory = Path("outputs") if store is None else store.parent
    stem = f"inspect-{target.rpartition(':')[2]}" if store is None else store.stem
    # A new file's pictures are new too; without a file they belong to whoever drew them.
    pictures = draw_all(outcome.profiles, directory, stem=stem, overwrite=overwrite or store is not None)
    return [str(picture) for picture in pictures]


def _print(
    outcome: ModelRun,
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
    from propscope.report.documents import inspection_document
    from propscope.report.inspection import inspection
    from propscope.report.precision import precision_table
    from propscope.report.terminal import print_json, print_table, terminal_width, write

    shown = outcome.shown
    assert shown is not None
    # The seeds one by one: what is shown of them is taken together. Those of a run that stopped are not alike.
    diagnosis = diagnose(outcome.profiles if outcome.stopped is None else shown)
    if json:
        print_json(document | inspection_document(shown, diagnosis))
        return
    print(outcome.headline)
    width = terminal_width()
    write(inspection(shown, diagnosis, title=outcome.title, sort=sort, top=top, depth=depth, width=width))
    if precision:
        print()
        print_table(precision_table(shown))
    if fix is not None:
        write(f"\n{fix}")
    for name in ("file", "pictures"):
        for place, path in enumerate(filter(None, [document[name]] if name == "file" else document[name])):
            print(f"{'' if place else name:10}{path}")
    print(f"{document['seconds']:.1f} s")
