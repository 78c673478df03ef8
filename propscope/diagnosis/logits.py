"""Logits over a vocabulary that are so large at the start that training begins with unlearning them.

For n logits of a standard deviation s, independent and normal, the cross entropy is ln n + s^2 / 2 where s is small,
and about s sqrt(2 ln n) where the largest logit decides. Embeddings of N(0, 1) that are shared with an output layer of
width d give s = sqrt(d) behind a norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from propscope.diagnosis import limits
from propscope.diagnosis.behind import behind_of
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.weights import scales_of
from propscope.records.finding import Finding, Remedy
from propscope.records.numerals import number


def sharp_logits(evidence: Evidence) -> Iterator[Finding]:
    """Find outputs over the tokens of an embedding whose logits have a standard deviation above 12 before training.

    The output layer shares its weight with the embedding, or has a unit for each row of it. Where its weights
    alone are too large, the rule for weights finds them instead.
    """
    profile, behind = evidence.members[0], evidence.once(behind_of)
    scales = {scale.index: scale for scale in evidence.once(scales_of)}
    tables = (p for site in profile.sites if site.role == "embedding" for p in profile.parameters_of(site))
    rows = {table.name: table.shape[0] for table in tables}
    for index, site in enumerate(evidence.sites):
        if not rows or not behind.ends(index) or index not in scales or site.forward is None:
            continue
        tied = [name for name in site.parameters if name in rows]
        spread, tokens = site.forward.std, site.features or 0
        if tokens < 2 or not (tied or tokens in rows.values()) or scales[index].mean > limits.ODD:
            continue
        if spread > limits.LOGITS:
            yield _finding(evidence, index, spread, tokens, bool(tied))


def _finding(evidence: Evidence, index: int, spread: float, tokens: int, tied: bool) -> Finding:
    site = evidence.sites[index]
    scale = next(scale for scale in evidence.once(scales_of) if scale.index == index)
    names = " and ".join(dict.fromkeys((scale.owner, *scale.shared)))
    weight = f"the weight that {names} share" if tied and scale.shared else f"the weight of {scale.weight}"
    loss, usual = spread * math.sqrt(2 * math.log(tokens)), math.log(tokens)
    return Finding(
        kind="exploding",
        severity="strained",
        direction="forward",
        sites=(site.name, *(scale.shared if tied else ())),
        message=f"{site.name}: its logits over {tokens:,} tokens have a standard deviation of {number(spread, 2)}, "
        "where about 1 is usual",
        cause=f"the logits are {number(spread, 2)} times too large, so that the loss starts at about {number(loss, 2)} "
        f"nat, where ln {tokens:,} = {number(usual, 2)} is that of a guess"
        + ("; the rows of an embedding are used as the weights of a layer" if tied else ""),
        evidence={"logit_spread": spread, "tokens": float(tokens), "limit": limits.LOGITS},
        remedy=Remedy(
            "scale",
            f"multiply {weight} by {number(1 / spread, 2)}, or draw it with a std of 0.02",
            factors={scale.weight: 1 / spread},
        ),
        confidence=evidence.shown_by_all,
        marks={site.name: f"logits x{number(spread, 2)}"},
    )
