"""Verdicts of other tools on a profile before the first step: SageMaker Debugger's rules and the folk gradient ratio.

`smdebug_verdict` evaluates the built-in rules of Amazon SageMaker Debugger (smdebug) with their documented defaults;
their code is not public. `SMDEBUG_RULES` lists the rules that a profile can answer, `NOT_EVALUABLE` those that it
cannot. `gradient_ratio_verdict` compares the first layer's gradient with the last layer's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from propscope.errors import InputError
from propscope.records import LogHistogram, NetworkProfile, Parameter, Site, TensorSummary

Figures = dict[str, float]
RELATIONS: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt, ">=": operator.ge}

# docs.aws.amazon.com/sagemaker/latest/dg/debugger-built-in-rules.html has one section per rule.
GUIDE = "Amazon SageMaker Developer Guide, List of Debugger built-in rules"
FOLK = "no one source; public code warns beyond a factor of 10, 100 (most often), 1000 or 10,000 (severe)"
GRADIENT_FACTOR = 1000.0

# threshold_inactivity of DeadRelu and SaturatedActivation: a unit active on fewer samples is inactive.
INACTIVITY = 0.01
# threshold_tanh_min, _max and threshold_sigmoid_min, _max of SaturatedActivation: inputs beyond them saturate.
INPUT_LIMITS = {"tanh": (-9.4999, 9.4999), "sigmoid": (-23.0, 16.99999)}


@dataclass(frozen=True, slots=True)
class Baseline:
    """A verdict: `broken` if any rule fired; `rules` describes those that did, with their number and place."""

    broken: bool
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that fires if any of a profile's `figures` stands in `relation` to `default`; NaN never does.

    `figures` returns the profile's figures by place, and `quantity` names them. `source` says where the default is
    published.
    """

    name: str
    quantity: str
    figures: Callable[[NetworkProfile], Figures]
    relation: Literal["<", ">", ">="]
    default: float
    source: str

    def __call__(self, profile: NetworkProfile) -> str:
        """Return the finding with the worst figure, or "" if the rule does not fire."""
        figures = self.figures(profile)
        beyond = {at: figure for at, figure in figures.items() if RELATIONS[self.relation](figure, self.default)}
        if not beyond:
            return ""
        worst = (min if self.relation == "<" else max)(beyond, key=beyond.__getitem__)
        count = f" ({len(beyond)} of {len(figures)} places)" if len(figures) > 1 else ""
        return f"{self.name}: {self.quantity} {beyond[worst]:.3g} {self.relation} {self.default:g} at {worst}{count}"


@dataclass(frozen=True, slots=True)
class NotEvaluable:
    """A built-in rule, or part of one, that cannot judge a profile before the first step: its default, and why."""

    name: str
    default: str
    reason: str


def mean_absolute(summary: TensorSummary) -> float:
    """Return the mean of the absolute values, or NaN if any element is not finite or there are none.

    The result is exact if all elements have one sign. Otherwise it comes from the midpoints of the histogram's bins:
    within 1/16 for any distribution, within 0.2% for one that is smooth over a bin, plus the sampling error of a
    histogram of a sample (1% for 5,000 elements). It is clipped to between |mean| and rms, which bound it exactly.
    """
    if summary.nonfinite_count or not summary.count:
        return math.nan
    if summary.min >= 0 or summary.max <= 0:
        return abs(summary.mean)
    histogram = _histogram(summary)
    estimate = float(abs(histogram.centers) @ histogram.counts) / histogram.total
    return min(max(estimate, abs(summary.mean)), summary.rms)


def gradient_ratio(profile: NetworkProfile) -> float:
    """Return the norm of the first weight's gradient divided by that of the last, in the model's order.

    A weight has two axes or more. The ratio is 0 if the first norm is 0, Inf if only the last norm is 0 or any element
    of either gradient is not finite, and NaN with fewer than two weights.
    """
    seen = [(p.gradient_norm, p.gradient) for p in _weights(profile) if p.gradient is not None]
    if len(seen) < 2:
        return math.nan
    (first, above), (last, below) = seen[0], seen[-1]
    if first is None or last is None or above.nonfinite_count or below.nonfinite_count:
        return math.inf
    if first == 0:
        return 0.0
    return first / last if last > 0 else math.inf


