"""Measures a network as it runs: statistics of one tensor, the recorder and its hooks, `profile` and `track`."""

from propscope.measure.cost_pass import costs
from propscope.measure.profiler import profile, summary, track
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options

__all__ = ["Options", "Recorder", "costs", "profile", "summary", "track"]
