"""`diagnose`: every rule on every network, worst first."""

from __future__ import annotations

from dataclasses import replace

from propscope.diagnosis.causes import graded
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.rules import RULES
from propscope.errors import InputError
from propscope.records.finding import SEVERITIES, Diagnosis, Finding
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet


def diagnose(profiles: NetworkProfile | ProfileSet, *, notes: bool = True) -> Diagnosis:
    """Return what is wrong with a network, or with each of several: kind, place, numbers, cause and remedy.

    Profiles that differ in the label seed alone are one network, judged together: sizes by geometric means with their
    intervals. Findings are worst first: broken before strained before notes, and a cause before what it brings about.
    `notes`: with what is not wrong yet, or cannot be told. Of several networks `networks` holds each one's diagnosis,
    and every finding carries its network's labels.

    The verdict depends on ratios alone: a loss in other units, another batch size or width give the same one. NaN and
    Inf are a finding, never an error. Raises `InputError` for an empty set.
    """
    if isinstance(profiles, NetworkProfile):
        return _of_network((profiles,), notes=notes)
    if not len(profiles):
        raise InputError("the set holds no profile to diagnose")
    groups = profiles.groups("seed")
    if len(groups) == 1:
        return _of_network(profiles.profiles, notes=notes)
    networks = tuple(_of_network(members.profiles, notes=notes) for members in groups.values())
    together = [finding for network in networks for finding in network.findings]
    together.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(together), networks=networks)


def _of_network(members: tuple[NetworkProfile, ...], *, notes: bool) -> Diagnosis:
    evidence = Evidence.of(members)
    labels = {name: value for name, value in members[0].labels.items() if name != "seed"}
    rules = [rule for rule in RULES if notes or not rule.notes_alone]
    found = [(rule, each) for rule in rules for each in rule.find(evidence) if notes or each.severity != "note"]
    together = [finding for _, finding in found] if evidence.layered else graded(evidence, found)
    together.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(replace(finding, labels=labels) for finding in _explained(together)), labels=labels)


def _explained(findings: list[Finding]) -> list[Finding]:
    """Return findings without those that say again what an earlier one says: same kind and direction, fewer sites."""
    kept: list[Finding] = []
    for finding in findings:
        if not any(
            other.kind == finding.kind
            and other.direction == finding.direction
            and finding.sites
            and set(finding.sites) <= set(other.sites)
            for other in kept
        ):
            kept.append(finding)
    return kept
