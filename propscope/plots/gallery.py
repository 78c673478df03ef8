"""Every plot there is, in one table, and the function that draws them all into files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from propscope.errors import InputError, StoreError
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
from propscope.records import ProfileSet, TrainingSet

FORMATS = ("png", "pdf", "svg")
_NEEDED = (
    ("profiles", "record the direction (forward, backward) or the parameters that these plots show"),
    ("trainings", "profile the signal every few epochs (profile_every)"),
)


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot by `name`: its `title`, what it `shows`, and the two halves of drawing it.

    `prepare` turns the profiles, or trainings, of one picture into a record, or None when nothing of it was recorded;
    `draw` turns the record into a figure. One picture holds the labels `within`, up to `lines_at_most` lines and
    `columns_at_most` activations; what is more, or differs in another label, makes further pictures.
    """

    name: str
    title: str
    shows: str
    prepare: Callable[[Any], Any]
    draw: Callable[[Any], Figure]
    within: tuple[str, ...] = (LINE,)
    lines_at_most: int = 24
    columns_at_most: int = 1

    def pages(self, profiles: ProfileSet | TrainingSet) -> list[Page[Any]]:
        """Return the pictures that the profiles or trainings take."""
        one_kind: Any = profiles
        return pages(
            one_kind,
            within=self.within,
            lines_at_most=self.lines_at_most,
            columns_at_most=self.columns_at_most,
        )


def _histograms(subject: Subject, shows: str) -> Plot:
    return Plot(subject.name, subject.title, shows, partial(prepare_histograms, subject=subject), draw_histograms)


PLOTS = (
    Plot(
        name="curves",
        title="Signal along the depth",
        shows="std and mean of the activations, rms of the gradients, norm of the weight gradients, against the layer",
        prepare=prepare_curves,
        draw=draw_curves,
        within=(LINE, COLUMN),
        columns_at_most=2,
    ),
    _histograms(ACTIVATIONS, "histograms of the activations, a row an initializer, a column a layer"),
    _histograms(GRADIENTS, "histograms of the gradients with respect to the pre-activations"),
    _histograms(WEIGHTS, "histograms of the weights"),
    _histograms(WEIGHT_GRADIENTS, "histograms of the gradients with respect to the weights"),
    Plot(
        name="overview",
        title="Signal from end to end",
        shows="heat map of the end-to-end forward and backward factors, initializer by activation, in decades",
        prepare=prepare_overview,
        draw=draw_overview,
        within=(LINE, COLUMN),
        lines_at_most=48,
        columns_at_most=12,
    ),
    Plot(
        name="jacobian",
        title="Singular values of the Jacobian",
        shows="singular values of the Jacobian from the input to each layer, where they were taken",
        prepare=prepare_jacobian,
        draw=draw_jacobian,
        within=(LINE, COLUMN),
        columns_at_most=4,
    ),
)

TRAINING_PLOTS = (
    Plot(
        name="learning",
        title="Learning",
        shows="loss and accuracy against the epoch, on the training and the validation data",
        prepare=prepare_learning,
        draw=draw_learning,
        within=(LINE, COLUMN),
        columns_at_most=2,
    ),
    Plot(
        name="signal",
        title="Signal before and after training",
        shows="std of the activations and rms of the gradients against the layer, before training and after it",
        prepare=prepare_signal_change,
        draw=draw_curves,
    ),
    Plot(
        name="activation-map",
        title="Activations over the training",
        shows="histograms of the activations against the epoch as shades, a row a layer, a column an initializer",
        prepare=prepare_training_map,
        draw=draw_training_map,
        lines_at_most=6,
    ),
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
    """Draw every plot of profiles or trainings, or `only` those named, into `directory`; return the files written.

    Files are `<stem>-<plot>.<format>`, with the activation, depth, ... after the plot's name where there are several
    pictures of it. A plot of which nothing was recorded is left out. Formats are png, pdf and svg.

    Raises `InputError` for an unknown plot or format, when nothing can be drawn, and when a file exists that may not be
    overwritten (before anything is written); `StoreError` when a file cannot be written.
    """
    plots = TRAINING_PLOTS if isinstance(profiles, TrainingSet) else PLOTS
    chosen = [plot for plot in plots if only is None or plot.name in only]
    _check(formats, only, stem, plots)
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
        raise InputError(f"stem {stem!r} is no file name", hint="pass the folder as directory")
    for what, names, valid in (("format", formats, FORMATS), ("plot", only, tuple(plot.name for plot in plots))):
        if names is not None and not names:
            raise InputError(f"no {what} is named; valid are {', '.join(valid)}")
        for name in names or ():
            if name not in valid:
                near = difflib.get_close_matches(name.lower(), valid, n=1, cutoff=0.5)
                raise InputError(
                    f"unknown {what} {name!r}; valid are {', '.join(valid)}",
                    hint=f"did you mean {near[0]!r}?" if near else "",
                )


def write_figure(figure: Figure, path: Path) -> None:
    """Save a figure under a path whose ending is one of `FORMATS`, whole or not at all; raises `StoreError`."""
    picture = BytesIO()
    ending = path.suffix[1:]
    # On flat colour level 6 takes half as long again and saves nothing.
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": 1}} if ending == "png" else {}
    figure.savefig(picture, format=ending, dpi=DPI, **options)
    partial_path = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_path.write_bytes(picture.getbuffer())
        os.replace(partial_path, path)
    except OSError as error:
        with suppress(OSError):
            partial_path.unlink()
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}", hint="choose a folder that exists and has room"
        ) from error
