"""The one table of recorded quantities: type, unit, label, symbol, schema version, and how each one pools.

Rows, result files, frames and pooling all follow from it. A statistic that is added needs its line here, a field of the
record that holds it, and its measurement; docs/schema.md lists its column.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, replace
from typing import Literal

DType = Literal["int64", "float64", "text", "json"]
EntryTable = Literal["site", "parameter"]
# JSON: an object; labels by their names; whole numbers of at least 0; numbers; lists of three texts; texts; parents;
# courses over time.
Holds = Literal["object", "labels", "counts", "numbers", "notes", "texts", "parents", "courses"]
Pool = Literal["same", "last", "sum", "merge", "and", "max", "mean", "rms", "geometric", "union", "recompute"]


@dataclass(frozen=True, slots=True)
class Field:
    """A recorded quantity, and one column of a table.

    `name`: of the column in files and frames. `label`: in words. `symbol`: in mathtext, of a tensor x. `unit`: "1" for
    a pure number. `since`: the first schema version of the result file that has it. `source`: where the record holds
    it, such as "forward.mean"; "" where it is the record's own field of that name. "json" is text that holds a list or
    an object. A missing int64 is -1, a missing float64 NaN, a missing text empty.

    `batches`: how the values of several calls, batches or ranks of one network pool; `seeds`: how those of several
    networks do, one a seed.

    - same: all agree, and the first is kept.
    - last: the latest one is kept.
    - sum, max: of the values.
    - merge: exactly, as the elements of all of them together.
    - and: a unit counts where it counts in each of them; this needs the units, not their number.
    - mean, geometric, rms: the arithmetic mean, the geometric mean, the root of the mean square.
    - union: what any of them has.
    - recompute: it follows from other quantities, and is computed from those after they are pooled.

    What may be recorded, which a file is checked against when it is read: numbers from `low` to `high`; one of the
    texts `choices`, or a text that the regular expression `pattern` matches; JSON of the kind `holds`. An int64 that is
    `required` is never missing.
    """

    name: str
    dtype: DType
    label: str
    symbol: str = ""
    unit: str = "1"
    since: int = 1
    batches: Pool = "same"
    seeds: Pool = "same"
    source: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    pattern: str = ""
    holds: Holds | Literal[""] = ""
    required: bool = False

    @property
    def part(self) -> str:
        """The field of the record that holds the quantity's own record, "" for none: "forward" of "forward.mean"."""
        return self.source.rpartition(".")[0]

    @property
    def attribute(self) -> str:
        """The quantity's name within its record: "mean" of "forward.mean"."""
        return self.source.rpartition(".")[2] or self.name


# A number that is never infinite. The moments of a tensor are those of its finite elements.
FINITE = sys.float_info.max
_DTYPE = "[a-z][a-z0-9_]*|"


def _merged(name: str, dtype: DType, label: str, symbol: str = "", *, low: float = 0, high: float = FINITE) -> Field:
    return Field(name, dtype, label, symbol, batches="merge", seeds="merge", low=low, high=high)


SUMMARY_FIELDS = (
    _merged("count", "int64", "elements seen", "n"),
    _merged("mean", "float64", "mean of the finite elements", r"\langle x \rangle", low=-FINITE),
    _merged("std", "float64", "standard deviation about the mean", r"\sigma(x)"),
    Field("rms", "float64", "root mean square", r"\mathrm{rms}(x)", batches="recompute", seeds="recompute", low=0),
    _merged("min", "float64", "smallest finite element", r"\min", low=-FINITE),
    _merged("max", "float64", "largest finite element", r"\max", low=-FINITE),
    _merged("zero_fraction", "float64", "share of zeros", high=1),
    _merged("nan_count", "int64", "NaN elements"),
    _merged("posinf_count", "int64", "+Inf elements"),
    _merged("neginf_count", "int64", "-Inf elements"),
)

# The summaries of each kind of entry: field of the record and prefix of its columns.
SUMMARIES: dict[EntryTable, tuple[str, ...]] = {
    "site": ("forward", "backward", "jacobian"),
    "parameter": ("value", "gradient"),
}


def _summary(part: str, what: str, *, since: int = 1, batches: Pool | None = None) -> tuple[Field, ...]:
    return tuple(
        replace(
            field,
            name=f"{part}_{field.name}",
            label=f"{what}: {field.label}",
            since=since,
            batches=batches or field.batches,
            source=f"{part}.{field.name}",
        )
        for field in SUMMARY_FIELDS
    )


