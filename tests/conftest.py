"""Shared by all tests: one thread setting and no display."""

import os

os.environ.setdefault("MPLBACKEND", "agg")
