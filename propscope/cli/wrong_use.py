"""What was typed and is no command or option: the new name of an old one, else the nearest one that there is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from propscope.cli import COMMANDS

# What an option was called before, in the command that had it, and what to type now.
RENAMED = {
    ("inspect", "--store"): "-o/--output",
    ("inspect", "--depth"): "--levels",
    ("plot", "--only"): "--plots",
    ("plot", "--site"): "--include",
    ("profile", "--no-plots"): "--plots none",
    ("train", "--no-plots"): "--plots none",
    ("diagnose", "--verify"): "--fix",
    ("width-check", "--widths"): "--width",
}

# What other tools, and Python, call an option or a command; the first that there is is meant.
_OPTIONS = {
    "--activation": ("--act",),
    "--activations": ("--act",),
    "--initializer": ("--init",),
    "--initializers": ("--init",),
    "--initialization": ("--init",),
    "--learning-rate": ("--lr",),
    "--layers": ("--depth", "--levels"),
    "--num-layers": ("--depth",),
    "--units": ("--width",),
    "--hidden": ("--width",),
    "--batch-size": ("--batch", "--input-shape"),
    "--input-size": ("--input-shape",),
    "--shape": ("--input-shape",),
    "--dataset": ("--data", "--input"),
    "--data": ("--input",),
    "--weights": ("--checkpoint",),
    "--opt": ("--optimizer",),
    "--out": ("--output",),
    "--file": ("--output",),
    "--save": ("--output",),
    "--force": ("--overwrite",),
    "--jobs": ("--workers",),
    "--num-workers": ("--workers",),
    "--silent": ("--quiet",),
    "--debug": ("--verbose",),
    "--seeds": ("--seed",),
    "--seed": ("--seeds",),
    "--store": ("--output",),
    "--verify": ("--fix",),
    "--only": ("--plots",),
    "--site": ("--include",),
    "--sites": ("--include",),
    "--depth": ("--levels",),
    "--no-plots": ("--plots",),
}
_COMMANDS = {
    "summary": "inspect",
    "torchinfo": "inspect",
    "measure": "profile",
    "run": "profile",
    "fit": "train",
    "explain": "diagnose",
    "verify": "diagnose",
    "draw": "plot",
    "figure": "plot",
    "html": "report",
    "page": "report",
    "monitor": "watch",
    "tail": "watch",
    "live": "watch",
    "mup": "width-check",
    "coord-check": "width-check",
    "join": "merge",
    "names": "list",
    "demo": "example",
}


def said_of(error: Any) -> tuple[str, str]:
    """Return the message and the hint of an error in what was typed, a click exception; the hint may be empty."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoSuchOption" and context is not None:
        option, command = str(error.option_name), str(context.info_name)
        if (now := RENAMED.get((command, option))) is not None:
            return f"option {option} is now {now}", ""
        valid = [name for parameter in context.command.get_params(context) for name in parameter.opts]
        return f"No such option: {option}", _guess(option, valid, _OPTIONS.get(option, ()))
    message = " ".join(error.format_message().split())
    if message.startswith("No such command"):
        name = message.split("'")[1]
        valid = [each.name for each in COMMANDS]
        return f"No such command '{name}'", _guess(name, valid, (_COMMANDS.get(name.lower(), ""),))
    return message, ""


def _guess(typed: str, valid: Iterable[str], meant: Iterable[str]) -> str:
    """Return the question for what was meant, of the valid names; "" where none is near."""
    known = list(valid)
    names = [name for name in meant if name in known] or difflib.get_close_matches(typed, known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(names)}?" if names else ""