def _expected(name: str, label: str, seeds: Pool, low: float = -math.inf, high: float = math.inf) -> Field:
    source = f"expected.{name}"
    return Field(
        f"expected_{name}", "float64", f"theory: {label}", since=2, seeds=seeds, source=source, low=low, high=high
    )


EXPECTED_FIELDS = (
    _expected("forward_mean", "mean of the values", "mean"),
    _expected("forward_std", "standard deviation of the values", "recompute", 0),
    _expected("forward_rms", "root mean square of the values", "rms", 0),
    _expected("forward_log_std", "standard deviation over seeds of ln forward_rms", "rms", 0),
    _expected("backward_rms", "root mean square of the gradient", "rms", 0),
    _expected("backward_log_std", "standard deviation over seeds of ln backward_rms", "rms", 0),
    _expected("mean_cosine", "mean cosine between samples", "mean", -1, 1),
    _expected("forward_log_drift", "mean over seeds of ln rms, less ln forward_rms", "mean"),
    _expected("backward_log_drift", "mean over seeds of ln rms, less ln backward_rms", "mean"),
    _expected("forward_mean_std", "standard deviation over seeds of the mean", "rms", 0),
    _expected("forward_std_log_std", "standard deviation over seeds of ln std", "rms", 0),
)

ROLES = ("pre-activation", "activation", "norm", "attention", "embedding", "residual", "input", "output", "other")

# fmt: off
SITE_FIELDS = (
    Field("index", "int64", "position in execution order", low=0, required=True),
    Field("name", "text", "module, with #call for later calls"),
    Field("kind", "text", "class or function"),
    Field("role", "text", "role in the network", choices=ROLES),
    Field("layer", "int64", "layer, from 1", "l", low=1),
    Field("shape", "json", "shape of the first batch", holds="counts"),
    Field("dtype", "text", "element type", pattern=_DTYPE),
    Field("activation", "text", "nonlinearity that the value enters"),
    Field("parents", "json", "what it was computed from, a JSON list of [site, [operations], gradient passes]",
          since=3, batches="union", holds="parents"),
    Field("parameters", "json", "parameters that took part since its parents, a JSON list of names",
          since=3, batches="union", holds="texts"),
    Field("samples", "int64", "input rows seen", batches="sum", seeds="sum", low=0, required=True),
    Field("units", "int64", "units", seeds="sum", low=0),
    Field("dead_units", "int64", "units flat on every sample", batches="and", seeds="sum", low=0),
    Field("symmetric_units", "int64", "units equal to another unit", batches="and", seeds="sum", low=0),
    Field("flat_fraction", "float64", "share where the nonlinearity is flat",
          batches="recompute", seeds="mean", low=0, high=1),
    Field("mean_cosine", "float64", "mean cosine between samples", r"\langle \cos \rangle",
          batches="last", seeds="mean", low=-1, high=1),
    Field("effective_rank", "float64", "effective rank of the sampled rows",
          batches="last", seeds="mean", low=0, high=FINITE),
    Field("attention_entropy", "float64", "mean entropy of the attention's rows", "H", "nat",
          batches="mean", seeds="mean", low=-1e-3, high=FINITE),
    Field("largest_logit", "float64", "largest logit before the softmax", batches="max", seeds="max"),
    Field("logit_spread", "float64", "standard deviation of the logits of a row before the softmax",
          since=4, batches="rms", seeds="geometric", low=0),
    Field("softmax_axis", "int64", "axis of the shape along which a softmax sums to 1, from 0", since=5, low=0),
    Field("masked_rows", "float64", "share of a softmax's rows that are masked throughout",
          since=5, batches="mean", seeds="mean", low=0, high=1),
    Field("branch_share", "float64", "share of a residual sum's mean square that the branch brings",
          batches="recompute", seeds="mean", low=0, high=1),
    Field("features", "int64", "features (channels)", since=3, low=0),
    Field("token_share", "float64", "share of the tokens that it ran on", since=3, batches="recompute", seeds="mean",
          low=0, high=1),
    Field("feature_spread", "float64", "largest rms of an input's feature over the median",
          since=3, batches="recompute", seeds="geometric", low=1),
    *EXPECTED_FIELDS,
    Field("jacobian_condition", "float64", "largest over smallest singular value of d site / d input",
          since=2, batches="geometric", seeds="geometric", low=1),
    Field("jacobian_square_variance", "float64", "variance of the squared singular values over their squared mean",
          since=2, batches="mean", seeds="mean", low=0),
    *_summary("forward", "value"),
    *_summary("backward", "gradient"),
    *_summary("jacobian", "singular values", since=2),
)

