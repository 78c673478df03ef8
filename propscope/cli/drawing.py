"""Draws the plots of a result file in processes that import matplotlib while the networks run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from functools import cached_property
from pathlib import Path
from typing import Any

from propscope.errors import StoreError
from propscope.experiments.engine import Extent, Failure, Recipe
from propscope.experiments.engine.choice import can_fork
from propscope.records import ProfileSet, TrainingSet


class Drawing:
    """The plots of a result file as a work: number n draws the n-th, beside the file, and gives the pictures' paths."""

    def __init__(self, file: Path, plots: Sequence[str]) -> None:
        self._file, self._plots = file, plots

    @property
    def extent(self) -> Extent:
        """How much work there is; a picture takes about half a second."""
        return Extent(len(self._plots), 0.5 * len(self._plots))

    def labels(self, number: int) -> dict[str, str]:
        """Return the name of a plot."""
        return {"plot": self._plots[number]}

    def run(self, number: int) -> list[Path]:
        """Draw a plot; return its pictures, none where what it shows was not recorded."""
        from propscope.cli.phase_pictures import draw_all_with_phase
        from propscope.plots.gallery import NothingToDrawError

        file, only = self._file, [self._plots[number]]
        try:
            # The file is new or was to be replaced, so plots of its name are an earlier run's.
            return draw_all_with_phase(self._records, file.parent, stem=file.stem, only=only, overwrite=True)
        except NothingToDrawError:
            return []

    @cached_property
    def _records(self) -> ProfileSet | TrainingSet:
        from propscope.store import load

        return load(self._file)


class Pictures(AbstractContextManager[Any]):
    """The pictures of a file, drawn from now on; `paths` waits for them. Nothing is left running at its end."""

    def __init__(self, file: Path, plots: Sequence[str]) -> None:
        self._work = Drawing(file, plots)
        self._end = ExitStack()
        self._drawn: Iterable[tuple[int, Any]] | None = None
        if plots and _elsewhere():
            from propscope.experiments.engine.processes import PICTURES, Processes

            recipe = Recipe(f"{__name__}:Drawing", {"file": file, "plots": plots})
            engine = self._end.enter_context(Processes(recipe, origin=PICTURES))
            self._drawn = self._end.enter_context(closing(engine.outcomes()))

    def __exit__(self, *_: object) -> None:
        self._end.close()

    def paths(self) -> list[Path]:
        """Return the files in the order of the plots; raises `StoreError` where one cannot be written."""
        if self._drawn is None:
            return [path for number in range(self._work.extent.networks) for path in self._work.run(number)]
        found = dict(self._drawn)
        for each in found.values():
            if isinstance(each, Failure):
                raise StoreError(each.reason, hint="choose a folder that exists and has room")
        return [path for number in sorted(found) for path in found[number]]


def _elsewhere() -> bool:
    """Return whether another process draws: not where matplotlib is imported already."""
    return can_fork() and "matplotlib.figure" not in sys.modules


def prepare() -> None:
    """Begin to import matplotlib in a process beside this one, unless it is here."""
    if _elsewhere():
        from propscope.experiments.engine.processes import PICTURES, start

        start(PICTURES)
