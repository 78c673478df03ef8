"""Records built by hand, so that what reads records is tested without a model.

Networks of a given signal (`network`, `layered`), of an existing model (`model`), simulated in numpy (`mlp`, `grid`),
small ones for files (`small_profile`), trainings of given curves (`trained`, `run`), a phase chart, and records that
hypothesis draws (`profile_sets`, `training_sets`).

`python tests/building/records.py` writes tests/data/schema-<version>.h5, once for each schema version, and beside it
schema-<version>-training.h5 and schema-<version>-monitored.h5.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from propscope.diagnosis.evidence import Evidence
from propscope.records import (
    UNKNOWN,
    Alarm,
    CoverageNote,
    Expected,
    LogHistogram,
    MonitoredRun,
    NetworkProfile,
    Parameter,
    Parent,
    ProfileSet,
    Provenance,
    Site,
    Steps,
    TensorSummary,
    TrainingRun,
    TrainingSet,
)
from propscope.records.expectations import theory_note
from propscope.records.phase import PhaseChart, PhasePoint
from propscope.records.samples import Samples
from propscope.records.time_course import GateCourse, GateWeights, StateCourse, TimeCourse
from propscope.store import SCHEMA_VERSION, save

DATA = Path(__file__).parents[1] / "data"
UNITS, SAMPLES = 64, 128
CRITICAL = PhasePoint("critical", 1.0, 0.0)
Array = NDArray[np.float32]


def summary(rms: float | None, *, count: int = UNITS * SAMPLES) -> TensorSummary | None:
    """Return a summary of so many elements of this rms, without their histogram; NaN is one NaN among ones."""
    if rms is None:
        return None
    if math.isnan(rms):
        return TensorSummary(count, 0.0, 1.0, -1.0, 1.0, 0.0, nan_count=1)
    return TensorSummary(count, 0.0, rms, -rms, rms, float(rms == 0))


def network(
    forward: Sequence[float | None],
    backward: Sequence[float | None] | None = None,
    *,
    activation: str = "ReLU",
    gradients: bool = True,
    seed: int | None = None,
    labels: dict[str, Any] | None = None,
    **figures: Sequence[Any] | float,
) -> NetworkProfile:
    """Return a network of len(forward) layers; `figures` are fields of the pre-activations, one for all or one each."""
    back = [1.0] * len(forward) if backward is None else list(backward)
    sites, parameters = [], []
    for number, (values, gradient) in enumerate(zip(forward, back, strict=True)):
        place = {"samples": SAMPLES, "units": UNITS, "dead_units": 0, "symmetric_units": 0, "flat_fraction": 0.4,
                 "mean_cosine": 0.5, "effective_rank": 8.0, "shape": (SAMPLES, UNITS)}  # fmt: skip
        place |= {name: each[number] if isinstance(each, Sequence) else each for name, each in figures.items()}
        name = f"layers.{number}.linear"
        sites.append(
            Site(
                name,
                "Linear",
                "pre-activation",
                layer=number + 1,
                activation=activation,
                forward=summary(values),
                backward=summary(gradient) if gradients else None,
                **place,
            )
        )
        weight = TensorSummary.of(np.array([0.1, -0.1]))
        learned = summary(1e-3, count=4096) if gradients else None
        parameters.append(Parameter(f"{name}.weight", (UNITS, UNITS), weight, learned))
    named = dict(labels or {}) | ({} if seed is None else {"seed": seed})
    return NetworkProfile(tuple(sites), tuple(parameters), named, Provenance(seed=seed, samples=SAMPLES, batches=1))


def geometric(factor: float, layers: int = 20, *, reverse: bool = False) -> list[float]:
    """Return rms that change by `factor` over the layers, evenly; `reverse`: as a gradient does, going back."""
    curve = [factor ** (place / (layers - 1)) for place in range(layers)]
    return curve[::-1] if reverse else curve


def seeds(*members: NetworkProfile) -> ProfileSet:
    """Return networks as the seeds of one."""
    return ProfileSet.of(members)


def evidence(*members: NetworkProfile) -> Evidence:
    """Return the evidence of networks that are the seeds of one."""
    return Evidence.of(members)


def site(name: str, kind: str = "Linear", *, rms: float = 1.0, back: float | None = 1.0, **figures: Any) -> Site:
    """Return a site whose values and gradients have this rms, and a mean of zero."""
    place = {"role": "other", "shape": (SAMPLES, UNITS), "units": UNITS, "samples": SAMPLES, "mean_cosine": 0.3}
    return Site(name, kind, forward=summary(rms), backward=summary(back), **(place | figures))


def with_mean(name: str, kind: str, varying: float, **figures: Any) -> Site:
    """Return the site of an activation of which this share of the mean square varies, and the rest is its mean."""
    mean, std = math.sqrt(1 - varying), math.sqrt(varying)
    seen = TensorSummary(UNITS * SAMPLES, mean, std, mean - std, mean + std, 0.0)
    return replace(site(name, kind, role="activation", **figures), forward=seen)


def weight(
    name: str, scale: float, shape: tuple[int, ...] = (UNITS, UNITS), *, gradient: float | None = 1e-3
) -> Parameter:
    """Return a weight with rms(W) sqrt(fan_in) of `scale`, its inputs on all axes but the first."""
    fan_in = math.prod(shape[1:])
    value = summary(scale / math.sqrt(fan_in), count=math.prod(shape))
    return Parameter(name, shape, value, summary(gradient, count=math.prod(shape)))


def scaled(profile: NetworkProfile, factor: float) -> NetworkProfile:
    """Return a profile with the loss, and with it every gradient, times `factor`."""

    def times(seen: TensorSummary | None) -> TensorSummary | None:
        if seen is None:
            return None
        return replace(
            seen, mean=seen.mean * factor, std=seen.std * factor, min=seen.min * factor, max=seen.max * factor
        )

    sites = tuple(replace(each, backward=times(each.backward)) for each in profile.sites)
    return replace(
        profile, sites=sites, parameters=tuple(replace(p, gradient=times(p.gradient)) for p in profile.parameters)
    )


def signal(rms: float | None) -> TensorSummary | None:
    """Return a summary of four elements of this rms: Inf and NaN are elements among finite ones, None is not seen."""
    if rms is None:
        return None
    return TensorSummary.of([1.0, -1.0, rms, -rms] if not math.isfinite(rms) else [rms, -rms, rms, -rms])


def layered(
    forward: Sequence[float | None],
    backward: Sequence[float | None] | None = None,
    *,
    activations: bool = True,
    expected: Sequence[Expected | None] = (),
    figures: Mapping[str, Any] | None = None,
    **labels: Any,
) -> NetworkProfile:
    """Return a network with one pre-activation a layer, and its activation at half the rms, all numbers as given.

    `expected`: of each site in execution order; the sites after the last one given have none.
    """
    sites: list[Site] = []
    for number, rms in enumerate(forward):
        place = {"shape": (2, 2), "layer": number + 1, "samples": 2, "units": 2}
        back = None if backward is None else backward[number]
        sites.append(
            Site(
                f"layers.{number}.linear",
                "Linear",
                "pre-activation",
                activation="ReLU",
                forward=signal(rms),
                backward=signal(back),
                **place,
                **(figures or {}),
            )
        )
        if activations:
            half = None if rms is None else rms / 2
            name = f"layers.{number}.activation"
            sites.append(Site(name, "ReLU", "activation", forward=signal(half), mean_cosine=0.25, **place))
    for number, expectation in enumerate(expected):
        sites[number] = replace(sites[number], expected=expectation)
    weight = Parameter("layers.0.linear.weight", (2, 2), TensorSummary.of([1.0, 2.0, 2.0, 4.0]))
    return NetworkProfile(tuple(sites), (weight,), labels, Provenance(seed=labels.get("seed"), samples=2, batches=1))


def with_gradient(profile: NetworkProfile, values: Sequence[float]) -> NetworkProfile:
    """Return the profile with this gradient at its one parameter."""
    parameter = replace(profile.parameters[0], gradient=TensorSummary.of(values))
    return replace(profile, parameters=(parameter,))


def model(
    sites: Sequence[Site] | int = 60,
    parameters: Sequence[Parameter] = (),
    *,
    seed: int = 0,
    **labels: str | int | float,
) -> NetworkProfile:
    """Return the profile of a model with these sites, in order; a number: so many of mixed roles, by `seed`."""
    made = mixed_sites(sites, seed=seed) if isinstance(sites, int) else tuple(sites)
    return NetworkProfile(made, tuple(parameters), labels)


def mixed_sites(count: int, *, seed: int = 0) -> tuple[Site, ...]:
    """Return sites as of an arbitrary model: no layers, five roles in turn, values and gradients that grow."""
    rng = np.random.default_rng(seed)
    roles = ("norm", "attention", "residual", "activation", "residual")
    return tuple(
        Site(
            name=f"blocks.{index // 5}.{roles[index % 5]}",
            kind="Module",
            role=roles[index % 5],
            shape=(8, 16),
            forward=TensorSummary.of(rng.normal(0, 1 + index / 20, (8, 16))),
            backward=TensorSummary.of(rng.normal(0, 1e-3 * (1 + index), (8, 16))),
        )
        for index in range(count)
    )


INITIALIZERS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "he_normal": lambda rng, n: rng.normal(0, np.sqrt(2 / n), (n, n)),
    "he_uniform": lambda rng, n: rng.uniform(-np.sqrt(6 / n), np.sqrt(6 / n), (n, n)),
    "xavier_normal": lambda rng, n: rng.normal(0, np.sqrt(1 / n), (n, n)),
    "xavier_uniform": lambda rng, n: rng.uniform(-np.sqrt(3 / n), np.sqrt(3 / n), (n, n)),
    "lecun_normal": lambda rng, n: rng.normal(0, np.sqrt(1 / n), (n, n)),
    "lecun_uniform": lambda rng, n: rng.uniform(-np.sqrt(3 / n), np.sqrt(3 / n), (n, n)),
    "orthogonal": lambda rng, n: np.linalg.qr(rng.normal(size=(n, n)))[0],
    "default": lambda rng, n: rng.uniform(-np.sqrt(1 / n), np.sqrt(1 / n), (n, n)),
    "normal:std=0.01": lambda rng, n: rng.normal(0, 0.01, (n, n)),
    "normal:std=1": lambda rng, n: rng.normal(0, 1, (n, n)),
    "uniform:low=-0.1:high=0.1": lambda rng, n: rng.uniform(-0.1, 0.1, (n, n)),
    "trunc_normal:std=0.02": lambda rng, n: np.clip(rng.normal(0, 0.02, (n, n)), -0.04, 0.04),
    "sparse:sparsity=0.9:std=0.01": lambda rng, n: rng.normal(0, 0.01, (n, n)) * (rng.random((n, n)) > 0.9),
    "identity": lambda rng, n: np.eye(n),
    "ones": lambda rng, n: np.ones((n, n)),
    "zeros": lambda rng, n: np.zeros((n, n)),
}


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(z, -80, 80)))


# Each function with its derivative.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(np.float32)),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * (1 - _sigmoid(z))),
    "selu": (
        lambda z: np.where(z > 0, 1.0507 * z, 1.7581 * np.expm1(np.minimum(z, 0))),
        lambda z: np.where(z > 0, 1.0507, 1.7581 * np.exp(np.minimum(z, 0))),
    ),
}


def mlp(
    initializer: str = "he_normal",
    activation: str = "relu",
    *,
    depth: int = 20,
    width: int = 48,
    batch: int = 32,
    seed: int = 0,
    backward: bool = True,
    **labels: str | int | float,
) -> NetworkProfile:
    """Return what an MLP of that kind shows, in float32, with overflow to Inf and NaN as it happens."""
    rng = np.random.default_rng([seed, depth, width])
    phi, slope = ACTIVATIONS[activation]
    hidden, values = rng.normal(size=(batch, width)).astype(np.float32), []
    with np.errstate(all="ignore"):
        for _ in range(depth):
            weight = np.asarray(INITIALIZERS[initializer](rng, width), dtype=np.float32)
            before = hidden
            z = before @ weight.T
            hidden = np.asarray(phi(z), dtype=np.float32)
            values.append((before, weight, z, hidden))
        signal = rng.normal(size=(batch, width)).astype(np.float32)
        sites: list[Site] = []
        parameters: list[Parameter] = []
        for layer in range(depth, 0, -1):
            before, weight, z, after = values[layer - 1]
            at_z = (signal * slope(z)).astype(np.float32)
            seen = {"shape": (batch, width), "layer": layer, "samples": batch}
            gradients = (TensorSummary.of(at_z), TensorSummary.of(signal)) if backward else (None, None)
            act = Site(f"acts.{layer}", activation, "activation", **seen, forward=TensorSummary.of(after))
            pre = Site(f"layers.{layer}", "Linear", "pre-activation", **seen, forward=TensorSummary.of(z))
            sites += [replace(act, backward=gradients[1]), replace(pre, backward=gradients[0])]
            gradient = TensorSummary.of(at_z.T @ before) if backward else None
            bias = Parameter(f"layers.{layer}.bias", (width,), TensorSummary.of(np.zeros(width)))
            parameters += [bias, Parameter(f"layers.{layer}.weight", weight.shape, TensorSummary.of(weight), gradient)]
            signal = at_z @ weight
    return NetworkProfile(
        sites=tuple(reversed(sites)),
        parameters=tuple(reversed(parameters)),
        labels={
            "initializer": initializer,
            "activation": activation,
            "depth": depth,
            "width": width,
            **labels,
            "seed": seed,
        },
        provenance=Provenance(seed=seed, samples=batch, batches=1),
    )


def predicted(profile: NetworkProfile, *, times: float = 1.0, log_std: float = 0.2) -> NetworkProfile:
    """Return the profile with what was seen, so many times, as what theory expects of every site."""

    def expected(site: Site) -> Expected:
        forward, backward = site.forward or TensorSummary.empty(), site.backward or TensorSummary.empty()
        moments = (forward.mean, forward.std, forward.rms)
        return Expected(
            *(times * value for value in moments),
            log_std,
            times * backward.rms,
            log_std,
            forward_std_log_std=log_std,
            forward_mean_std=log_std * times * abs(forward.mean),
        )

    return replace(profile, sites=tuple(replace(site, expected=expected(site)) for site in profile.sites))


def without_theory(profile: NetworkProfile, reason: str) -> NetworkProfile:
    """Return the profile with the note of why theory says nothing of it."""
    return replace(profile, coverage=(theory_note(reason),))


def grid(
    initializers: Sequence[str] = ("he_normal", "xavier_normal", "normal:std=0.01", "zeros"),
    activations: Sequence[str] = ("relu",),
    *,
    seeds: int = 3,
    depths: Sequence[int] = (20,),
    width: int = 48,
    batch: int = 32,
    backward: bool = True,
) -> ProfileSet:
    """Return an MLP's profile for every initializer, activation, depth and seed."""
    return ProfileSet.of(
        mlp(initializer, activation, depth=depth, width=width, batch=batch, seed=seed, backward=backward)
        for activation in activations
        for depth in depths
        for initializer in initializers
        for seed in range(seeds)
    )


