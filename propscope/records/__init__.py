"""Frozen records of what was measured, and what follows from them by arithmetic; numpy only, never torch."""

from propscope.records.comparison import Comparison, Difference, ParameterChange, SiteSizes
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.records.graph import SiteGraph
from propscope.records.histogram import LogHistogram
from propscope.records.loss_surface import LossSurface
from propscope.records.model_costs import ModelCosts, ModuleCosts
from propscope.records.monitored import Alarm, MonitoredRun, Steps
from propscope.records.network import (
    UNKNOWN,
    CoverageNote,
    Expected,
    NetworkProfile,
    Parameter,
    Parent,
    Provenance,
    Site,
)
from propscope.records.over_steps import HistogramsOverSteps, OverSteps
from propscope.records.profile_set import ProfileSet
from propscope.records.summary import TensorSummary
from propscope.records.time_course import TimeCourse
from propscope.records.training import TrainingRun, TrainingSet
from propscope.records.width_check import WidthCheck, WidthRow

__all__ = [
    "UNKNOWN",
    "Alarm",
    "Comparison",
    "CoverageNote",
    "Diagnosis",
    "Difference",
    "Expected",
    "Finding",
    "HistogramsOverSteps",
    "LogHistogram",
    "LossSurface",
    "ModelCosts",
    "ModuleCosts",
    "MonitoredRun",
    "NetworkProfile",
    "OverSteps",
    "Parameter",
    "ParameterChange",
    "Parent",
    "ProfileSet",
    "Provenance",
    "Remedy",
    "Site",
    "SiteGraph",
    "SiteSizes",
    "Steps",
    "TensorSummary",
    "TimeCourse",
    "TrainingRun",
    "TrainingSet",
    "WidthCheck",
    "WidthRow",
]
