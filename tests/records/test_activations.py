import numpy as np
import pytest
import torch
from torch.nn.init import calculate_gain

from propscope.networks import INITIALIZERS, parse_activation
from propscope.records.activations import ACTIVATIONS, HE, find_activation


@pytest.mark.parametrize("name", ["leaky_relu", "leaky_relu:negative_slope=0.2", "LeakyReLU", "LEAKY_RELU"])
def test_an_entry_is_found_by_spec_and_by_class(name):
    assert find_activation(name).name == "leaky_relu"


def test_an_entry_is_found_by_alias_and_nothing_by_an_unknown_name():
    assert find_activation("swish") is find_activation("SiLU") is find_activation("silu")
    assert find_activation("own.py:f") is None
    assert find_activation("") is None


def test_initializers_and_advice_name_what_there_is():
    known = {entry.name for entry in INITIALIZERS}
    assert all(set(entry.initializers) <= known for entry in ACTIVATIONS)
    assert all(entry.advice.options["initializer"].split(":")[0] in known for entry in ACTIVATIONS)
    assert find_activation("relu").advice is HE


@pytest.mark.parametrize("entry", ACTIVATIONS, ids=lambda entry: entry.name)
def test_bounded_and_offset_are_what_the_module_does(entry):
    z = np.append(np.linspace(-40, 40, 2001), [-1e6, 1e6])
    values = parse_activation(entry.name).module().double()(torch.from_numpy(z)).detach().numpy()
    # Those that pass positive inputs as they are, or cut them at 6 only, are judged as rectifiers.
    passes = bool(np.allclose(values[(z > 0) & (z < 5)], z[(z > 0) & (z < 5)]))
    assert entry.bounded == (np.abs(values).max() <= 10 and not passes)
    assert entry.offset == (bool((values >= 0).all() or (values <= 0).all()) and not passes)


@pytest.mark.parametrize("entry", ACTIVATIONS, ids=lambda entry: entry.name)
def test_torch_has_a_gain_where_the_entry_says_so(entry):
    if entry.torch_gain:
        assert calculate_gain(entry.torch_gain) > 0
    else:
        with pytest.raises(ValueError, match="Unsupported"):
            calculate_gain(entry.name)
