"""In training: samples of the same records every so many steps, every step's loss and gradient norm, and alarms."""

from propscope.monitoring.monitor import Monitor, monitor

__all__ = ["Monitor", "monitor"]
