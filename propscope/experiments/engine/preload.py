"""What every worker needs, imported once by the process that workers are forked from, which computes nothing."""

import gc

import propscope.experiments.profiling
import propscope.experiments.training.trainings  # noqa: F401

# What is here stays: no collection in a worker has to write to these pages.
gc.collect()
gc.freeze()
