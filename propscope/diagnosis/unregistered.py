"""Weights that take part and are no parameters of the model: no optimizer gets them, and no file keeps them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from itertools import chain

from propscope.diagnosis.evidence import Evidence, succession
from propscope.records.finding import Finding, Remedy
from propscope.records.network import NetworkProfile

# How the coverage says it.
_SAID = re.compile(r"weights of (\d+) (\S+) operations? are not registered: trainable tensors \((.*)\)")
# How the names of operations begin that apply weights alone to a signal, and of those that may apply one.
_LAYERS = ("linear", "bilinear", "conv", "addmm", "baddbmm")
_APPLYING = (*_LAYERS, "matmul", "mm", "bmm", "einsum", "multi_head")


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
    sites = _places(first, counts)
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


def _places(profile: NetworkProfile, operations: Collection[str]) -> tuple[str, ...]:
    """Return the sites that apply a weight and have no parameters; else those that the operations lead to.

    What is done to a weight before it is applied, as a product in weight standardization, leads to no site.
    """
    edges = [(s, {*chain.from_iterable(parent.operations for parent in s.parents or ())}) for s in profile.sites]
    # Where none of these was given such a tensor itself, one that applies weights alone was given what they made of it.
    applying = {name for name in operations if name.startswith(_APPLYING)}
    alone = {name for _, through in edges for name in through if name.startswith(_LAYERS)}
    bare = [site.name for site, through in edges if not (site.parameters or through.isdisjoint(applying or alone))]
    led = [site for site, through in edges if not through.isdisjoint(operations)]
    return tuple(bare or [site.name for site in [site for site in led if not site.parameters] or led])
