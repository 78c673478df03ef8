"""`diagnose`: every rule on every network, worst finding first."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from propscope.checks import known_arguments
from propscope.diagnosis.evidence import Evidence, module_of
from propscope.diagnosis.explain import explained
from propscope.diagnosis.rules import RULES, Rule
from propscope.diagnosis.unmeasured import unmeasured
from propscope.errors import InputError
from propscope.records.finding import SEVERITIES, STAGES, Diagnosis, Finding, Severity, Stage
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingSet


@known_arguments
def diagnose(profiles: NetworkProfile | ProfileSet, *, notes: bool = True, stage: Stage | None = None) -> Diagnosis:
    """Return what is wrong with a network, or with each of several: kind, place, numbers, cause and remedy.

    Profiles whose labels differ only in the seed are one network and are judged together: sizes by geometric means
    over seeds with their intervals. Findings are sorted worst first: broken, then strained, then notes; a cause comes
    before its effects. `notes`: include the notes, on what may become wrong and on what the profiles cannot show. For
    several networks the field `networks` holds the diagnosis of each, and every finding carries the labels of its
    network. `stage`: "initialized" or "trained", "unknown" where it may be either; guessed where it is not given.

    The verdict depends only on ratios: another unit of the loss, another batch size or width give the same one. NaN and
    Inf are a finding, never an error. Raises `InputError` for an empty set and for another stage.
    """
    if stage is not None and stage not in STAGES:
        raise InputError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    if isinstance(profiles, NetworkProfile):
        return _of_network((profiles,), notes=notes, stage=stage)
    if not isinstance(profiles, ProfileSet):
        raise _no_profiles(profiles)
    if not len(profiles):
        raise InputError("the set holds no profile to diagnose")
    groups = profiles.groups("seed")
    return together([_of_network(members.profiles, notes=notes, stage=stage) for members in groups.values()])


def together(networks: Sequence[Diagnosis]) -> Diagnosis:
    """Return the diagnosis of several networks from that of each; of a single one, that one."""
    if len(networks) == 1:
        return networks[0]
    findings = [finding for network in networks for finding in network.findings]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Diagnosis(tuple(findings), networks=tuple(networks))


def _no_profiles(given: object) -> InputError:
    if hasattr(given, "named_parameters"):
        hint = "measure the model first: propscope.diagnose(propscope.profile(model, batch))"
    elif isinstance(given, (str, os.PathLike)):
        hint = "read the file first: propscope.diagnose(propscope.load(path))"
    elif isinstance(given, TrainingSet):
        hint = "training runs have profiles: propscope.diagnose(runs.profiles())"
    else:
        hint = "propscope.profile makes a profile, ProfileSet.of(profiles) a set of several"
    kind = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
    return InputError(f"profiles must be a NetworkProfile or a ProfileSet, got {kind}", hint=hint)


def _of_network(members: tuple[NetworkProfile, ...], *, notes: bool, stage: Stage | None) -> Diagnosis:
    evidence = Evidence.of(members, stage=stage)
    labels = {name: value for name, value in members[0].labels.items() if name != "seed"}
    rules = [rule for rule in RULES if rule.is_for(evidence.subject) and (notes or not rule.notes_only)]
    rules = [rule for rule in rules if not (rule.initial and evidence.stage == "trained")]
    found = [(rule, rule.at_stage(each, evidence.stage)) for rule in rules for each in rule.find(evidence)]
    found = [(rule, finding) for rule, finding in found if notes or finding.severity != "note"]
    sorted_findings = sorted(graded(evidence, found), key=lambda finding: SEVERITIES.index(finding.severity))
    distinct = explained(evidence, _distinct(sorted_findings))
    return Diagnosis(
        tuple(replace(finding, labels=labels) for finding in distinct),
        labels=labels,
        stage=evidence.stage,
        not_measured=unmeasured(evidence),
    )


def graded(evidence: Evidence, found: Sequence[tuple[Rule, Finding]]) -> list[Finding]:
    """Return the findings, with each local one at least as severe as the worst effect that it can have caused.

    A layer scales the signal after it and the gradient before it. Once sorted by severity, in the order of the rules,
    the cause stands first: zero weights, for example, come before the zero signal that they cause.
    """
    positions = _positions(evidence)
    graded = []
    # Of what the later rules found, by severity: the last place of an effect forward, and the first of one backward.
    last: dict[Severity, int] = {}
    first: dict[Severity, int] = {}
    for rule, finding in reversed(found):
        severity, at = finding.severity, _first(finding, positions)
        if rule.local and severity != "note" and at is not None:
            effects = [s for s in SEVERITIES if last.get(s, -1) >= at or first.get(s, math.inf) <= at]
            worst = min([severity, *effects], key=SEVERITIES.index)
            graded.append(replace(finding, severity=worst))
        else:
            graded.append(finding)
        if at is not None and finding.direction == "backward":
            first[severity] = min(at, first.get(severity, at))
        elif at is not None:
            last[severity] = max(at, last.get(severity, at))
    return graded[::-1]


def _first(finding: Finding, positions: dict[str, int]) -> int | None:
    """Return the position of a finding's first site in the order of execution; None where it has no site."""
    known = [positions[name] for name in finding.sites if name in positions]
    return min(known, default=None)


def _positions(evidence: Evidence) -> dict[str, int]:
    """Return the position of each site by name, and of each module by its first site."""
    positions = {site.name: index for index, site in enumerate(evidence.sites)}
    for index, site in enumerate(evidence.sites):
        positions.setdefault(module_of(site.name), index)
    return positions


def _distinct(findings: list[Finding]) -> list[Finding]:
    """Return the findings without those that an earlier one covers: same kind and direction, and all of its sites."""
    kept: list[Finding] = []
    covering: dict[tuple[object, ...], list[frozenset[str]]] = defaultdict(list)
    for finding in findings:
        of, sites = (finding.kind, finding.direction), frozenset(finding.sites)
        if sites and any(sites <= other for other in covering[(*of, finding.first)]):
            continue
        kept.append(finding)
        for name in sites:
            covering[(*of, name)].append(sites)
    return kept