def smdebug_verdict(profile: NetworkProfile) -> Baseline:
    """Return the verdict of SageMaker Debugger's rules with their defaults; see `SMDEBUG_RULES`."""
    return _verdict(SMDEBUG_RULES, profile)


def gradient_ratio_verdict(profile: NetworkProfile) -> Baseline:
    """Return the verdict of the gradient ratio: broken if it is above 1000 or below 1/1000."""
    return _verdict(GRADIENT_RATIO_RULES, profile)


def _verdict(rules: tuple[Rule, ...], profile: NetworkProfile) -> Baseline:
    findings = tuple(finding for rule in rules if (finding := rule(profile)))
    return Baseline(bool(findings), findings)


def _histogram(summary: TensorSummary) -> LogHistogram:
    if summary.histogram is None:
        raise InputError(
            "the summary has moments but no histogram, which mean absolute values, shares and percentiles need",
            hint='record the profile again with stats="all"',
        )
    return summary.histogram


def _weights(profile: NetworkProfile) -> tuple[Parameter, ...]:
    return tuple(parameter for parameter in profile.parameters if len(parameter.shape) > 1)


def _gradients(parameters: tuple[Parameter, ...]) -> Iterator[tuple[str, TensorSummary]]:
    for parameter in parameters:
        if parameter.gradient is not None:
            yield f"{parameter.name}.grad", parameter.gradient


def _inputs_of(profile: NetworkProfile, *activations: str) -> Iterator[tuple[Site, TensorSummary]]:
    for site in profile.with_role("pre-activation"):
        if site.activation.lower() in activations and site.forward is not None and site.forward.finite_count:
            yield site, site.forward


def _mean_absolute_gradients(profile: NetworkProfile) -> Figures:
    return {place: mean_absolute(gradient) for place, gradient in _gradients(profile.parameters)}


def _nonfinite(profile: NetworkProfile) -> Figures:
    saved = [(site.name, site.forward) for site in profile.without_inputs.sites if site.forward is not None]
    saved += [(parameter.name, parameter.value) for parameter in profile.parameters]
    return {place: float(seen.nonfinite_count) for place, seen in [*saved, *_gradients(profile.parameters)]}


def _dead_percent(profile: NetworkProfile) -> Figures:
    """Return a lower bound of the rule's share: units active on no sample, not on fewer than `INACTIVITY`."""
    return {
        site.name: 100 * site.dead_units / site.units
        for site, _ in _inputs_of(profile, "relu")
        if site.units and site.dead_units is not None
    }


def _saturated_percent(profile: NetworkProfile) -> Figures:
    """Return an upper bound of the rule's share: the units that can be saturated for this share of elements."""
    figures = {}
    for site, values in _inputs_of(profile, *INPUT_LIMITS):
        histogram = _histogram(values).finite
        inside = float(histogram.mass(INPUT_LIMITS[site.activation.lower()])[0]) / histogram.total
        figures[site.name] = 100 * min((1 - inside) / (1 - INACTIVITY), 1.0)
    return figures


def _variance_ratio(what: str, summaries: list[TensorSummary]) -> Figures:
    deviations = [summary.std for summary in summaries if summary.finite_count]
    if len(deviations) < 2 or max(deviations) == 0:
        return {}
    return {what: (max(deviations) / min(deviations)) ** 2 if min(deviations) > 0 else math.inf}


def _weight_variance_ratio(profile: NetworkProfile) -> Figures:
    return _variance_ratio("the weights", [parameter.value for parameter in _weights(profile)])


def _input_variance_ratio(profile: NetworkProfile) -> Figures:
    return _variance_ratio("the inputs of ReLU", [values for _, values in _inputs_of(profile, "relu")])


def _gradient_ranges(profile: NetworkProfile) -> Figures:
    return {place: _percentile_range(gradient) for place, gradient in _gradients(_weights(profile))}


