"""A run of `profile` or `train`: what is finished is kept at once, then saved, printed and drawn, also after a stop.

The process that runs the command hands out the networks and writes the file; torch is imported where they are run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from functools import cache
from itertools import count, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from propscope.cli.loudness import note, quiet, timed
from propscope.cli.options import short_name
from propscope.cli.view import View
from propscope.errors import InputError
from propscope.printable import printable
from propscope.records.numerals import counted

if TYPE_CHECKING:
    from propscope.experiments.engine import Engine, Failure, Outcomes, Outline, Recipe
    from propscope.plots.table import Choice
    from propscope.store import RunFile

# So many names of files, and so many pairs, are printed at most.
_PATHS = 12
_ROWS = 200
# Pictures are drawn of so many bytes of records at most.
_DRAWN = 2e9


def run_grid(
    recipe: Recipe,
    stem: str,
    *,
    engine: str,
    workers: int | None,
    output: Path | None,
    overwrite: bool,
    resume: Path | None,
    plots: Choice | list[str] | None,
    view: View,
    json: bool,
) -> None:
    """Run the networks of a command, save, print and draw them; `stem` begins the name of a file that has none.

    Exits with 130 after an interrupt, and with 1 where networks failed. Raises `InputError`, `StoreError` and what else
    stopped the run, after what is finished is saved.
    """
    from propscope.cli.drawing import prepare
    from propscope.experiments.engine import engine_for, failure_lines

    started = time.perf_counter()
    with engine_for(recipe, engine=engine, workers=workers) as team:
        if plots != "none":
            prepare()
        # Whatever is wrong with the options is known before a file is made.
        outline: Outline = team.ask("outline")
        with _open_run(stem, outline, team, output=output, overwrite=overwrite, resume=resume) as file:
            outcomes = team.outcomes(leave_out=set(file.finished))
            with timed(f"{outline.networks - len(file.finished)} {outline.noun}s, engine {engine}"):
                stopped, failures = _finished(file, outcomes, outline, quiet=json or quiet())
            _conclude(
                stopped,
                file,
                outline,
                unfinished=stopped is not None or bool(failures),
                plots=plots,
                view=view,
                json=json,
                started=started,
            )
            if failures:
                print(*failure_lines(failures, lambda number: team.ask("labels", number)), sep="\n", file=sys.stderr)
                raise typer.Exit(1)


def _open_run(
    stem: str, outline: Outline, team: Engine, *, output: Path | None, overwrite: bool, resume: Path | None
) -> RunFile:
    """Return the result file of a run, with what an earlier run of the same command left; say so on stderr."""
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
    depths = [f"d{depth}" for depth in outline.depths[:3]]
    most = 3 + (stem == "train")
    name = "-".join([stem, *map(short_name, outline.names[:most]), *depths])

    @cache
    def numbers() -> dict[frozenset[tuple[str, Any]], int]:
        # A file has only the best of several learning rates, under a label that is none of the networks'.
        several = len(outline.learning_rates) > 1
        return {} if several else {_key(labels): n for n, labels in enumerate(team.ask("all_labels"))}

    file = begin(
        _default_names(name, overwrite=overwrite) if path is None else [path],
        outline.description,
        lambda entry: numbers().get(_key(entry.labels)),
        networks=outline.networks,
        overwrite=overwrite,
        resume=resume is not None,
        named=path is not None,
    )
    if file.finished:
        note(
            f"going on with {printable(str(file.path))}: "
            f"{len(file.finished)} of {outline.networks} {outline.noun}s are finished"
        )
    return file


def _key(labels: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(labels.items())


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


def _finished(
    file: RunFile, outcomes: Outcomes, outline: Outline, *, quiet: bool
) -> tuple[BaseException | None, dict[int, Failure]]:
    """Add every network to the file as it is finished; return what stopped the run, if anything, and what failed."""
    from propscope.cli.progress import Progress
    from propscope.experiments.engine import Failure

    failures: dict[int, Failure] = {}
    try:
        progress = Progress(outline.networks, done=len(file.finished), noun=outline.noun, quiet=quiet)
        with closing(outcomes), closing(progress):
            for number, entry in outcomes:
                if isinstance(entry, Failure):
                    failures[number] = entry
                else:
                    file.add(number, entry)
                progress.step()
    except (KeyboardInterrupt, Exception) as error:
        return error, failures
    return None, failures


def _kept(file: RunFile, outline: Outline) -> list[int]:
    """Return the numbers of what the file is to have, in the grid's order."""
    from propscope.experiments.training.learning_rates import chosen, final_of

    numbers = sorted(file.finished)
    if not (rates := outline.learning_rates):
        return numbers
    # A single rate needs no choice, and then nothing is read but the numbers.
    ends = map(final_of, file.entries(numbers)) if len(rates) > 1 else repeat((False, 0.0))  # type: ignore[arg-type]
    return chosen(dict(zip(numbers, ends, strict=False)), networks=outline.pairs, learning_rates=rates)


