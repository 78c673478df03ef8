"""propscope: how a signal travels through a deep network, forward and backward, layer by layer.

The public names are imported on first use, so that reading a result file never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "NetworkProfile": "propscope.results",
    "Parameter": "propscope.results",
    "ProfileSet": "propscope.results",
    "PropscopeError": "propscope.errors",
    "Site": "propscope.results",
    "TensorSummary": "propscope.results",
    "TrainingRun": "propscope.results",
    "TrainingSet": "propscope.results",
    "LogHistogram": "propscope.results",
    "Diagnosis": "propscope.results",
    "Finding": "propscope.results",
    "Remedy": "propscope.results",
    "calibrate": "propscope.calibration",
    "diagnose": "propscope.diagnosis",
    "load": "propscope.store",
    "save": "propscope.store",
    "jacobian": "propscope.measure",
    "profile": "propscope.measure",
    "track": "propscope.measure",
    "profile_mlp": "propscope.sweep",
    "summary": "propscope.measure",
    "train_mlp": "propscope.training",
}

__all__ = [
    "Diagnosis",
    "Finding",
    "LogHistogram",
    "NetworkProfile",
    "Parameter",
    "ProfileSet",
    "PropscopeError",
    "Remedy",
    "Site",
    "TensorSummary",
    "TrainingRun",
    "TrainingSet",
    "calibrate",
    "diagnose",
    "jacobian",
    "load",
    "profile",
    "profile_mlp",
    "save",
    "summary",
    "theory",
    "track",
    "train_mlp",
]

if TYPE_CHECKING:
    from propscope import theory
    from propscope.calibration import calibrate
    from propscope.diagnosis import diagnose
    from propscope.errors import PropscopeError
    from propscope.measure import jacobian, profile, summary, track
    from propscope.results import (
        Diagnosis,
        Finding,
        LogHistogram,
        NetworkProfile,
        Parameter,
        ProfileSet,
        Remedy,
        Site,
        TensorSummary,
        TrainingRun,
        TrainingSet,
    )
    from propscope.store import load, save
    from propscope.sweep import profile_mlp
    from propscope.training import train_mlp


def __getattr__(name: str) -> Any:
    if name == "theory":
        return importlib.import_module("propscope.theory")
    if name not in _HOMES:
        raise AttributeError(f"module 'propscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
