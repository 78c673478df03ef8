"""Shared by all tests: no display, one thread, which is as fast for networks this small, and no test fails by time."""

import os

from hypothesis import HealthCheck, settings

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")
