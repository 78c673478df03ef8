from __future__ import annotations

import math
from dataclasses import replace

import pytest
from building.records import geometric, network, seeds

from propscope.plots.curve_panels import prepare_curves
from propscope.plots.end_labels import EndLabel
from propscope.plots.overview_map import prepare_overview
from propscope.plots.pages import columns, facts, key_of, lines, mark_of, pages
from propscope.records import NetworkProfile, ProfileSet, Provenance


def labelled(**axes: tuple[str | int, ...]) -> ProfileSet:
    combinations: list[dict[str, str | int]] = [{}]
    for name, values in axes.items():
        combinations = [{**labels, name: value} for labels in combinations for value in values]
    provenance = Provenance(samples=512, batches=2)
    return ProfileSet.of(NetworkProfile((), labels=labels, provenance=provenance) for labels in combinations)


def names(profiles: ProfileSet, *within: str, lines_at_most: int = 24, columns_at_most: int = 3) -> list[str]:
    found = pages(profiles, within=within, lines_at_most=lines_at_most, columns_at_most=columns_at_most)
    assert sum(len(page.profiles) for page in found) == len(profiles)
    return [page.suffix for page in found]


def test_one_activation_and_depth_take_one_picture_without_a_suffix() -> None:
    one = labelled(activation=("relu",), initializer=("he", "xavier"), depth=(20,), seed=(0, 1))
    assert names(one, "initializer") == [""]
    assert names(one, "initializer", "activation") == [""]


def test_what_is_not_drawn_within_a_picture_names_another() -> None:
    grid = labelled(activation=("relu", "tanh"), initializer=("he",), depth=(10, 20), seed=(0, 1))
    assert names(grid, "initializer") == ["relu-depth10", "relu-depth20", "tanh-depth10", "tanh-depth20"]
    assert names(grid, "initializer", "activation") == ["depth10", "depth20"]


def test_too_many_columns_or_lines_go_on_further_pictures() -> None:
    wide = labelled(activation=tuple("abcd"), initializer=tuple("vwxyz"), seed=(0,))
    assert names(wide, "initializer", "activation") == ["a+b", "c+d"]
    assert names(wide, "initializer", "activation", lines_at_most=3, columns_at_most=9) == ["1", "2"]


def test_suffixes_are_file_names_and_unique() -> None:
    odd = labelled(activation=("my.module:f", "my.module/f", "leaky_relu:negative_slope=0.2"), initializer=("he",))
    assert names(odd, "initializer") == ["my.module_f", "my.module_f-2", "leaky_relu_negative_slope=0.2"]


def test_models_without_an_initializer_share_a_picture() -> None:
    models = labelled(model=("resnet", "vit"), step=(0, 100))
    assert names(models, "initializer") == [""]
    assert list(lines(models)) == [
        "model resnet, step 0",
        "model resnet, step 100",
        "model vit, step 0",
        "model vit, step 100",
    ]
    assert list(lines(labelled())) == ["model"]


def test_lines_hold_the_seeds_and_name_what_else_varies() -> None:
    grid = labelled(initializer=("he", "xavier"), depth=(10, 20), width=(64,), seed=(0, 1, 2))
    found = lines(grid)
    assert list(found) == ["he, depth 10", "he, depth 20", "xavier, depth 10", "xavier, depth 20"]
    assert {len(members) for members in found.values()} == {3}


def test_members_are_named_as_in_the_whole() -> None:
    grid = labelled(activation=("relu", "tanh"), initializer=("he",), depth=(10, 20), seed=(0,))
    assert list(lines(grid, columns=("activation",), members=grid.subset(depth=10))) == ["he, depth 10"]


def test_columns_are_activations_in_order() -> None:
    assert list(columns(labelled(activation=("tanh", "relu"), seed=(0, 1)))) == ["tanh", "relu"]
    assert list(columns(labelled(seed=(0,)))) == [""]


