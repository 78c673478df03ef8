"""Weights that take part and are no parameters of the model: no optimizer gets them, and no file keeps them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from propscope.diagnosis.evidence import Evidence, succession
from propscope.records.finding import Finding, Remedy
from propscope.records.network import NetworkProfile

# How the coverage says it.
_SAID = re.compile(r"weights of (\d+) (\S+) operations? are not registered: trainable tensors \((.*)\)")


def unregistered(evidence: Evidence) -> Iterator[Finding]:
    """Find operations that were given trainable tensors which are not the model's, as layers in a plain list are.

    Silent for buffers, for tensors that need no gradient or whose use under `no_grad` gives none, for weights that are
    computed (hypernetworks, weight norm), and for what `functional_call` puts in the place of parameters.
    """
    first = evidence.members[0]
    said = [match for note in first.coverage if (match := _SAID.match(note.reason)) is not None]
    if not said:
        return
    counts = {operation: int(count) for count, operation, _ in (match.groups() for match in said)}
    shapes = "; ".join(match[3] for match in said)
    sites = _places(first, set(counts))
    total = sum(counts.values())
    listed = " and ".join(f"{count} {name}" for name, count in counts.items())
    shown = sum(any(_SAID.match(note.reason) for note in member.coverage) for member in evidence.members)
    yield Finding(
        kind="unregistered",
        severity="strained",
        sites=sites,
        message=f"weights of {listed} operation{'s' * (total != 1)} are no parameters of the model, of shape {shapes}",
        cause="they are in a plain list, dict or attribute, or made in each pass: the optimizer does not get them, "
        "and neither .to() nor state_dict() knows them",
        evidence={"operations": float(total)},
        remedy=Remedy(
            "repair",
            "use nn.ModuleList or nn.ModuleDict for layers, nn.ParameterList or nn.Parameter for tensors, in __init__",
        ),
        confidence=succession(shown, len(evidence.members)),
        marks=dict.fromkeys(sites, "unregistered"),
    )


def _places(profile: NetworkProfile, operations: set[str]) -> tuple[str, ...]:
    """Return the sites that one of these operations leads to, those without parameters where there are any."""
    led = [s for s in profile.sites if any(operations.intersection(parent.operations) for parent in s.parents or ())]
    return tuple(site.name for site in [site for site in led if not site.parameters] or led)
