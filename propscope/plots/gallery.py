"""Draw the plots of the table into files."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from propscope import checks
from propscope.errors import InputError, StoreError, unknown_name
from propscope.plots import table
from propscope.plots.pages import COLUMN, LINE, pages, swept
from propscope.plots.run_view import RunView
from propscope.plots.style import DPI, styled, text_as_text
from propscope.plots.table import FORMATS, Plot
from propscope.printable import printable, shown
from propscope.records import MonitoredRun, ProfileSet, TrainingSet
from propscope.records.uncollected import uncollected
from propscope.store.atomic import temporary_beside

_NEEDED = (
    (MonitoredRun, "samples", "look again when it has samples; propscope show RUN says what it has"),
    (ProfileSet, "profiles", "record the direction (forward, backward) or the parameters that these plots show"),
    (TrainingSet, "trainings", "profile the signal every few epochs (profile_every)"),
)


class NothingToDrawError(InputError):
    """What the plots show was not recorded."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a `plot`: the record that it shows, and its file in each format. Another process may draw it."""

    plot: Plot
    prepared: Any
    paths: tuple[Path, ...]

    def draw(self) -> tuple[Path, ...]:
        """Draw the picture and write its files, over those that exist; return them. Raises `StoreError`."""
        with styled(), uncollected():
            figure = self.plot.draw(self.prepared)
            for path in self.paths:
                write_figure(figure, path)
        return self.paths


def pictures(
    profiles: ProfileSet | TrainingSet,
    directory: Path,
    *,
    stem: str,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] | None = None,
    sites: str | None = None,
) -> Iterator[Picture]:
    """Yield the pictures that `draw_all` draws, as each is prepared; its arguments are the same.

    Raises `InputError` for an unknown plot or format, and at the end if there was nothing to draw.
    """
    plots = table.plots_of(profiles)
    chosen = [plot for plot in plots if only is None or plot.name in only]
    _check(formats, only, stem, plots)
    if sites is not None and not isinstance(profiles, MonitoredRun):
        raise InputError("only the pictures of a monitored run are of chosen sites", hint="leave sites (--include) out")
    drawable = False
    for plot, subject, suffix in _subjects(profiles, chosen, sites):
        with uncollected():
            prepared = plot.prepare(subject)
        if prepared is not None:
            drawable = True
            name = "-".join(filter(None, (stem, plot.name, suffix)))
            yield Picture(plot, prepared, tuple(directory / f"{name}.{ending}" for ending in formats))
    if not drawable:
        what, hint = next((what, hint) for kind, what, hint in _NEEDED if isinstance(profiles, kind))
        raise NothingToDrawError(
            f"nothing to draw for {', '.join(plot.name for plot in chosen)}: "
            f"not recorded in any of the {len(profiles)} {what} given",
            hint=hint,
        )


def escaped(profiles: Any) -> Any:
    """Return profiles or trainings with names that matplotlib writes as they are: a dollar sign begins no formula."""
    return shown(profiles, lambda text: printable(text).replace("$", r"\$"))


def _subjects(
    profiles: ProfileSet | TrainingSet, plots: Sequence[Plot], sites: str | None
) -> Iterator[tuple[Plot, Any, str]]:
    """Yield each plot with what one of its pictures is of, and the end of that picture's name."""
    if isinstance(profiles, MonitoredRun):
        view = RunView(profiles, sites)
        view.check()
        yield from ((plot, view, "") for plot in plots)
        return
    named = escaped(profiles)
    for plot in plots:
        within: Iterable[str] = (LINE,) if plot.columns_at_most == 1 else (LINE, COLUMN)
        across = swept(named)[:1] if plot.sweeps else ()
        if across:
            within = named.axes.keys() - {COLUMN}
        limits = {"lines_at_most": plot.lines_at_most, "columns_at_most": plot.columns_at_most}
        yield from ((plot, page.profiles, page.suffix) for page in pages(named, within=within, across=across, **limits))


