"""Pictures of profiles, trainings and monitored runs; nothing here imports torch.

`curves`, `histograms`, `overview`, `phase`, `learning` and `heatmap` draw a figure, or into axes of yours, and return
the axes (docs/plotting.md shows each); `draw_all` writes the files of `propscope plot`.

Each picture is one module with two steps: `prepare_...` turns profiles into a record, which tests check by value, and
`draw_...` draws that record into a matplotlib figure. Both the functions and the files are made by these. No step
changes matplotlib's global state or needs a display. Matplotlib is imported when the first picture is drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from propscope.plots.table import FORMATS, MONITORED_PLOTS, PLOTS, TRAINING_PLOTS, Plot

if TYPE_CHECKING:
    from propscope.plots.figures import curves, heatmap, histograms, learning, overview, phase
    from propscope.plots.gallery import Picture, draw_all, pictures, write_figure
    from propscope.plots.style import DPI, Header, draw_header, framed, line_style, styled

__all__ = [
    "DPI",
    "FORMATS",
    "MONITORED_PLOTS",
    "PLOTS",
    "TRAINING_PLOTS",
    "Header",
    "Picture",
    "Plot",
    "curves",
    "draw_all",
    "draw_header",
    "framed",
    "heatmap",
    "histograms",
    "learning",
    "line_style",
    "overview",
    "phase",
    "pictures",
    "styled",
    "write_figure",
]


_FIGURES = ("curves", "heatmap", "histograms", "learning", "overview", "phase")
_FILES = ("Picture", "draw_all", "pictures", "write_figure")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "figures" if name in _FIGURES else "gallery" if name in _FILES else "style"
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
