"""What the shell completes: names that options take, without importing what knows them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from propscope.plots.table import CHOICES, FORMATS, MONITORED_PLOTS, PLOTS, TRAINING_PLOTS

VARIABLE = "_PROPSCOPE_COMPLETE"

# The tables themselves take seconds to import; a test holds these names to them.
ACTIVATIONS = (
    "identity", "relu", "leaky_relu", "prelu", "relu6", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
    "softsign", "tanh", "hardtanh", "sigmoid", "hardsigmoid", "hardswish", "logsigmoid", "tanhshrink", "erf", "sin",
)  # fmt: skip
INITIALIZERS = (
    "zeros", "ones", "constant", "uniform", "normal", "trunc_normal", "xavier_uniform", "xavier_normal", "he_uniform",
    "he_normal", "lecun_uniform", "lecun_normal", "orthogonal", "identity", "dirac", "sparse", "variance_scaling",
    "default", "critical",
)  # fmt: skip
DATA = ("digits", "mnist5k", "moons", "linear", "one_hidden", "mnist", "fashion_mnist")
INPUTS = ("normal", "uniform", "mixed", "digits", "mnist5k", "mnist", "fashion_mnist")
OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")

# The names that a parameter takes, in every command that has it.
NAMES = {
    "act": ACTIVATIONS,
    "init": INITIALIZERS,
    "data": DATA,
    "input": INPUTS,
    "optimizer": OPTIMIZERS,
    "loss": ("cotangent", "cross-entropy", "mse", "sum"),
    "dtype": ("float32", "float64", "bfloat16", "float16"),
    "device": ("cpu", "cuda", "mps"),
    "norm": ("none", "batch", "layer", "rms"),
    "scale": ("zscore", "minmax", "none"),
    "input_kind": ("float", "tokens", "image", "ones"),
    "stage": ("initialized", "trained", "unknown"),
    "sort": ("gain", "backward", "flat", "dead", "nonfinite"),
    "fail_on": ("broken", "strained"),
    "expect": ("standard", "mup", "ntk"),
    "format": FORMATS,
    "plots": (*CHOICES, *dict.fromkeys(plot.name for plot in (*PLOTS, *TRAINING_PLOTS, *MONITORED_PLOTS)), "phase"),
}


def completing(names: Sequence[str]) -> Callable[[str], Iterator[str]]:
    """Return what completes the last entry of a list, separated by commas, to one of the names."""

    def complete(incomplete: str) -> Iterator[str]:
        before, comma, last = incomplete.rpartition(",")
        return (f"{before}{comma}{name}" for name in names if name.startswith(last))

    return complete


def command_typed() -> str:
    """Return the command of the line that a shell completes; "" where the line is not that far."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or ""
    words = line.split()
    return words[1] if len(words) > 1 else ""


def typer_ended(ended: SystemExit) -> bool:
    """Return whether typer itself ended the program, which it does when it has completed or installed something."""
    frame = ended.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and str(frame.tb_frame.f_globals.get("__name__", "")).startswith("typer.")
