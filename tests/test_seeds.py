"""A seed that is none is a wrong argument, whatever draws with it, and never the model's fault."""

import inspect

import pytest
import torch
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.networks import MLPSpec, make_input
from propscope.remedies import try_remedies

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


CALLS = {
    "costs": lambda seed: propscope.costs(model(), X, seed=seed),
    "calibrate": lambda seed: propscope.calibrate(model(), X, seed=seed),
    "jacobian": lambda seed: propscope.jacobian(model(), X, seed=seed),
    "profile": lambda seed: propscope.profile(model(), X, seed=seed),
    "profile_mlp": lambda seed: propscope.profile_mlp(2, 4, batch=4, seeds=[0, seed]),
    "summary": lambda seed: propscope.summary(model(), X, seed=seed),
    "train_mlp": lambda seed: propscope.train_mlp(2, 4, seeds=[0, seed], epochs=1, rows=20, batch=10),
    "MLPSpec.build": lambda seed: MLPSpec(2, width=4).build(seed=seed),
    "make_input": lambda seed: make_input("normal", batch=4, features=4, seed=seed),
    "try_remedies": lambda seed: try_remedies(model(), X, None, seed=seed),
}


def test_every_public_function_with_a_seed_is_tried():
    functions = {name: found for name in propscope.__all__ if inspect.isfunction(found := getattr(propscope, name))}
    arguments = {name: inspect.signature(one).parameters for name, one in functions.items()}
    # What takes a number of seeds alone is given none.
    drawing = {
        name
        for name, given in arguments.items()
        if "seed" in given or ("seeds" in given and given["seeds"].annotation != "int")
    }
    assert drawing
    assert drawing <= CALLS.keys()


@pytest.mark.parametrize("seed", [10**30, 2**63, -(10**30), 1.5, "x", True, None], ids=repr)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_what_is_no_seed_is_refused(call, seed):
    with pytest.raises(InputError, match=r"^seed must be a whole number from (0|-2\^63) to 2\^63 - 1, got "):
        call(seed)


@pytest.mark.parametrize("seed", [2**63 - 1, -(2**63)])
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_every_seed_draws(seed, method):
    found = propscope.jacobian(model(), X, seed=seed, method=method)
    assert found.sites[-1].jacobian.count > 0
