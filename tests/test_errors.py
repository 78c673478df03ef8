"""How errors meet names that no table has."""

import pytest

from propscope.errors import unknown_name


@pytest.mark.parametrize(
    ("name", "choices", "meant"),
    [
        ("he", ("he_normal", "he_uniform", "zeros"), '"he_normal" or "he_uniform"'),
        ("kaiming", ("he_normal", "he_uniform"), '"he_normal" or "he_uniform"'),
        ("MSRA", ("he_uniform", "zeros"), '"he_uniform"'),
        ("glorot", ("xavier_uniform", "xavier_normal"), '"xavier_normal" or "xavier_uniform"'),
        ("truncated", ("normal", "trunc_normal"), '"trunc_normal"'),
        ("leaky", ("relu", "leaky_relu"), '"leaky_relu"'),
        ("hard-swish", ("silu", "hardswish"), '"hardswish"'),
        ("fmnist", ("mnist", "fashion_mnist"), '"fashion_mnist"'),
        ("gradient", ("weights", "weight-gradients", "gradients"), '"gradients"'),
        ("map", ("learning", "activation-map"), '"activation-map"'),
        ("std", ("forward_mean", "forward_std"), '"forward_std"'),
        ("rlu", ("relu", "tanh"), '"relu"'),
    ],
)
def test_an_unknown_name_is_met_by_what_the_field_means(name, choices, meant):
    assert unknown_name("name", name, choices).hint == f"did you mean {meant}?"


def test_what_resembles_nothing_has_no_guess():
    assert unknown_name("name", "qqqq", ("relu", "tanh")).hint == ""