PARAMETER_FIELDS = (
    Field("index", "int64", "position in the module's order", low=0, required=True),
    Field("name", "text", "parameter"),
    Field("shape", "json", "shape", holds="counts"),
    Field("dtype", "text", "element type", pattern=_DTYPE),
    Field("symmetric_units", "int64", "rows equal to another row", batches="last", seeds="sum", low=0),
    Field("value_norm", "float64", "L2 norm of the value", r"\|W\|", batches="recompute", seeds="recompute", low=0),
    Field("gradient_norm", "float64", "L2 norm of the gradient", r"\|\partial L/\partial W\|",
          batches="recompute", seeds="recompute", low=0),
    Field("expected_gradient_norm", "float64", "theory: L2 norm of the gradient", since=2, seeds="rms", low=0),
    Field("expected_gradient_log_std", "float64", "theory: standard deviation over seeds of its logarithm",
          since=2, seeds="rms", low=0),
    Field("gradient_outlook", "text", "when it gets a gradient", since=3, batches="last",
          choices=("", "now", "later", "never", "unpredictable")),
    Field("gradient_after", "int64", "steps of gradient descent until it gets one", since=3, batches="last", low=0),
    Field("gradient_lost_at", "text", "site or module where its gradient is lost", since=3, batches="last"),
    Field("gradient_lost_by", "text", "how its gradient is lost", since=3, batches="last",
          choices=("", "frozen", "not run", "unused", "detached", "zero factor", "zero slope")),
    Field("gradient_zero_factor", "text", "factor of a product that is zero, where its gradient is lost", since=3,
          batches="last"),
    Field("step_gradient_norm", "float64", "L2 norm of the gradient of an optimizer's step, before clipping",
          since=5, batches="last", seeds="rms", low=0),
    Field("update_norm", "float64", "L2 norm of an optimizer's step", r"\|\Delta W\|",
          since=5, batches="last", seeds="rms", low=0),
    Field("update_ratio", "float64", "L2 norm of an optimizer's step over that of the value before it",
          r"\|\Delta W\| / \|W\|", since=5, batches="last", seeds="geometric", low=0),
    Field("first_moment_norm", "float64", "L2 norm of Adam's mean of the gradient", since=5, batches="last",
          seeds="rms", low=0),
    Field("second_moment_norm", "float64", "L2 norm of Adam's mean of the squared gradient", since=5, batches="last",
          seeds="rms", low=0),
    *_summary("value", "value", batches="last"),
    *_summary("gradient", "gradient"),
)

_LABELS = (
    Field("labels", "json", "labels, a JSON object", holds="labels"),
    Field("initializer", "text", "initializer of the weights", source="labels.initializer"),
    Field("activation", "text", "nonlinearity", source="labels.activation"),
    Field("depth", "int64", "layers", "L", source="labels.depth"),
    Field("width", "text", "units a layer", source="labels.width"),
    Field("seed", "int64", "seed of network and input", source="provenance.seed"),
)

PROVENANCE_FIELDS = tuple(replace(field, source=f"provenance.{field.name}") for field in (
    Field("spec", "text", "everything that was asked for, a JSON object", holds="object"),
    Field("propscope_version", "text", "propscope version"),
    Field("torch_version", "text", "torch version"),
    Field("python_version", "text", "Python version"),
    Field("commit", "text", "commit of the working directory"),
    Field("device", "text", "device"),
    Field("dtype", "text", "element type", pattern=_DTYPE),
    Field("created", "text", "time of the run, UTC, ISO 8601"),
    Field("wall_seconds", "float64", "time that the recorded run took", unit="s",
          batches="sum", seeds="sum", low=0, high=FINITE),
    Field("samples", "int64", "input rows seen", batches="sum", seeds="sum", low=0, required=True),
    Field("batches", "int64", "forward passes seen", batches="sum", seeds="sum", low=0, required=True),
    Field("histogram_limit", "int64", "elements of a tensor that its histogram counts, 0 for all",
          low=0, required=True),
    Field("flat_threshold", "float64", "eps of the flat fraction", low=0, high=FINITE),
))

PROFILE_FIELDS = (
    *_LABELS,
    Field("step", "int64", "step of its training, where it is a sample of one", since=6, source="labels.step", low=0),
    *PROVENANCE_FIELDS,
    Field("coverage", "json", "what was not seen and why, a JSON list of [name, what, reason]", holds="notes"),
    Field("time_courses", "json", "recurrent modules over their steps, a JSON list of objects",
          since=3, holds="courses"),
    Field("loss_fault", "text", "what of the loss is not finite, value or derivative", since=5,
          choices=("", "value", "derivative")),
    Field("loss_operation", "text", "operation of the loss that is not finite there", since=5),
    *(Field(f"{what}_digest", "text", f"digest of {words}, 16 hexadecimal digits", since=7,
            pattern="[0-9a-f]{16}|")
      for what, words in (("batch", "the first batch"), ("weights", "the weights that it met"))),
)

