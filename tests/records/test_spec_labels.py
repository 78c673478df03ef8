"""What was typed finds what it made: a spec stands for its label, without torch."""

import pytest

from propscope.errors import InputError
from propscope.networks import INITIALIZERS, parse_activation, parse_initializer
from propscope.records.spec_labels import INITIALIZER_ALIASES, INITIALIZER_DEFAULTS, spec_label


def test_the_initializers_are_those_of_the_table():
    assert {
        entry.name: {parameter.name: parameter.default for parameter in entry.parameters} for entry in INITIALIZERS
    } == INITIALIZER_DEFAULTS
    assert {alias: entry.name for entry in INITIALIZERS for alias in entry.aliases} == INITIALIZER_ALIASES


@pytest.mark.parametrize(
    "spec",
    ["normal:std=0.01", "normal:std=1e-2", "normal:std=1", "Kaiming-Normal", "he_normal:a=0.1:mode=FAN_OUT",
     "he_normal:mode=fan_out:a=1e-1", "sparse:std=0.1:sparsity=0.5", "constant:value=-3", "critical:bias_variance=auto",
     "trunc_normal", "uniform:high=2", "torch"],
)  # fmt: skip
def test_an_initializer_has_the_label_of_what_it_makes(spec):
    assert spec_label("initializer", spec) == parse_initializer(spec).label


@pytest.mark.parametrize(
    "spec",
    ["swish", "leaky_relu:negative_slope=0.010", "leaky_relu:negative_slope=.2", "gelu_tanh", "GELU"],
)
def test_an_activation_has_the_label_of_what_it_makes(spec):
    assert spec_label("activation", spec) == parse_activation(spec).label


@pytest.mark.parametrize("text", ["mine:fill", "normal:std", "normal:sd=1", "nothing", "", ":", "normal:std=nan"])
def test_what_is_no_spec_stays(text):
    assert spec_label("initializer", text) in (text, "normal:std=nan")
    assert spec_label("depth", text) == text


def test_profiles_are_selected_as_typed():
    import propscope

    profiles = propscope.profile_mlp(2, 4, initializer=["normal:std=0.01", "normal:std=1"], activation="swish", seeds=1)
    for typed in ("normal:std=0.01", "normal:std=1e-2", "normal", "gaussian"):
        assert profiles.select(initializer=typed).labels["initializer"] == "normal"
    assert profiles.select(initializer="normal:std=1.0", activation="swish").labels["initializer"] == "normal:std=1"
    assert len(profiles.subset(initializer=["normal:std=0.01", "normal:std=1"])) == 2
    with pytest.raises(InputError, match=r"normal:std=2"):
        profiles.select(initializer="normal:std=2")
