"""Layers whose weights are all zero: on purpose, where they learn themselves and open what lies behind them.

Residual branches whose last layer, gate or norm starts at zero (Zhang et al. 2019, Fixup; Bachlechner et al. 2020,
ReZero; Goyal et al. 2017, section 5.1), adapters (Hu et al. 2021, LoRA), zero convolutions (Zhang et al. 2023,
ControlNet), modulations (Peebles, Xie 2023, adaLN-zero) and readouts start this way. The gradient of a zero factor is
the product of the others, so that it moves in the first step, and what is behind it in the next. Measured on MLPs of 6
layers on the digits (ReLU, tanh and GELU; one layer of zeros, first, middle or last): with Adam they learn as well as
without zeros, 0.86 to 0.92 after 400 steps. Zeros that never move are found where the gradient is lost.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator

from propscope.diagnosis.evidence import Evidence, parameters_by_module, succession
from propscope.diagnosis.missing_gradients import stops_of
from propscope.diagnosis.weights import Scale, scales_of
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import block_pattern, is_norm
from propscope.records.network import Site
from propscope.records.numerals import counted

_LISTED = 3


def zero_weights(evidence: Evidence) -> Iterator[Finding]:
    """Find layers of zeros that learn: strained where the same place of other blocks has other weights, else a note.

    A last layer of zeros starts with a neutral guess, whatever others have. Numbers in names count blocks, as in
    `block1`, or parts of a block, as in `norm2`: several layers that are alike in all but whole numbers are one place.
    """
    scales = evidence.once(scales_of)
    zeros = [scale for scale in scales if scale.mean == -math.inf and not _adds_one(evidence.sites[scale.index])]
    stops = [stop for stop in stops_of(evidence) if stop.lost_by]
    names = {name for stop in stops for name in (*stop.zeros, *(p.name for p in stop.parameters))}
    found_already = {name.rpartition(".")[0] for name in names}
    filled = {_place(evidence, scale) for scale in scales if scale.mean > -math.inf}
    everywhere = _all_zero(evidence, scales)
    meant: dict[tuple[str, str], list[Scale]] = defaultdict(list)
    for scale in zeros:
        if scale.owner in found_already:
            continue
        among_others = _place(evidence, scale) in filled and block_pattern(scale.owner) not in everywhere
        if not _moves(evidence, scale) or (among_others and not _is_last(evidence, scale)):
            yield _at_fault(evidence, scale)
        else:
            meant[_place(evidence, scale)].append(scale)
    for alike in meant.values():
        yield _meant(evidence, alike)


def _adds_one(site: Site) -> bool:
    """Return whether a norm stores its gain minus 1."""
    return is_norm(site) and site.forward is not None and site.forward.rms > 0


def _place(evidence: Evidence, scale: Scale) -> tuple[str, str]:
    """Return kind and place of a layer: its name with * for the numbers of blocks, but not for its own in a block."""
    *above, own = scale.owner.split(".")
    numbered = [re.sub(r"\d+", "*", part) for part in above]
    alone = own.isdecimal() and not any("*" in part for part in numbered)
    kind = evidence.sites[scale.index].kind + (" depthwise" if scale.depthwise else "")
    return kind, ".".join([*numbered, "*" if alone else own])


def _all_zero(evidence: Evidence, scales: list[Scale]) -> frozenset[str]:
    """Return the patterns of names, with * for whole numbers, that two or more layers have and all of them zeros."""
    groups: dict[str, list[Scale]] = defaultdict(list)
    for scale in scales:
        groups[block_pattern(scale.owner)].append(scale)
    return frozenset(
        pattern
        for pattern, group in groups.items()
        if len(group) > 1 and "*" in pattern.rpartition(".")[0] and all(scale.mean == -math.inf for scale in group)
    )


def _moves(evidence: Evidence, scale: Scale) -> bool:
    """Return whether gradient descent moves the weights; of old files, whether the first step does."""
    owned = evidence.once(parameters_by_module).get(scale.owner, ())
    weights = [p for p in owned if "weight" in p.name.rpartition(".")[2]]
    return any(
        p.gradient_outlook in ("now", "later")
        or p.gradient_lost_by == "frozen"
        or (not p.gradient_outlook and (p.gradient is None or p.gradient.rms > 0))
        for p in weights
    )


def _is_last(evidence: Evidence, scale: Scale) -> bool:
    """Return whether no layer with weights follows on the way to the output."""
    site = evidence.sites[scale.index]
    if site.role == "output":
        return True
    graph = evidence.members[0].graph
    behind = set(graph.descendants(site.name)) if graph.known else {s.name for s in evidence.sites[scale.index + 1 :]}
    weighted = {p.name.rpartition(".")[0] for p in evidence.members[0].parameters if len(p.shape) > 1}
    return not any(
        weighted & {name.rpartition(".")[0] for name in each.parameters} or each.name.split("#")[0] in weighted
        for each in evidence.sites
        if each.name in behind
    )


def _at_fault(evidence: Evidence, scale: Scale) -> Finding:
    site = evidence.sites[scale.index]
    return Finding(
        kind="vanishing",
        severity="strained",
        direction="forward",
        sites=(site.name,),
        message=f"{site.name}: its weights are all zero, unlike those of the other {site.kind} layers in the same place"
        if _moves(evidence, scale)
        else f"{site.name}: its weights are all zero",
        cause="its output does not depend on its input, and no gradient passes through it",
        evidence={"weight_scale": 0.0, "limit": 0.0, "seeds": float(len(scale.logs))},
        remedy=Remedy("repair", f"draw the weights of {scale.owner} at random"),
        confidence=succession(sum(log == -math.inf for log in scale.logs), len(scale.logs)),
        marks={site.name: "zero weights"},
    )


def _meant(evidence: Evidence, scales: list[Scale]) -> Finding:
    names = [evidence.sites[scale.index].name for scale in scales]
    owners = {scale.owner for scale in scales}
    behind = [
        p
        for p in evidence.members[0].parameters
        if p.gradient_outlook == "later"
        and (p.gradient_zero_factor.rpartition(".")[0] in owners or p.gradient_zero_factor in names)
    ]
    steps = max((p.gradient_after or 0 for p in behind), default=0)
    opens = f"; what lies behind gets a gradient after {counted(steps, 'step')}" if behind else ""
    listed = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")
    owned = evidence.once(parameters_by_module)
    frozen = all(p.gradient_lost_by == "frozen" for scale in scales for p in owned.get(scale.owner, ()))
    learns = "frozen" if frozen else "which get a gradient"
    return Finding(
        kind="vanishing",
        severity="note",
        direction="forward",
        sites=tuple(names),
        message=f"{listed}: weights that start at zero, {learns}{opens}",
        cause="a branch, an adapter or a last layer that starts at zero changes nothing at first, and learns then",
        evidence={"layers": float(len(names)), "behind": float(len(behind)), "steps": float(steps)},
        confidence=succession(sum(log == -math.inf for log in scales[0].logs), len(scales[0].logs)),
        marks=dict.fromkeys(names, "zero weights"),
    )
