"""The table of all plots, and the function that draws them into files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from propscope.errors import InputError, StoreError, unknown_name
from propscope.plots.curves import draw_curves, prepare_curves
from propscope.plots.histograms import (
    ACTIVATIONS,
    GRADIENTS,
    WEIGHT_GRADIENTS,
    WEIGHTS,
    Subject,
    draw_histograms,
    prepare_histograms,
)
from propscope.plots.jacobian import draw_jacobian, prepare_jacobian
from propscope.plots.learning import draw_learning, prepare_learning
from propscope.plots.overview import draw_overview, prepare_overview
from propscope.plots.pages import COLUMN, LINE, Page, pages
from propscope.plots.signal_change import prepare_signal_change
from propscope.plots.style import DPI, styled
from propscope.plots.training_map import draw_training_map, prepare_training_map
from propscope.printable import printable, shown
from propscope.records import ProfileSet, TrainingSet
from propscope.store.atomic import temporary_beside

FORMATS = ("png", "pdf", "svg")
_NEEDED = (
    ("profiles", "record the direction (forward, backward) or the parameters that these plots show"),
    ("trainings", "profile the signal every few epochs (profile_every)"),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A kind of picture: its `name` in file names and options, and the two steps that make it.

    `prepare` turns the profiles (or trainings) of one picture into a record, or returns None where what the picture
    shows was not recorded. `draw` turns the record into a figure. One picture holds all values of the labels `within`,
    at most `lines_at_most` lines and `columns_at_most` activations. Everything else makes further pictures.
    """

    name: str
    prepare: Callable[[Any], Any]
    draw: Callable[[Any], Figure]
    within: tuple[str, ...] = (LINE,)
    lines_at_most: int = 24
    columns_at_most: int = 1

    def pages(self, profiles: ProfileSet | TrainingSet) -> list[Page[Any]]:
        """Return the profiles or trainings of each picture."""
        one_kind: Any = profiles
        return pages(
            one_kind,
            within=self.within,
            lines_at_most=self.lines_at_most,
            columns_at_most=self.columns_at_most,
        )


def _histograms(subject: Subject) -> Plot:
    return Plot(subject.name, partial(prepare_histograms, subject=subject), draw_histograms)


PLOTS = (
    Plot("curves", prepare_curves, draw_curves, within=(LINE, COLUMN), columns_at_most=2),
    _histograms(ACTIVATIONS),
    _histograms(GRADIENTS),
    _histograms(WEIGHTS),
    _histograms(WEIGHT_GRADIENTS),
    Plot("overview", prepare_overview, draw_overview, within=(LINE, COLUMN), lines_at_most=48, columns_at_most=12),
    Plot("jacobian", prepare_jacobian, draw_jacobian, within=(LINE, COLUMN), columns_at_most=4),
)

TRAINING_PLOTS = (
    Plot("learning", prepare_learning, draw_learning, within=(LINE, COLUMN), columns_at_most=2),
    Plot("signal", prepare_signal_change, draw_curves),
    Plot("activation-map", prepare_training_map, draw_training_map, lines_at_most=6),
)


def draw_all(
    profiles: ProfileSet | TrainingSet,
    directory: Path,
    *,
    stem: str,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Draw all plots of the profiles or trainings, or `only` those named, into `directory`; return the files written.

    The files are named `<stem>-<plot>.<format>`; where a plot takes several pictures, the activation, depth, ... follow
    the plot's name. A plot whose quantities were not recorded is left out. The formats are png, pdf and svg.

    Raises `InputError` for an unknown plot or format, if there is nothing to draw, and, before anything is written, if
    a file exists and `overwrite` is False. Raises `StoreError` if a file cannot be written.
    """
    plots = TRAINING_PLOTS if isinstance(profiles, TrainingSet) else PLOTS
    chosen = [plot for plot in plots if only is None or plot.name in only]
    _check(formats, only, stem, plots)
    # A single dollar sign would start a formula at the next one.
    profiles = shown(profiles, lambda text: printable(text).replace("$", r"\$"))
    pictures: list[tuple[Plot, Any, list[Path]]] = []
    for plot in chosen:
        for page in plot.pages(profiles):
            prepared = plot.prepare(page.profiles)
            if prepared is not None:
                name = "-".join(filter(None, (stem, plot.name, page.suffix)))
                pictures.append((plot, prepared, [directory / f"{name}.{ending}" for ending in formats]))
    if not pictures:
        what, hint = _NEEDED[isinstance(profiles, TrainingSet)]
        raise InputError(
            f"nothing to draw for {', '.join(plot.name for plot in chosen)}: "
            f"not recorded in any of the {len(profiles)} {what} given",
            hint=hint,
        )
    taken = [path for _, _, paths in pictures for path in paths if path.exists()]
    if taken and not overwrite:
        raise InputError(
            f"{taken[0]} exists" + (f", and {len(taken) - 1} more of these pictures" if len(taken) > 1 else ""),
            hint="overwrite them (overwrite=True, --overwrite), or choose another name",
        )
    with styled():
        for plot, prepared, paths in pictures:
            figure = plot.draw(prepared)
            for path in paths:
                write_figure(figure, path)
    return [path for _, _, paths in pictures for path in paths]


def _check(formats: Sequence[str], only: Sequence[str] | None, stem: str, plots: Sequence[Plot]) -> None:
    if not stem or Path(stem).name != stem:
        raise InputError(
            f"stem must be a file name without a folder, got {stem!r}", hint="pass the folder as directory"
        )
    for what, names, valid in (("format", formats, FORMATS), ("plot", only, tuple(plot.name for plot in plots))):
        if names is not None and not names:
            raise InputError(f"no {what} is named; valid are {', '.join(valid)}")
        for name in names or ():
            if name not in valid:
                raise unknown_name(what, name, valid)


def write_figure(figure: Figure, path: Path) -> None:
    """Save a figure, completely or not at all, in the format that the path ends in; raises `StoreError`."""
    picture = BytesIO()
    ending = path.suffix[1:]
    # Level 6 takes 1.5 times as long, and saves nothing where most of a picture is flat colour.
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": 1}} if ending == "png" else {}
    figure.savefig(picture, format=ending, dpi=DPI, **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = temporary_beside(path)
        try:
            temporary.write_bytes(picture.getbuffer())
            os.replace(temporary, path)
        finally:
            # An interrupt leaves nothing either.
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", hint="choose a folder that exists and has room"
        ) from error