def _conclude(
    stopped: BaseException | None,
    file: RunFile,
    outline: Outline,
    *,
    unfinished: bool,
    plots: Choice | list[str] | None,
    view: View,
    json: bool,
    started: float,
) -> None:
    """Save, print and draw what is finished, then raise what stopped the run, if anything did.

    An interrupt exits with 130, also one that comes while the pictures are drawn.
    """
    rates = outline.learning_rates
    kept = _kept(file, outline)
    found, networks = len(kept), outline.networks // max(1, len(rates))
    if found:
        # Of several learning rates the file has only the best one's run; the others are in the journal.
        with timed(f"saving {file.path}"):
            path = file.save(kept, unfinished=unfinished, keep_journal=unfinished and len(rates) > 1)
        try:
            _show(path, found, plots=plots, view=view, json=json, started=started)
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


def _show(
    path: Path, networks: int, *, plots: Choice | list[str] | None, view: View, json: bool, started: float
) -> None:
    from propscope.cli.drawing import Pictures
    from propscope.cli.phase_pictures import PHASE
    from propscope.plots.table import PLOTS, TRAINING_PLOTS, chosen
    from propscope.records import TrainingSet
    from propscope.report.documents import grid_document, training_document
    from propscope.report.profile_tables import judged_table
    from propscope.report.terminal import print_json
    from propscope.report.training_tables import training_table
    from propscope.store import memory_to_load, open_networks

    pairs: list[dict[str, Any]] = []
    written: list[Path] = []
    # The file may hold more than there is memory for.
    with open_networks(path) as found, ExitStack() as stack:
        trained = isinstance(found, TrainingSet)
        noun = "run" if trained else "network"
        several = len(found.groups("seed") if isinstance(found, TrainingSet) else found)
        only = chosen(TRAINING_PLOTS if trained else (*PLOTS, PHASE), plots, pairs=several)
        if only and (needed := memory_to_load(path)) >= _DRAWN:
            only = []
            what = f"no pictures of so many {noun}s, which would take {needed / 1e9:.1f} GB of memory"
            note(f"{what}: propscope plot with --act, --init, --depth or --width draws some")
        # They are drawn while the table is made.
        pictures = stack.enter_context(Pictures(path, only))
        if json:
            pairs = training_document(found) if isinstance(found, TrainingSet) else grid_document(found)
        elif quiet():
            print(printable(str(path)))
        else:
            view.print([training_table(found) if isinstance(found, TrainingSet) else judged_table(*found.split(_ROWS))])
            print()
            print_paths("file", [path])
            sys.stdout.flush()
        try:
            with timed(f"drawing {', '.join(only) or 'nothing'}"):
                written = pictures.paths()
        finally:
            seconds = time.perf_counter() - started
            if json:
                print_json({"pairs": pairs, "file": str(path), "pictures": [*map(str, written)], "seconds": seconds})
    if not json and not quiet():
        print_paths("plots", written)
        print(f"{counted(networks, noun)} in {seconds:.1f} s")


def print_paths(what: str, paths: list[Path]) -> None:
    """Print the paths of files that were written, a dozen at most, the first after the word for what they are."""
    for number, path in enumerate(paths[:_PATHS]):
        print(f"{'' if number else what:10}{printable(str(path))}")
    if len(paths) > _PATHS:
        print(f"{'':10}... and {len(paths) - _PATHS} more in {printable(str(paths[0].parent))}")
