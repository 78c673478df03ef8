"""The rules of a training: what each one looks at, what it is held against, and what the alarm says.

`RULES` judge samples, `STEP_RULES` every step. There is no rule for the gradient's norm against its own past alone,
which jumps in healthy runs too, nor for what only an initialization must meet, and no absolute limit without a
baseline beside it. `healthy` and docs/monitoring.md say how near healthy runs come to each limit, by benches/alarms.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from propscope.monitoring.cadence import WARM_UP
from propscope.records.monitored import AlarmSeverity

# How large a number is as a multiple of its limit, from the number and its baseline.
Reach = Callable[[float, float], float]
# The update ratio over the learning rate, where only the changes that a schedule makes step by step count: neither a
# long warm-up of the rate nor a rate that jumps back to what it was is a fault.
UPDATE_PER_RATE = "update_ratio / learning_rate"
# What a step changed, over the learning rate and the norm of the gradient.
UPDATE_PER_GRADIENT = "update_norm / learning_rate / step_gradient_norm"
# How much a parameter's norm changed since the last sample, as a share of it, beyond what the optimizer explains.
OUTSIDE_CHANGE = "outside_change"
# Adam's mean of the squared gradient, over what must be left of that of the last sample.
MOMENT_LEFT = "moment_left"
# So many of the last samples are held against, where the first ones say little: values and updates wander.
RECENT, _FEW = 10, 5
# What is left of the spread between samples where they collapsed. A language model that has learned the frequencies of
# its tokens, and nothing else so far, has 0.06 left.
_ALIKE = 0.045
# What is left of it where they are the same, but for rounding.
_SAME = 0.002


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that is held against its baseline; `ready`: the number of samples that the baseline needs.

    `recent`: whether the baseline is made of the last samples, and not of the first ones.
    """

    quantity: str
    baseline: Callable[[Sequence[float]], float]
    reach: Reach
    ready: int = 3
    recent: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """What raises an alarm in samples: every one of the `limits` is passed, for `lasting` samples in a row.

    `message`: with {place}, {value}, {baseline}, {times} (value over baseline) and {others}, further places. `names`:
    which of several places the alarm names, the worst one, or the first or last in execution order. `at`: when it
    judges at all: "always"; "jump", where the loss rose at once, or the learning rate at a parameter; "scaled", where
    the loss has a scale. `unless`: a rule that says the same, which goes before. `least`: how many places
    must be beyond the limit at once, or all where there are fewer. `when`, `where`: what docs/monitoring.md says of it.
    `healthy`: the most that healthy runs reach, as a share of the limit.
    """

    kind: str
    of: Literal["site", "parameter"]
    severity: AlarmSeverity
    limits: tuple[Limit, ...]
    message: str
    when: str
    where: str
    healthy: float
    lasting: int = 1
    names: Literal["worst", "first", "last"] = "worst"
    at: Literal["always", "jump", "scaled"] = "always"
    unless: str = ""
    least: int = 1


@dataclass(frozen=True, slots=True)
class StepRule:
    """What raises an alarm at a step, for `lasting` steps in a row; `Judge` computes the reach.

    `message`: with {value}, {baseline}, {place} and {others}. `when`, `healthy`: as in `Rule`.
    """

    kind: str
    severity: AlarmSeverity
    message: str
    when: str
    healthy: float
    lasting: int = 1


def _over(limit: float, value: float) -> float:
    return value / limit if limit > 0 else math.inf if value > 0 else 0.0


def above(times: float, *, least: float = 0.0) -> Reach:
    """Return the reach of a number that may be so many times its baseline, and anything below `least`."""
    return lambda value, baseline: _over(max(times * baseline, least), value) if baseline > 0 else 0.0


def below(share: float) -> Reach:
    """Return the reach of a number that may be this share of its baseline."""
    return lambda value, baseline: _over(value, share * baseline)


def beside(times: float) -> Reach:
    """Return the reach of a number that may be so many times its baseline, or as much smaller."""
    return lambda value, baseline: max(_over(times * baseline, value), _over(times * value, baseline))


