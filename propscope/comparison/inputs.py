"""Whether two networks began alike: with the same batch and the same weights, by their digests."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from propscope.comparison.networks import Match
from propscope.records.comparison import ParameterChange
from propscope.records.network import NetworkProfile, Parameter
from propscope.records.numerals import counted, listed


@dataclass(frozen=True, slots=True)
class Beginning:
    """Whether all networks began with the same batch and weights, None where that is not known, and in words.

    `parameters`: those whose values differ at the end of the recording.
    """

    same_batch: bool | None
    same_weights: bool | None
    lines: tuple[str, ...]
    parameters: tuple[ParameterChange, ...]


def beginning(matches: Sequence[Match]) -> Beginning:
    """Return how the networks of all matches began; of paired seeds each pair, of others the batches alone."""
    pairs = [pair for match in matches for pair in zip(match.before, match.after, strict=False)]
    if not all(match.paired for match in matches):
        same_batch = _same(pairs, "batch_digest")
        line = _batch_line(pairs, same_batch) if same_batch else "batches and weights: of other seeds"
        return Beginning(same_batch, _same(pairs, "weights_digest"), (line,), ())
    batch, weights = _same(pairs, "batch_digest"), _same(pairs, "weights_digest")
    changed = tuple(_changed(matches))
    count = len({each.name for _, new in pairs for each in new.parameters} | {each.name for each in changed})
    lines = (_batch_line(pairs, batch), *_weight_lines(matches, pairs, weights, changed, count))
    return Beginning(batch, weights, lines, changed)


def chance(matches: Sequence[Match], began: Beginning) -> Iterator[str]:
    """Yield a note where the weights of a single profile on each side differ as two seeds of one initializer do."""
    if len(matches) != 1 or len(matches[0].before) > 1 or not matches[0].paired or began.same_weights is not False:
        return
    then = {one.name: one for one in matches[0].before[0].parameters if len(one.shape) > 1 and one.value.std > 0}
    now = {one.name: one for one in matches[0].after[0].parameters if len(one.shape) > 1 and one.value.std > 0}
    changed = {each.name for each in began.parameters}
    if then and then.keys() == now.keys() and changed.issuperset(then) and all(_alike(then[n], now[n]) for n in then):
        yield (
            "every weight differs, and in size no more than by chance, as in two seeds of one initializer: "
            "profile several seeds on both sides to have intervals"
        )


def _alike(one: Parameter, other: Parameter) -> bool:
    """Return whether two draws of n numbers have the same std, within 4 standard errors 1 / sqrt(2 n) of both."""
    count = min(one.value.count, other.value.count)
    return one.shape == other.shape and abs(math.log(one.value.std / other.value.std)) <= 4 * math.sqrt(
        1 / max(count, 1)
    )


def _same(pairs: Sequence[tuple[NetworkProfile, NetworkProfile]], what: str) -> bool | None:
    digests = [(getattr(old, what), getattr(new, what)) for old, new in pairs]
    if any(then and now and then != now for then, now in digests):
        return False
    return None if any(not then or not now for then, now in digests) else True


def _batch_line(pairs: Sequence[tuple[NetworkProfile, NetworkProfile]], same: bool | None) -> str:
    if same:
        return f"batch: the same, digest {pairs[0][1].batch_digest}" if len(pairs) == 1 else "batches: the same"
    shapes = {tuple(tuple((site.shape, site.dtype) for site in one.inputs) for one in pair) for pair in pairs}
    for then, now in sorted(shapes, key=str):
        if then and now and then != now:
            return f"batch: differs: {_shaped(then)} -> {_shaped(now)}{_rounding(pairs)}"
    if same is None:
        return f"batch: not known to be the same: {_not_stored(pairs, 'batch_digest')}"
    return f"batch{'es' * (len(pairs) > 1)}: of other values"


def _shaped(inputs: tuple[tuple[tuple[int, ...], str], ...]) -> str:
    return ", ".join(f"{'x'.join(map(str, shape))} {dtype}" for shape, dtype in inputs)


def _rounding(pairs: Sequence[tuple[NetworkProfile, NetworkProfile]]) -> str:
    dtypes = {one.provenance.dtype for pair in pairs for one in pair}
    return ", rounded" if len(dtypes) > 1 else ""


def _not_stored(pairs: Sequence[tuple[NetworkProfile, NetworkProfile]], what: str) -> str:
    lacking = [
        side for side, at in (("the first", 0), ("the second", 1)) if any(not getattr(pair[at], what) for pair in pairs)
    ]
    said = f"{' and '.join(lacking)} {'has' if len(lacking) == 1 else 'have'}"
    return f"{said} no digest (an older file, a later sample, ranks)"


def _weight_lines(
    matches: Sequence[Match],
    pairs: Sequence[tuple[NetworkProfile, NetworkProfile]],
    same: bool | None,
    changed: Sequence[ParameterChange],
    count: int,
) -> Iterator[str]:
    if same:
        yield f"weights: the same, digest {pairs[0][1].weights_digest}" if len(pairs) == 1 else "weights: the same"
        if changed:
            yield f"weights after the recorded steps: {_which(changed, count)}"
        return
    if retyped := _retyped(matches):
        where = "" if len(retyped) == count else f" in {len(retyped)} of {count} ({listed(list(retyped), 3)})"
        types = ", ".join(dict.fromkeys(retyped.values()))
        said = _which(changed, count) if changed else "alike within its rounding"
        yield f"weights: of another type{where}, {types}; {said}"
    elif same is None:
        said = _which(changed, count) if changed else "their moments are equal"
        yield f"weights: not known to be the same: {_not_stored(pairs, 'weights_digest')}; {said}"
    else:
        unseen = "differ in less than their moments show: the order of values, buffers, or what is shared"
        yield f"weights: {_which(changed, count) if changed else unseen}"


def _which(changed: Sequence[ParameterChange], count: int) -> str:
    differ = "differs" if len(changed) == 1 else "differ"
    return f"{len(changed)} of {counted(count, 'parameter')} {differ} ({listed([each.name for each in changed], 3)})"


def _retyped(matches: Sequence[Match]) -> dict[str, str]:
    """Return the parameters that have another type now, by name: "float32 -> bfloat16"."""
    found: dict[str, str] = {}
    for match in matches:
        names = _names(match)
        for old, new in zip(match.before, match.after, strict=False):
            then = {one.name: one.dtype for one in old.parameters}
            for one in new.parameters:
                was = then.get(names.get(one.name, one.name), one.dtype)
                if was != one.dtype:
                    found[one.name] = f"{was} -> {one.dtype}"
    return found


def _changed(matches: Sequence[Match]) -> Iterator[ParameterChange]:
    """Yield the parameters whose values differ in a pair of seeds, in the order of the second; each once."""
    said: set[tuple[str, str]] = set()
    for match in matches:
        names = _names(match)
        for old, new in zip(match.before, match.after, strict=False):
            then = {one.name: one for one in old.parameters}
            now = {one.name: one for one in new.parameters}
            sources = {name: names.get(name, name) for name in now}
            gone = [(name, "") for name in then if name not in sources.values()]
            for was, name in [*((sources[name], name) for name in now), *gone]:
                before, after = then.get(was), now.get(name)
                # What one side alone lists of equal weights is a filter's doing.
                alone = before is None or after is None
                same = alone and bool(old.weights_digest) and old.weights_digest == new.weights_digest
                if (was, name) in said or same or (before and after and _equal(before, after)):
                    continue
                said.add((was, name))
                renamed = was if before is not None and name and was != name else ""
                yield ParameterChange(name or was, _rms(before), _rms(after), renamed, _holder(after, old))


def _names(match: Match) -> dict[str, str]:
    """Return the names that parameters had before by those that they have now, where their sites are matched.

    "" for one of a site that was not there.
    """
    found: dict[str, str] = {}
    for pair in match.pairs:
        own = pair.after.parameters if pair.after is not None else ()
        if pair.before is None:
            found |= dict.fromkeys(own, "")
        elif len(own) == len(pair.before.parameters):
            found |= dict(zip(own, pair.before.parameters, strict=True))
    return found


def _equal(before: Parameter, after: Parameter) -> bool:
    """Return whether the values have equal moments: to the bit, or of another type within its rounding."""
    if before.shape != after.shape:
        return False
    old, new = before.value, after.value
    if before.dtype == after.dtype:
        # A file keeps 24 bits of the samples of a training. As text, since NaN does not equal itself.
        mine, yours = (
            [repr(float(np.float32(each))) for each in (one.mean, one.std, one.min, one.max, one.nonfinite_count)]
            for one in (old, new)
        )
        return mine == yours
    rounding = 2.0 ** -(7 if "bfloat16" in (before.dtype, after.dtype) else 10)
    return math.isclose(old.rms, new.rms, rel_tol=rounding) and old.nonfinite_count == new.nonfinite_count


def _holder(parameter: Parameter | None, before: NetworkProfile) -> str:
    """Return the parameter of the first network that had these values; constant ones say nothing."""
    if parameter is None or not parameter.value.std > 0:
        return ""
    return next((one.name for one in before.parameters if one.dtype == parameter.dtype and _equal(one, parameter)), "")


def _rms(parameter: Parameter | None) -> float:
    return math.nan if parameter is None else parameter.value.rms
