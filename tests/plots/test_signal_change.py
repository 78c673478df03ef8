from __future__ import annotations

import math

from building.records import run, trainings

from propscope.plots.curve_panels import Curves
from propscope.plots.signal_change import prepare_signal_change
from propscope.records import TrainingSet


def prepared(runs: TrainingSet) -> Curves:
    found = prepare_signal_change(runs)
    assert found is not None
    return found


def test_before_and_after_stand_side_by_side_on_one_scale() -> None:
    found = prepared(trainings())
    assert [[panel.column for panel in row if panel] for row in found.panels] == [
        ["Before training", "After training"]
    ] * 2
    assert [row[0].quantity.symbol for row in found.panels if row[0]] == [
        r"\sigma(h)",
        r"\mathrm{rms}(\partial L/\partial z)",
    ]
    for row in found.panels:
        assert len({panel.scale for panel in row if panel}) == 1
    assert found.names == ("he_normal", "zeros")
    assert found.header.title == "Signal before and after training"
    assert found.header.facts == "relu · depth 3 · width 8 · optimizer sgd · 2 seeds"


def test_after_is_the_last_epoch_and_nothing_earlier() -> None:
    lost = run("ones", loss=(2.0, math.nan, math.nan), taken=(0, 1), stability="diverged")
    found = prepared(TrainingSet((run("he_normal"), lost)))
    before, after = found.panels[0]
    assert before is not None
    assert after is not None
    assert [curve.name for curve in before.curves] == ["he_normal", "ones"]
    assert [curve.name for curve in after.curves] == ["he_normal"]
    assert "diverged has no curve" in found.header.reading


def test_without_both_ends_there_is_nothing_to_compare() -> None:
    for taken in ((), (0,), (0, 1), (2,)):
        assert prepare_signal_change(TrainingSet((run(taken=taken),))) is None
    assert prepare_signal_change(TrainingSet((run(loss=(2.0,), accuracy=(0.1,), taken=(0,)),))) is None
    assert prepare_signal_change(TrainingSet(())) is None