def draw_all(
    profiles: ProfileSet | TrainingSet,
    directory: Path,
    *,
    stem: str,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] | None = None,
    sites: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Draw all plots of profiles, trainings or a monitored run, or `only` those named; return the files written.

    `sites`: a regular expression for the sites that the pictures of a monitored run show, None for all. The files, in
    `directory`, are named `<stem>-<plot>.<format>`; where a plot takes several pictures, the activation, depth, ...
    follow the plot's name. A plot whose quantities were not recorded is left out. The formats are png, pdf and svg.

    Raises `InputError` for an unknown plot or format, if there is nothing to draw, and, before anything is written, if
    a file exists and `overwrite` is False. Raises `StoreError` if a file cannot be written.
    """
    made = list(pictures(profiles, directory, stem=stem, formats=formats, only=only, sites=sites))
    return write_pictures(made, directory, overwrite=overwrite)


def write_pictures(made: Sequence[Picture], directory: Path, *, overwrite: bool) -> list[Path]:
    """Draw pictures into `directory` and return the files written; raises what `draw_all` does."""
    taken = [path for picture in made for path in picture.paths if path.exists()]
    if taken and not overwrite:
        raise InputError(
            f"{taken[0]} exists" + (f", and {len(taken) - 1} more of these pictures" if len(taken) > 1 else ""),
            hint="overwrite them (overwrite=True, --overwrite), or choose another name",
        )
    check_folder(directory)
    return [path for picture in made for path in picture.draw()]


def _check(formats: Sequence[str], only: Sequence[str] | None, stem: str, plots: Sequence[Plot]) -> None:
    if not stem or Path(stem).name != stem:
        raise InputError(
            f"stem must be a file name without a folder, got {checks.shown(stem)}", hint="pass the folder as directory"
        )
    for what, names, valid in (("format", formats, FORMATS), ("plot", only, tuple(plot.name for plot in plots))):
        if names is not None and not names:
            raise InputError(f"no {what} is named; valid are {', '.join(valid)}")
        for name in names or ():
            if name not in valid:
                raise unknown_name(what, name, valid)


def write_figure(figure: Figure, path: Path | str) -> None:
    """Save a figure, completely or not at all, in the format that the path ends in; its text stays text in SVG and PDF.

    Raises `InputError` for another ending than those of `FORMATS`, and `StoreError` where the file cannot be written.
    """
    path = Path(path)
    picture = BytesIO()
    ending = path.suffix[1:]
    if ending not in FORMATS:
        raise InputError(f"path must end in .png, .pdf or .svg, got {checks.shown(path.name)}")
    with text_as_text():
        figure.savefig(picture, format="rgba" if ending == "png" else ending, dpi=DPI)
    if ending == "png":
        # Where matplotlib finds a whole number, a product that is rounded otherwise may lie just below it.
        width, height = (int(side + 1e-6) for side in figure.get_size_inches() * DPI)
        picture = BytesIO(png(np.frombuffer(picture.getbuffer(), np.uint8).reshape(height, width, 4)))
    with _new_beside(path, path) as temporary:
        temporary.write_bytes(picture.getbuffer())
        os.replace(temporary, path)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Return the PNG file of pixels of shape (height, width, 4): red, green, blue and opacity.

    It takes less than half the time of Pillow, which tries five filters on each row. Most rows of a picture are nearly
    the row above them, so that only the differences are compressed (PNG specification, filter type 2).
    """
    height, width, _ = pixels.shape
    rows = pixels.reshape(height, -1)
    filtered = np.full((height, 1 + rows.shape[1]), 2, np.uint8)
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    dots_per_metre = round(DPI / 0.0254)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"pHYs", struct.pack(">IIB", dots_per_metre, dots_per_metre, 1)),
        # Level 6 takes 1.5 times as long, and saves nothing where most of a picture is flat colour.
        (b"IDAT", zlib.compress(filtered.data, 1)),
        (b"IEND", b""),
    )
    sealed = ((len(data), name + data) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(f">I{len(body)}sI", length, body, zlib.crc32(body)) for length, body in sealed
    )


def check_folder(folder: Path) -> None:
    """Raise the `StoreError` that `write_figure` would raise, before the work; make the folder if it is missing."""
    with _new_beside(folder / "any", folder):
        pass


@contextmanager
def _new_beside(path: Path, goal: Path) -> Iterator[Path]:
    """Yield a new file beside `path`, which is gone at the end; an error says that `goal` cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = temporary_beside(path)
        try:
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        if isinstance(error, FileExistsError):
            cause = f"{path.parent} is not a directory"
        raise StoreError(f"cannot write {goal}: {cause}", hint="choose a folder that exists and has room") from error
