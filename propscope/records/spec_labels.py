"""The label that a spec stands for, known without torch, so that a file is searched for what was typed.

`normal:std=0.01`, `normal:std=1e-2` and `gaussian` are all `normal`, the label of what they make.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from propscope.records.activations import ACTIVATIONS

# The parameters of the initializers with their defaults, and their other names; a test holds them to `INITIALIZERS`.
_GAIN: Mapping[str, float | str] = {"gain": 1.0}
_HE: Mapping[str, float | str] = {"mode": "fan_in", "nonlinearity": "leaky_relu", "a": 0.0}
INITIALIZER_DEFAULTS: Mapping[str, Mapping[str, float | str]] = {
    "zeros": {},
    "ones": {},
    "constant": {"value": 0.01},
    "uniform": {"low": -0.05, "high": 0.05},
    "normal": {"std": 0.01},
    "trunc_normal": {"std": 0.02},
    "xavier_uniform": _GAIN,
    "xavier_normal": _GAIN,
    "he_uniform": _HE,
    "he_normal": _HE,
    "lecun_uniform": {},
    "lecun_normal": {},
    "orthogonal": _GAIN,
    "identity": {},
    "dirac": {},
    "sparse": {"sparsity": 0.9, "std": 0.01},
    "variance_scaling": {"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"},
    "default": {},
    "critical": {"weight_variance": "auto", "bias_variance": "auto", "first_weight_variance": "auto"},
}
INITIALIZER_ALIASES: Mapping[str, str] = {
    "zero": "zeros",
    "one": "ones",
    "gaussian": "normal",
    "truncated_normal": "trunc_normal",
    "glorot_uniform": "xavier_uniform",
    "glorot_normal": "xavier_normal",
    "kaiming_uniform": "he_uniform",
    "kaiming_normal": "he_normal",
    "eye": "identity",
    "torch": "default",
    "pytorch": "default",
}
_DEFAULTS: Mapping[str, Mapping[str, Mapping[str, float | str]]] = {
    "initializer": INITIALIZER_DEFAULTS,
    "activation": {
        entry.name: {parameter.name: parameter.default for parameter in entry.parameters} for entry in ACTIVATIONS
    },
}
_ALIASES: Mapping[str, Mapping[str, str]] = {
    "initializer": INITIALIZER_ALIASES,
    "activation": {
        **{alias: entry.name for entry in ACTIVATIONS for alias in entry.aliases},
        **{short: f"{entry.name}:{given}" for entry in ACTIVATIONS for short, given in entry.shorthands},
    },
}


def spec_label(axis: str, text: str) -> str:
    """Return the label of a spec on the axis "initializer" or "activation"; the text itself where it is not known."""
    if axis not in _DEFAULTS:
        return text
    head, *rest = (part.strip() for part in text.split(":"))
    head = head.lower().replace("-", "_")
    name, *own = _ALIASES[axis].get(head, head).split(":")
    defaults = _DEFAULTS[axis].get(name)
    if defaults is None:
        return text
    given: dict[str, float | str] = {}
    for part in (*own, *rest):
        key, equals, raw = (piece.strip() for piece in part.partition("="))
        if not equals or key not in defaults or not raw:
            return text
        given[key] = _value(raw)
    set_apart = [key for key, usual in defaults.items() if given.get(key, usual) != usual]
    return ":".join([name, *(f"{key}={_written(given[key])}" for key in set_apart)])


def _value(raw: str) -> float | str:
    try:
        number = float(raw)
    except ValueError:
        return raw.lower()
    return number if math.isfinite(number) else raw


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else repr(value).removesuffix(".0")
