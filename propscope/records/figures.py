"""The one table that maps every recorded quantity to its type, label, symbol and unit.

Tables, files, frames and plots all read it, so a quantity has one name everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Kind = Literal["int", "float", "text"]


@dataclass(frozen=True, slots=True)
class Field:
    """A quantity: `name` in files and frames, `label` in words, `symbol` in mathtext, `unit` ("1" for a pure number).

    A missing int is -1, a missing float NaN, a missing text empty. `since`: the first version of the result file that
    has it.
    """

    name: str
    kind: Kind
    label: str
    symbol: str = ""
    unit: str = "1"
    since: int = 1


SUMMARY_FIELDS = (
    Field("count", "int", "elements seen", "n"),
    Field("mean", "float", "mean of the finite elements", r"\langle x \rangle"),
    Field("std", "float", "standard deviation about the mean", r"\sigma"),
    Field("rms", "float", "root mean square", r"\sqrt{\langle x^2 \rangle}"),
    Field("min", "float", "smallest finite element", r"\min"),
    Field("max", "float", "largest finite element", r"\max"),
    Field("zero_fraction", "float", "share of zeros"),
    Field("nan_count", "int", "NaN elements"),
    Field("posinf_count", "int", "+Inf elements"),
    Field("neginf_count", "int", "-Inf elements"),
)


def _directed(direction: str, what: str, since: int = 1) -> tuple[Field, ...]:
    return tuple(
        replace(f, name=f"{direction}_{f.name}", label=f"{what}: {f.label}", since=since) for f in SUMMARY_FIELDS
    )


# What theory expects at a site: `expected_` and the name of a field of `Expected`.
EXPECTED_FIELDS = (
    Field("forward_mean", "float", "theory: mean of the values", since=2),
    Field("forward_std", "float", "theory: standard deviation of the values", since=2),
    Field("forward_rms", "float", "theory: root mean square of the values", since=2),
    Field("forward_log_std", "float", "theory: standard deviation over seeds of ln forward_rms", since=2),
    Field("backward_rms", "float", "theory: root mean square of the gradient", since=2),
    Field("backward_log_std", "float", "theory: standard deviation over seeds of ln backward_rms", since=2),
    Field("mean_cosine", "float", "theory: mean cosine between samples", since=2),
    Field("forward_log_drift", "float", "theory: mean over seeds of ln rms, less ln forward_rms", since=2),
    Field("backward_log_drift", "float", "theory: mean over seeds of ln rms, less ln backward_rms", since=2),
    Field("forward_mean_std", "float", "theory: standard deviation over seeds of the mean", since=2),
    Field("forward_std_log_std", "float", "theory: standard deviation over seeds of ln std", since=2),
)


SITE_FIELDS = (
    Field("index", "int", "position in execution order"),
    Field("name", "text", "module, with #call for later calls"),
    Field("kind", "text", "class or function"),
    Field("role", "text", "role in the network"),
    Field("layer", "int", "layer, from 1", "l"),
    Field("shape", "text", "shape of the first batch"),
    Field("dtype", "text", "element type"),
    Field("activation", "text", "nonlinearity that the value enters"),
    Field("samples", "int", "input rows seen"),
    Field("units", "int", "units"),
    Field("dead_units", "int", "units flat on every sample"),
    Field("symmetric_units", "int", "units equal to another unit"),
    Field("flat_fraction", "float", "share where the nonlinearity is flat"),
    Field("mean_cosine", "float", "mean cosine between samples", r"\langle \cos \rangle"),
    Field("effective_rank", "float", "effective rank of the sampled rows"),
    Field("attention_entropy", "float", "mean entropy of the attention's rows", "H", "nat"),
    Field("largest_logit", "float", "largest logit before the softmax"),
    Field("branch_share", "float", "share of a residual sum's mean square that the branch brings"),
    *(replace(f, name=f"expected_{f.name}") for f in EXPECTED_FIELDS),
    Field("jacobian_condition", "float", "largest over smallest singular value of d site / d input", since=2),
    Field(
        "jacobian_square_variance",
        "float",
        "variance of the squared singular values over their squared mean",
        since=2,
    ),
    *_directed("forward", "value"),
    *_directed("backward", "gradient"),
    *_directed("jacobian", "singular values", since=2),
)

PARAMETER_FIELDS = (
    Field("index", "int", "position in the module's order"),
    Field("name", "text", "parameter"),
    Field("shape", "text", "shape"),
    Field("dtype", "text", "element type"),
    Field("symmetric_units", "int", "rows equal to another row"),
    Field("value_norm", "float", "L2 norm of the value", r"\|W\|"),
    Field("gradient_norm", "float", "L2 norm of the gradient", r"\|\partial L/\partial W\|"),
    Field("expected_gradient_norm", "float", "theory: L2 norm of the gradient", since=2),
    Field("expected_gradient_log_std", "float", "theory: standard deviation over seeds of its logarithm", since=2),
    *_directed("value", "value"),
    *_directed("gradient", "gradient"),
)

_LABELS = (
    Field("labels", "text", "labels, a JSON object"),
    Field("initializer", "text", "initializer of the weights"),
    Field("activation", "text", "nonlinearity"),
    Field("depth", "int", "layers", "L"),
    Field("width", "text", "units a layer"),
    Field("seed", "int", "seed of network and input"),
)

_PROVENANCE = (
    Field("spec", "text", "everything that was asked for, a JSON object"),
    Field("propscope_version", "text", "propscope version"),
    Field("torch_version", "text", "torch version"),
    Field("python_version", "text", "Python version"),
    Field("commit", "text", "commit of the working directory"),
    Field("device", "text", "device"),
    Field("dtype", "text", "element type"),
    Field("created", "text", "time of the run, UTC, ISO 8601"),
    Field("wall_seconds", "float", "time that the recorded run took", unit="s"),
    Field("samples", "int", "input rows seen"),
    Field("batches", "int", "forward passes seen"),
    Field("histogram_limit", "int", "elements of a tensor that its histogram counts, 0 for all"),
    Field("flat_threshold", "float", "eps of the flat fraction"),
)

PROFILE_FIELDS = (
    *_LABELS,
    *_PROVENANCE,
    Field("coverage", "text", "what was not seen and why, a JSON list of [name, what, reason]"),
)

TABLES = {"profile": PROFILE_FIELDS, "site": SITE_FIELDS, "parameter": PARAMETER_FIELDS}

RUN_FIELDS = tuple(
    replace(field, since=2)
    for field in (
        *_LABELS,
        Field("optimizer", "text", "optimizer"),
        Field("task", "text", "classification or regression"),
        Field("learning_rate", "float", "learning rate trained with", r"\eta"),
        Field("learning_rates_tried", "text", "learning rates that it was chosen from, a JSON list"),
        Field("steps_per_epoch", "int", "steps an epoch"),
        Field("stability", "text", "diverged, oscillating, stalled or converged"),
        Field("diverged_at", "int", "first step, from 1, whose loss is not finite"),
        Field("target", "float", "accuracy (loss, for regression) to reach"),
        Field("steps_to_target", "int", "steps until it was reached"),
        Field("constant_loss", "float", "training loss of the best constant prediction"),
        Field("rows", "text", "rows of each weight matrix, a JSON list"),
        Field("distinct_rows_before", "text", "distinct rows of each before the first step, a JSON list"),
        Field("distinct_rows_after", "text", "distinct rows of each after the last step, a JSON list"),
        Field("training_seconds", "float", "time that the training took, without profiling", unit="s"),
        *_PROVENANCE,
    )
)

EPOCH_FIELDS = tuple(
    replace(field, since=2)
    for field in (
        Field("number", "int", "epochs trained, 0 before the first step"),
        Field("train_loss", "float", "training loss"),
        Field("train_accuracy", "float", "training accuracy"),
        Field("validation_loss", "float", "validation loss"),
        Field("validation_accuracy", "float", "validation accuracy"),
        Field("update_ratio", "float", "rms of a step's update over rms of the weights, mean over the epoch"),
    )
)

TRAINING_TABLES = {"run": RUN_FIELDS, "epoch": EPOCH_FIELDS}
