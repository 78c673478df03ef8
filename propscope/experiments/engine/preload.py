"""What every worker needs, imported once by the process that workers are forked from.

It starts no thread: a fork copies only the thread that calls it. So numerical libraries get one thread before they are
loaded, and nothing is computed here.
"""

import gc
import os

for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import propscope.experiments.profiling  # noqa: E402  the libraries read the environment when they are loaded
import propscope.experiments.training.trainings  # noqa: E402, F401

# What is here stays: no collection in a worker has to write to these pages.
gc.collect()
gc.freeze()
