"""The predictions of theory for each network of a grid, put beside what was measured at its sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.experiments.grid import Loss
from propscope.networks import MLPSpec
from propscope.records.expectations import theory_note
from propscope.records.network import Expected, NetworkProfile, Parameter, signal_of
from propscope.theory.mlp_signal import MLPVariances, mlp_variances
from propscope.theory.predict import expectations

Theory = Callable[[NetworkProfile, MLPSpec, Tensor], NetworkProfile]


def theory_for(loss: Loss) -> Theory:
    """Return the function that adds the predictions of theory to a profile, given its network and inputs.

    Forward, theory starts from the mean square and the mean cosine of the inputs. Backward, it starts from the gradient
    at the output: of rms 1 for the loss "cotangent", and as measured for the other losses, which theory does not cover.
    Theory takes that gradient to be independent of the weights; one that depends on the output, as that of "mse", is
    not. Where theory does not apply, the profile's coverage says why.
    """

    # All networks of a seed have the same inputs, and all seeds of a network the same variances.
    geometry_of = lru_cache(maxsize=64)(_geometry)

    @lru_cache(maxsize=64)
    def mlp_for(network: MLPSpec) -> MLPVariances | str:
        try:
            # A critical initializer has its numbers by now, so that the inputs do not matter.
            return mlp_variances(network, mean_square=1.0)
        except InputError as error:
            return str(error).removeprefix(f'mean field does not apply to initializer "{network.initializer.label}": ')

    def with_theory(profile: NetworkProfile, network: MLPSpec, inputs: Tensor) -> NetworkProfile:
        mlp = mlp_for(network)
        if isinstance(mlp, str):
            return replace(profile, coverage=(*profile.coverage, theory_note(mlp)))
        mean_square, cosine = geometry_of(inputs)
        gradient, correlation = 1.0, 0.0
        if loss != "cotangent":
            gradient = signal_of(profile.sites[-1].backward)
            # Softmax minus one-hot with a nearly uniform softmax: cosine 1 within a class, -1 / (classes - 1) between.
            correlation = 1 / (mlp.outputs - 1) if loss == "cross-entropy" and mlp.outputs > 1 else 0.0
        expected = expectations(
            mlp,
            mean_square=mean_square,
            cosine=cosine,
            samples=len(inputs),
            output_gradient_rms=gradient,
            alike=correlation,
        )
        placed = replace(
            profile, sites=tuple(replace(site, expected=expected.get(site.name)) for site in profile.sites)
        )
        if loss != "cotangent":
            return placed
        entering = _entering(placed, Expected(forward_rms=math.sqrt(mean_square), forward_log_std=0.0))
        return replace(
            placed,
            parameters=tuple(_weight(each, expected, entering, len(inputs)) for each in placed.parameters),
        )

    return with_theory


def _entering(profile: NetworkProfile, first: Expected) -> dict[str, Expected]:
    """Return what enters each linear layer: the output of the activation, or of the dropout, before it."""
    found, last = {}, first
    for site in profile.sites:
        if site.kind == "Linear":
            found[site.name] = last
        elif site.expected is not None and site.role != "residual":
            last = site.expected
    return found


def _weight(
    parameter: Parameter, expected: Mapping[str, Expected], entering: Mapping[str, Expected], samples: int
) -> Parameter:
    """Return a weight with the expected norm of its gradient, E|dL/dW|^2 = samples m n E[(dL/dz)^2] E[h^2].

    dL/dW, of shape (m, n), is the sum over samples of dL/dz h^T. The gradients of different samples are independent
    where those at the output are; products of different samples then cancel in the mean.
    """
    name, _, kind = parameter.name.rpartition(".")
    if kind != "weight" or name not in entering or name not in expected:
        return parameter
    back, forth = expected[name], entering[name]
    return replace(
        parameter,
        expected_gradient_norm=math.sqrt(samples * math.prod(parameter.shape)) * back.backward_rms * forth.forward_rms,
        expected_gradient_log_std=math.hypot(back.backward_log_std, forth.forward_log_std),
    )


def _geometry(inputs: Tensor) -> tuple[float, float]:
    """Return the mean square of the elements and the mean cosine over pairs of rows, which is 1 for a single row."""
    with torch.no_grad():
        values = inputs.double()
        squares = values.square().sum(1)
        directions = values[squares > 0] / squares[squares > 0].sqrt()[:, None]
        rows = len(directions)
        # The square of the sum has all pairs, and each row with itself.
        pairs = float(directions.sum(0).square().sum()) - rows
    mean_square = float(squares.mean()) / values.shape[1]
    cosine = pairs / (rows * (rows - 1)) if rows > 1 else 1.0
    return mean_square, math.nan if math.isnan(cosine) else min(max(cosine, -1.0), 1.0)
