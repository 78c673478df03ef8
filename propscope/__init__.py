"""propscope: how a signal travels through a deep network, forward and backward, layer by layer.

The public names are imported on first use, so that reading a result file never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from propscope import _moved
from propscope._version import __version__ as __version__

_moved.install()

_HOMES = {
    "NetworkProfile": "propscope.records",
    "Parameter": "propscope.records",
    "ProfileSet": "propscope.records",
    "PropscopeError": "propscope.errors",
    "Site": "propscope.records",
    "TensorSummary": "propscope.records",
    "TrainingRun": "propscope.records",
    "TrainingSet": "propscope.records",
    "WidthCheck": "propscope.records",
    "LogHistogram": "propscope.records",
    "Alarm": "propscope.records",
    "ModelCosts": "propscope.records",
    "MonitoredRun": "propscope.records",
    "Diagnosis": "propscope.records",
    "Finding": "propscope.records",
    "Remedy": "propscope.records",
    "Comparison": "propscope.records",
    "calibrate": "propscope.remedies.calibration",
    "compare": "propscope.comparison",
    "costs": "propscope.measure",
    "diagnose": "propscope.diagnosis",
    "load": "propscope.store",
    "monitor": "propscope.monitoring",
    "save": "propscope.store",
    "jacobian": "propscope.spectra",
    "profile": "propscope.measure",
    "track": "propscope.measure",
    "profile_mlp": "propscope.experiments",
    "summary": "propscope.measure",
    "train_mlp": "propscope.experiments.training",
    "width_check": "propscope.experiments.widths",
}

__all__ = [
    "Alarm",
    "Comparison",
    "Diagnosis",
    "Finding",
    "LogHistogram",
    "ModelCosts",
    "MonitoredRun",
    "NetworkProfile",
    "Parameter",
    "ProfileSet",
    "PropscopeError",
    "Remedy",
    "Site",
    "TensorSummary",
    "TrainingRun",
    "TrainingSet",
    "WidthCheck",
    "calibrate",
    "compare",
    "costs",
    "diagnose",
    "jacobian",
    "load",
    "monitor",
    "plots",
    "profile",
    "profile_mlp",
    "save",
    "summary",
    "theory",
    "track",
    "train_mlp",
    "width_check",
]

if TYPE_CHECKING:
    from propscope import plots, theory
    from propscope.comparison import compare
    from propscope.diagnosis import diagnose
    from propscope.errors import PropscopeError
    from propscope.experiments import profile_mlp
    from propscope.experiments.training import train_mlp
    from propscope.experiments.widths import width_check
    from propscope.measure import costs, profile, summary, track
    from propscope.monitoring import monitor
    from propscope.records import (
        Alarm,
        Comparison,
        Diagnosis,
        Finding,
        LogHistogram,
        ModelCosts,
        MonitoredRun,
        NetworkProfile,
        Parameter,
        ProfileSet,
        Remedy,
        Site,
        TensorSummary,
        TrainingRun,
        TrainingSet,
        WidthCheck,
    )
    from propscope.remedies.calibration import calibrate
    from propscope.spectra import jacobian
    from propscope.store import load, save


def __getattr__(name: str) -> Any:
    if name in ("plots", "theory"):
        return importlib.import_module(f"propscope.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'propscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
