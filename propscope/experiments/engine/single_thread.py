"""Imported before any numerical library, it gives each of them one thread: none is started before a fork."""

import os

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
