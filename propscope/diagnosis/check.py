"""`check` decides whether profiles pass, by their findings and by what has moved from a baseline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from propscope.comparison import compare_networks
from propscope.diagnosis.diagnose import diagnose
from propscope.errors import InputError
from propscope.records.comparison import Comparison, Difference
from propscope.records.finding import SEVERITIES, Diagnosis, Finding, Stage
from propscope.records.monitored import MonitoredRun
from propscope.records.profile_set import ProfileSet


@dataclass(frozen=True, slots=True)
class CheckOutcome:
    """What was checked (`headline`), its diagnosis, and its comparison with the file `baseline`, None without one.

    `axes`: the labels that tell its networks apart. `fail_on`: the mildest severity that fails the check.
    """

    headline: str
    networks: int
    profiles: int
    axes: tuple[str, ...]
    fail_on: str
    diagnosis: Diagnosis
    baseline: Path | None = None
    comparison: Comparison | None = None

    @property
    def failing(self) -> tuple[Finding, ...]:
        """The findings of severity `fail_on` or worse."""
        severe = SEVERITIES[: SEVERITIES.index(self.fail_on) + 1]
        return tuple(finding for finding in self.diagnosis.findings if finding.severity in severe)

    @property
    def moves(self) -> tuple[Difference, ...]:
        """What has moved from the baseline."""
        return () if self.comparison is None else self.comparison.differences

    @property
    def exit_code(self) -> int:
        """1 where the check failed, else 2 where too little was seen of a network to pass it, else 0."""
        return 1 if self.failing or self.moves else 2 if self.diagnosis.unmeasured else 0


def check(
    profiles: ProfileSet,
    headline: str,
    *,
    fail_on: str = "broken",
    baseline: ProfileSet | None = None,
    baseline_file: Path | None = None,
    tolerance: float | None = None,
    stage: Stage | None = None,
) -> CheckOutcome:
    """Return the outcome of a check of profiles, compared with the profiles of `baseline_file` where they are given.

    `stage` is that of `diagnose`. Raises `InputError` for an empty set, for a monitored run with a baseline, and as
    `diagnose` and `compare_networks` do.
    """
    # A monitored run is one network.
    run = isinstance(profiles, MonitoredRun)
    if baseline is not None and (run or isinstance(baseline, MonitoredRun)):
        raise InputError(
            "a monitored run cannot be compared with a baseline",
            hint="it is judged by its alarms: leave the baseline out",
        )
    comparison = None
    if baseline is not None:
        comparison = compare_networks(baseline, profiles, tolerance=tolerance, same_labels=True)
    axes = () if run else tuple(name for name, values in profiles.axes.items() if name != "seed" and len(values) > 1)
    networks = 1 if run else len(profiles.groups("seed"))
    found = diagnose(profiles, stage=stage)
    return CheckOutcome(headline, networks, len(profiles), axes, fail_on, found, baseline_file, comparison)
