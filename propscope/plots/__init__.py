"""Pictures of profiles: each plot prepares a record, which tests hold to its values, then draws it; never torch.

Every picture is a matplotlib figure of its own: no pyplot, no change of global state, no display needed.
"""

from propscope.plots.gallery import FORMATS, PLOTS, TRAINING_PLOTS, Plot, draw_all, write_figure
from propscope.plots.style import DPI, Header, draw_header, line_style, styled

__all__ = [
    "DPI",
    "FORMATS",
    "PLOTS",
    "TRAINING_PLOTS",
    "Header",
    "Plot",
    "draw_all",
    "draw_header",
    "line_style",
    "styled",
    "write_figure",
]
