"""Profiles of MLPs simulated in numpy, and hand-built ones, for pictures without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from propscope.records import Expected, NetworkProfile, Parameter, ProfileSet, Provenance, Site, TensorSummary
from propscope.records.expectations import theory_note

Array = NDArray[np.float32]

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


def model(sites: int = 60, *, seed: int = 0, **labels: str | int | float) -> NetworkProfile:
    """Return a profile as of an arbitrary model: no layers, no labels but the given ones, mixed roles, no weights."""
    rng = np.random.default_rng(seed)
    roles = ("norm", "attention", "residual", "activation", "residual")
    made = tuple(
        Site(
            name=f"blocks.{index // 5}.{roles[index % 5]}",
            kind="Module",
            role=roles[index % 5],
            shape=(8, 16),
            forward=TensorSummary.of(rng.normal(0, 1 + index / 20, (8, 16))),
            backward=TensorSummary.of(rng.normal(0, 1e-3 * (1 + index), (8, 16))),
        )
        for index in range(sites)
    )
    return NetworkProfile(made, labels=labels)


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