def _percentile_range(summary: TensorSummary) -> float:
    if summary.nonfinite_count:
        return math.nan
    # A bin has a width even if all its elements are equal; the extremes are exact.
    low, high = (min(max(_histogram(summary).quantile(q), summary.min), summary.max) for q in (0.05, 0.95))
    return high - low


def _zero_percent(profile: NetworkProfile) -> Figures:
    seen = [(parameter.name, parameter.value) for parameter in _weights(profile)]
    return {place: 100 * tensor.zero_fraction for place, tensor in [*seen, *_gradients(_weights(profile))]}


def _ratio(profile: NetworkProfile) -> Figures:
    return {"first weight over last": gradient_ratio(profile)}


SMDEBUG_RULES = (
    Rule(
        "VanishingGradient",
        "mean absolute gradient",
        _mean_absolute_gradients,
        "<",
        1e-7,
        f"{GUIDE}: VanishingGradient, threshold; of any tensor among the gradients",
    ),
    Rule(
        "ExplodingTensor",
        "elements that are NaN or Inf",
        _nonfinite,
        ">",
        0.0,
        f"{GUIDE}: ExplodingTensor, only_nan False; of outputs, parameters and their gradients",
    ),
    Rule(
        "DeadRelu",
        "percent of units inactive",
        _dead_percent,
        ">",
        50.0,
        f"{GUIDE}: DeadRelu, threshold_layer, with threshold_inactivity 1 percent",
    ),
    Rule(
        "SaturatedActivation",
        "percent of units saturated, at most",
        _saturated_percent,
        ">",
        50.0,
        f"{GUIDE}: SaturatedActivation, threshold_layer, with threshold_inactivity 1 percent and INPUT_LIMITS",
    ),
    Rule(
        "PoorWeightInitialization (weights)",
        "largest over smallest variance",
        _weight_variance_ratio,
        ">",
        10.0,
        f"{GUIDE}: PoorWeightInitialization, threshold, as the parameter's description has it",
    ),
    Rule(
        "PoorWeightInitialization (inputs)",
        "largest over smallest variance",
        _input_variance_ratio,
        ">",
        10.0,
        f"{GUIDE}: PoorWeightInitialization, threshold, as the rule's description has it; activation_inputs_regex relu",
    ),
    Rule(
        "PoorWeightInitialization (gradients)",
        "5th to 95th percentile",
        _gradient_ranges,
        "<",
        0.001,
        f"{GUIDE}: PoorWeightInitialization, distribution_range; smallest over the weights",
    ),
    Rule(
        "AllZero",
        "percent of elements zero",
        _zero_percent,
        ">=",
        100.0,
        f"{GUIDE}: AllZero, threshold 100; it has no tensors by default: here weights and their gradients, no biases",
    ),
)

NOT_EVALUABLE = (
    NotEvaluable("PoorWeightInitialization (loss)", "patience 5", "follows the loss over 5 steps"),
    NotEvaluable("WeightUpdateRatio", "above 10 or below 1e-8", "compares the weights of two steps"),
    NotEvaluable("UnchangedTensor", "num_steps 3, rtol 1e-5, atol 1e-8", "compares a tensor over 3 steps"),
    NotEvaluable("LossNotDecreasing", "num_steps 10, diff_percent 0.1", "compares the loss over 10 steps"),
    NotEvaluable("Overfit", "ratio_threshold 0.1, patience 1", "compares training and validation loss"),
    NotEvaluable("Overtraining", "patience_train 5, patience_validation 10", "follows the loss over steps"),
    NotEvaluable("StalledTrainingRule", "1800 s", "waits for the next step"),
    NotEvaluable("SimilarAcrossRuns", "none", "compares with another run"),
    NotEvaluable("TensorVariance", "none", "its thresholds have no default"),
    NotEvaluable("ClassImbalance", "threshold_imbalance 10, after 500 labels", "looks at labels and predictions"),
)

GRADIENT_RATIO_RULES = (
    Rule("vanishing gradient ratio", "gradient norm ratio", _ratio, "<", 1 / GRADIENT_FACTOR, FOLK),
    Rule("exploding gradient ratio", "gradient norm ratio", _ratio, ">", GRADIENT_FACTOR, FOLK),
)