def risen(by: float) -> Reach:
    """Return the reach of a number that may be so much larger than its baseline."""
    return lambda value, baseline: (value - baseline) / by


def _larger_logit(value: float, baseline: float) -> float:
    return min(value / 30, _over(4 * max(baseline, 0.0), value))


def _smaller_entropy(value: float, baseline: float) -> float:
    # From less than half a nat, a fall to a quarter happens by chance.
    return 0.0 if baseline < 0.5 else _over(max(value, 0.0), baseline / 4)


def lower_rank(left: float) -> Reach:
    """Return the reach of an effective rank of which this share must be left, beyond the 1 of equal samples."""
    return lambda value, baseline: _over(max(value - 1, 0.0), left * (baseline - 1))


def higher_cosine(left: float) -> Reach:
    """Return the reach of a mean cosine whose distance from 1 must keep this share."""
    return lambda value, baseline: _over(max(1 - value, 0.0), left * (1 - baseline))


def _appeared(value: float, baseline: float) -> float:
    return math.inf if value > 0 and baseline == 0 else 0.0


def _vanished(value: float, baseline: float) -> float:
    return math.inf if value == 0 and baseline > 0 else 0.0


def _usual(series: Sequence[float]) -> float:
    """Return the median, or a third of the largest where they differ by more."""
    return max(statistics.median(series), max(series) / 3)


def _latest(series: Sequence[float]) -> float:
    """Return the largest of the last few samples, since updates fall as a training goes on."""
    return max(series[-_FEW:])


def _none(series: Sequence[float]) -> float:
    return 0.0


def _all(series: Sequence[float]) -> float:
    return 1.0


def _first_or_median(choose: Callable[..., float]) -> Callable[[Sequence[float]], float]:
    return lambda series: choose(series[0], statistics.median(series))


