"""`Judge`: holds the series of a training, and says which alarms a sample or a step raises by the table of rules.

A baseline is made of the first `WARM_UP` samples and then stays, unless a rule holds a number against the last ones. A
rule raises an alarm at a place once its number is beyond the limit for `lasting` samples in a row, and again only after
it was well inside for two.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from propscope.monitoring.cadence import WARM_UP
from propscope.monitoring.optimizer_steps import JUMP
from propscope.monitoring.readings import OptimizerFound, Readings, readings_of
from propscope.monitoring.rules import (
    MOMENT_LEFT,
    OUTSIDE_CHANGE,
    RECENT,
    RULES,
    STEP_RULES,
    UPDATE_PER_GRADIENT,
    UPDATE_PER_RATE,
    Limit,
    Rule,
)
from propscope.records.monitored import Alarm
from propscope.records.network import NetworkProfile
from propscope.records.numerals import counted

# During the first steps of a run the learning rate is followed wherever it goes.
_FIRST_STEPS = 5
# A place that raised an alarm is quiet again after so many samples below this reach.
_QUIET, _QUIET_SAMPLES = 0.7, 2
# `since` is the step from which on the reach was above this.
_BUILDS_UP = 0.5
# Losses are held against so many before, the fewest of them, but the last ones: a loss that rises step by step would
# hide itself.
_LOSSES, _FEWEST, _LAG = 50, 20, 10
# How far above their median a spike is: in robust standard deviations, as a share of what was gained since the first
# losses, and of the median itself, where nothing was gained, as in a GAN. Two steps in a row.
_DEVIATIONS, _LOST, _SHARE = 5.0, 0.3, 0.4
# The same share where the loss is high, which only asks where that comes from.
_HIGH_LOST = 0.2
# The next step is sampled where a loss is the largest of the last ones and so many deviations above their median, or a
# gradient is so many times the largest of the last ones. A batch is an outlier at the second factor.
_CURIOUS, _UNUSUAL, _OUTLIER = 3.0, 4.0, 10.0
# The median absolute deviation of a normal distribution, as a share of its standard deviation, of which nine tenths are
# below the second number.
_MAD, _NINE_TENTHS = 0.6745, 1.2816
# A loss scale raises an alarm where it was halved so often within so many steps.
_HALVINGS, _SCALES = 4, 50
_RECENT = {limit.quantity for rule in RULES for limit in rule.limits if limit.recent}


@dataclass(slots=True)
class _Track:
    """What one rule saw at one place: since when it builds up, and for how many samples it was beyond its limit."""

    since: int | None = None
    beyond: int = 0
    raised: bool = False
    quiet: int = 0

    def see(self, step: int, reach: float, lasting: int) -> bool:
        """Add a number; return whether it raises an alarm."""
        self.since = (step if self.since is None else self.since) if reach > _BUILDS_UP else None
        self.beyond = self.beyond + 1 if reach > 1 else 0
        self.quiet = self.quiet + 1 if reach < _QUIET else 0
        if self.raised and self.quiet >= _QUIET_SAMPLES:
            self.raised = False
        if self.raised or self.beyond < lasting:
            return False
        self.raised = True
        return True


class Judge:
    """Holds the baselines and what the rules saw; `sample` and `step` return the alarms that their numbers raise.

    `suspicious`: whether the last sample or step passed a limit, even if not yet for as long as the rule asks.
    `curious`: whether the last step was unlike those before it, so that a sample of the next one might say more.
    """

    def __init__(self) -> None:
        self.suspicious = self.curious = False
        # The first numbers of each quantity at each place, and the last ones where a rule asks for those.
        self._warm: dict[str, dict[str, list[float]]] = {}
        self._last: dict[str, dict[str, list[float]]] = {}
        self._optimizer = OptimizerFound()
        self._tracks: dict[str, dict[str, _Track]] = {}
        self._losses: deque[float] = deque(maxlen=_LOSSES + _LAG)
        self._first_losses: list[float] = []
        self._norms: deque[float] = deque(maxlen=_LOSSES + _LAG)
        self._scales: deque[float] = deque(maxlen=_SCALES)
        # How many steps in a row had a high loss, and the reach of the last one as a spike.
        self._high, self._spike = 0, 0.0
        # The learning rate without its jumps, the last one itself, the largest one, and the number of steps.
        self._schedule, self._rate, self._largest_rate, self._steps = 1.0, 0.0, 0.0, 0
        # What the steps since the last sample leave of Adam's mean of the squared gradient.
        self._moments_left = 1.0
        # Whether the last step's rate rose at once above all before.
        self._rate_rose = False

    def sample(self, step: int, profile: NetworkProfile) -> list[Alarm]:
        """Judge a sample."""
        readings = dict(readings_of(profile))
        schedule, found, last = self._schedule, OptimizerFound.of(step, profile), self._optimizer
        readings[UPDATE_PER_RATE] = {
            name: ratio / schedule for name, ratio in readings["update_ratio"].items() if schedule > 0
        }
        readings[OUTSIDE_CHANGE] = found.outside_change(last)
        readings[MOMENT_LEFT], self._moments_left = found.moment_left(last, self._moments_left), 1.0
        readings[UPDATE_PER_GRADIENT] = found.update_per_gradient(schedule, readings["step_gradient_norm"])
        self._optimizer = found
        self.suspicious = self.curious = False
        wrong: set[tuple[str, str]] = set()
        alarms = [alarm for rule in RULES if (alarm := self._judged(rule, step, readings, wrong)) is not None]
        for quantity, numbers in readings.items():
            for place, value in numbers.items():
                if math.isfinite(value) and (quantity, place) not in wrong:
                    self._keep(quantity, place, value)
        return alarms

    def _keep(self, quantity: str, place: str, value: float) -> None:
        warm = self._warm.setdefault(quantity, {}).setdefault(place, [])
        if len(warm) < WARM_UP:
            warm.append(value)
        if quantity in _RECENT:
            last = self._last.setdefault(quantity, {}).setdefault(place, [])
            last.append(value)
            del last[:-RECENT]

    def _judges(self, rule: Rule) -> bool:
        """Return whether a rule judges the sample of the last step."""
        if rule.at == "jump":
            return self._high > 1 or (self._rate_rose and rule.of == "parameter")
        return rule.at == "always" or bool(self._scales)

    def _judged(self, rule: Rule, step: int, readings: Readings, wrong: set[tuple[str, str]]) -> Alarm | None:
        raised: list[tuple[float, str]] = []
        places = readings[rule.limits[0].quantity]
        reaches = dict.fromkeys(places, 0.0)
        if self._judges(rule):
            reaches = {place: min(self._reach(limit, place, readings) for limit in rule.limits) for place in places}
        # A rule that names where something comes from says so once: what follows shows it too.
        follows = rule.names == "first" and any(track.raised for track in self._tracks.get(rule.kind, {}).values())
        few = sum(reach > 1 for reach in reaches.values()) < min(rule.least, len(places))
        for place, reach in reaches.items():
            track = self._track(rule.kind, place)
            if few or (rule.unless and self._track(rule.unless, place).raised):
                reach = min(reach, 1.0)
            if reach > 1:
                wrong.update((limit.quantity, place) for limit in rule.limits)
                self.suspicious |= not track.raised
            if track.see(step, reach, rule.lasting) and not follows:
                raised.append((reach, place))
        if not raised:
            return None
        # Among equals, the first in execution order.
        chosen = {"worst": max(raised, key=lambda pair: pair[0]), "first": raised[0], "last": raised[-1]}
        place = chosen[rule.names][1]
        limit = rule.limits[0]
        value, baseline = readings[limit.quantity][place], limit.baseline(self._series(limit, place))
        return Alarm(
            step=step,
            since=min(self._track(rule.kind, each).since or 0 for _, each in raised),
            kind=rule.kind,
            site=place if rule.of == "site" else "",
            parameter=place if rule.of == "parameter" else "",
            value=value,
            baseline=baseline,
            severity=rule.severity,
            message=rule.message.format(
                place=place,
                value=f"{value:.3g}",
                baseline=f"{baseline:.3g}",
                times=f"{value / baseline:.0f}" if baseline else "many",
                others=_others(len(raised) - 1, f"{rule.of}"),
            ),
        )

    def _reach(self, limit: Limit, place: str, readings: Readings) -> float:
        value, series = readings[limit.quantity].get(place), self._series(limit, place)
        return 0.0 if value is None or len(series) < limit.ready else limit.reach(value, limit.baseline(series))

    def _series(self, limit: Limit, place: str) -> list[float]:
        return (self._last if limit.recent else self._warm).get(limit.quantity, {}).get(place, [])

    def _track(self, kind: str, place: str) -> _Track:
        return self._tracks.setdefault(kind, {}).setdefault(place, _Track())

    def step(self, row: Mapping[str, Any], gradients: Mapping[str, float], moments_left: float = 1.0) -> list[Alarm]:
        """Judge what is seen of every step: a row of `STEP_FIELDS`, and the norm of each gradient by its parameter.

        `moments_left`: the share that the step leaves of Adam's mean of the squared gradient, at least.
        """
        self.suspicious = self.curious = False
        self._moments_left *= moments_left
        self._follow(row["learning_rate"])
        stepped = {} if row["skipped"] else gradients
        number = row["number"]
        found = [
            *self._loss(row),
            *self.gradients(number, stepped),
            self._outlier(number, row["gradient_norm"]),
            self._no_gradient(row),
            self._scale(number, row["loss_scale"]),
        ]
        return [alarm for alarm in found if alarm is not None]

    def _follow(self, rate: float) -> None:
        """Follow the learning rate, but not where it jumps up."""
        if not rate > 0:
            return
        self._steps += 1
        change = rate / self._rate if self._rate > 0 else math.inf
        if self._steps <= _FIRST_STEPS:
            self._schedule = rate
        elif change <= JUMP:
            self._schedule *= change
        self._rate_rose = self._steps > _FIRST_STEPS and rate > JUMP * self._largest_rate
        self._rate, self._largest_rate = rate, max(self._largest_rate, rate)

    def _raised(
        self,
        step: int,
        kind: str,
        reach: float,
        value: float,
        baseline: float = math.nan,
        *,
        broken: list[str] | None = None,
    ) -> Alarm | None:
        """Judge a step's number by a rule of steps."""
        rule, track = STEP_RULES[kind], self._track(kind, "")
        self.suspicious |= reach > 1 and not track.raised
        if not track.see(step, reach, rule.lasting) or track.since is None:
            return None
        place = broken[0] if broken else ""
        text = rule.message.format(
            value=f"{value:.4g}",
            baseline=f"{baseline:.4g}",
            place=place,
            others=_others(len(broken or "_") - 1, "parameter"),
        )
        return Alarm(step, track.since, kind, "", place, value, baseline, rule.severity, text)

    def _loss(self, row: Mapping[str, Any]) -> list[Alarm | None]:
        loss, number = row["loss"], row["number"]
        if math.isnan(loss) and not row["loss_given"]:
            return []
        if not math.isfinite(loss):
            self._high += 1
            return [self._raised(number, "non-finite loss", math.inf, loss)]
        self._raised(number, "non-finite loss", 0.0, loss)
        middle, high, self._spike = math.nan, False, 0.0
        before = list(self._losses)[:-_LAG]
        if len(before) >= _FEWEST:
            middle, deviation = _spread(before)
            rise, gained = loss - middle, abs(_middle(self._first_losses) - middle)
            self._spike = rise / max(_DEVIATIONS * deviation, _LOST * gained, _SHARE * abs(middle), 1e-12)
            high = rise > max(_DEVIATIONS * deviation, _HIGH_LOST * gained, _SHARE * abs(middle))
            self.curious |= rise > _CURIOUS * deviation and loss > max(self._losses)
        self._high = self._high + 1 if high else 0
        if len(self._first_losses) < WARM_UP:
            self._first_losses.append(loss)
        self._losses.append(loss)
        return [self._raised(number, "loss spike", self._spike, loss, middle)]

    def gradients(
        self, step: int, gradients: Mapping[str, float], values: Mapping[str, float] | None = None
    ) -> list[Alarm]:
        """Judge the norms of gradients that an optimizer steps with, and of the values that it changes, if known.

        A step that it left out did no harm, and has none. Where a value is not finite the gradients of all are not, and
        behind such a gradient the values are not either.
        """
        seen = {} if values is None or self._track("non-finite gradient", "").raised else values
        found = []
        for kind, norms in (("non-finite weight", seen), ("non-finite gradient", gradients)):
            broken = [name for name, norm in norms.items() if not math.isfinite(norm)]
            found.append(self._raised(step, kind, math.inf if broken else 0.0, math.inf, broken=broken))
        return [alarm for alarm in found if alarm is not None]

    def _outlier(self, step: int, norm: float) -> Alarm | None:
        if not math.isfinite(norm):
            return None
        largest = max(self._norms, default=0.0)
        times = norm / largest if len(self._norms) >= _FEWEST and largest > 0 else 0.0
        self.curious |= times > _UNUSUAL
        self._norms.append(norm)
        return self._raised(step, "outlier", min(times / _OUTLIER, self._spike), norm, largest)

    def _no_gradient(self, row: Mapping[str, Any]) -> Alarm | None:
        gone = row["gradient_norm"] == 0 and math.isfinite(row["loss"]) and row["loss"] != 0
        return self._raised(row["number"], "zero gradient", math.inf if gone else 0.0, row["loss"])

    def _scale(self, step: int, scale: float) -> Alarm | None:
        if not math.isfinite(scale) or scale <= 0:
            return None
        self._scales.append(scale)
        largest = max(self._scales)
        return self._raised(step, "loss scale", largest / scale / 2 ** (_HALVINGS - 0.5), scale, largest)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as JSON has it."""
        return {
            "warm": self._warm,
            "last": self._last,
            "optimizer": asdict(self._optimizer),
            "tracks": {kind: {at: asdict(one) for at, one in by.items()} for kind, by in self._tracks.items()},
            "losses": list(self._losses),
            "first_losses": self._first_losses,
            "norms": list(self._norms),
            "scales": list(self._scales),
            "high": [self._high, self._spike],
            "moments_left": self._moments_left,
            "rate": [self._schedule, self._rate, self._largest_rate, self._steps],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._warm, self._last = (
            {quantity: {at: [*map(float, one)] for at, one in by.items()} for quantity, by in state[name].items()}
            for name in ("warm", "last")
        )
        self._optimizer = OptimizerFound.restored(state["optimizer"])
        self._tracks = {kind: {at: _Track(**one) for at, one in by.items()} for kind, by in state["tracks"].items()}
        self._losses, self._norms = (
            deque(map(float, state[name]), maxlen=_LOSSES + _LAG) for name in ("losses", "norms")
        )
        self._first_losses = [*map(float, state["first_losses"])]
        self._scales = deque(map(float, state["scales"]), maxlen=_SCALES)
        self._moments_left = float(state["moments_left"])
        high, spike = state["high"]
        self._high, self._spike = int(high), float(spike)
        schedule, rate, largest, steps = state["rate"]
        self._schedule, self._rate, self._largest_rate = float(schedule), float(rate), float(largest)
        self._steps = int(steps)


def _spread(values: Collection[float]) -> tuple[float, float]:
    """Return the median, and the standard deviation of a normal distribution that spreads as wide, or reaches as high.

    The losses of small batches reach much farther up than down.
    """
    ordered = sorted(values)
    middle, high = ordered[len(ordered) // 2], ordered[9 * len(ordered) // 10]
    return middle, max(_middle([abs(one - middle) for one in ordered]) / _MAD, (high - middle) / _NINE_TENTHS)


def _middle(values: Collection[float]) -> float:
    """Return the upper median, in a tenth of the time of `statistics.median`: every step asks."""
    return sorted(values)[len(values) // 2]


def _others(count: int, of: str) -> str:
    return f" (and at {counted(count, f'other {of}')})" if count else ""
