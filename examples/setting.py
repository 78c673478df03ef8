"""What the examples share: the quick setting (`propscope example NAME --quick`) and the layout of their plots."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from propscope.plots import DPI, Header, framed, styled, write_figure
from propscope.plots.learning_panels import draw_learning, prepare_learning
from propscope.records.training import TrainingSet

QUICK = os.environ.get("PROPSCOPE_QUICK", "") not in ("", "0")
OUTPUTS = Path("outputs", "quick") if QUICK else Path("outputs")
SEEDS = 2 if QUICK else 5
# The quick setting has no second process: starting one takes longer than the work.
WORKERS = 1 if QUICK else None

WIDTH, HEIGHT, LEFT, ABOVE, BELOW = 4.0, 2.6, 0.85, 0.4, 0.6


@contextmanager
def picture(
    name: str,
    header: Header,
    *,
    rows: int = 1,
    columns: int = 1,
    width: float = WIDTH,
    height: float = HEIGHT,
    left: float = LEFT,
) -> Iterator[list[Axes]]:
    """Yield axes, row by row, each `width` by `height` inches; then write the plot to outputs/example-<name>.png."""
    with styled():
        figure = Figure(dpi=DPI)
        wide, tall = left + width, ABOVE + height + BELOW
        total_width = columns * wide + 0.25
        top = framed(figure, header, total_width, rows * tall)
        total_height = figure.get_size_inches()[1]
        yield [
            figure.add_axes(
                (
                    (column * wide + left) / total_width,
                    (top - (row + 1) * tall + BELOW) / total_height,
                    width / total_width,
                    height / total_height,
                )
            )
            for row in range(rows)
            for column in range(columns)
        ]
        path = OUTPUTS / f"example-{name}.png"
        write_figure(figure, path)
    print(f"\npicture {path}")


def draw_training(name: str, runs: TrainingSet) -> None:
    """Write the curves of loss and accuracy to outputs/example-<name>.png."""
    path = OUTPUTS / f"example-{name}.png"
    with styled():
        write_figure(draw_learning(prepare_learning(runs)), path)
    print(f"\npicture {path}")