# fmt: off
RULES = (
    Rule(
        "changed weights", "parameter", "broken",
        (Limit(OUTSIDE_CHANGE, _none, risen(0.1), ready=0),),
        "something other than the optimizer changed {place}: its norm by {value} of what it was{others}. Look for code "
        "that writes to parameters, and for a checkpoint of which a part was loaded",
        "the norm changed by a tenth of itself since the last sample, beyond 3 times what the optimizer's steps "
        "explain",
        "each parameter", 0.0,
    ),
    Rule(
        "large update", "parameter", "broken",
        (Limit("update_ratio", _usual, above(10, least=1e-3)), Limit(UPDATE_PER_RATE, _usual, above(10))),
        "the optimizer changed {place} by {value} of its norm in one step, {times} times the usual {baseline}{others}; "
        "the learning rate is too large, or one batch is unlike others. Lower the learning rate, clip the gradient, "
        "and go on from a checkpoint before this step",
        "`update_ratio` is above 10 times its median, and above 0.001, and not because a schedule raised the learning "
        "rate step by step",
        "each parameter of eight or more numbers", 0.43,
    ),
    Rule(
        "jump of updates", "parameter", "broken",
        (Limit("update_ratio", _latest, above(5, least=1e-3), ready=_FEW, recent=True),),
        "the optimizer changed {place} by {value} of its norm in one step, {times} times the most of the samples before"
        "{others}, and the loss or the learning rate rose at once. Look at the learning rate, at the state of the "
        "optimizer, and at this batch",
        "`update_ratio` is above 5 times that of each of the last five samples, and above 0.001, while the loss is "
        "high for two steps, or the learning rate rose at once above all before",
        "each parameter of eight or more numbers", 0.0, at="jump", unless="large update",
    ),
    Rule(
        "stalled updates", "parameter", "strained",
        (Limit(UPDATE_PER_RATE, statistics.median, below(1 / 30), ready=WARM_UP),
         Limit(UPDATE_PER_GRADIENT, statistics.median, below(1 / 30), ready=WARM_UP)),
        "the optimizer hardly changes {place} any more{others}: by {value} of its norm for each unit of the learning "
        "rate, against {baseline} before, and its gradient did not shrink as much. Look at the state of the optimizer",
        "`update_ratio` fell below a thirtieth of its median for the learning rate, and so did the update for the "
        "gradient, for two samples",
        "each parameter of eight or more numbers", 0.22, lasting=2,
    ),
    Rule(
        "optimizer state", "parameter", "broken",
        (Limit(MOMENT_LEFT, _all, below(0.5), ready=0),),
        "Adam's mean of the squared gradient of {place} is {value} of what must be left of it{others}, so its steps "
        "are too large now. Load the optimizer's state together with the model's",
        "the norm of Adam's second moment is below half of what `betas` leave of that of the last sample",
        "each parameter", 0.5,
    ),
    Rule(
        "jump of values", "site", "broken",
        (Limit("forward_rms", statistics.median, beside(4), ready=RECENT, recent=True),),
        "the values at {place} have an rms of {value}, against {baseline} before{others}, and the loss rose with it. "
        "Look at what enters there, and at what was done to the module",
        "the rms is above 4 times its median over the last ten samples, or below a quarter of it, while the loss is "
        "high for two steps; the first such site is named",
        "each site", 0.0, names="first", at="jump",
    ),
    Rule(
        "attention logits", "site", "broken",
        (Limit("largest_logit", statistics.median, _larger_logit),),
        "the largest attention logit at {place} is {value}, against {baseline} before{others}; the softmax passes "
        "hardly any gradient then. Lower the learning rate, or normalize queries and keys",
        "the largest logit is above 30 and above 4 times its median",
        "each attention", 0.25,
    ),
    Rule(
        "attention entropy", "site", "strained",
        (Limit("attention_entropy", statistics.median, _smaller_entropy, ready=WARM_UP),),
        "the entropy of the attention at {place} fell to {value} nats from {baseline}{others}: each query looks at few "
        "keys. Lower the learning rate, or normalize queries and keys",
        "the entropy is below a quarter of its median, for two samples",
        "each attention", 0.44, lasting=2,
    ),
    Rule(
        "dead units", "site", "strained",
        (Limit("dead_share", max, risen(0.1), ready=WARM_UP),),
        "a share of {value} of the units at {place} is flat on every sample, at most {baseline} before{others}; they "
        "learn nothing any more. Lower the learning rate, or use an activation with a slope on both sides",
        "the share of units that are flat on every sample is 0.1 above its maximum, for two samples",
        "each site with units", 0.0, lasting=2,
    ),
    Rule(
        "collapse", "site", "broken",
        (Limit("effective_rank", _first_or_median(max), lower_rank(_ALIKE), ready=1),
         Limit("mean_cosine", _first_or_median(min), higher_cosine(_ALIKE), ready=1)),
        "the samples at {place} became alike: their effective rank fell to {value} from {baseline}{others}. Look at "
        "what in the loss keeps outputs apart, and at the learning rate",
        "effective rank - 1 and 1 - mean cosine both fell below 4.5% of the first sample, or of the median, for two "
        "samples, at two sites or more",
        "the last three sites of four or more features", 0.28, lasting=2, least=2,
    ),
    Rule(
        "identical samples", "site", "broken",
        (Limit("rank_anywhere", _first_or_median(max), lower_rank(_SAME), ready=1),
         Limit("cosine_anywhere", _first_or_median(min), higher_cosine(_SAME), ready=1)),
        "all samples are the same at {place}: their effective rank fell to {value} from {baseline}{others}. Look at "
        "what makes the batches, and at what enters there",
        "both fell below 0.2%, for two samples; the first such site is named",
        "each site that is no activation", 0.03, lasting=2, names="first",
    ),
    Rule(
        "large input", "site", "strained",
        (Limit("input_rms", max, above(10), ready=WARM_UP),),
        "the input {place} has an rms of {value}, at most {baseline} before{others}. Look at how it is scaled",
        "the rms is above 10 times its maximum, for two samples",
        "each input of real numbers", 0.1, lasting=2,
    ),
    Rule(
        "small input", "site", "strained",
        (Limit("input_rms", min, below(0.1), ready=WARM_UP),),
        "the input {place} has an rms of {value}, at least {baseline} before{others}. Look at how it is scaled",
        "the rms is below a tenth of its minimum, for two samples",
        "each input of real numbers", 0.1, lasting=2,
    ),
    Rule(
        "non-finite values", "site", "broken",
        (Limit("nonfinite_values", min, _appeared, ready=1),),
        "{value} values at {place} are NaN or infinite{others}. Lower the learning rate, or compute this part in "
        "float32",
        "NaN or Inf where there was none",
        "each site", 0.0,
    ),
    Rule(
        "lost gradient", "parameter", "strained",
        (Limit("step_gradient_norm", min, _vanished, ready=WARM_UP),),
        "no gradient reaches {place} any more; its norm was at least {baseline} before{others}. Look for units that "
        "died, and for what detaches it from the loss",
        "the gradient is exactly zero, for three samples, and was not in the first ten; the last such parameter is "
        "named",
        "each parameter", 0.0, lasting=3, names="last",
    ),
    Rule(
        "underflow", "parameter", "strained",
        (Limit("gradient_zeros", max, risen(0.3), ready=WARM_UP),),
        "a share of {value} of the gradient of {place} is zero, at most {baseline} before{others}: it underflows. "
        "Raise the scale of the loss, or compute this part in bfloat16 or float32",
        "the share of zeros in the gradient is 0.3 above its maximum, for two samples, and the loss has a scale",
        "each parameter", 0.0, lasting=2, at="scaled",
    ),
)
# fmt: on
_STEP_RULES = (
    StepRule(
        "non-finite weight",
        "broken",
        "the values of {place} are not finite{others}, before the optimizer steps. Look for what wrote to them, and go "
        "on from a checkpoint before this step",
        "a parameter is not finite before the first step with a gradient that is not, on the CPU; the first one is "
        "named",
        0.0,
    ),
    StepRule(
        "non-finite gradient",
        "broken",
        "the gradient of {place} is not finite{others}, and the optimizer steps with it. Leave such steps out, or look "
        "for a division or a logarithm of zero",
        "a gradient is not finite, and the optimizer steps with it; its first parameter is named",
        0.0,
    ),
    StepRule(
        "non-finite loss",
        "broken",
        "the loss is not finite. Look at the first alarm about a gradient or a site, and go on from before it",
        "the loss is NaN or Inf",
        0.0,
    ),
    StepRule(
        "loss spike",
        "strained",
        "the loss rose to {value} from {baseline}, for two steps. Look at what changed before: the data, the learning "
        "rate",
        "the loss is above the median of 50 steps, which end ten steps before, by 5 robust standard deviations, by 30% "
        "of what was gained since the first ones, and by 40% of itself, for two steps",
        0.66,
        lasting=2,
    ),
    StepRule(
        "outlier",
        "strained",
        "this batch has a spike of the loss and a gradient of norm {value}, against at most {baseline} in the steps "
        "before, and the optimizer stepped with it. Clip the gradient, and look at the batch",
        "the loss is a spike for one step, and the gradient that the optimizer steps with is above 10 times the "
        "largest of the last 60 steps",
        0.39,
    ),
    StepRule(
        "zero gradient",
        "broken",
        "all gradients are zero, while the loss is {value}. Look for what detaches the loss, and for dead units",
        "all gradients are zero while the loss is not, for two steps",
        0.0,
        lasting=2,
    ),
    StepRule(
        "loss scale",
        "strained",
        "the loss scale fell to {value} from {baseline}: gradients overflow again and again. Look for the site with "
        "the largest gradient, or compute it in float32 or bfloat16",
        "the scale was halved four times within 50 steps",
        0.09,
    ),
)
STEP_RULES = {rule.kind: rule for rule in _STEP_RULES}
