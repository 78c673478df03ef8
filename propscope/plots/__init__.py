"""Pictures of profiles: each plot prepares a record, which tests hold to its values, then draws it; never torch.

Every picture is a matplotlib figure of its own: no pyplot, no change of global state, no display needed.
"""

from propscope.plots.gallery import FORMATS, PLOTS, Plot, draw_all

__all__ = ["FORMATS", "PLOTS", "Plot", "draw_all"]
