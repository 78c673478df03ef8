"""The one table of recorded quantities: type, unit, label, symbol, schema version, and how each one pools.

Rows, result files, frames and pooling all follow from it. A statistic that is added needs its line here, a field of the
record that holds it, and its measurement; docs/schema.md lists its column.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

DType = Literal["int64", "float64", "text", "json"]
Pool = Literal["same", "last", "sum", "merge", "and", "max", "mean", "rms", "geometric", "recompute"]


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
    - recompute: it follows from other quantities, and is computed from those after they are pooled.
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

    @property
    def part(self) -> str:
        """The field of the record that holds the quantity's own record, "" for none: "forward" of "forward.mean"."""
        return self.source.rpartition(".")[0]

    @property
    def attribute(self) -> str:
        """The quantity's name within its record: "mean" of "forward.mean"."""
        return self.source.rpartition(".")[2] or self.name


def _merged(name: str, dtype: DType, label: str, symbol: str = "") -> Field:
    return Field(name, dtype, label, symbol, batches="merge", seeds="merge")


SUMMARY_FIELDS = (
    _merged("count", "int64", "elements seen", "n"),
    _merged("mean", "float64", "mean of the finite elements", r"\langle x \rangle"),
    _merged("std", "float64", "standard deviation about the mean", r"\sigma(x)"),
    Field("rms", "float64", "root mean square", r"\mathrm{rms}(x)", batches="recompute", seeds="recompute"),
    _merged("min", "float64", "smallest finite element", r"\min"),
    _merged("max", "float64", "largest finite element", r"\max"),
    _merged("zero_fraction", "float64", "share of zeros"),
    _merged("nan_count", "int64", "NaN elements"),
    _merged("posinf_count", "int64", "+Inf elements"),
    _merged("neginf_count", "int64", "-Inf elements"),
)

