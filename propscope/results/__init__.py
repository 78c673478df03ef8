"""Frozen records of what was measured, and what follows from them by arithmetic; numpy only, never torch."""

from propscope.results.finding import Diagnosis, Finding, Remedy
from propscope.results.histogram import LogHistogram
from propscope.results.network import CoverageNote, Expected, NetworkProfile, Parameter, Provenance, Site
from propscope.results.profile_set import ProfileSet
from propscope.results.summary import TensorSummary
from propscope.results.training import TrainingRun, TrainingSet

__all__ = [
    "CoverageNote",
    "Diagnosis",
    "Expected",
    "Finding",
    "LogHistogram",
    "NetworkProfile",
    "Parameter",
    "ProfileSet",
    "Provenance",
    "Remedy",
    "Site",
    "TensorSummary",
    "TrainingRun",
    "TrainingSet",
]
