"""What is seen: statistics of one tensor, the recorder and its hooks, the one-call profiler."""

from propscope.measure.profiler import profile, summary, track
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options

__all__ = ["Options", "Recorder", "profile", "summary", "track"]
