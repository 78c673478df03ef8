"""The norm of each weight's gradient is what theory says of the gradients and activations on either side of it."""

import math

import numpy as np
import pytest

import propscope

SEEDS = 8


def deviations(**options):
    """Return ln(measured / expected) of every weight, shape (seeds, weights), and the expected spread of each."""
    profiles = propscope.profile_mlp(depth=8, width=128, batch=64, seeds=SEEDS, **options)
    weights = [[p for p in profile.parameters if p.name.endswith("weight")] for profile in profiles]
    measured = [[math.log(p.gradient_norm / p.expected_gradient_norm) for p in each] for each in weights]
    return np.array(measured), np.array([p.expected_gradient_log_std for p in weights[0]])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu", "initializer": "he_normal"},
        {"activation": "tanh", "initializer": "xavier_normal"},
        {"activation": "relu", "initializer": "default"},
        {"activation": "gelu", "initializer": "he_normal", "output_size": 10},
        {"activation": "tanh", "initializer": "orthogonal", "input_size": 40},
    ],
    ids=lambda options: ",".join(map(str, options.values())),
)
def test_measured_norms_are_the_expected_ones(options):
    found, spread = deviations(**options)
    # Over the seeds' mean stands the spread of one network over sqrt(seeds), and what 64 samples leave of the products
    # of different samples: a few percent.
    assert np.abs(found.mean(axis=0)).max() < 4 * spread.max() / math.sqrt(SEEDS) + 0.05


def test_what_enters_a_layer_has_been_through_the_dropout():
    found, _ = deviations(activation="relu", initializer="he_normal", dropout=0.5)
    assert np.abs(found.mean()) < 0.15, "without the dropout's 1 / (1 - p) it would be 0.35 off"


def test_other_losses_are_not_predicted():
    profiles = propscope.profile_mlp(depth=2, width=8, batch=4, seeds=1, loss="mse")
    assert [p.expected_gradient_norm for p in profiles[0].parameters] == [None] * 4
