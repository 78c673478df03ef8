"""NaN and Inf, and the values that narrower number formats would lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from propscope.diagnosis.attention import MASKED_BY, UNMASK, masked_share, said_of_rows
from propscope.diagnosis.evidence import Evidence, succession
from propscope.records.finding import Finding, Remedy
from propscope.records.gains import is_norm
from propscope.records.network import DIRECTIONS, Direction, NetworkProfile, Site
from propscope.records.precision import (
    LOSS_SCALE_MARGIN,
    Worst,
    recommended_loss_scale,
    spell,
    summary_headroom,
    worst_in,
)
from propscope.records.summary import TensorSummary

# Losing fewer than one value in a thousand changes a gradient by less than its noise over a batch of 1000.
_LOST = 1e-3


@dataclass(frozen=True, slots=True)
class _Singular:
    """Operations, by their names without `linalg_`: where they have no finite derivative, and how to stay away.

    `in_loss`: they are everywhere, and named only where they were seen to give NaN, in the loss.
    """

    names: tuple[str, ...]
    at: str
    remedy: str
    in_loss: bool = False


_SINGULAR = (
    _Singular(
        ("where", "masked_fill", "masked_select"),
        "at what it does not choose, since zero times Inf is NaN",
        "replace what it does not choose by a harmless value before the operation, not after it",
    ),
    _Singular(
        ("sqrt", "rsqrt", "hypot", "norm", "vector_norm"),
        "at 0",
        "add a small constant under the root, such as 1e-8",
    ),
    _Singular(("pow", "float_power"), "at 0 for a power below 1", "add a small constant to its base, such as 1e-8"),
    _Singular(
        ("div", "divide", "truediv", "true_divide", "reciprocal", "normalize", "cosine_similarity"),
        "where the divisor is 0",
        "add a small constant to the divisor, or clamp it from below",
    ),
    _Singular(
        ("log", "log2", "log10", "log1p", "logit", "xlogy", "entr", "logsumexp", "logaddexp"),
        "at 0 or below",
        "clamp its argument from below, or use log_softmax or logsigmoid",
    ),
    _Singular(
        ("acos", "arccos", "asin", "arcsin", "atanh", "arctanh", "erfinv", "acosh", "arccosh"),
        "at the ends of its range",
        "clamp its argument a little inside of them, such as to 1 - 1e-6",
    ),
    _Singular(
        ("svd", "eigh", "eig", "qr", "inv", "slogdet", "logdet", "pinv", "cholesky"),
        "where singular values or eigenvalues are equal or 0",
        "add a small multiple of the identity matrix",
    ),
    _Singular(
        ("softmax", "log_softmax", "scaled_dot_product_attention"),
        "in rows that are masked throughout",
        "leave one entry of each row unmasked, or mask with a large finite value",
    ),
    _Singular(("mean", "std", "var", "std_mean", "var_mean"), "of too few values",
              "leave out what has no values to average, or a single one", in_loss=True),
    _Singular(("cross_entropy", "nll_loss", "nll_loss_nd"), "where all targets are ignored",
              "leave out batches whose targets are all ignored", in_loss=True),
)  # fmt: skip
_MASKING = frozenset(("masked_fill", "masked_fill_", "where", "masked_scatter", "index_put_", "__setitem__"))
_IN_THE_LOSS = " in the loss"
_WITHOUT_SIZE = "a norm divides zeros by its epsilon, and the gradient too: it grows by 300 to a million at each norm"
_LOSS_REMEDY = "add a small constant under the roots, logarithms and divisions of the loss"
_BY_NAME = {name: entry for entry in _SINGULAR for name in entry.names}


def nonfinite(evidence: Evidence) -> Iterator[Finding]:
    """Find the first site with NaN or Inf: in the forward pass, else the first that the gradient passes.

    The -Inf of masked scores is no signal: nothing that was computed from them is infinite.
    """
    weights = [p.name for p in evidence.members[0].parameters if p.value.nonfinite_count]
    for direction in DIRECTIONS:
        shown = [
            index
            for index, sites in evidence.columns()
            if any(_bad(getattr(s, direction)) for s in sites)
            and not (direction == "forward" and _masked(evidence, index))
        ]
        if not shown:
            continue
        shown = shown if direction == "forward" else shown[::-1]
        site = evidence.sites[shown[0]]
        seeds = sum(_bad(getattr(m.sites[shown[0]], direction)) > 0 for m in evidence.members)
        summary = next(s for m in evidence.members if _bad(s := getattr(m.sites[shown[0]], direction)))
        own = [name for name in weights if name.rpartition(".")[0] == site.name.split("#")[0]]
        grad = "" if direction == "forward" else "grad "
        called = _called(evidence.members[0], shown[0], direction)
        silent = None if own or direction == "forward" else _silent_before_norm(evidence.members[0])
        masked = masked_share(evidence, shown[0]) if direction == "forward" and summary.nan_count else 0.0
        rows = f": {said_of_rows(masked)}" if masked else ""
        because = f"each entry of such a row is -Inf, and 0/0 is NaN; {MASKED_BY}" if masked else ""
        found = Finding(
            kind="non-finite",
            severity="broken",
            direction=direction,
            sites=tuple(evidence.sites[index].name for index in shown),
            message=_spelled(site, summary, direction) + rows,
            cause=because or _why(own, direction, summary, called),
            evidence={
                "nan": float(summary.nan_count),
                "inf": float(summary.posinf_count + summary.neginf_count),
                "count": float(summary.count),
                "parameters": float(len(weights)),
                **({"masked_rows": masked} if masked else {}),
            },
            remedy=Remedy("repair", UNMASK) if masked else _remedy(own, site, summary, called),
            confidence=succession(seeds, len(evidence.members)),
            marks={evidence.sites[i].name: grad + ("NaN" if _nan(evidence, i, direction) else "Inf") for i in shown},
        )
        yield found if silent is None else _of_silence(evidence.members[0], silent, found)
        return
    if weights:
        yield _in_a_weight(evidence, weights)
    elif (faulty := [member for member in evidence.members if member.loss_fault == "value"]) and evidence.sites:
        yield _in_the_loss(evidence, faulty)


def _silent_before_norm(profile: NetworkProfile) -> str | None:
    """Return the site that gives only zeros, for any input, which a norm gets in the end; None where there is none."""
    sites = {site.name: site for site in profile.sites}

    def before(site: Site) -> list[Site]:
        return [sites[parent.name] for parent in site.parents or () if parent.name in sites]

    norms = (site for site in profile.sites if is_norm(site) and before(site) and all(map(_is_zero, before(site))))
    if (found := next(norms, None)) is None:
        return None
    while of_zero := [parent for parent in before(found) if _is_zero(parent)]:
        found = of_zero[0]
    return found.name


def _is_zero(site: Site) -> bool:
    return site.forward is not None and site.forward.count > 0 and site.forward.rms == 0


def _of_silence(profile: NetworkProfile, name: str, found: Finding) -> Finding:
    """Return the finding of a gradient that norms enlarge beyond the range, since a site gives them only zeros."""
    site = profile[name]
    zeros = [p.name for p in profile.parameters_of(site) if len(p.shape) > 1 and p.value.rms == 0]
    change = f"look at why {site.name} gives zeros for any input"
    if zeros:
        change = f"draw {zeros[0]} at random: it is all zero"
    elif "dropout" in site.kind.lower():
        change = f"give the dropout at {site.name} the probability to drop, such as p=0.1"
    return replace(
        found,
        sites=(site.name, *found.sites),
        message=f"{site.name} gives only zeros; {found.message}",
        cause=_WITHOUT_SIZE,
        remedy=Remedy("repair", change),
    )


def _in_a_weight(evidence: Evidence, weights: list[str]) -> Finding:
    return Finding(
        kind="non-finite",
        severity="broken",
        sites=tuple(name.rpartition(".")[0] for name in weights),
        message=f"{weights[0]} holds NaN or Inf",
        cause="a diverged training step or a damaged checkpoint; no value of the batch passed through it",
        evidence={"parameters": float(len(weights))},
        remedy=Remedy("repair", f"draw {weights[0]} again, or load another checkpoint"),
        confidence=evidence.shown_by_all,
    )


def _in_the_loss(evidence: Evidence, faulty: Sequence[NetworkProfile]) -> Finding:
    last, operation = evidence.sites[-1].name, faulty[0].loss_operation
    known = _BY_NAME.get(_plain(operation))
    by = f"; {operation} in the loss makes it so" if operation else ""
    return Finding(
        kind="non-finite",
        severity="broken",
        direction="forward",
        sites=(last,),
        message=f"the loss is NaN or Inf, although all values up to {last or 'the output'} are finite{by}",
        cause=f"{operation} has no finite result {known.at}"
        if known
        else "a logarithm, root or division of zero, or a value beyond the range of the format",
        evidence={"seeds": float(len(faulty))},
        remedy=Remedy("repair", f"{operation} in the loss: {known.remedy}")
        if known
        else Remedy("repair", _LOSS_REMEDY),
        confidence=succession(len(faulty), len(evidence.members)),
        marks={last: "loss NaN"},
    )


def precision(evidence: Evidence) -> Iterator[Finding]:
    """Find what fp16 (with a suitable loss scale) and bf16 would lose: a note, since float32 loses nothing."""
    first = evidence.members[0]
    scale = recommended_loss_scale(first)
    for name, after in (("fp16", scale or 1), ("bf16", 1)):
        worst = worst_in(first, name, loss_scale=after)
        if worst is None or worst.shares.lost < _LOST:
            continue
        scaled = f" with loss scale {scale} (margin x{LOSS_SCALE_MARGIN:g})" if name == "fp16" and scale else ""
        yield Finding(
            kind="precision",
            severity="note",
            direction=worst.direction,
            sites=(worst.site,),
            message=f"in {name}{scaled}, {worst.site} would lose {worst.direction} values: {spell(worst.shares)}",
            cause="its range exceeds that of the format: values that overflow become Inf, values too small become zero",
            evidence={"overflow": worst.shares.overflow, "zero": worst.shares.zero, "limit": _LOST},
            remedy=Remedy("precision", f"keep {worst.site} in float32" + (", or use bf16" if name == "fp16" else "")),
            confidence=succession(_losing(evidence, worst, name, after), len(evidence.members)),
        )


def _losing(evidence: Evidence, worst: Worst, name: str, scale: float) -> int:
    index = next(i for i, site in enumerate(evidence.sites) if (site.name or "(model)") == worst.site)
    after = scale if worst.direction == "backward" else 1.0
    seen = (getattr(member.sites[index], worst.direction) for member in evidence.members)
    found = (summary_headroom(summary, name, scale=after) for summary in seen)
    return sum(shares is not None and shares.lost >= _LOST for shares in found)


def _bad(summary: TensorSummary | None) -> int:
    return summary.nonfinite_count if summary is not None else 0


def _masked(evidence: Evidence, index: int) -> bool:
    """Return whether some values of a site are -Inf, the others finite, and all that was computed from it is.

    Where nothing was, an operation that masks has to stand before it.
    """
    for member in evidence.members:
        site = member.sites[index]
        if (
            site.forward is None
            or not 0 < site.forward.neginf_count == site.forward.nonfinite_count < site.forward.count
        ):
            return False
        fed = [member[name].forward for name in member.graph.children_of(site.name)]
        masking = any(not _MASKING.isdisjoint(parent.operations) for parent in site.parents or ())
        if any(map(_bad, fed)) or not (fed or masking):
            return False
    return True


def _nan(evidence: Evidence, index: int, direction: str) -> bool:
    found = (getattr(member.sites[index], direction) for member in evidence.members)
    return any(summary is not None and summary.nan_count for summary in found)


def _spelled(site: Site, summary: TensorSummary, direction: str) -> str:
    of = "values" if direction == "forward" else "gradients"
    infinite = summary.posinf_count + summary.neginf_count
    parts = [f"{count} {name}" for name, count in (("NaN", summary.nan_count), ("Inf", infinite)) if count]
    return f"{site.name or '(model)'} is the first site with {' and '.join(parts)} of {summary.count} {of}"


@dataclass(frozen=True, slots=True)
class _Called:
    """What was called between a site and the next: `place` in words, and the operations that may have no derivative."""

    place: str
    suspects: tuple[str, ...] = ()


def _called(profile: NetworkProfile, index: int, direction: Direction) -> _Called:
    """Return what was called between a site and those after it, or forward between those before it and the site."""
    sites, name = profile.sites, profile.sites[index].name
    if direction == "forward":
        edges = [(parent.name, name, parent.operations) for parent in sites[index].parents or ()]
    else:
        fed = [(site, parent) for site in sites for parent in site.parents or () if parent.name == name]
        edges = [(name, site.name, parent.operations) for site, parent in fed if parent.gradient]
    if not edges:
        in_the_loss = profile.graph.known and direction == "backward"
        return _Called(_IN_THE_LOSS, _of_loss(profile)) if in_the_loss else _Called("")
    first, last, operations = max(edges, key=lambda edge: sum(map(_is_suspect, edge[2])))
    # Values that were not chosen are gone; only their gradients are multiplied by zero.
    found = filter(_is_suspect, operations)
    known = dict.fromkeys(name for name in found if direction == "backward" or _plain(name) not in _SINGULAR[0].names)
    suspects = tuple(sorted(known, key=lambda name: _SINGULAR.index(_BY_NAME[_plain(name)])))
    return _Called(f" between {first or '(model)'} and {last or '(model)'}", suspects)


def _is_suspect(operation: str) -> bool:
    entry = _BY_NAME.get(_plain(operation))
    return entry is not None and not entry.in_loss


def _of_loss(profile: NetworkProfile) -> tuple[str, ...]:
    """Return the operation that makes the loss, or a derivative of it, other than finite, where it is a known one."""
    return tuple(name for name in (profile.loss_operation,) if _plain(name) in _BY_NAME)


def _plain(operation: str) -> str:
    return operation.lower().rstrip("_").removeprefix("linalg_")


def _why(own: list[str], direction: str, summary: TensorSummary, called: _Called) -> str:
    if own:
        return f"{own[0]} itself holds NaN or Inf"
    names = " or ".join(called.suspects)
    if direction == "backward" and names:
        at = "; ".join(dict.fromkeys(_BY_NAME[_plain(name)].at for name in called.suspects))
        return f"the values are finite, but not the derivative of {names}{called.place} ({at})"
    if direction == "backward" and (summary.nan_count or called.place == _IN_THE_LOSS):
        return (
            f"the values are finite but a derivative{called.place} is not: a division, square root or logarithm at zero"
        )
    if not summary.nan_count:
        return "the values exceed the range of the number format"
    without = "0/0, Inf - Inf, a row masked throughout, log or root of a negative number"
    if names:
        return f"{names}{called.place} has no result there ({without}), or its input has NaN"
    return f"an operation without a result ({without}), or NaN in its input"


def _remedy(own: list[str], site: Site, summary: TensorSummary, called: _Called) -> Remedy:
    if own:
        return Remedy("repair", f"draw {own[0]} again, or load another checkpoint")
    if called.suspects:
        return Remedy("repair", f"{called.suspects[0]}{called.place}: {_BY_NAME[_plain(called.suspects[0])].remedy}")
    if not summary.nan_count:
        return Remedy("calibrate", "scale down the layers before it: propscope.calibrate(model, batch)")
    if called.place == _IN_THE_LOSS:
        return Remedy("repair", _LOSS_REMEDY)
    return Remedy("repair", f"check the input of {site.name or 'the model'}")
