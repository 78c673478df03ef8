"""What is known of tensors that lie on several ranks, without a process group."""

import pytest

from propscope.measure.shards import Group, Sharding, Split, inherited, with_inherited

TENSOR, DATA = Group((0, 1), "tensor"), Group((0, 2), "data")
UNITS, SUM = Split(TENSOR, "sharded", 2, "units"), Split(TENSOR, "partial", reduction="sum")
WHOLE = Split(TENSOR, "replicated")


@pytest.mark.parametrize("dimension, axis", [(2, "units"), (-1, "units"), (0, "samples"), (1, "positions")])
def test_what_a_split_dimension_counts(dimension, axis):
    sharding = Sharding((Split(TENSOR, "sharded", dimension), WHOLE), (4, 6, 8)).along(-1, 3)
    assert [split.axis for split in sharding.splits] == [axis, ""]


def test_what_is_computed_from_a_shard_is_a_shard():
    units = Sharding((UNITS,), (4, 6, 8))
    assert inherited([None, Sharding((WHOLE,)), units]).splits == (Split(TENSOR, "sharded", None, "units"),)
    assert inherited([units, Sharding((Split(DATA, "sharded", 0, "samples"),))]).splits[1].group == DATA
    assert inherited([None, Sharding((WHOLE,))]).is_whole
    assert inherited([None]) is None


def test_sites_have_the_sharding_of_their_parents_until_one_says_its_own():
    units, whole = Sharding((UNITS,), (4, 8)), Sharding((WHOLE,), (4, 8))
    own = {"input": None, "up": units, "up.gelu": None, "down": whole, "add": None}
    parents = {"up": ["input"], "up.gelu": ["up"], "down": ["up.gelu"], "add": ["input", "down"]}
    found = with_inherited(own, parents)
    assert [sharding and sharding.is_whole for sharding in found.values()] == [None, False, False, True, True]


def test_groups_are_the_same_by_their_ranks():
    assert Group((0, 1), "tensor") == Group((0, 1)) != Group((1, 0))


@pytest.mark.parametrize(
    "split, said",
    [
        (UNITS, "its units split over 2 ranks of tensor"),
        (Split(Group((0, 1, 2)), "sharded", 0), "dimension 0 split over 3 ranks"),
        (Split(DATA, "flat"), "its elements in order split over 2 ranks of data"),
        (SUM, "a summand (sum) on each of 2 ranks of tensor"),
    ],
)
def test_a_sharding_says_what_is_recorded(split, said):
    assert str(Sharding((split,), (4, 8))) == f"local part of a tensor of shape (4, 8): {said}"
    assert str(Sharding((split,))) == f"local part of a tensor: {said}"
    both = Sharding((WHOLE, split), (4, 8))
    assert str(both) == f"local part of a tensor of shape (4, 8): the same on 2 ranks of tensor, {said}"
    assert str(Sharding((WHOLE,), (4, 8))) == "whole tensor of shape (4, 8): the same on 2 ranks of tensor"
