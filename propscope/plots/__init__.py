"""Pictures of profiles and trainings; nothing here imports torch.

Each picture is one module with two steps: `prepare_...` turns profiles into a record, which tests check by value, and
`draw_...` draws that record into a matplotlib figure. No step uses pyplot, changes matplotlib's global state or needs a
display.
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
