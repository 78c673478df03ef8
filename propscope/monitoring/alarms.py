"""The rules of a training: pure functions of a number and its baseline, and `Judge`, which holds the series.

A baseline is made of the first `WARM_UP` samples and then stays. A rule raises an alarm at a place once its number is
beyond the limit for `lasting` samples in a row, and again only after it was well inside for two. There is no rule for
the gradient's norm against its own past, which jumps in healthy runs too, nor for what only an initialization must
meet.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from propscope.monitoring.cadence import WARM_UP
from propscope.monitoring.optimizer_steps import JUMP
from propscope.monitoring.readings import Readings, readings_of
from propscope.records.monitored import Alarm, AlarmSeverity
from propscope.records.network import NetworkProfile
from propscope.records.numerals import counted

# How large a number is as a multiple of its limit, from the number and its baseline.
Reach = Callable[[float, float], float]
# The update ratio over the learning rate, where only the changes that a schedule makes step by step count: neither a
# long warm-up of the rate nor a rate that jumps back to what it was is a fault.
UPDATE_PER_RATE = "update_ratio / learning_rate"
# During the first steps of a run the learning rate is followed wherever it goes.
_FIRST_STEPS = 5
# A place that raised an alarm is quiet again after so many samples below this reach.
_QUIET, _QUIET_SAMPLES = 0.7, 2
# `since` is the step from which on the reach was above this.
_BUILDS_UP = 0.5
# Losses that a spike is held against, the fewest of them, and how far above their median it is: in robust standard
# deviations, and as a share of what was gained since the first ones. Two steps in a row.
_LOSSES, _FEWEST, _DEVIATIONS, _LOST = 50, 20, 8.0, 0.3
# The median absolute deviation of a normal distribution, as a share of its standard deviation.
_MAD = 0.6745
# What is left of the spread between samples where they collapsed. A language model that has learned the frequencies of
# its tokens, and nothing else so far, has twice as much left.
_ALIKE = 0.03
# A loss scale raises an alarm where it was halved so often within so many steps.
_HALVINGS, _SCALES = 4, 50


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that is held against its baseline; `ready`: the number of samples that the baseline needs."""

    quantity: str
    baseline: Callable[[Sequence[float]], float]
    reach: Reach
    ready: int = 3


@dataclass(frozen=True, slots=True)
class Rule:
    """What raises an alarm: every one of the `limits` is passed, for `lasting` samples in a row.

    `message`: with {place}, {value}, {baseline}, {times} (value over baseline) and {others}, further places.
    """

    kind: str
    of: Literal["site", "parameter"]
    limits: tuple[Limit, ...]
    severity: AlarmSeverity
    message: str
    lasting: int = 1


def _over(limit: float, value: float) -> float:
    return value / limit if limit > 0 else math.inf if value > 0 else 0.0


def _larger_update(value: float, baseline: float) -> float:
    # Updates below a thousandth of the weights harm nothing, whatever they were before.
    return _over(max(10 * baseline, 1e-3), value)


def _larger_logit(value: float, baseline: float) -> float:
    return min(value / 30, _over(4 * max(baseline, 0.0), value))


def _smaller_entropy(value: float, baseline: float) -> float:
    # From less than half a nat, a fall to a quarter happens by chance.
    return 0.0 if baseline < 0.5 else _over(max(value, 0.0), baseline / 4)


def _more_dead(value: float, baseline: float) -> float:
    return (value - baseline) / 0.1


def _lower_rank(value: float, baseline: float) -> float:
    return _over(max(value - 1, 0.0), _ALIKE * (baseline - 1))


def _higher_cosine(value: float, baseline: float) -> float:
    return _over(max(1 - value, 0.0), _ALIKE * (1 - baseline))


def _appeared(value: float, baseline: float) -> float:
    return math.inf if value > 0 and baseline == 0 else 0.0


def _vanished(value: float, baseline: float) -> float:
    return math.inf if value == 0 and baseline > 0 else 0.0


def _first_or_median(choose: Callable[..., float]) -> Callable[[Sequence[float]], float]:
    return lambda series: choose(series[0], statistics.median(series))