@cache
def sixteen() -> ProfileSet:
    """Return the grid of all initializers, depth 20, two seeds; simulated once, since it takes a second."""
    return grid(tuple(INITIALIZERS), seeds=2, width=24, batch=8)


def constant(value: float, *, depth: int = 20, initializer: str = "constant", seed: int = 0) -> NetworkProfile:
    """Return an MLP's profile in which every element, forward and backward, has one value."""
    summary = TensorSummary.of(np.full((4, 8), value, dtype=np.float32))
    sites = []
    for layer in range(1, depth + 1):
        seen = {"shape": (4, 8), "layer": layer, "forward": summary, "backward": summary}
        sites += [
            Site(f"layers.{layer}", "Linear", "pre-activation", **seen),
            Site(f"acts.{layer}", "ReLU", "activation", **seen),
        ]
    parameters = tuple(Parameter(f"layers.{layer}.weight", (8, 8), summary, summary) for layer in range(1, depth + 1))
    labels = {"initializer": initializer, "activation": "relu", "depth": depth, "width": 8, "seed": seed}
    return NetworkProfile(tuple(sites), parameters, labels, Provenance(samples=4, batches=1))


def trained(
    loss: Sequence[float],
    accuracy: Sequence[float] | None = None,
    *,
    validation_loss: Sequence[float] | None = None,
    validation_accuracy: Sequence[float] | None = None,
    profiles: dict[int, NetworkProfile] | None = None,
    options: dict[str, Any] | None = None,
    **labels: Any,
) -> TrainingRun:
    """Return a training with these curves; `options` are further fields of the run."""

    def curve(values: Sequence[float] | None) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.full(len(loss), math.nan) if values is None else np.array(values, dtype=np.float64)

    return TrainingRun(
        **{
            "labels": labels,
            "task": "regression" if accuracy is None else "classification",
            "learning_rate": 0.1,
            "learning_rates_tried": (0.1,),
            "train_loss": curve(loss),
            "train_accuracy": curve(accuracy),
            "validation_loss": curve(validation_loss),
            "validation_accuracy": curve(validation_accuracy),
            "update_ratio": np.full(len(loss) - 1, 0.01),
            "steps_per_epoch": 10,
            "stability": "converged",
            "profiles": tuple((profiles or {}).items()),
            "provenance": Provenance(seed=labels.get("seed")),
            **(options or {}),
        }
    )


