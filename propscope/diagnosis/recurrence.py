"""Recurrent layers over time: a state that grows, fades or saturates from step to step.

Over T steps a factor g per step becomes g^(T-1): the steps are as many layers with the same weights (Pascanu, Mikolov,
Bengio 2013), so that the limits are those of depth. A state that fades is another matter: what was read long ago is
forgotten, as the gates of torch's LSTM and GRU do by default, and what was read last is learned from. That is a note,
unless a single step forgets all but e^-3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence, module_of, succession
from propscope.records.finding import Finding, Kind, Remedy, Severity
from propscope.records.gains import is_norm
from propscope.records.network import NetworkProfile
from propscope.records.numerals import number, percent
from propscope.records.time_course import TimeCourse

# Slopes of the fitted lines are not exact: below a growth by e^3 in 100 steps, nothing is said of longer sequences.
_GROWS = limits.STRAINED / 100


@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with one course: the kind, how grave, and ln of the factor per step."""

    course: TimeCourse
    kind: Kind
    severity: Severity
    log: float

    @property
    def over_all(self) -> float:
        return self.log * max(self.course.length - 1, 1)


def over_time(evidence: Evidence) -> Iterator[Finding]:
    """Find recurrent modules that explode, vanish or saturate over their steps, one finding for each module."""
    first = evidence.members[0]
    faults: dict[str, _Fault] = {}
    for course in first.time_courses:
        if not course.weights and _is_held(first, course):
            continue
        fault = _fault(evidence, course)
        known = faults.get(course.module)
        if fault is not None and (known is None or _gravity(fault) > _gravity(known)):
            faults[course.module] = fault
    for fault in faults.values():
        yield _finding(first, fault)


def _is_held(profile: NetworkProfile, course: TimeCourse) -> bool:
    """Return whether a norm runs in every step, as in layers that share their weights: there, sizes do not add up."""
    last = f"#{course.length - 1}"
    return any(is_norm(site) and site.name.endswith(last) for site in profile.sites)


def _gravity(fault: _Fault) -> tuple[int, float]:
    return ("note", "strained", "broken").index(fault.severity), abs(fault.over_all)


def _fault(evidence: Evidence, course: TimeCourse) -> _Fault | None:
    trained = evidence.stage == "trained"
    # Of cells called one by one only the gradient at each step is known: it falls by what a step passes on.
    passed = course.backward_gain.gain if math.isnan(course.step_gain) else course.step_gain
    growth, fading = _growth(evidence.members[0], course), _log(passed)
    over_all = growth * (course.length - 1)
    if growth > _GROWS and over_all > limits.STRAINED:
        grave: Severity = "broken" if over_all > limits.EXPLODED else "strained"
        return _Fault(course, "exploding", "note" if trained else grave, growth)
    if not trained and _is_saturated(evidence.members[0], course):
        return _Fault(course, "saturated", "strained", 0.0 if math.isnan(fading) else fading)
    if fading < -limits.STRAINED:
        return _Fault(course, "vanishing", "note" if trained else "strained", fading)
    if fading * (course.length - 1) < -limits.VANISHED:
        return _Fault(course, "vanishing", "note", fading)
    return None


def _growth(profile: NetworkProfile, course: TimeCourse) -> float:
    """Return ln of the largest factor per step that is known, of the gradient or of an unbounded state."""
    gains = [course.step_gain, course.backward_gain.gain]
    if _is_unbounded(profile, course):
        gains.append(course.forward_gain.gain)
    return max((log for gain in gains if not math.isnan(log := _log(gain))), default=0.0)


def _log(gain: float) -> float:
    if math.isnan(gain) or gain == math.inf:
        return gain
    return math.log(gain) if gain > 0 else -math.inf


def _is_unbounded(profile: NetworkProfile, course: TimeCourse) -> bool:
    """Return whether the state is that of a rectifier, which is zero for about half of its units."""
    seen = [site.forward for site in profile.sites if module_of(site.name) == course.module and site.forward]
    return course.cell is None and any(summary.zero_fraction > 0.2 for summary in seen)


def _is_saturated(profile: NetworkProfile, course: TimeCourse) -> bool:
    """Return whether most values of the gates are flat, because the weights or the biases are large."""
    shares = [share for gate in course.gates for share in gate.flat]
    if not shares or _is_unbounded(profile, course) or sum(shares) / len(shares) <= limits.SATURATED:
        return False
    return max(_gains(course)) > math.exp(limits.STRAINED / 3) or bool(_large_biases(profile, course))


def _large_biases(profile: NetworkProfile, course: TimeCourse) -> list[str]:
    """Return the names of a course's biases of rms 2 or more."""
    names = [_parameter(profile, course, kind) for kind in ("bias_ih", "bias_hh")]
    return [p.name for p in profile.parameters if p.name in names and p.value.rms >= limits.BIAS]


def _gains(course: TimeCourse) -> list[float]:
    return [gain for gate in course.weights for gain in (gate.input_gain, gate.recurrent_gain)] or [0.0]