RULES = (
    Rule(
        "large update",
        "parameter",
        (
            Limit("update_ratio", statistics.median, _larger_update),
            Limit(UPDATE_PER_RATE, statistics.median, lambda value, baseline: _over(10 * baseline, value)),
        ),
        "broken",
        "the optimizer changed {place} by {value} of its norm in one step, {times} times the usual {baseline}"
        "{others}; the learning rate is too large, or one batch is unlike the others. Lower the learning rate, clip "
        "the gradient, and go on from a checkpoint before this step",
    ),
    Rule(
        "attention logits",
        "site",
        (Limit("largest_logit", statistics.median, _larger_logit),),
        "broken",
        "the largest attention logit at {place} is {value}, against {baseline} before{others}; the softmax passes "
        "hardly any gradient then. Lower the learning rate, or normalize queries and keys",
    ),
    Rule(
        "attention entropy",
        "site",
        (Limit("attention_entropy", statistics.median, _smaller_entropy, ready=WARM_UP),),
        "strained",
        "the entropy of the attention at {place} fell to {value} nats from {baseline}{others}: each query looks at few "
        "keys. Lower the learning rate, or normalize queries and keys",
        lasting=2,
    ),
    Rule(
        "dead units",
        "site",
        (Limit("dead_share", max, _more_dead, ready=WARM_UP),),
        "strained",
        "a share of {value} of the units at {place} is flat on every sample, at most {baseline} before{others}; they "
        "learn nothing any more. Lower the learning rate, or use an activation with a slope on both sides",
        lasting=2,
    ),
    Rule(
        "collapse",
        "site",
        (
            Limit("effective_rank", _first_or_median(max), _lower_rank, ready=1),
            Limit("mean_cosine", _first_or_median(min), _higher_cosine, ready=1),
        ),
        "broken",
        "the samples at {place} became alike: their effective rank fell to {value} from {baseline}{others}. Look at "
        "what in the loss keeps outputs apart, and at the learning rate",
        lasting=2,
    ),
    Rule(
        "non-finite values",
        "site",
        (Limit("nonfinite_values", min, _appeared, ready=1),),
        "broken",
        "{value} values at {place} are NaN or infinite{others}. Lower the learning rate, or compute this part in "
        "float32",
    ),
    Rule(
        "lost gradient",
        "parameter",
        (Limit("step_gradient_norm", min, _vanished, ready=WARM_UP),),
        "strained",
        "no gradient reaches {place} any more; its norm was at least {baseline} before{others}. Look for units that "
        "died, and for what detaches it from the loss",
        lasting=3,
    ),
)


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
    """

    def __init__(self) -> None:
        self.suspicious = False
        self._warm: dict[str, dict[str, list[float]]] = {}
        self._tracks: dict[str, dict[str, _Track]] = {}
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self._first_losses: list[float] = []
        self._scales: deque[float] = deque(maxlen=_SCALES)
        # The learning rate without its jumps, the last one itself, and the number of steps.
        self._schedule, self._rate, self._steps = 1.0, 0.0, 0

    def sample(self, step: int, profile: NetworkProfile) -> list[Alarm]:
        """Judge a sample."""
        readings = dict(readings_of(profile))
        schedule = self._schedule
        readings[UPDATE_PER_RATE] = {
            name: ratio / schedule for name, ratio in readings["update_ratio"].items() if schedule > 0
        }
        self.suspicious = False
        wrong: set[tuple[str, str]] = set()
        alarms = [alarm for rule in RULES if (alarm := self._judged(rule, step, readings, wrong)) is not None]
        for quantity, numbers in readings.items():
            for place, value in numbers.items():
                warm = self._warm.setdefault(quantity, {}).setdefault(place, [])
                if len(warm) < WARM_UP and math.isfinite(value) and (quantity, place) not in wrong:
                    warm.append(value)
        return alarms

    def _judged(self, rule: Rule, step: int, readings: Readings, wrong: set[tuple[str, str]]) -> Alarm | None:
        raised: list[tuple[float, str]] = []
        for place in readings[rule.limits[0].quantity]:
            reach = min(self._reach(limit, place, readings) for limit in rule.limits)
            track = self._track(rule.kind, place)
            if reach > 1:
                wrong.update((limit.quantity, place) for limit in rule.limits)
                self.suspicious |= not track.raised
            if track.see(step, reach, rule.lasting):
                raised.append((reach, place))
        if not raised:
            return None
        # Among equals, the first in execution order.
        place = max(raised, key=lambda pair: pair[0])[1]
        limit = rule.limits[0]
        value, warm = readings[limit.quantity][place], self._warm[limit.quantity][place]
        baseline = limit.baseline(warm)
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
        value = readings[limit.quantity].get(place)
        warm = self._warm.get(limit.quantity, {}).get(place, [])
        if value is None or len(warm) < limit.ready:
            return 0.0
        return limit.reach(value, limit.baseline(warm))

    def _track(self, kind: str, place: str) -> _Track:
        return self._tracks.setdefault(kind, {}).setdefault(place, _Track())

    def step(self, row: Mapping[str, Any], gradients: Mapping[str, float]) -> list[Alarm]:
        """Judge what is seen of every step: a row of `STEP_FIELDS`, and the norm of each gradient by its parameter."""
        self.suspicious = False
        self._follow(row["learning_rate"])
        stepped = {} if row["skipped"] else gradients
        found = [self._loss(row), self.gradient(row["number"], stepped), self._no_gradient(row), self._scale(row)]
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
        self._rate = rate

    def _raised(self, step: int, kind: str, reach: float, lasting: int = 1) -> int | None:
        """Return since when a step's number is beyond its limit, where that raises an alarm."""
        track = self._track(kind, "")
        self.suspicious |= reach > 1 and not track.raised
        return track.since if track.see(step, reach, lasting) else None

    def _loss(self, row: Mapping[str, Any]) -> Alarm | None:
        loss = row["loss"]
        if math.isnan(loss) and not row["loss_given"]:
            return None
        if not math.isfinite(loss):
            since = self._raised(row["number"], "non-finite loss", math.inf)
            text = (
                "the loss is not finite. Look at the first alarm about a gradient or a site, and go on from before it"
            )
            return _of_step(row["number"], since, "non-finite loss", loss, math.nan, "broken", text)
        self._track("non-finite loss", "").see(row["number"], 0.0, 1)
        reach, middle = 0.0, math.nan
        if len(self._losses) >= _FEWEST:
            middle = _middle(self._losses)
            deviation = _middle([abs(one - middle) for one in self._losses]) / _MAD
            gained = abs(_middle(self._first_losses) - middle)
            reach = (loss - middle) / max(_DEVIATIONS * deviation, _LOST * gained, 1e-12)
        since = self._raised(row["number"], "loss spike", reach, lasting=2)
        if len(self._first_losses) < WARM_UP:
            self._first_losses.append(loss)
        self._losses.append(loss)
        text = (
            f"the loss rose to {loss:.4g} from {middle:.4g}, for two steps. Look at what changed before: the data, the "
            "learning rate"
        )
        return _of_step(row["number"], since, "loss spike", loss, middle, "strained", text)

    def gradient(self, step: int, gradients: Mapping[str, float]) -> Alarm | None:
        """Judge the gradients that an optimizer steps with; a step that it left out did no harm, and has none."""
        broken = [name for name, norm in gradients.items() if not math.isfinite(norm)]
        since = self._raised(step, "non-finite gradient", math.inf if broken else 0.0)
        if since is None:
            return None
        others = _others(len(broken) - 1, "parameter")
        text = (
            f"the gradient of {broken[0]} is not finite{others}, and the optimizer steps with it. Leave such steps "
            "out, or look for a division or a logarithm of zero"
        )
        return _of_step(step, since, "non-finite gradient", math.inf, math.nan, "broken", text, parameter=broken[0])

    def _no_gradient(self, row: Mapping[str, Any]) -> Alarm | None:
        gone = row["gradient_norm"] == 0 and math.isfinite(row["loss"]) and row["loss"] != 0
        since = self._raised(row["number"], "zero gradient", math.inf if gone else 0.0, lasting=2)
        text = (
            f"all gradients are zero, while the loss is {row['loss']:.4g}. Look for what detaches the loss, and for "
            "dead units"
        )
        return _of_step(row["number"], since, "zero gradient", 0.0, math.nan, "broken", text)

    def _scale(self, row: Mapping[str, Any]) -> Alarm | None:
        scale = row["loss_scale"]
        if not math.isfinite(scale) or scale <= 0:
            return None
        self._scales.append(scale)
        largest = max(self._scales)
        since = self._raised(row["number"], "loss scale", largest / scale / 2 ** (_HALVINGS - 0.5))
        text = (
            f"the loss scale fell to {scale:g} from {largest:g}: gradients overflow again and again. Look for the site "
            "with the largest gradient, or compute it in float32 or bfloat16"
        )
        return _of_step(row["number"], since, "loss scale", scale, largest, "strained", text)

    def state(self) -> dict[str, Any]:
        """Return what a resumed run goes on from, as JSON has it."""
        return {
            "warm": self._warm,
            "tracks": {kind: {at: asdict(one) for at, one in by.items()} for kind, by in self._tracks.items()},
            "losses": list(self._losses),
            "first_losses": self._first_losses,
            "scales": list(self._scales),
            "rate": [self._schedule, self._rate, self._steps],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self._warm = {
            quantity: {at: [*map(float, one)] for at, one in by.items()} for quantity, by in state["warm"].items()
        }
        self._tracks = {kind: {at: _Track(**one) for at, one in by.items()} for kind, by in state["tracks"].items()}
        self._losses = deque(map(float, state["losses"]), maxlen=_LOSSES)
        self._first_losses = [*map(float, state["first_losses"])]
        self._scales = deque(map(float, state["scales"]), maxlen=_SCALES)
        schedule, rate, steps = state["rate"]
        self._schedule, self._rate, self._steps = float(schedule), float(rate), int(steps)


def _middle(values: Collection[float]) -> float:
    """Return the upper median, in a tenth of the time of `statistics.median`: every step asks."""
    return sorted(values)[len(values) // 2]


def _of_step(
    step: int,
    since: int | None,
    kind: str,
    value: float,
    baseline: float,
    severity: AlarmSeverity,
    message: str,
    *,
    parameter: str = "",
) -> Alarm | None:
    if since is None:
        return None
    return Alarm(step, since, kind, "", parameter, value, baseline, severity, message)


def _others(count: int, of: str) -> str:
    return f" (and at {counted(count, f'other {of}')})" if count else ""
