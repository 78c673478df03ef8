from __future__ import annotations

import math

import numpy as np
import pytest
from building.records import run, trainings
from matplotlib.colors import to_hex

from propscope.plots.learning_panels import LearningPanel, draw_learning, prepare_learning
from propscope.plots.style import styled
from propscope.records import TrainingSet

NAN = math.nan


def panels(runs: TrainingSet) -> dict[str, LearningPanel]:
    prepared = prepare_learning(runs)
    assert prepared is not None
    return {row[0].measure.name: row[0] for row in prepared.panels if row[0] is not None}


def test_averages_over_seeds_with_their_range() -> None:
    runs = TrainingSet((run(loss=(1.0, 4.0, 1.0), seed=0), run(loss=(1.0, 1.0, 1.0), accuracy=(0, 0.1, 0.4), seed=1)))
    found = panels(runs)
    (curve,) = found["loss"].curves
    assert (curve.name, curve.runs, curve.diverged) == ("he_normal", 2, ())
    assert curve.train.center.tolist() == pytest.approx([1.0, 2.0, 1.0])
    assert (curve.train.low.tolist(), curve.train.high.tolist()) == ([1.0, 1.0, 1.0], [1.0, 4.0, 1.0])
    assert curve.validation.center.tolist() == pytest.approx([1.5, 3.0, 1.5])
    (curve,) = found["accuracy"].curves
    assert curve.train.center.tolist() == pytest.approx([0.05, 0.3, 0.6])
    assert curve.judged is curve.validation


def test_one_seed_has_no_band_and_no_validation_no_dashes() -> None:
    found = panels(TrainingSet((run(validation=False),)))
    (curve,) = found["loss"].curves
    assert np.isnan(curve.train.low).all()
    assert not curve.validation.seen
    assert curve.judged is curve.train
    prepared = prepare_learning(TrainingSet((run(validation=False),)))
    assert prepared is not None
    assert "Dashed" not in prepared.header.reading
    assert "Band" not in prepared.header.reading


def test_regression_has_no_accuracy() -> None:
    assert list(panels(TrainingSet((run(accuracy=None),)))) == ["loss"]


def test_nothing_at_all() -> None:
    assert prepare_learning(TrainingSet(())) is None


def test_the_loss_of_a_constant_and_the_target() -> None:
    found = panels(TrainingSet.of(run(seed=s, target=0.9, constant_loss=c) for s, c in enumerate((2.2, 2.3))))
    assert found["loss"].constant == pytest.approx(2.25)
    assert math.isnan(found["loss"].target)
    assert math.isnan(found["accuracy"].constant)
    assert found["accuracy"].target == pytest.approx(0.9)
    apart = panels(TrainingSet.of(run(seed=s, constant_loss=c) for s, c in enumerate((1.0, 2.0))))
    assert math.isnan(apart["loss"].constant)
    (panel,) = panels(TrainingSet((run(accuracy=None, target=0.01),))).values()
    assert panel.target == 0.01
    assert panel.scale.low < 0.01


def test_seeds_that_diverged_are_counted_and_left_out_of_the_average() -> None:
    runs = TrainingSet(
        (
            run(loss=(2.0, NAN, NAN), accuracy=(0.1, NAN, NAN), seed=0),
            run(loss=(2.0, 1.0, 0.5), seed=1),
            run("zeros", loss=(2.0, math.inf, 3.0), accuracy=(0.1, 0.2, 0.3), seed=0),
            run("ones", loss=(2.0, NAN, NAN), accuracy=(0.1, NAN, NAN), seed=0),
        )
    )
    loss = panels(runs)["loss"]
    he, zeros, ones = loss.curves
    assert (he.diverged, zeros.diverged, ones.diverged) == (((1, 1),),) * 3
    assert he.train.center.tolist() == pytest.approx([2.0, 1.0, 0.5])
    assert np.isnan(zeros.train.center[1])
    assert [label.note for label in loss.labels] == ["1 of 2 diverged", "diverged", "diverged"]
    assert [label.end for label in loss.labels][1:] == [1.0, 1.0]
    assert all(label.end < 1 for label in panels(runs)["accuracy"].labels)


def test_curves_that_coincide_share_a_label() -> None:
    runs = TrainingSet((run("he_normal"), run("ones"), run("zeros", loss=(2.0, 2.0, 2.0))))
    assert [label.names for label in panels(runs)["loss"].labels] == [("he_normal", "ones"), ("zeros",)]


def test_a_column_an_activation_on_one_scale() -> None:
    prepared = prepare_learning(trainings(activations=("relu", "tanh")))
    assert prepared is not None
    assert [[panel.column for panel in row if panel] for row in prepared.panels] == [["relu", "tanh"]] * 2
    for row in prepared.panels:
        assert len({panel.scale for panel in row if panel}) == 1
    assert prepared.names == ("he_normal", "zeros")


def test_what_is_drawn() -> None:
    runs = trainings() + TrainingSet((run("ones", loss=(2.0, NAN, NAN), accuracy=(0.1, NAN, NAN), constant_loss=2.2),))
    prepared = prepare_learning(runs)
    assert prepared is not None
    with styled():
        figure = draw_learning(prepared)
    loss, accuracy = figure.axes
    assert (loss.get_title(loc="left"), accuracy.get_ylabel()) == ("loss", "accuracy")
    assert loss.get_yscale() == "log"
    curves = [line for line in loss.lines if isinstance(line.get_ydata(), np.ndarray) and line.get_ydata().size == 3]
    lines = {(to_hex(line.get_color()), line.get_linestyle()): line for line in curves}
    he = to_hex("#0072b2")
    assert lines[he, "-"].get_ydata().tolist() == pytest.approx([2.0, 2**0.5, 0.75**0.5])
    assert lines[he, "--"].get_ydata().tolist() == pytest.approx([3.0, 1.5 * 2**0.5, 1.5 * 0.75**0.5])
    assert len(loss.collections) == 2
    assert sum(line.get_marker() == "^" and line.get_ydata()[0] == 1 for line in loss.lines) == 1
    crosses = [line for line in accuracy.lines if line.get_marker() == "x"]
    assert [line.get_xdata().tolist() for line in crosses] == [[0]]
    assert {text.get_text() for text in loss.texts} == {"he_normal", "zeros", "ones: diverged"}
