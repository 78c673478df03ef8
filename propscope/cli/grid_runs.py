"""A run of `profile` or `train`: what is finished is kept at once, then saved, printed and drawn, also after a stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from propscope.errors import InputError
from propscope.printable import printable

if TYPE_CHECKING:
    from propscope.plots.table import Choice
    from propscope.store import RunFile
    from propscope.store.run_file import Entry

# So many names of files are printed at most.
_PATHS = 12


def open_run(
    stem: str,
    description: Mapping[str, Any],
    number_of: Callable[[Entry], int | None],
    *,
    networks: int,
    output: Path | None,
    overwrite: bool,
    resume: Path | None,
) -> RunFile:
    """Return the result file of a run, with what an earlier run of the same command left; say so on stderr.

    `stem` names the file in outputs/ when neither `output` nor `resume` does. The others are those of `store.begin`.
    """
    from propscope.store import begin, target_of

    path = output
    if resume is not None:
        path = target_of(resume)
        if output is not None and output != path:
            raise InputError(f"--resume {resume} and --output {output} name two files", hint="leave --output out")
    if path is None:
        # What is in the way is told with the name of the file.
        with suppress(OSError):
            Path("outputs").mkdir()
    file = begin(
        _default_names(stem, overwrite=overwrite) if path is None else [path],
        description,
        number_of,
        networks=networks,
        overwrite=overwrite,
        resume=resume is not None,
        named=path is not None,
    )
    if file.finished:
        noun = "run" if description["command"] == "train" else "network"
        print(
            f"going on with {printable(str(file.path))}: {len(file.finished)} of {networks} {noun}s are finished",
            file=sys.stderr,
        )
    return file


def _default_names(stem: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield names in outputs/: the last one that is taken, which may be of a run that was stopped, then free ones."""
    names = (Path("outputs") / (f"{stem}.h5" if number == 1 else f"{stem}-{number}.h5") for number in count(1))
    last = next(names)
    if overwrite or not last.exists():
        yield last
    if overwrite:
        return
    for name in names:
        if not name.exists():
            if last.exists():
                yield last
            yield name
        last = name


def finished(
    file: RunFile, entries: Iterable[tuple[int, Entry]], networks: int, *, quiet: bool, unit: str = "net"
) -> BaseException | None:
    """Add every entry to the file as it is finished; return what stopped the run before its end, None at the end."""
    try:
        from tqdm import tqdm

        silent = quiet or not sys.stderr.isatty()
        done = len(file.finished)
        bar = tqdm(entries, total=networks, initial=done, unit=unit, disable=silent, leave=False, file=sys.stderr)
        for number, entry in bar:
            file.add(number, entry)
    except (KeyboardInterrupt, Exception) as error:
        return error
    return None


def conclude(
    stopped: BaseException | None,
    file: RunFile,
    *,
    networks: int,
    plots: Choice | None,
    json: bool,
    started: float,
    chosen: Collection[int] | None = None,
    keep_journal: bool = False,
) -> None:
    """Save, print and draw what is finished of `networks` networks, then raise what stopped the run, if anything did.

    `chosen`: the entries to save (None: all). An interrupt exits with 130, also one that comes while the pictures are
    drawn.
    """
    found = len(file.finished if chosen is None else chosen)
    if found:
        keep_journal &= stopped is not None
        path = file.save(chosen, unfinished=stopped is not None, keep_journal=keep_journal)
        try:
            _show(path, found, plots=plots, json=json, started=started)
        except KeyboardInterrupt:
            print(f"stopped while the pictures were drawn; the results are in {printable(str(path))}", file=sys.stderr)
            raise typer.Exit(130) from None
    interrupted = isinstance(stopped, KeyboardInterrupt)
    if interrupted or (stopped and found):
        saved = "; their results are saved" if found else ""
        print(f"stopped after {found} of {networks} networks{saved}", file=sys.stderr)
    if interrupted:
        raise typer.Exit(130)
    if stopped:
        raise stopped


def _show(path: Path, networks: int, *, plots: Choice | None, json: bool, started: float) -> None:
    from propscope.cli.phase_pictures import PHASE
    from propscope.plots.table import PLOTS, TRAINING_PLOTS, chosen
    from propscope.records import TrainingSet
    from propscope.report.documents import grid_document, training_document
    from propscope.report.terminal import print_grid, print_json, print_training
    from propscope.store import load, load_for_table

    # The file has more than there may be memory for.
    found = load_for_table(path)
    training = isinstance(found, TrainingSet)
    if not json:
        print_training(found) if isinstance(found, TrainingSet) else print_grid(found)
        print()
        print_paths("file", [path])
        sys.stdout.flush()
    pictures: list[Path] = []
    try:
        table = TRAINING_PLOTS if isinstance(found, TrainingSet) else (*PLOTS, PHASE)
        if only := chosen(table, plots, pairs=len(found.groups("seed") if isinstance(found, TrainingSet) else found)):
            from propscope.cli.phase_pictures import draw_all_with_phase

            # The file is new or was to be replaced, so plots of its name are an earlier run's.
            drawn = found if isinstance(found, TrainingSet) else load(path)
            pictures = draw_all_with_phase(drawn, path.parent, stem=path.stem, only=only, overwrite=True)
    finally:
        seconds = time.perf_counter() - started
        if json:
            pairs = training_document(found) if isinstance(found, TrainingSet) else grid_document(found)
            print_json({"pairs": pairs, "file": str(path), "pictures": [*map(str, pictures)], "seconds": seconds})
    if not json:
        print_paths("plots", pictures)
        noun = "run" if training else "network"
        print(f"{networks} {noun}{'s' * (networks != 1)} in {seconds:.1f} s")


def print_paths(what: str, paths: list[Path]) -> None:
    """Print the paths of files that were written, a dozen at most, the first after the word for what they are."""
    for number, path in enumerate(paths[:_PATHS]):
        print(f"{'' if number else what:10}{printable(str(path))}")
    if len(paths) > _PATHS:
        print(f"{'':10}... and {len(paths) - _PATHS} more in {printable(str(paths[0].parent))}")
