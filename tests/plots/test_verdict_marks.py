"""The marks that a verdict puts into the pictures."""

import math
from dataclasses import replace

import pytest
from building.diagnosis_records import geometric, network, seeds

from propscope.plots.curves import prepare_curves
from propscope.plots.end_labels import EndLabel
from propscope.plots.overview import prepare_overview
from propscope.plots.verdicts import key_of, mark_of
from propscope.records import ProfileSet


def named(profile, initializer):
    return replace(profile, labels={"activation": "relu", "initializer": initializer, "depth": 20, "seed": 0})


NETWORKS = seeds(
    named(network([1.0] * 20), "sound"),
    named(network(geometric(1e-3)), "fading"),
    named(network(geometric(1e-9)), "gone"),
)


@pytest.mark.parametrize(("index", "mark"), [(0, ""), (1, "!"), (2, "✗")])
def test_a_network_gets_the_mark_of_its_verdict(index, mark):
    assert mark_of(ProfileSet((NETWORKS[index],))) == mark


def test_the_worst_of_several_marks_them_and_none_are_unmarked():
    assert mark_of(NETWORKS) == "✗"
    assert mark_of(ProfileSet(())) == ""


def test_the_reading_explains_the_marks_that_are_there():
    assert (
        key_of(["", "!", "✗"])
        == " Verdict: ✗:\N{NO-BREAK SPACE}broken, !:\N{NO-BREAK SPACE}strained; unmarked: healthy."
    )
    assert key_of(["", "!"]) == " Verdict: !:\N{NO-BREAK SPACE}strained; unmarked: healthy."
    assert key_of(["", ""]) == ""


def test_the_overview_marks_its_cells():
    maps = prepare_overview(NETWORKS).maps
    assert [cell.text.split()[0] for row in maps[0].cells for cell in row] == ["0.0", "!", "✗"]
    assert math.isclose(maps[0].cells[2][0].decades, -9)


def test_the_curves_mark_the_names_at_their_ends():
    curves = prepare_curves(NETWORKS)
    marks = {
        name: mark for label in curves.panels[0][0].labels for name, mark in zip(label.names, label.marks, strict=True)
    }
    assert marks == {"sound": "", "fading": "!", "gone": "✗"}
    assert "✗" in curves.header.reading


def test_a_label_writes_its_marks_before_the_names():
    assert EndLabel(("a", "b"), "", 0.5, ("✗", "")).rows == ["✗\N{NO-BREAK SPACE}a, b"]
    assert EndLabel(("a", "b"), "", 0.5).rows == ["a, b"]
