"""Hand-built profiles for the tests of the store, and how to compare two of them to the last bit.

`python tests/building/stored_profiles.py` writes tests/data/schema-<version>.h5, once for each schema version, and
beside it schema-<version>-training.h5.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import Phase, settings
from hypothesis import strategies as st

from propscope.records import (
    CoverageNote,
    Expected,
    LogHistogram,
    NetworkProfile,
    Parameter,
    ProfileSet,
    Provenance,
    Site,
    TensorSummary,
    TrainingRun,
    TrainingSet,
)
from propscope.store import SCHEMA_VERSION, save

DATA = Path(__file__).parents[1] / "data"


def plain(value: Any) -> Any:
    """Return a record as nested tuples that are equal when every bit is: NaN equals NaN, 1 is not 1.0 nor True."""
    if isinstance(value, LogHistogram):
        assert (value.bins.dtype, value.counts.dtype) == (np.uint16, np.int64)
        return tuple(value.bins.tolist()), tuple(value.counts.tolist())
    if isinstance(value, np.ndarray):
        assert value.dtype == np.float64
        return tuple(map(repr, value.tolist()))
    if dataclasses.is_dataclass(value):
        return tuple((f.name, plain(getattr(value, f.name))) for f in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return tuple((name, plain(entry)) for name, entry in value.items())
    return tuple(map(plain, value)) if isinstance(value, tuple) else repr(value)


def small_profile(initializer: str = "he_normal", activation: str = "relu", seed: int = 0) -> NetworkProfile:
    """Return a profile of two sites and one parameter, its numbers different for every seed."""
    values = np.linspace(-1, 2, 7) * (seed + 1)
    forward = TensorSummary.of(values)
    moments = dataclasses.replace(forward, histogram=None)
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


def predicted_profile(seed: int = 0) -> NetworkProfile:
    """Return a profile that holds what the second version of the file added, at its first site alone."""
    profile = small_profile(seed=seed)
    first, *others = profile.sites
    expected = Expected(0.0, 1.5, 1.5, 0.25, backward_rms=2.0 + seed, mean_cosine=0.5, forward_log_drift=-0.0625)
    values = TensorSummary.of([0.0, 1.0, 2.0 + seed])
    first = dataclasses.replace(
        first, expected=expected, jacobian=values, jacobian_condition=np.inf, jacobian_square_variance=0.75
    )
    note = CoverageNote("", "theory", "nothing is known of the second site")
    weight, *rest = profile.parameters
    weight = dataclasses.replace(weight, expected_gradient_norm=3.5 + seed, expected_gradient_log_std=0.125)
    return dataclasses.replace(profile, sites=(first, *others), parameters=(weight, *rest), coverage=(note,))


def of_version(version: int) -> ProfileSet:
    """Return the profiles that tests/data/schema-<version>.h5 holds."""
    return small_set() if version == 1 else ProfileSet.of(predicted_profile(seed) for seed in range(2))


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
    runs[5] = dataclasses.replace(runs[5], train_loss=lost, stability="diverged", diverged_at=6, profiles=())
    return TrainingSet.of(runs)


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_NUMBER = st.floats(allow_nan=True, allow_infinity=True)
_INT = st.integers(0, 2**63 - 1)
_COUNT = st.integers(0, 3) | st.integers(0, 2**61)
_SHAPE = st.lists(st.integers(0, 2**40), max_size=3).map(tuple)
_LABEL = _TEXT | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.booleans()


@st.composite
def histograms(draw: st.DrawFn) -> LogHistogram:
    counts = draw(st.dictionaries(st.integers(0, 4095), st.integers(1, 2**62), max_size=6))
    bins = sorted(counts)
    return LogHistogram(np.array(bins, np.uint16), np.array([counts[b] for b in bins], np.int64))


@st.composite
def summaries(draw: st.DrawFn) -> TensorSummary:
    nonfinite = [draw(_COUNT) for _ in range(3)]
    moments = [draw(_NUMBER) for _ in range(5)]
    return TensorSummary(sum(nonfinite) + draw(_COUNT), *moments, *nonfinite, histogram=draw(st.none() | histograms()))


@st.composite
def expectations(draw: st.DrawFn) -> Expected:
    # One of NaN alone says nothing, and is None when it is read again.
    known = draw(st.floats(allow_nan=False))
    before, after = ([draw(_NUMBER) for _ in range(count)] for count in (6, 4))
    return Expected(*before, known, *after)


_SITES = st.builds(
    Site,
    name=_TEXT,
    kind=_TEXT,
    role=st.sampled_from(["pre-activation", "activation", "norm", "other"]),
    shape=_SHAPE,
    dtype=_TEXT,
    layer=st.none() | _INT,
    activation=_TEXT,
    forward=st.none() | summaries(),
    backward=st.none() | summaries(),
    samples=_INT,
    units=st.none() | _INT,
    dead_units=st.none() | _INT,
    symmetric_units=st.none() | _INT,
    flat_fraction=st.none() | st.floats(allow_nan=False),
    mean_cosine=st.none() | st.floats(allow_nan=False),
    effective_rank=st.none() | st.floats(allow_nan=False),
    attention_entropy=st.none() | st.floats(allow_nan=False),
    largest_logit=st.none() | st.floats(allow_nan=False),
    branch_share=st.none() | st.floats(allow_nan=False),
    expected=st.none() | expectations(),
    jacobian=st.none() | summaries(),
    jacobian_condition=st.none() | st.floats(allow_nan=False),
    jacobian_square_variance=st.none() | st.floats(allow_nan=False),
)

_PARAMETERS = st.builds(
    Parameter,
    name=_TEXT,
    shape=_SHAPE,
    value=summaries(),
    gradient=st.none() | summaries(),
    dtype=_TEXT,
    symmetric_units=st.none() | _INT,
)

_PROVENANCES = st.builds(
    Provenance,
    spec=_TEXT,
    seed=st.none() | _INT,
    propscope_version=_TEXT,
    torch_version=_TEXT,
    python_version=_TEXT,
    commit=_TEXT,
    device=_TEXT,
    dtype=_TEXT,
    created=_TEXT,
    wall_seconds=_NUMBER,
    samples=_INT,
    batches=_INT,
    histogram_limit=_INT,
    flat_threshold=_NUMBER,
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
    curves = [np.array([draw(_NUMBER) for _ in range(epochs + 1)]) for _ in range(4)]
    taken = sorted(draw(st.sets(st.integers(0, epochs))))
    return TrainingRun(
        draw(st.dictionaries(st.sampled_from(["initializer", "optimizer", "seed"]) | _TEXT, _LABEL)),
        draw(st.sampled_from(["classification", "regression"])),
        draw(_NUMBER),
        tuple(draw(st.lists(_NUMBER, max_size=2))),
        *curves,
        np.array([draw(_NUMBER) for _ in range(epochs)]),
        draw(_INT),
        draw(st.sampled_from(["diverged", "oscillating", "stalled", "converged"])),
        diverged_at=draw(st.none() | _INT),
        target=draw(st.none() | st.floats(allow_nan=False)),
        steps_to_target=draw(st.none() | _INT),
        constant_loss=draw(_NUMBER),
        **{
            name: tuple(draw(st.integers(0, 2**40)) for _ in range(weights))
            for name in ("rows", "distinct_rows_before", "distinct_rows_after")
        },
        profiles=tuple((epoch, draw(_PROFILES)) for epoch in taken),
        wall_seconds=draw(_NUMBER),
        provenance=draw(_PROVENANCES),
    )


training_sets = st.lists(_runs(), max_size=2).map(TrainingSet.of)

if __name__ == "__main__":
    save(DATA / f"schema-{SCHEMA_VERSION}.h5", of_version(SCHEMA_VERSION))
    save(DATA / f"schema-{SCHEMA_VERSION}-training.h5", small_training())
