"""The end of `profile` and `train`: what is finished is saved, drawn and printed, also after an interrupt or error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import typer

from propscope.records import ProfileSet, TrainingSet


def conclude(
    found: ProfileSet | TrainingSet,
    stopped: BaseException | None,
    *,
    networks: int,
    path: Callable[[], Path],
    plots: bool,
    overwrite: bool,
    json: bool,
    started: float,
) -> None:
    """Save, draw and print what is finished of `networks` networks, then raise what stopped the run, if anything did.

    `path` is called only now, since another run may have taken the name meanwhile. An interrupt exits with 130.
    """
    if found:
        _keep(found, path(), plots=plots, overwrite=overwrite, json=json, started=started)
    interrupted = isinstance(stopped, KeyboardInterrupt)
    if interrupted or (stopped and found):
        saved = "; their results are saved" if found else ""
        print(f"stopped after {len(found)} of {networks} networks{saved}", file=sys.stderr)
    if interrupted:
        raise typer.Exit(130)
    if stopped:
        raise stopped


def _keep(
    found: ProfileSet | TrainingSet, path: Path, *, plots: bool, overwrite: bool, json: bool, started: float
) -> None:
    from propscope.report.documents import grid_document, training_document
    from propscope.report.terminal import print_grid, print_json, print_training
    from propscope.store import save

    save(path, found, overwrite=overwrite)
    drawn: list[Path] = []
    if plots:
        from propscope.plots import draw_all

        # The file is new or was to be replaced, so plots of its name are an earlier run's.
        drawn = draw_all(found, path.parent, stem=path.stem, overwrite=True)
    seconds = time.perf_counter() - started
    trained = isinstance(found, TrainingSet)
    if json:
        pairs = training_document(found) if isinstance(found, TrainingSet) else grid_document(found)
        print_json({"pairs": pairs, "file": str(path), "pictures": [*map(str, drawn)], "seconds": seconds})
        return
    print_training(found) if isinstance(found, TrainingSet) else print_grid(found)
    print()
    print_paths("file", [path])
    print_paths("plots", drawn)
    noun = "run" if trained else "network"
    print(f"{len(found)} {noun}{'s' * (len(found) != 1)} in {seconds:.1f} s")


def print_paths(what: str, paths: list[Path]) -> None:
    """Print the paths of files that were written, one per line, the first after the word for what they are."""
    for number, path in enumerate(paths):
        print(f"{'' if number else what:10}{path}")
