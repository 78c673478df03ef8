"""The exponents of each parametrization, layer by layer; `tests/experiments/widths` holds them against networks."""

import pytest

from propscope.records.width_check import QUANTITIES
from propscope.theory.parametrizations import PARAMETRIZATIONS, ExpectedExponents

BY_NAME = {one.name: one for one in PARAMETRIZATIONS}
CHAIN = (("input", True), ("", True), ("hidden", True), ("vector", True), ("hidden", True), ("output", False))


def along(name, family, chain=CHAIN, tied=False):
    """What is expected at each site of a network."""
    exponents = ExpectedExponents(BY_NAME[name], family)
    return [exponents.next(role, widens=widens, tied=tied and role == "output") for role, widens in chain]


# Yang, Hu 2021, and Everett et al. 2024: (W_t - W_0) x_0, and the whole change, to first order in the learning rate.
@pytest.mark.parametrize(
    ("name", "family", "weights", "changes"),
    [
        ("standard", "sgd", [-0.5, 0.5, -0.5, 0.5, 1], [(-0.5, -0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 1)]),
        ("standard", "adam", [0, 1, 0, 1, 1], [(0, 0), (1, 1), (1, 1), (1, 1), (1, 1.5)]),
        ("ntk", "sgd", [-0.5] * 4 + [0], [(-0.5, -0.5)] * 4 + [(-0.5, 0)]),
        ("ntk", "adam", [0, 0.5, 0, 0.5, 0.5], [(0, 0), (0.5, 0.5), (0.5, 0.5), (0.5, 0.5), (0.5, 1)]),
        ("mup", "sgd", [0] * 5, [(0, 0)] * 4 + [(-0.5, 0)]),
        ("mup", "adam", [0] * 5, [(0, 0)] * 4 + [(-0.5, 0)]),
        ("mup", None, [0] * 5, [(0, 0)] * 4 + [(-0.5, 0)]),
    ],
)
def test_a_deep_network(name, family, weights, changes):
    found = [site for site, (role, _) in zip(along(name, family), CHAIN, strict=True) if role]
    assert [site["weights_part"] for site in found] == [(each, each) for each in weights]
    assert [site["change"] for site in found] == changes
    assert {site["size"] for site in found[:-1]} == {(0.0, 0.0)}
    readout = -0.5 if name == "mup" else 0.0
    assert found[-1]["size"] == (readout, readout)


def test_a_site_without_weights_is_judged_by_its_change_in_mup_alone():
    assert along("mup", "adam")[1] == {"size": (0.0, 0.0), "change": (0.0, 0.0)}
    assert along("standard", "adam")[1] == {"size": (0.0, 0.0)}


def test_what_does_not_widen_is_judged_behind_a_readout_only():
    around = (("", False), ("fixed", False), ("input", True), ("", False), ("output", False), ("", False))
    before, fixed, _, inner, _, after = along("mup", "adam", around)
    assert before == inner == {"change": (0.0, 0.0)}
    assert fixed == {}
    assert after == {"size": (-0.5, 0.0), "change": (-0.5, 0.0)}


def test_a_readout_that_shares_its_weights_may_start_as_large_as_an_embedding():
    assert along("mup", "adam", tied=True)[-1]["size"] == (-0.5, 0.0)
    assert along("standard", "adam", tied=True)[-1] == {}


def test_every_quantity_has_a_text():
    assert {quantity for site in along("mup", "adam") for quantity in site} < set(QUANTITIES)
