"""What is seen: statistics of one tensor, the recorder and its hooks, the one-call profiler."""

from propscope.measure.profiler import profile
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options
from propscope.measure.summary import summary
from propscope.measure.tracking import track

__all__ = ["Options", "Recorder", "profile", "summary", "track"]
