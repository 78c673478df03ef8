"""Which site of one network is which of another, whatever their names."""

import pytest

from propscope.comparison.sites import paired_sites, rewired, weights_of
from propscope.records import NetworkProfile, Parameter, Parent, Site, TensorSummary


def chain(*sites):
    """Return sites, each "name kind width" and computed from the one before; 8 wide where no width is given."""
    made, before = [], "input"
    for name, kind, *width in map(str.split, sites):
        features = int(*width) if width else 8
        made.append(
            Site(name, kind, "other", (4, features), features=features, parents=(Parent(before),), parameters=())
        )
        before = name
    return made


def pairs(before, after, weights=({}, {})):
    return [
        (pair.before and pair.before.name, pair.after and pair.after.name)
        for pair in paired_sites(before, after, weights)
    ]


MLP = ("fc1 Linear", "act1 ReLU", "fc2 Linear", "act2 ReLU", "head Linear 2")
NUMBERED = ("0 Linear", "1 ReLU", "2 Linear", "3 ReLU", "4 Linear 2")


def test_equal_names_are_pairs():
    assert pairs(chain(*MLP), chain(*MLP)) == [(name, name) for name in ("fc1", "act1", "fc2", "act2", "head")]


def test_one_that_is_renamed_is_found_between_its_neighbours():
    new = [each.replace("fc2", "dense") for each in MLP]
    found = pairs(chain(*MLP), chain(*new))
    assert ("fc2", "dense") in found
    assert all(None not in pair for pair in found)


def test_names_of_another_framework_are_paired_in_order():
    assert pairs(chain(*MLP), chain(*NUMBERED)) == [
        ("fc1", "0"),
        ("act1", "1"),
        ("fc2", "2"),
        ("act2", "3"),
        ("head", "4"),
    ]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (
            ("0 Linear", "1 LayerNorm", "2 ReLU", "3 Linear", "4 ReLU", "5 Linear 2"),
            [("0", "0"), (None, "1"), ("1", "2"), ("2", "3"), ("3", "4"), ("4", "5")],
        ),
        (("0 Linear", "1 ReLU", "2 Linear 2"), [("0", "0"), ("1", "1"), ("2", None), ("3", None), ("4", "2")]),
    ],
    ids=["put in", "taken out"],
)
def test_numbers_that_shift_are_no_names(new, expected):
    assert pairs(chain(*NUMBERED), chain(*new)) == expected


def test_a_layer_put_in_under_a_name_shifts_nothing():
    new = (*MLP[:2], "norm LayerNorm", *MLP[2:])
    found = pairs(chain(*MLP), chain(*new))
    assert found[2] == (None, "norm")
    assert [pair for pair in found if None not in pair] == [
        (one, one) for one in ("fc1", "act1", "fc2", "act2", "head")
    ]


def test_what_went_and_what_came_elsewhere_are_two_sites():
    old = ("a Linear", "gone ReLU", "b Linear", "c Linear")
    new = ("a Linear", "b Linear", "c Linear", "came ReLU")
    assert pairs(chain(*old), chain(*new)) == [("a", "a"), ("gone", None), ("b", "b"), ("c", "c"), (None, "came")]


def test_another_kind_or_width_under_the_same_name_stays_a_pair():
    new = ("fc1 Linear", "act1 GELU", "fc2 Linear 16", "act2 ReLU 16", "head Linear 2")
    assert pairs(chain(*MLP), chain(*new)) == [(name, name) for name in ("fc1", "act1", "fc2", "act2", "head")]


def test_a_longer_sequence_is_no_other_width():
    old = [Site("fc", "Linear", "other", (2, 5, 8), features=8), Site("act", "ReLU", "other", (2, 5, 8), features=8)]
    new = [Site("act", "ReLU", "other", (9, 7, 8), features=8), Site("fc", "Linear", "other", (9, 7, 8), features=8)]
    # Trusted by name, so that their order does not count.
    assert sorted(pairs(old, new)) == [("act", "act"), ("fc", "fc")]


def profile(*layers):
    """Return a profile of layers, each "name" or "name=mean" of its weight."""
    sites, parameters = [], []
    for layer in layers:
        name, _, mean = layer.partition("=")
        weight = f"{name}.weight"
        sites.append(Site(name, "Linear", "other", (4, 8), features=8, parameters=(weight,)))
        parameters.append(Parameter(weight, (8, 8), TensorSummary(64, float(mean or 0), 1.0, -1, 1, 0.0)))
    return NetworkProfile(tuple(sites), tuple(parameters))


def test_of_equal_layers_the_weights_tell_which_one_went():
    old, new = profile("0=1", "1=2", "2=3", "3=4"), profile("0=1", "1=3", "2=4")
    weights = weights_of(old), weights_of(new)
    assert pairs(old.sites, new.sites, weights) == [("0", "0"), ("1", None), ("2", "1"), ("3", "2")]
    # Without them nothing speaks against the names.
    assert pairs(old.sites, new.sites)[-1] == ("3", None)


def test_layers_that_exchanged_their_weights_keep_their_names():
    old, new = profile("0=1", "1=2", "2=3"), profile("0=1", "1=3", "2=2")
    assert pairs(old.sites, new.sites, (weights_of(old), weights_of(new))) == [(name, name) for name in "012"]


def test_constant_weights_tell_nothing():
    constant = TensorSummary(8, 1.0, 0.0, 1, 1, 0.0)
    one = NetworkProfile(
        (Site("n", "LayerNorm", "norm", (4, 8), parameters=("w",)),), (Parameter("w", (8,), constant),)
    )
    assert weights_of(one) == {}


def test_an_order_that_changed_is_seen_in_the_parents():
    given = Site("input", "input", "input", (4, 8), features=8, parents=())
    old = [given, *chain("a Linear", "b Linear", "head Linear")]
    new = [given, *chain("b Linear", "a Linear", "head Linear")]
    assert rewired(paired_sites(old, new)) == {
        "b": (("a",), ("input",)),
        "a": (("input",), ("b",)),
        "head": (("b",), ("a",)),
    }


def test_what_a_new_site_feeds_is_not_rewired():
    assert rewired(paired_sites(chain(*MLP), chain(*MLP[:2], "norm LayerNorm", *MLP[2:]))) == {}
