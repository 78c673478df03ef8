"""The Jacobian beside a grid's profiles."""

import json

import pytest
import torch

from propscope.errors import InputError
from propscope.experiments import profile_mlp
from propscope.networks import MLPSpec, make_input
from propscope.spectra import jacobian

FIELDS = ("jacobian", "jacobian_condition", "jacobian_square_variance")


def taken(**options):
    return profile_mlp(
        3, 8, **{"initializer": "lecun_normal", "activation": "tanh", "seeds": 1, "batch": 6, **options}
    )[0]


def test_it_stands_at_the_pre_activations_and_the_output_beside_what_was_seen():
    with_it, without = taken(jacobian=3), taken()
    has = {site.name for site in with_it.sites if site.jacobian is not None}
    assert has == {"layers.0.linear", "layers.1.linear", "layers.2.linear", "layers.2.activation"}
    for site, plain in zip(with_it.sites, without.sites, strict=True):
        assert (site.forward, site.backward) == (plain.forward, plain.backward)
        assert plain.jacobian is None
    assert with_it["layers.0.linear"].jacobian.count == 3 * 8


def test_it_is_that_of_the_network_in_float64():
    found = taken(jacobian=3)
    net = MLPSpec(3, width=8, activation="tanh", initializer="lecun_normal").build(seed=0)
    x = make_input("normal", batch=6, features=8, seed=0, dtype=torch.float32, device="cpu", scale=None).values
    alone = jacobian(net, x, samples=3, dtype="float64")
    for site in alone.sites:
        assert [getattr(found[site.name], name) for name in FIELDS] == [getattr(site, name) for name in FIELDS]
    spec = json.loads(found.provenance.spec)
    assert spec["network"]["depth"] == 3
    assert spec["jacobian"]["sites"]["layers.2.activation"] == {"method": "exact"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"norm": "batch"},
        {"norm": "layer", "residual": True},
        {"dropout": 0.5},
        {"output_size": 3},
        {"dtype": "bfloat16"},
        {"initializer": "zeros"},
        {"input": "digits"},
        {"loss": "cross-entropy"},
    ],
)
def test_every_kind_of_network_has_one(options):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        found.append(taken(jacobian=2, **options))
        assert torch.equal(torch.get_rng_state(), state)
    first, again = found
    assert first.sites[-1].jacobian == again.sites[-1].jacobian
    signal = [site for site in first.signal_sites if site.jacobian is not None]
    assert [site.layer for site in signal] == [1, 2, 3]
    assert first.sites[-1].jacobian is not None


def test_how_many_samples():
    assert taken(jacobian=True)["layers.0.linear"].jacobian.count == 4 * 8
    assert taken(jacobian=50)["layers.0.linear"].jacobian.count == 6 * 8
    assert taken(jacobian=False)["layers.0.linear"].jacobian is None
    with pytest.raises(InputError, match=r"jacobian must .* got -1"):
        taken(jacobian=-1)