def run(
    initializer: str = "he_normal",
    activation: str = "relu",
    *,
    loss: Sequence[float] = (2.0, 1.0, 0.5),
    accuracy: Sequence[float] | None = (0.1, 0.5, 0.8),
    validation: bool = True,
    taken: Sequence[int] = (0, 1, 2),
    seed: int = 0,
    **options: Any,
) -> TrainingRun:
    """Return a training with this training loss and accuracy; those of validation are 1.5 times, and half, of them.

    Profiled after the epochs `taken`, as an MLP of depth 3 before any training.
    """
    unseen = accuracy is None or not validation
    return trained(
        loss,
        accuracy,
        validation_loss=[1.5 * value for value in loss] if validation else None,
        validation_accuracy=None if unseen else [value / 2 for value in accuracy],
        profiles={epoch: mlp(initializer, activation, depth=3, width=8, batch=4, seed=seed) for epoch in taken},
        options=options,
        initializer=initializer,
        activation=activation,
        depth=3,
        width=8,
        optimizer="sgd",
        seed=seed,
    )


def trainings(
    initializers: Sequence[str] = ("he_normal", "zeros"), activations: Sequence[str] = ("relu",), seeds: int = 2
) -> TrainingSet:
    """Return a training for every initializer, activation and seed, its loss growing with all three."""
    return TrainingSet.of(
        run(initializer, activation, loss=(2.0, 1.0 + place + seed, 0.5 + place + seed), seed=seed)
        for activation in activations
        for place, initializer in enumerate(initializers)
        for seed in range(seeds)
    )