TABLES = {"profile": PROFILE_FIELDS, "site": SITE_FIELDS, "parameter": PARAMETER_FIELDS}

RUN_FIELDS = tuple(replace(field, since=2) for field in (
    *_LABELS,
    Field("optimizer", "text", "optimizer", source="labels.optimizer"),
    Field("task", "text", "classification or regression", choices=("classification", "regression")),
    Field("learning_rate", "float64", "learning rate trained with", r"\eta", low=0, high=FINITE),
    Field("learning_rates_tried", "json", "learning rates that it was chosen from, a JSON list", holds="numbers"),
    Field("steps_per_epoch", "int64", "steps an epoch", low=0, required=True),
    Field("stability", "text", "diverged, oscillating, stalled or converged",
          choices=("diverged", "oscillating", "stalled", "converged")),
    Field("diverged_at", "int64", "first step, from 1, whose loss is not finite", low=1),
    Field("target", "float64", "accuracy (loss, for regression) to reach"),
    Field("steps_to_target", "int64", "steps until it was reached", low=0),
    Field("constant_loss", "float64", "training loss of the best constant prediction"),
    Field("rows", "json", "rows of each weight matrix, a JSON list", holds="counts"),
    Field("distinct_rows_before", "json", "distinct rows of each before the first step, a JSON list", holds="counts"),
    Field("distinct_rows_after", "json", "distinct rows of each after the last step, a JSON list", holds="counts"),
    Field("training_seconds", "float64", "time that the training took, without profiling", unit="s",
          source="wall_seconds", low=0, high=FINITE),
    *PROVENANCE_FIELDS,
))

EPOCH_FIELDS = tuple(replace(field, since=2) for field in (
    Field("number", "int64", "epochs trained, 0 before the first step", low=0, required=True),
    Field("train_loss", "float64", "training loss"),
    Field("train_accuracy", "float64", "training accuracy", low=0, high=1),
    Field("validation_loss", "float64", "validation loss"),
    Field("validation_accuracy", "float64", "validation accuracy", low=0, high=1),
    Field("update_ratio", "float64", "rms of a step's update over rms of the weights, mean over the epoch", low=0),
))

SEVERITIES = ("strained", "broken")

STEP_FIELDS = (*(replace(field, since=5) for field in (
    Field("number", "int64", "number of the step in its run", low=0, required=True),
    Field("loss", "float64", "loss"),
    Field("gradient_norm", "float64", "L2 norm of all gradients that the optimizer stepped with", low=0),
    Field("clip_factor", "float64", "that norm over the one before clipping", low=0),
    Field("loss_scale", "float64", "factor of the loss", low=0),
    Field("learning_rate", "float64", "largest learning rate of the optimizer's groups", r"\eta"),
    Field("nonfinite_gradients", "int64", "parameters whose gradient was not finite", low=0),
    Field("skipped", "int64", "1 where the optimizer took no step", low=0, high=1, required=True),
    Field("superseded", "int64", "1 where a resumed run took the step again", low=0, high=1, required=True),
    Field("seconds", "float64", "time that the step took", unit="s", low=0, high=FINITE),
    Field("error", "text", "what the step raised"),
)), *(replace(field, since=6) for field in (
    Field("monitor_share", "float64", "share of the run's time that the monitor took, up to here", low=0, high=1),
    Field("judged", "int64", "1 where the rules judged the step", low=0, high=1),
)))

ALARM_FIELDS = (*(replace(field, since=5) for field in (
    Field("step", "int64", "step that raised it", low=0, required=True),
    Field("since", "int64", "first step that shows it", low=0, required=True),
    Field("kind", "text", "rule that raised it"),
    Field("site", "text", "site, where it is about one"),
    Field("parameter", "text", "parameter, where it is about one"),
    Field("value", "float64", "number that raised it"),
    Field("baseline", "float64", "what it is held against"),
    Field("severity", "text", "strained or broken", choices=SEVERITIES),
    Field("message", "text", "what was seen, why, and what to do"),
)), Field("superseded", "int64", "1 where a resumed run took the step again", since=6, low=0, high=1))
# fmt: on

TRAINING_TABLES = {"run": RUN_FIELDS, "epoch": EPOCH_FIELDS}
MONITORED_TABLES = {"step": STEP_FIELDS, "alarm": ALARM_FIELDS}