def test_facts_state_what_all_share() -> None:
    grid = labelled(activation=("relu",), initializer=("he", "xavier"), depth=(20,), width=(256,), seed=(0, 1, 2))
    assert facts(grid, seeds=" merged") == "relu · depth 20 · width 256 · 3 seeds merged · batch 256"
    single = labelled(activation=("relu", "tanh"), initializer=("he",), depth=(10, 20), seed=(0,))
    assert facts(single) == "he · 1 seed · batch 256"
    assert facts(ProfileSet((NetworkProfile(()),))) == ""


def test_a_label_that_only_some_carry_keeps_them_apart() -> None:
    plain = labelled(activation=("relu",), initializer=("he",), seed=(0, 1))
    both = plain + labelled(activation=("relu",), initializer=("he",), norm=("batch",), seed=(0, 1))
    assert list(lines(both)) == ["he", "he, norm batch"]
    assert names(both, "initializer") == ["", "normbatch"]
    assert "norm" not in facts(both)
    assert "norm batch" in facts(both[2:])


def test_the_runs_of_a_merged_file_share_pictures_as_each_alone() -> None:
    gains = labelled(activation=("relu",), initializer=("he",), gain=(0.5, 1.0, 2.0), seed=(0, 1))
    others = labelled(activation=("relu",), initializer=("he",), norm=("none", "batch"), dtype=("float32", "float64"))
    found = pages(gains + others, within=("initializer",), lines_at_most=6, columns_at_most=2)
    assert [page.suffix for page in found] == ["gain", "norm-dtype"]
    assert [len(page.profiles) for page in found] == [6, 4]
    # Where there is no room for all of them, they have pictures of their own.
    found = pages(gains + others, within=("initializer",), lines_at_most=2, columns_at_most=2)
    assert [page.suffix for page in found] == [
        *("gain0.5", "gain1.0", "gain2.0"), "norm-dtypefloat32", "norm-dtypefloat64",
    ]  # fmt: skip


def named(profile, initializer):
    return replace(profile, labels={"activation": "relu", "initializer": initializer, "depth": 20, "seed": 0})


NETWORKS = seeds(
    named(network([1.0] * 20), "sound"),
    named(network(geometric(1e-5)), "fading"),
    named(network(geometric(1e-9)), "gone"),
)


@pytest.mark.parametrize(("index", "mark"), [(0, ""), (1, "!"), (2, "✗")])
def test_a_network_gets_the_mark_of_its_verdict(index, mark):
    assert mark_of(ProfileSet((NETWORKS[index],))) == mark


def test_the_worst_of_several_marks_them_and_none_are_unmarked():
    assert mark_of(NETWORKS) == "✗"
    assert mark_of(ProfileSet(())) == ""


def test_the_reading_explains_the_marks_that_are_there():
    broken, strained = "✗\N{NO-BREAK SPACE}broken", "!\N{NO-BREAK SPACE}strained"
    assert key_of(["", "!", "✗"]) == f" Verdict: {broken}, {strained}, unmarked healthy."
    assert key_of(["", "!"]) == f" Verdict: {strained}, unmarked healthy."
    assert key_of(["", ""]) == ""


def test_the_overview_marks_its_cells():
    found = prepare_overview(NETWORKS)
    assert [cell.mark for row in found.maps[0].cells for cell in row] == ["", "!", "✗"]
    assert math.isclose(found.maps[0].cells[2][0].decades, -9)
    assert found.verdicts.cells == (("healthy",), ("strained",), ("broken",))


def test_the_curves_mark_the_names_at_their_ends():
    curves = prepare_curves(NETWORKS)
    marks = {
        name: mark for label in curves.panels[0][0].labels for name, mark in zip(label.names, label.marks, strict=True)
    }
    assert marks == {"sound": "", "fading": "!", "gone": "✗"}
    assert "✗" in curves.header.reading


def test_a_label_writes_its_marks_before_the_names():
    assert EndLabel(("a", "b"), "", 0.5, ("✗", "")).rows == [["✗\N{NO-BREAK SPACE}a"], ["b"]]
    assert EndLabel(("a", "b"), "", 0.5).rows == [["a"], ["b"]]
