"""Shared by all tests: no display, and one thread, which is as fast for networks this small and steadier."""

import os

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")
