"""`diagnose`: every rule on every network, worst finding first."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from propscope.checks import known_arguments
from propscope.diagnosis.advice import in_training
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.expectation import expected, loads
from propscope.diagnosis.explain import explained
from propscope.diagnosis.monitored import diagnosis_of_run
from propscope.diagnosis.rules import RULES
from propscope.diagnosis.unmeasured import unmeasured
from propscope.errors import InputError
from propscope.records.finding import SEVERITIES, STAGES, Diagnosis, Stage
from propscope.records.monitored import MonitoredRun
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingSet


@known_arguments
def diagnose(profiles: NetworkProfile | ProfileSet, *, notes: bool = True, stage: Stage | None = None) -> Diagnosis:
    """Return what is wrong with a network, with each of several, or with a training: kind, place, cause and remedy.

    Profiles whose labels differ only in the seed are one network and are judged together: sizes by geometric means
    over seeds with their intervals. Findings are sorted worst first: broken, then strained, then notes; what one of
    them explains is listed with it, as its effects. `notes`: include the notes, on what may become wrong and on what
    the profiles cannot show. For several networks the field `networks` holds the diagnosis of each, and every finding
    carries the labels of its network. `stage`: "initialized" or "trained", "unknown" where it may be either; guessed
    where it is not given.

    A `MonitoredRun` is judged as one training, by the alarms that it raised, the first one first; for one of its
    samples, select it: `diagnose(run.select(step=200))`.

    The verdict depends only on ratios: another unit of the loss, another batch size or width give the same one. NaN and
    Inf are a finding, never an error. Raises `InputError` for an empty set, another stage, and a stage of a run.
    """
    if stage is not None and stage not in STAGES:
        raise InputError(f"stage must be one of {', '.join(STAGES)}, got {stage!r}")
    if isinstance(profiles, NetworkProfile):
        return _of_network((profiles,), notes=notes, stage=stage)
    if not isinstance(profiles, ProfileSet):
        raise _no_profiles(profiles)
    if isinstance(profiles, MonitoredRun):
        if stage is not None:
            raise InputError(
                "a monitored run is judged by its alarms, and has no stage",
                hint="one sample has: diagnose(run.select(step=0), stage=...)",
            )
        return diagnosis_of_run(profiles)
    if not len(profiles):
        raise InputError("the set holds no profile to diagnose")
    groups = profiles.groups("seed")
    return together([_of_network(tuple(members), notes=notes, stage=stage) for members in groups.values()])


def together(networks: Sequence[Diagnosis]) -> Diagnosis:
    """Return the diagnosis of several networks from that of each; of a single one, that one."""
    if len(networks) == 1:
        return networks[0]
    findings = [finding for network in networks for finding in network.findings]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    stages = {network.stage for network in networks}
    return Diagnosis(tuple(findings), networks=tuple(networks), stage=stages.pop() if len(stages) == 1 else "unknown")


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
    found = [(rule, rule.at_stage(each, evidence.stage)) for rule in rules for each in rule.found(evidence)]
    if evidence.stage == "trained":
        found = [(rule, in_training(finding)) for rule, finding in found]
    load = loads(evidence, [finding for _, finding in found])
    kept = explained(evidence, [(rule, finding) for rule, finding in found if notes or finding.severity != "note"])
    return Diagnosis(
        tuple(replace(finding, labels=labels) for finding in kept),
        labels=labels,
        stage=evidence.stage,
        not_measured=unmeasured(evidence),
        expects=expected(load),
        loads=load,
    )