def _finding(profile: NetworkProfile, fault: _Fault) -> Finding:
    course = fault.course
    each, steps = math.exp(min(fault.log, 700.0)), f"{course.length} steps"
    if fault.kind == "exploding":
        what = "the state or its gradient grows"
        message = f"{course.label}: {what} by a factor of {number(each, 3)} a step, {_total(fault)} over {steps}"
        cause, remedy = _too_large(profile, course, each)
    elif fault.kind == "saturated":
        share = sum(share for gate in course.gates for share in gate.flat) / sum(len(g.flat) for g in course.gates)
        message = f"{course.label}: {percent(share)} of the values of its gates lie where these are flat, over {steps}"
        cause, remedy = _too_large(profile, course, max(_gains(course)))
        if biases := _large_biases(profile, course):
            cause = f"{' and '.join(biases)} are too large"
            text = f"set {' and '.join(biases)} to zero"
            remedy = Remedy("repair", text, factors=dict.fromkeys(biases, 0.0))
    else:
        passed = f"{number(each, 2)} of the gradient, {_total(fault)} over {steps}" if each else "no gradient"
        message = f"{course.label}: one step passes on {passed}"
        cause, remedy = _fading(profile, course, fault)
    return Finding(
        kind=fault.kind,
        severity=fault.severity,
        direction="backward",
        sites=(course.module or profile.sites[0].name,),
        message=message,
        cause=cause,
        evidence={
            "factor": math.exp(min(max(fault.over_all, -700.0), 700.0)),
            "factor_per_step": each,
            "steps": float(course.length),
        },
        remedy=remedy,
        confidence=succession(1, 1),
        marks={course.module: f"over time x{number(each, 2)}"},
    )


def _total(fault: _Fault) -> str:
    return number(math.exp(fault.over_all), 2) if abs(fault.over_all) < 700 else f"e^{fault.over_all:.0f}"


def _too_large(profile: NetworkProfile, course: TimeCourse, each: float) -> tuple[str, Remedy]:
    """Return the cause and the remedy of weights that are too large: weight_hh, unless weight_ih is larger yet."""
    usual = math.sqrt(2) if _is_unbounded(profile, course) else 1.0
    recurrent = max((gate.recurrent_gain for gate in course.weights), default=math.nan)
    entering = max((gate.input_gain for gate in course.weights), default=math.nan)
    kind, gain = ("weight_hh", recurrent / usual) if not entering > recurrent else ("weight_ih", entering)
    gain = gain if gain > 1 else each
    name = _parameter(profile, course, kind)
    cause = f"{kind if course.weights else 'its weight'} is {number(gain, 2)} times too large"
    if kind == "weight_hh" and not math.isnan(recurrent):
        cause += f": it scales the state by {number(recurrent, 2)}, where {number(usual, 2)} is the most that keeps it"
    also = "; or draw it orthogonal (nn.init.orthogonal_)" if kind == "weight_hh" else ""
    text = f"multiply {name or f'the weight of {course.module}'} by {number(1 / gain, 2)}{also}"
    return cause, Remedy("scale", text, factors={name or course.module: 1 / gain})


def _fading(profile: NetworkProfile, course: TimeCourse, fault: _Fault) -> tuple[str, Remedy]:
    memory = -1 / fault.log if fault.log > -math.inf else 0.0
    cause = f"it remembers about {number(memory, 2)} steps (1 / ln of the factor)"
    gates = {gate.name: gate for gate in course.gates}
    if "f" in gates:
        mean = sum(gates["f"].mean) / max(len(gates["f"].mean), 1)
        cause += f": its forget gate is open by {number(mean, 2)}"
        return cause, Remedy("repair", "start the bias of the forget gate with 1 or more (Jozefowicz et al. 2015)")
    if "z" in gates:
        mean = sum(gates["z"].mean) / max(len(gates["z"].mean), 1)
        cause += f": its update gate keeps {number(mean, 2)} of the state"
        return cause, Remedy("repair", "start the bias of the update gate with 1 or more")
    recurrent = max((gate.recurrent_gain for gate in course.weights), default=math.nan)
    name = _parameter(profile, course, "weight_hh")
    if math.isnan(recurrent) or not name:
        return cause, Remedy("repair", f"draw the recurrent weight of {course.module} orthogonal (nn.init.orthogonal_)")
    cause += f": weight_hh scales the state by {number(recurrent, 2)}"
    factors = {name: 1 / recurrent} if 0 < recurrent < 1 else {}
    by = f", or multiply it by {number(1 / recurrent, 2)}" if factors else ""
    text = f"draw {name} orthogonal (nn.init.orthogonal_){by}; or use an LSTM or GRU"
    return cause, Remedy("scale", text, factors=factors)


def _parameter(profile: NetworkProfile, course: TimeCourse, kind: str) -> str:
    """Return the name of a course's weight of this kind, "" where it has another one."""
    known = {parameter.name for parameter in profile.parameters}
    suffixes = (f"{kind}_l{course.layer - 1}{'_reverse' * course.reverse}", kind)
    names = [f"{course.module}.{suffix}".lstrip(".") for suffix in suffixes]
    return next((name for name in names if name in known), "")