def chart(**changes) -> PhaseChart:
    """A chart with a straight critical line sigma_w^2 = 1 + 2 sigma_b^2 on 0 to 3 by 0 to 0.5."""
    weight, bias = (np.arange(30) + 0.5) / 10, (np.arange(20) + 0.5) / 40
    excess = weight - 1 - 2 * bias[:, None]
    line = np.linspace(0, 2, 50)
    made = PhaseChart(
        activation="tanh",
        weight_variance=weight,
        bias_variance=bias,
        q=np.ones_like(excess),
        chi=1 + excess / 10,
        correlation_depth=1 / np.abs(excess),
        line_weight=1 + 2 * line,
        line_bias=line,
        line_stable=np.ones(50, dtype=bool),
        no_line="",
        critical=CRITICAL,
        initializers=(
            PhasePoint("xavier_uniform", 1.0, 0.0),
            PhasePoint("xavier_normal", 1.0, 0.0),
            PhasePoint("he_normal", 2.0, 0.0),
            PhasePoint("normal:std=1", 256.0, 0.01),
            PhasePoint("normal:std=2", 1024.0, 0.01),
            PhasePoint("odd", 0.5, 3.0),
        ),
        without_point=(("zeros", "it is zero"), ("ones", "it is zero"), ("eye", "no draw")),
    )
    return replace(made, **changes)


