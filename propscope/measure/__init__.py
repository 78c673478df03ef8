from propscope.measure.recorder import Recorder, track

__all__ = ["Recorder", "track"]
