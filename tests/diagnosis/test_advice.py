"""What is advised is diagnosed healthy, or strained at worst, and trains where the broken network does not."""

import pytest
from building.records import network

import propscope
from propscope.diagnosis.advice import advice_for, can_be_rebuilt, new_start, norm_layer
from propscope.records.activations import ACTIVATIONS, NORMED_SUMS

pytestmark = pytest.mark.slow

DEEP = (
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "softplus", "tanh", "hardtanh", "sigmoid", "softsign",
    "sin",
)  # fmt: skip
TASK = {"input": "digits", "scale": "zscore", "output_size": 10, "loss": "cross-entropy"}


@pytest.mark.parametrize("activation", DEEP)
def test_the_advice_keeps_the_signal_at_every_depth(activation):
    options = advice_for(activation).options
    profiles = propscope.profile_mlp([10, 40], 128, activation=activation, seeds=2, batch=128, **TASK, **options)
    verdicts = [found.verdict for found in propscope.diagnose(profiles, notes=False).networks]
    assert verdicts == ["healthy", "healthy"]


@pytest.mark.parametrize("activation", ["sigmoid", "gelu"])
def test_what_is_advised_trains_where_the_broken_does_not(activation):
    def accuracy(**options):
        runs = propscope.train_mlp(
            20, 64, activation=activation, seeds=1, scale="zscore", learning_rate=3e-3, epochs=8, workers=1,
            profile_every=0, **options,
        )  # fmt: skip
        return max(runs[0].validation_accuracy[1:])

    assert accuracy(initializer="normal:std=0.01") < 0.3
    assert accuracy(**advice_for(activation).options) >= 0.9


def test_the_advice_is_that_of_the_table_of_activations():
    for entry in ACTIVATIONS:
        assert advice_for(entry.name) is advice_for(entry.torch_name) is entry.advice
    assert advice_for("leaky_relu:negative_slope=0.2").options == {"initializer": "he_normal"}
    assert advice_for("file.py:own").options == {"initializer": "he_normal"}


def _of_grid(**labels):
    return network([1.0, 1.0], labels={"activation": "relu", "initializer": "default", "depth": 2, **labels})


def test_a_network_that_follows_the_advice_gets_a_norm_then_sums_then_fewer_layers():
    assert can_be_rebuilt(_of_grid())
    assert not can_be_rebuilt(network([1.0, 1.0]))
    start = new_start(_of_grid(), "why not")
    assert (start.action, start.options) == ("initializer", {"initializer": "he_normal"})
    assert start.text == "initialize the weights with he_normal (He et al. 2015): why not"
    followed = new_start(_of_grid(initializer="he_normal"), "why not")
    assert (followed.action, followed.options) == ("norm", {"norm": "layer"})
    normed = norm_layer("use fewer layers", _of_grid(initializer="he_normal", norm="layer"))
    assert (normed.action, normed.options) == ("residual", NORMED_SUMS)
    assert normed.text.endswith("(--residual --norm layer); or use fewer layers")
    last = norm_layer("use fewer layers", _of_grid(norm="layer", residual="True"))
    assert (last.text, last.options) == ("use fewer layers, or another activation", {})


def test_weights_that_are_copies_are_drawn_anew_whatever_else_is_advised():
    remedy = new_start(_of_grid(activation="sigmoid", initializer="zeros"), "")
    assert remedy.options == {"initializer": "he_normal", "norm": "layer", "residual": True}
    assert remedy.action == "residual"


def test_the_factor_measured_is_the_factor_advised():
    # 20 layers that take a factor 0.5 each.
    labels = {"activation": "relu", "initializer": "default", "depth": 20}
    fading = network([0.5**layer for layer in range(20)], labels=labels)
    worst = propscope.diagnose(fading).worst
    assert worst.remedy.text.endswith("; or multiply the weight std of layers 2 to 20 by 2.00")
    assert worst.remedy.options == {"initializer": "he_normal"}
    own = propscope.diagnose(network([0.5**layer for layer in range(20)])).worst
    assert own.remedy.factors["layers.7.linear"] == pytest.approx(2)
