"""What is wrong with a network, from which layer on, why, and what to change: rules that read only records."""

from propscope.diagnosis.diagnose import diagnose
from propscope.records.finding import Diagnosis, Finding, Remedy

__all__ = ["Diagnosis", "Finding", "Remedy", "diagnose"]