def plain(value: Any) -> Any:
    """Return a record as nested tuples that are equal when every bit is: NaN equals NaN, 1 is not 1.0 nor True."""
    if isinstance(value, LogHistogram):
        assert (value.bins.dtype, value.counts.dtype) == (np.uint16, np.int64)
        return tuple(value.bins.tolist()), tuple(value.counts.tolist())
    if isinstance(value, Samples):
        return tuple(map(plain, value))
    if isinstance(value, np.ndarray):
        assert value.dtype in (np.float64, np.int64, object)
        return value.dtype, tuple(map(repr, value.tolist()))
    if dataclasses.is_dataclass(value):
        return tuple((f.name, plain(getattr(value, f.name))) for f in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return tuple((name, plain(entry)) for name, entry in value.items())
    return tuple(map(plain, value)) if isinstance(value, tuple) else repr(value)


def small_profile(initializer: str = "he_normal", activation: str = "relu", seed: int = 0) -> NetworkProfile:
    """Return a profile of two sites and one parameter, its numbers different for every seed."""
    values = np.linspace(-1, 2, 7) * (seed + 1)
    forward = TensorSummary.of(values)
    moments = replace(forward, histogram=None)
    sites = (
        Site("layers.0", "Linear", "pre-activation", (7, 1), layer=1, activation=activation, forward=forward, units=1),
        Site("layers.0.act", "ReLU", "activation", (7, 1), layer=1, forward=moments, backward=TensorSummary.empty()),
    )
    parameter = Parameter("layers.0.weight", (1, 7), TensorSummary.of([1.0, np.nan, np.inf, 0.0]))
    return NetworkProfile(
        sites,
        (parameter,),
        {"initializer": initializer, "activation": activation, "depth": 1, "width": 7, "seed": seed},
        Provenance(seed=seed, spec='{"depth": 1}', torch_version="2.13.0", wall_seconds=0.25, samples=7, batches=1),
    )


def small_set() -> ProfileSet:
    """Return six profiles: two initializers by three seeds, the seeds varying fastest."""
    return ProfileSet.of(small_profile(name, seed=seed) for name in ("he_normal", "zeros") for seed in range(3))


@cache
def file_of(make: Callable[[], ProfileSet | TrainingSet]) -> bytes:
    """Return the bytes of the result file of what `make` returns, written once: many tests damage a copy."""
    with TemporaryDirectory() as directory:
        save(Path(directory) / "run.h5", make())
        return (Path(directory) / "run.h5").read_bytes()


def predicted_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the second version of the file added, at its first site alone."""
    profile = small_profile(seed=seed)
    first, *others = profile.sites
    expected = Expected(0.0, 1.5, 1.5, 0.25, backward_rms=2.0 + seed, mean_cosine=0.5, forward_log_drift=-0.0625)
    values = TensorSummary.of([0.0, 1.0, 2.0 + seed])
    first = replace(first, expected=expected, jacobian=values, jacobian_condition=np.inf, jacobian_square_variance=0.75)
    note = CoverageNote("", "theory", "nothing is known of the second site")
    weight, *rest = profile.parameters
    weight = replace(weight, expected_gradient_norm=3.5 + seed, expected_gradient_log_std=0.125)
    return replace(profile, sites=(first, *others), parameters=(weight, *rest), coverage=(note,))


def connected_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the third version of the file added: parents of sites, and courses over time."""
    profile = predicted_profile(seed)
    first, second = profile.sites
    first = replace(first, role="input", parents=(Parent(UNKNOWN, gradient=False),), feature_spread=1.5 + seed)
    ways = (Parent(first.name, ("linear", "mul"), bool(seed)), Parent(UNKNOWN))
    second = replace(second, parents=ways, parameters=("layers.0.weight",), features=7, token_share=0.25)
    return replace(
        profile, sites=(first, second), time_courses=(course(seed), TimeCourse("cell", "Cell", reason="none"))
    )


def attending_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the fourth version of the file added: the spread of attention's logits."""
    profile = connected_profile(seed)
    return replace(profile, sites=(profile.sites[0], replace(profile.sites[1], logit_spread=2.5 + seed)))


def masking_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the fifth version added: masked rows, faults of the loss, a step."""
    profile = attending_profile(seed)
    second = replace(profile.sites[1], softmax_axis=1, masked_rows=0.25)
    stepped = _stepped(profile.parameters[0], seed)
    return replace(
        profile,
        sites=(profile.sites[0], second),
        parameters=(stepped, *profile.parameters[1:]),
        loss_fault="derivative",
        loss_operation="log",
    )


def sampled_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the sixth version added: the step of its training as a column."""
    profile = masking_profile(seed)
    return replace(profile, labels={**profile.labels, "step": 40 + seed})


def hashed_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the seventh version added: digests of the batch and the weights."""
    return replace(sampled_profile(seed), batch_digest="0123456789abcdef", weights_digest=f"{seed:016x}")


def _stepped(parameter: Parameter, seed: int) -> Parameter:
    step = {"step_gradient_norm": math.inf, "update_norm": 0.5 + seed, "update_ratio": 0.25}
    return replace(parameter, **step, first_moment_norm=2.0, second_moment_norm=0.0)


def small_monitored(first: int = 0, steps: int = 4) -> MonitoredRun:
    """Return a monitored run of so many steps from `first` on, each second one sampled, with two alarms."""
    numbers = range(first, first + steps)
    rows = [
        {
            "number": number,
            "loss": 2.0 / (1 + number) if number else math.nan,
            "gradient_norm": math.inf if number == 1 else 0.5,
            "clip_factor": math.nan,
            "loss_scale": 1024.0,
            "learning_rate": 1e-3,
            "nonfinite_gradients": 2 if number == 1 else -1,
            "skipped": int(number == 1),
            "superseded": 0,
            "seconds": 0.25 + number,
            "error": "ValueError: µ" if number == 3 else "",
            "monitor_share": 0.5 / (1 + number),
            "judged": 1,
        }
        for number in numbers
    ]
    samples = tuple(replace(masking_profile(number), labels={"step": number}) for number in numbers if not number % 2)
    alarms = (
        Alarm(first + 1, first, "loss spike", value=3.0, baseline=1.0, message="the loss rose"),
        Alarm(first + 3, first + 3, "collapse", "layers.0", value=1.0, severity="broken", message="alike"),
    )
    return MonitoredRun(samples, Steps.of(rows), alarms)


def monitored(losses: Sequence[float], *, first: int = 0, alarms: Sequence[Alarm] = (), **columns: Any) -> MonitoredRun:
    """Return a run without samples, of steps with these losses; `columns`: other numbers, one for all or one each."""
    usual = {"gradient_norm": 1.0, "clip_factor": math.nan, "loss_scale": math.nan, "learning_rate": 1e-3}
    usual |= {"nonfinite_gradients": 0, "skipped": 0, "superseded": 0, "seconds": 0.1, "error": ""}
    usual |= {"monitor_share": 0.01, "judged": 1}
    rows = [
        {"number": first + at, "loss": loss}
        | {name: value[at] if isinstance(value, list) else value for name, value in (usual | columns).items()}
        for at, loss in enumerate(losses)
    ]
    return MonitoredRun((), Steps.of(rows), tuple(alarms))


def sampled_at(
    steps: Sequence[int],
    *,
    sites: int = 0,
    names: Sequence[str] = (),
    rms: float | Callable[[int, int], float | None] = 1.0,
    back: float | Callable[[int, int], float | None] = 1.0,
    update: float | Callable[[int, int], float | None] = 1e-3,
    alarms: Sequence[Alarm] = (),
    **figures: Any,
) -> MonitoredRun:
    """Return the samples of a run at these steps, without what is seen of every step.

    `sites`: their number, called fc.0, fc.1 and so on; or their `names`. `rms`, `back` and the ratio `update` of each
    site's weight: one number, or a function of step and place. `figures`: further fields of each site.
    """

    def at(what: Any, step: int, place: int) -> float | None:
        value: float | None = what(step, place) if callable(what) else what
        return value

    called = names or [f"fc.{place}" for place in range(sites)]
    samples = []
    for step in steps:
        places = [
            site(name, rms=at(rms, step, place), back=at(back, step, place), **figures)
            for place, name in enumerate(called)
        ]
        weights = [
            replace(weight(f"{name}.weight", 1.0), update_ratio=at(update, step, place))
            for place, name in enumerate(called)
        ]
        samples.append(NetworkProfile(tuple(places), tuple(weights), {"step": int(step)}))
    return MonitoredRun(tuple(samples), alarms=tuple(alarms))


def kept(run: MonitoredRun) -> MonitoredRun:
    """Return a run as its file keeps it: numbers of sites and parameters with the bits of a float32."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(np.float32(value))
        if isinstance(value, tuple):
            return tuple(map(short, value))
        if not dataclasses.is_dataclass(value) or isinstance(value, LogHistogram):
            return value
        return replace(value, **{f.name: short(getattr(value, f.name)) for f in dataclasses.fields(value)})

    profiles = (replace(one, sites=short(one.sites), parameters=short(one.parameters)) for one in run)
    return replace(run, profiles=tuple(profiles))


def course(seed: int = 0, *, module: str = "rnn", forward: float = 0.9, backward: float = 0.5) -> TimeCourse:
    """Return the course of an LSTM of 21 steps whose states change by these factors per step, its gradient likewise."""
    steps = (1, 2, 11, 21)
    states = tuple((1.0 + seed) * forward**step for step in steps)
    gradients = tuple(backward ** (21 - step) for step in steps)
    return TimeCourse(
        module,
        "LSTM",
        layer=2,
        reverse=True,
        length=21,
        steps=steps,
        hidden=StateCourse(states, (math.nan, *gradients[1:]), (math.nan, backward, backward, math.inf)),
        cell=StateCourse(states, gradients, (backward,) * 4),
        gates=tuple(GateCourse(name, (0.5, 0.25, 0.25, 0.125), (0.0, 0.5, 1.0, 1.0)) for name in "ifgo"),
        weights=tuple(GateWeights(name, 0.5, 0.75, 1.25 if name == "g" else None) for name in "ifgo"),
        reason="no reason",
    )


def of_version(version: int) -> ProfileSet:
    """Return the profiles that tests/data/schema-<version>.h5 holds."""
    if version == 1:
        return small_set()
    made = (
        predicted_profile,
        connected_profile,
        attending_profile,
        masking_profile,
        sampled_profile,
        hashed_profile,
    )[version - 2]
    return ProfileSet.of(made(seed) for seed in range(2))


def small_run(
    initializer: str = "he_normal", seed: int = 0, epochs: int = 2, taken: tuple[int, ...] = (0, 2)
) -> TrainingRun:
    """Return a training of so many epochs, profiled after those `taken`, its numbers different for every seed."""
    loss = (seed + 1) * 0.5 ** np.arange(epochs + 1)
    labels = {"initializer": initializer, "activation": "relu", "depth": 1, "width": 7, "seed": seed}
    return TrainingRun(
        labels={**labels, "optimizer": "sgd"},
        task="classification",
        learning_rate=0.1,
        learning_rates_tried=(0.1, 0.01),
        train_loss=loss,
        train_accuracy=1 - loss / 4,
        validation_loss=loss + 0.25,
        validation_accuracy=np.full(epochs + 1, np.nan),
        update_ratio=loss[1:] / 100,
        steps_per_epoch=5,
        stability="converged",
        target=0.9,
        steps_to_target=7 + seed if seed else None,
        constant_loss=2.25,
        rows=(7, 1),
        distinct_rows_before=(7, 1),
        distinct_rows_after=(6, 1),
        profiles=tuple((epoch, small_profile(initializer, seed=10 * seed + epoch)) for epoch in taken),
        wall_seconds=1.5,
        provenance=Provenance(seed=seed, spec='{"epochs": 2}', wall_seconds=2.5, samples=35, batches=5 * epochs),
    )


def small_training() -> TrainingSet:
    """Return six trainings: two initializers by three seeds, of which the last has no profile and diverged."""
    runs = [small_run(name, seed=seed) for name in ("he_normal", "zeros") for seed in range(3)]
    lost = np.array([3.0, np.nan, np.inf])
    runs[5] = replace(runs[5], train_loss=lost, stability="diverged", diverged_at=6, profiles=())
    return TrainingSet.of(runs)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
_INT = st.integers(0, 2**63 - 1)
_COUNT = st.integers(0, 3) | st.integers(0, 2**61)
_SHAPE = st.lists(st.integers(0, 2**40), max_size=3).map(tuple)
_LABEL = _TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()


# The bins that occur: those of each sign without its other NaNs, and no negative zero.
_BINS = st.sampled_from([*range(2041), 2047, *range(2049, 4089)])
_UPWARDS = st.floats(0) | st.just(math.nan)
_FINITE = st.floats(allow_nan=False, allow_infinity=False)
_SHARE = st.floats(0, 1)
_DTYPE = st.sampled_from(["float32", "bfloat16", "float8_e4m3fn", ""])


@st.composite
def histograms(draw: st.DrawFn, most: int = 2**62) -> LogHistogram:
    counts = draw(st.dictionaries(_BINS, st.integers(1, max(most // 6, 1)), max_size=min(6, most)))
    bins = sorted(counts)
    return LogHistogram(np.array(bins, np.uint16), np.array([counts[b] for b in bins], np.int64))


@st.composite
def summaries(draw: st.DrawFn) -> TensorSummary:
    nonfinite = [draw(_COUNT) for _ in range(3)]
    finite = draw(_COUNT)
    low, mean, high = sorted(draw(_FINITE) for _ in range(3))
    std = draw(_SHARE) * (high / 2 - low / 2)
    count = sum(nonfinite) + finite
    moments = (mean, std, low, high) if finite else (math.nan,) * 4
    share = draw(_SHARE) if count else math.nan
    return TensorSummary(count, *moments, share, *nonfinite, histogram=draw(st.none() | histograms(count)))


@st.composite
def expectations(draw: st.DrawFn) -> Expected:
    # One of NaN alone says nothing, and is None when it is read again.
    known = draw(st.floats(-1, 1))
    spread = [draw(_UPWARDS) for _ in range(5)]
    mean, drift, other = (draw(_NUMBER) for _ in range(3))
    scatter = [draw(_UPWARDS) for _ in range(2)]
    return Expected(mean, *spread, known, drift, other, *scatter)


_UNSEEN = st.builds(Parent, name=st.just(UNKNOWN), operations=st.lists(_TEXT, max_size=2).map(tuple))

_SITES = st.builds(
    Site,
    parents=st.none() | st.lists(_UNSEEN, max_size=2).map(tuple),
    parameters=st.lists(_TEXT, max_size=2).map(tuple),
    name=_TEXT,
    kind=_TEXT,
    role=st.sampled_from(["pre-activation", "activation", "norm", "other"]),
    shape=_SHAPE,
    dtype=_DTYPE,
    layer=st.none() | st.integers(1, 2**40),
    activation=_TEXT,
    forward=st.none() | summaries(),
    backward=st.none() | summaries(),
    samples=_INT,
    units=st.just(2**40) | st.integers(2**40, 2**63 - 1),
    dead_units=st.none() | st.integers(0, 2**40),
    symmetric_units=st.none() | st.integers(0, 2**40),
    flat_fraction=st.none() | _SHARE,
    mean_cosine=st.none() | st.floats(-1, 1),
    effective_rank=st.none() | _FINITE.map(abs),
    attention_entropy=st.none() | _FINITE.map(abs),
    largest_logit=st.none() | st.floats(allow_nan=False),
    logit_spread=st.none() | _FINITE.map(abs),
    softmax_axis=st.none() | st.integers(0, 4),
    masked_rows=st.none() | _SHARE,
    branch_share=st.none() | _SHARE,
    expected=st.none() | expectations(),
    jacobian=st.none() | summaries(),
    jacobian_condition=st.none() | st.floats(1),
    jacobian_square_variance=st.none() | st.floats(0),
)

_PARAMETERS = st.builds(
    Parameter,
    name=_TEXT,
    shape=_SHAPE,
    value=summaries(),
    gradient=st.none() | summaries(),
    dtype=_DTYPE,
    symmetric_units=st.none() | _INT,
    step_gradient_norm=st.none() | st.floats(0),
    update_norm=st.none() | st.floats(0),
    update_ratio=st.none() | st.floats(0),
    first_moment_norm=st.none() | st.floats(0),
    second_moment_norm=st.none() | st.floats(0),
)

_PROVENANCES = st.builds(
    Provenance,
    spec=st.dictionaries(_TEXT, _TEXT | st.integers() | st.none(), max_size=2).map(json.dumps),
    seed=st.none() | _INT,
    propscope_version=_TEXT,
    torch_version=_TEXT,
    python_version=_TEXT,
    commit=_TEXT,
    device=_TEXT,
    dtype=_DTYPE,
    created=_TEXT,
    wall_seconds=_FINITE.map(abs),
    samples=_INT,
    batches=_INT,
    histogram_limit=_INT,
    flat_threshold=_FINITE.map(abs),
)

_PROFILES = st.builds(
    NetworkProfile,
    sites=st.lists(_SITES, max_size=3).map(tuple),
    parameters=st.lists(_PARAMETERS, max_size=2).map(tuple),
    labels=st.dictionaries(st.sampled_from(["initializer", "activation", "depth", "width", "seed"]) | _TEXT, _LABEL),
    provenance=_PROVENANCES,
    coverage=st.lists(
        st.builds(CoverageNote, name=_TEXT, what=st.sampled_from(["module", "output"]), reason=_TEXT), max_size=2
    ).map(tuple),
)

# An example takes 0.1 s, so that shrinking a failure would take minutes; the examples are small as they come.
few_examples = settings(
    max_examples=25, deadline=None, phases=[phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
)

profile_sets = st.lists(_PROFILES, max_size=3).map(ProfileSet.of)


@st.composite
def _runs(draw: st.DrawFn) -> TrainingRun:
    epochs, weights = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    curves = [np.array([draw(of) for _ in range(epochs + 1)]) for of in (_NUMBER, _SHARE, _NUMBER, _SHARE)]
    taken = sorted(draw(st.sets(st.integers(0, epochs))))
    return TrainingRun(
        draw(st.dictionaries(st.sampled_from(["initializer", "optimizer", "seed"]) | _TEXT, _LABEL)),
        draw(st.sampled_from(["classification", "regression"])),
        draw(_FINITE.map(abs)),
        tuple(draw(st.lists(_NUMBER, max_size=2))),
        *curves,
        np.array([draw(_UPWARDS) for _ in range(epochs)]),
        draw(_INT),
        draw(st.sampled_from(["diverged", "oscillating", "stalled", "converged"])),
        diverged_at=draw(st.none() | st.integers(1, 2**40)),
        target=draw(st.none() | st.floats(allow_nan=False)),
        steps_to_target=draw(st.none() | _INT),
        constant_loss=draw(_NUMBER),
        **{
            name: tuple(draw(st.integers(0, 2**40)) for _ in range(weights))
            for name in ("rows", "distinct_rows_before", "distinct_rows_after")
        },
        profiles=tuple((epoch, draw(_PROFILES)) for epoch in taken),
        wall_seconds=draw(_FINITE.map(abs)),
        provenance=draw(_PROVENANCES),
    )


_ALARMS = st.builds(
    Alarm,
    step=_INT,
    since=_INT,
    kind=_TEXT,
    site=_TEXT,
    parameter=_TEXT,
    value=_NUMBER,
    baseline=_NUMBER,
    severity=st.sampled_from(["strained", "broken"]),
    message=_TEXT,
    superseded=st.integers(-1, 1),
)
_STEP_ROWS = st.fixed_dictionaries(
    {
        "number": _INT,
        "loss": _NUMBER,
        "gradient_norm": _UPWARDS,
        "clip_factor": _UPWARDS,
        "loss_scale": _UPWARDS,
        "learning_rate": _NUMBER,
        "nonfinite_gradients": st.just(-1) | _INT,
        "skipped": st.integers(0, 1),
        "superseded": st.integers(0, 1),
        "seconds": _FINITE.map(abs),
        "error": _TEXT,
        "monitor_share": st.just(math.nan) | st.floats(0, 1),
        "judged": st.integers(-1, 1),
    }
)
monitored_runs = st.builds(
    MonitoredRun,
    st.lists(_PROFILES, max_size=2).map(tuple),
    st.lists(_STEP_ROWS, min_size=1, max_size=3).map(Steps.of),
    st.lists(_ALARMS, max_size=2).map(tuple),
)

training_sets = st.lists(_runs(), max_size=2).map(TrainingSet.of)


if __name__ == "__main__":
    save(DATA / f"schema-{SCHEMA_VERSION}.h5", of_version(SCHEMA_VERSION), overwrite=True)
    save(DATA / f"schema-{SCHEMA_VERSION}-training.h5", small_training(), overwrite=True)
    save(DATA / f"schema-{SCHEMA_VERSION}-monitored.h5", small_monitored(), overwrite=True)
