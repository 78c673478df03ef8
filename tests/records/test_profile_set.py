"""ProfileSet: what is selected, what is grouped, and what is said when nothing fits."""

import numpy as np
import pytest
from building.records import layered

from propscope.errors import InputError
from propscope.records import NetworkProfile, ProfileSet


@pytest.fixture
def grid():
    return ProfileSet.of(
        layered([1.0, 2.0], initializer=initializer, activation="relu", depth=2, seed=seed)
        for initializer in ("he_normal", "zeros")
        for seed in range(3)
    )


def test_a_sequence_that_adds_up(grid):
    assert len(grid) == 6
    assert isinstance(grid[0], NetworkProfile)
    assert isinstance(grid[1:3], ProfileSet)
    assert len(grid[1:3]) == 2
    assert grid[-1] is grid.profiles[5]
    assert list(grid) == list(grid.profiles)
    assert (grid + ProfileSet(())).profiles == grid.profiles == (ProfileSet(()) + grid).profiles
    assert len(grid + grid) == 12


def test_axes_are_in_order_of_appearance(grid):
    assert dict(grid.axes) == {
        "initializer": ("he_normal", "zeros"),
        "activation": ("relu",),
        "depth": (2,),
        "seed": (0, 1, 2),
    }
    assert ProfileSet(()).axes == {}


@pytest.mark.parametrize(
    ("labels", "rows"),
    [
        ({}, range(6)),
        ({"initializer": "zeros"}, [3, 4, 5]),
        ({"seed": [0, 2]}, [0, 2, 3, 5]),
        ({"seed": range(2), "initializer": ("zeros",)}, [3, 4]),
        ({"seed": (number for number in (0, 2))}, [0, 2, 3, 5]),
        ({"seed": np.int64(1)}, [1, 4]),
        ({"seed": np.arange(2)}, [0, 1, 3, 4]),
        ({"depth": 2.0}, range(6)),
        ({"initializer": "he"}, []),
    ],
    ids=["none", "one", "list", "range and tuple", "generator", "numpy integer", "array", "float", "unknown"],
)
def test_subsets(grid, labels, rows):
    found = grid.subset(**labels)
    assert isinstance(found, ProfileSet)
    assert found.profiles == tuple(grid.profiles[row] for row in rows)


def test_select_gives_the_profile_when_one_is_left(grid):
    assert grid.select(initializer="zeros", seed=1) is grid.profiles[4]
    assert isinstance(grid.select(initializer="zeros"), ProfileSet)
    assert isinstance(grid.select(), ProfileSet)


def test_what_nothing_has_is_refused_with_what_there_is(grid):
    with pytest.raises(InputError) as caught:
        grid.select(initializer="he", seed=[0, 1])
    assert str(caught.value) == (
        "no profile has initializer he; seed 0, 1; there are initializer he_normal, zeros; activation relu; depth 2; "
        "seed 0, 1, 2"
    )
    for choose in (grid.select, grid.subset):
        with pytest.raises(InputError, match='has a label "initialiser"; the labels are initializer, activation, dept'):
            choose(initialiser="zeros")
    with pytest.raises(InputError, match='has a label "seed"; the labels are none'):
        ProfileSet(()).select(seed=0)
    with pytest.raises(InputError, match="the set holds no profile to select"):
        ProfileSet(()).select()


def test_a_label_that_some_lack(grid):
    mixed = grid + ProfileSet.of([layered([1.0], initializer="zeros", norm="batch")])
    assert len(mixed.subset(norm="batch")) == 1
    assert len(mixed.subset(depth=2)) == 6


def test_selecting_from_many_takes_one_look_at_the_labels(monkeypatch):
    seen = []
    axes = ProfileSet.axes.fget
    monkeypatch.setattr(ProfileSet, "axes", property(lambda self: seen.append(1) or axes(self)))
    ProfileSet.of(layered([1.0], seed=seed) for seed in range(50)).subset(seed=[1, 2])
    assert len(seen) == 1


def test_groups_differ_in_one_label_alone(grid):
    groups = grid.groups("seed")
    assert [dict(key)["initializer"] for key in groups] == ["he_normal", "zeros"]
    assert [len(members) for members in groups.values()] == [3, 3]
    assert all("seed" not in dict(key) for key in groups)
    assert len(grid.groups("initializer")) == 3
    assert len(grid.groups("nothing")) == 6
    assert ProfileSet(()).groups() == {}


def test_it_prints_as_the_table_of_pairs(grid):
    assert str(grid).startswith("2 pairs, activation relu, depth 2, 3 seeds\n")
    assert grid._repr_html_().count("<tr>") == 3
    assert str(ProfileSet(())).startswith("0 pairs, 0 seeds")
