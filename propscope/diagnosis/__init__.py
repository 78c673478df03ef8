"""What is wrong with a network, since which layer, why, and what to change: rules on records alone."""

from propscope.diagnosis.diagnose import diagnose
from propscope.records.finding import Diagnosis, Finding, Remedy

__all__ = ["Diagnosis", "Finding", "Remedy", "diagnose"]