# The summaries of each kind of entry: field of the record and prefix of its columns.
SUMMARIES: dict[Literal["site", "parameter"], tuple[str, ...]] = {
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


def _expected(name: str, label: str, seeds: Pool) -> Field:
    return Field(f"expected_{name}", "float64", f"theory: {label}", since=2, seeds=seeds, source=f"expected.{name}")


EXPECTED_FIELDS = (
    _expected("forward_mean", "mean of the values", "mean"),
    _expected("forward_std", "standard deviation of the values", "recompute"),
    _expected("forward_rms", "root mean square of the values", "rms"),
    _expected("forward_log_std", "standard deviation over seeds of ln forward_rms", "rms"),
    _expected("backward_rms", "root mean square of the gradient", "rms"),
    _expected("backward_log_std", "standard deviation over seeds of ln backward_rms", "rms"),
    _expected("mean_cosine", "mean cosine between samples", "mean"),
    _expected("forward_log_drift", "mean over seeds of ln rms, less ln forward_rms", "mean"),
    _expected("backward_log_drift", "mean over seeds of ln rms, less ln backward_rms", "mean"),
    _expected("forward_mean_std", "standard deviation over seeds of the mean", "rms"),
    _expected("forward_std_log_std", "standard deviation over seeds of ln std", "rms"),
)

# fmt: off
SITE_FIELDS = (
    Field("index", "int64", "position in execution order"),
    Field("name", "text", "module, with #call for later calls"),
    Field("kind", "text", "class or function"),
    Field("role", "text", "role in the network"),
    Field("layer", "int64", "layer, from 1", "l"),
    Field("shape", "json", "shape of the first batch"),
    Field("dtype", "text", "element type"),
    Field("activation", "text", "nonlinearity that the value enters"),
    Field("samples", "int64", "input rows seen", batches="sum", seeds="sum"),
    Field("units", "int64", "units", seeds="sum"),
    Field("dead_units", "int64", "units flat on every sample", batches="and", seeds="sum"),
    Field("symmetric_units", "int64", "units equal to another unit", batches="and", seeds="sum"),
    Field("flat_fraction", "float64", "share where the nonlinearity is flat", batches="recompute", seeds="mean"),
    Field("mean_cosine", "float64", "mean cosine between samples", r"\langle \cos \rangle",
          batches="last", seeds="mean"),
    Field("effective_rank", "float64", "effective rank of the sampled rows", batches="last", seeds="mean"),
    Field("attention_entropy", "float64", "mean entropy of the attention's rows", "H", "nat",
          batches="mean", seeds="mean"),
    Field("largest_logit", "float64", "largest logit before the softmax", batches="max", seeds="max"),
    Field("branch_share", "float64", "share of a residual sum's mean square that the branch brings",
          batches="recompute", seeds="mean"),
    *EXPECTED_FIELDS,
    Field("jacobian_condition", "float64", "largest over smallest singular value of d site / d input",
          since=2, batches="geometric", seeds="geometric"),
    Field("jacobian_square_variance", "float64", "variance of the squared singular values over their squared mean",
          since=2, batches="mean", seeds="mean"),
    *_summary("forward", "value"),
    *_summary("backward", "gradient"),
    *_summary("jacobian", "singular values", since=2),
)

PARAMETER_FIELDS = (
    Field("index", "int64", "position in the module's order"),
    Field("name", "text", "parameter"),
    Field("shape", "json", "shape"),
    Field("dtype", "text", "element type"),
    Field("symmetric_units", "int64", "rows equal to another row", batches="last", seeds="sum"),
    Field("value_norm", "float64", "L2 norm of the value", r"\|W\|", batches="recompute", seeds="recompute"),
    Field("gradient_norm", "float64", "L2 norm of the gradient", r"\|\partial L/\partial W\|",
          batches="recompute", seeds="recompute"),
    Field("expected_gradient_norm", "float64", "theory: L2 norm of the gradient", since=2, seeds="rms"),
    Field("expected_gradient_log_std", "float64", "theory: standard deviation over seeds of its logarithm",
          since=2, seeds="rms"),
    *_summary("value", "value", batches="last"),
    *_summary("gradient", "gradient"),
)

_LABELS = (
    Field("labels", "json", "labels, a JSON object"),
    Field("initializer", "text", "initializer of the weights", source="labels.initializer"),
    Field("activation", "text", "nonlinearity", source="labels.activation"),
    Field("depth", "int64", "layers", "L", source="labels.depth"),
    Field("width", "text", "units a layer", source="labels.width"),
    Field("seed", "int64", "seed of network and input", source="provenance.seed"),
)

PROVENANCE_FIELDS = tuple(replace(field, source=f"provenance.{field.name}") for field in (
    Field("spec", "text", "everything that was asked for, a JSON object"),
    Field("propscope_version", "text", "propscope version"),
    Field("torch_version", "text", "torch version"),
    Field("python_version", "text", "Python version"),
    Field("commit", "text", "commit of the working directory"),
    Field("device", "text", "device"),
    Field("dtype", "text", "element type"),
    Field("created", "text", "time of the run, UTC, ISO 8601"),
    Field("wall_seconds", "float64", "time that the recorded run took", unit="s", batches="sum", seeds="sum"),
    Field("samples", "int64", "input rows seen", batches="sum", seeds="sum"),
    Field("batches", "int64", "forward passes seen", batches="sum", seeds="sum"),
    Field("histogram_limit", "int64", "elements of a tensor that its histogram counts, 0 for all"),
    Field("flat_threshold", "float64", "eps of the flat fraction"),
))

PROFILE_FIELDS = (
    *_LABELS,
    *PROVENANCE_FIELDS,
    Field("coverage", "json", "what was not seen and why, a JSON list of [name, what, reason]"),
)

TABLES = {"profile": PROFILE_FIELDS, "site": SITE_FIELDS, "parameter": PARAMETER_FIELDS}

RUN_FIELDS = tuple(replace(field, since=2) for field in (
    *_LABELS,
    Field("optimizer", "text", "optimizer", source="labels.optimizer"),
    Field("task", "text", "classification or regression"),
    Field("learning_rate", "float64", "learning rate trained with", r"\eta"),
    Field("learning_rates_tried", "json", "learning rates that it was chosen from, a JSON list"),
    Field("steps_per_epoch", "int64", "steps an epoch"),
    Field("stability", "text", "diverged, oscillating, stalled or converged"),
    Field("diverged_at", "int64", "first step, from 1, whose loss is not finite"),
    Field("target", "float64", "accuracy (loss, for regression) to reach"),
    Field("steps_to_target", "int64", "steps until it was reached"),
    Field("constant_loss", "float64", "training loss of the best constant prediction"),
    Field("rows", "json", "rows of each weight matrix, a JSON list"),
    Field("distinct_rows_before", "json", "distinct rows of each before the first step, a JSON list"),
    Field("distinct_rows_after", "json", "distinct rows of each after the last step, a JSON list"),
    Field("training_seconds", "float64", "time that the training took, without profiling", unit="s",
          source="wall_seconds"),
    *PROVENANCE_FIELDS,
))

EPOCH_FIELDS = tuple(replace(field, since=2) for field in (
    Field("number", "int64", "epochs trained, 0 before the first step"),
    Field("train_loss", "float64", "training loss"),
    Field("train_accuracy", "float64", "training accuracy"),
    Field("validation_loss", "float64", "validation loss"),
    Field("validation_accuracy", "float64", "validation accuracy"),
    Field("update_ratio", "float64", "rms of a step's update over rms of the weights, mean over the epoch"),
))
# fmt: on

TRAINING_TABLES = {"run": RUN_FIELDS, "epoch": EPOCH_FIELDS}
