from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import run, sampled_at, trainings

from propscope.plots.run_view import RunView
from propscope.plots.style import styled
from propscope.plots.training_map import (
    CELLS,
    TrainingMap,
    draw_training_map,
    prepare_step_histograms,
    prepare_training_map,
    shares_of,
)
from propscope.records import LogHistogram, MonitoredRun, NetworkProfile, Site, TensorSummary, TrainingSet


def profile(*layers: list[float]) -> NetworkProfile:
    sites = (
        Site(f"acts.{number}", "ReLU", "activation", (1, len(values)), layer=number, forward=TensorSummary.of(values))
        for number, values in enumerate(layers, start=1)
    )
    return NetworkProfile(tuple(sites))


def prepared(runs: TrainingSet) -> TrainingMap:
    found = prepare_training_map(runs)
    assert found is not None
    return found


def test_rows_columns_and_epochs() -> None:
    found = prepared(trainings())
    assert found.rows == ("layer 1", "layer 2", "layer 3")
    assert (found.columns, found.ticks) == (("he_normal", "zeros"), (0, 2))
    assert found.sides.tolist() == [-0.5, 0.5, 1.5, 2.5]
    assert found.edges.size == CELLS + 1
    assert (np.diff(found.edges) > 0).all()
    for row in found.shares:
        for cell in row:
            assert cell.shape == (3, CELLS)
            assert cell.sum(axis=1) == pytest.approx(1.0)
    zeros = found.shares[2][1]
    (at,) = np.flatnonzero(zeros[0])
    assert found.edges[at] <= 0 <= found.edges[at + 1]


def test_seeds_are_merged() -> None:
    runs = TrainingSet.of(
        replace(run(seed=seed), profiles=tuple((epoch, profile(values)) for epoch in range(3)))
        for seed, values in enumerate(([1.0, 1.0], [-1.0, -1.0]))
    )
    found = prepared(runs)
    shares, middle = found.shares[0][0], np.searchsorted(found.edges, 0.0)
    assert (shares[0, : middle - 10].sum(), shares[0, middle + 10 :].sum()) == pytest.approx((0.5, 0.5))
    assert "Seeds are merged" in found.header.reading


def test_values_beyond_the_axis_are_in_its_last_cells() -> None:
    edges = np.array([-1.0, 0.0, 1.0, 2.0])
    assert shares_of(LogHistogram.of([-9.0, 1.5, 1.5, 50.0]), edges).tolist() == pytest.approx([0.25, 0.0, 0.75])
    assert np.isnan(shares_of(None, edges)).all()
    assert np.isnan(shares_of(LogHistogram.of([np.nan]), edges)).all()


def test_a_layer_that_explodes_does_not_make_the_axis_useless() -> None:
    taken = ((0, profile([1.0, -1.0])), (1, profile([1e9, -1e9])), (2, profile([2.0, -2.0])))
    found = prepared(TrainingSet((replace(run(), profiles=taken),)))
    assert 2 < found.scale.high < 100
    assert found.shares[0][0][1, [0, -1]].tolist() == [0.5, 0.5]


def test_what_is_not_finite_is_marked_and_what_is_not_there_left_blank() -> None:
    taken = ((0, profile([1.0])), (1, profile([1.0, np.inf])))
    runs = TrainingSet((replace(run("he_normal"), profiles=taken), run("zeros")))
    found = prepared(runs)
    assert found.broken[0] == ((1,), ())
    assert np.isnan(found.shares[0][0][2]).all()
    assert np.isnan(found.shares[1][0]).all()
    assert "NaN or Inf" in found.header.reading


def test_fewer_than_three_moments_are_no_map() -> None:
    assert prepare_training_map(TrainingSet((run(taken=(0, 2)),))) is None
    assert prepare_training_map(TrainingSet((run(taken=()),))) is None
    assert prepare_training_map(TrainingSet(())) is None


def test_what_is_drawn() -> None:
    found = prepared(trainings())
    with styled():
        figure = draw_training_map(found)
    axes = figure.axes[1:]
    assert len(axes) == 6
    assert [one.get_title(loc="left") for one in axes[:2]] == ["he_normal", "zeros"]
    assert all(one.get_yscale() == "asinh" and one.get_xlim() == (-0.5, 2.5) for one in axes)
    mesh = axes[0].collections[0].get_array()
    assert mesh.shape == (CELLS, 3)
    assert float(mesh.max()) == pytest.approx(float(np.max(found.shares[0][0])))
    assert {"layer 1", "layer 2", "layer 3"} <= {text.get_text() for text in figure.texts}


def with_values(run: MonitoredRun, values: dict[int, list[float]]) -> MonitoredRun:
    """Return a run of one site whose samples of these steps keep the histogram of these values."""

    def kept(sample: NetworkProfile) -> NetworkProfile:
        given = values.get(sample.labels["step"])
        forward = TensorSummary.of(given) if given is not None else sample.sites[0].forward
        return replace(sample, sites=(replace(sample.sites[0], forward=forward),))

    return MonitoredRun(tuple(map(kept, run.profiles)), run.steps, run.alarms)


def test_histograms_of_a_monitored_run_hold_until_the_next_one() -> None:
    run = with_values(sampled_at(range(0, 8, 2), sites=1), {0: [1.0] * 4, 4: [-1.0, math.inf]})
    found = prepare_step_histograms(RunView(run))
    assert found is not None
    ((shares,),) = found.shares
    middle = int(np.searchsorted(found.edges, 0.0))
    right = shares[:, middle + 1 :].sum(axis=1)
    assert (found.rows, found.columns, right.tolist()) == (("fc.0",), ("",), [1.0] * 4 + [0.0] * 3)
    assert (found.broken, found.kept.tolist()) == ((((4.5,),),), [0, 4])
    with styled():
        figure = draw_training_map(found)
    axes = figure.axes[1]
    assert (axes.get_xlabel(), axes.get_xlim()) == ("step", (0.0, 7.0))
    assert axes.collections[0].get_array().shape == (CELLS, 7)


def test_histograms_of_steps_that_share_a_column_are_merged() -> None:
    run = with_values(sampled_at(range(900), sites=1), {0: [1.0], 1: [1.0], 2: [-1.0, -1.0]})
    found = prepare_step_histograms(RunView(run))
    assert found is not None
    ((shares,),) = found.shares
    middle = int(np.searchsorted(found.edges, 0.0))
    assert shares[0, : middle - 1].sum() == pytest.approx(0.5)
    assert "A column covers 3 steps; the samples among them are merged" in found.header.reading


def test_a_run_that_kept_no_histogram_has_no_map() -> None:
    assert prepare_step_histograms(RunView(sampled_at([0, 1], sites=1))) is None
    assert prepare_step_histograms(RunView(MonitoredRun(()))) is None
