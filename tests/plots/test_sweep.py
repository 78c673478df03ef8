"""Pictures of a sweep: which axis is across, what the lines hold, and how it is drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building.records import geometric, mlp, network, predicted, run
from matplotlib.figure import Figure

from propscope.plots import draw_all
from propscope.plots.pages import pages, swept
from propscope.plots.sweep import Sweep, draw_sweep, prepare_final_losses, prepare_sweep
from propscope.records import NetworkProfile, ProfileSet, TrainingRun, TrainingSet
from propscope.records.depth_scale import log_chi


def grown(forward: float, backward: float, **labels: Any) -> NetworkProfile:
    """A network of 20 layers whose signal changes by these factors from end to end."""
    back = geometric(backward, reverse=True)
    return network(geometric(forward), back, labels={"initializer": "he", "activation": "tanh", **labels})


def over(axis: str, values: list[Any], **more: Any) -> ProfileSet:
    return ProfileSet.of(
        grown(2.0**place, 3.0**place, **{axis: value}, seed=seed, **more)
        for place, value in enumerate(values)
        for seed in (0, 1)
    )


def prepared(profiles: ProfileSet) -> Sweep:
    found = prepare_sweep(profiles)
    assert found is not None
    return found


def test_a_factor_is_drawn_over_the_values_of_the_axis() -> None:
    found = prepared(over("gain", [1.5, 0.5, 1.0]))
    forward, backward = found.panels
    assert found.names == ("he",)
    assert forward.across == "gain (factor on the weights)"
    # In the order of the values, not of the networks.
    (line,) = forward.lines
    assert line.at.tolist() == [0.5, 1.0, 1.5]
    assert line.center == pytest.approx([2.0, 4.0, 1.0])
    assert backward.lines[0].center == pytest.approx([3.0, 9.0, 1.0])
    assert np.isnan(line.expected).all()


def test_theory_and_the_interval_over_seeds_are_there() -> None:
    profiles = ProfileSet.of(
        predicted(mlp(depth=depth, width=16, batch=8, seed=seed)) for depth in (2, 4, 6) for seed in (0, 1, 2)
    )
    for panel in prepared(profiles).panels:
        (line,) = panel.lines
        assert np.isfinite(line.expected).all()
        assert (line.low < line.center).all()
        assert (line.center < line.high).all()
    assert "Grey dashes under the lines" in prepared(profiles).header.reading
    assert "95% confidence interval" in prepared(profiles).header.reading


@pytest.mark.parametrize(
    ("values", "axes"),
    [
        ({"gain": [1, 2]}, ()),
        ({"gain": [1, 2, 3]}, ("gain",)),
        ({"gain": [1, 2, 3], "depth": [1, 2, 3, 4]}, ("depth", "gain")),
        ({"width": [4, 8, "8-4"]}, ()),
        ({"residual": ["False", 0.1, "True"]}, ("residual",)),
        ({"residual": ["False", 0.1, "1/sqrt(L)"]}, ()),
        ({"norm": ["none", "layer", "rms"]}, ()),
        ({"seed": [0, 1, 2, 3]}, ()),
    ],
    ids=str,
)
def test_an_axis_of_three_numbers_is_swept(values: dict[str, list[Any]], axes: tuple[str, ...]) -> None:
    sets = [ProfileSet.of(grown(1, 1, **{name: value}) for value in each) for name, each in values.items()]
    whole = sets[0]
    if len(sets) > 1:
        (one, ones), (other, others) = values.items()
        whole = ProfileSet.of(grown(1, 1, **{one: a, other: b}) for a in ones for b in others)
    assert swept(whole) == axes
    assert (prepare_sweep(whole) is None) == (not axes)


def test_a_label_that_some_lack_is_no_axis() -> None:
    assert swept(over("gain", [1, 2, 3]) + ProfileSet.of([grown(1, 1)])) == ()


def test_the_longest_axis_is_across_and_the_others_are_lines() -> None:
    profiles = ProfileSet.of(
        grown(depth, gain, gain=gain, depth=depth) for depth in (10, 20, 30) for gain in (1, 2, 3, 4)
    )
    found = prepared(profiles)
    assert found.names == ("he, depth 10", "he, depth 20", "he, depth 30")
    assert [line.center[0] for line in found.panels[0].lines] == pytest.approx([10, 20, 30])
    assert found.panels[1].lines[0].center == pytest.approx([1, 2, 3, 4])


@pytest.mark.parametrize(
    ("values", "geometric"),
    [([32, 64, 128, 256], True), ([10, 20, 30, 40], False), ([0.0, 0.1, 0.2], False), ([1, 10, 100], True)],
    ids=str,
)
def test_an_axis_that_doubles_is_logarithmic(values: list[float], geometric: bool) -> None:
    assert prepared(over("width", values)).panels[0].geometric is geometric


def test_an_axis_of_whole_numbers_has_no_others_between() -> None:
    axes = draw_sweep(prepared(over("depth", [3, 4, 5]))).axes[0]
    assert all(tick == round(tick) for tick in axes.get_xticks())
    axes = draw_sweep(prepared(over("gain", [0.5, 1.0, 1.5]))).axes[0]
    assert any(tick != round(tick) for tick in axes.get_xticks())


def test_zero_and_overflow_are_marked() -> None:
    zero = network([1.0] * 19 + [0.0], [0.0] + [1.0] * 19, labels={"initializer": "he", "gain": 0.0})
    lost = network([1.0] * 19 + [math.inf], [math.inf] + [1.0] * 19, labels={"initializer": "he", "gain": 2.0})
    fine = network([1.0] * 20, labels={"initializer": "he", "gain": 1.0})
    found = prepared(ProfileSet.of([zero, fine, lost]))
    (line,) = found.panels[0].lines
    assert line.center.tolist() == [0.0, 1.0, math.inf]
    assert line.lost.tolist() == [False, False, True]
    assert "▼: exactly zero" in found.header.reading
    assert "▲: NaN or Inf" in found.header.reading
    axes = draw_sweep(found).axes[0]
    markers = [str(one.get_marker()) for one in axes.get_lines() if len(one.get_xdata()) == 1]
    assert markers.count("v") == markers.count("^") == 1


def test_what_was_not_recorded_is_not_drawn() -> None:
    forward = ProfileSet.of(network([1.0] * 5, gradients=False, labels={"gain": gain}) for gain in (1, 2, 3))
    assert [panel.title.split(":")[0] for panel in prepared(forward).panels] == ["Forward"]


def trained_with(gain: float, *, profiles: Any = (), **options: Any) -> TrainingRun:
    one = run(validation=False, taken=(), **options)
    return replace(one, labels={**one.labels, "gain": gain}, profiles=profiles)


def trainings() -> TrainingSet:
    """Trainings whose loss is lowest where the gradient keeps its size; one of them diverged."""
    made = []
    for gain, chi in ((0.5, -0.4), (1.0, 0.0), (1.5, 0.2), (2.0, 0.5)):
        for seed in (0, 1):
            loss = 0.1 + abs(chi) + 0.01 * seed
            last = math.nan if gain == 2.0 and seed else loss
            # ln chi_1 is that of the mean square.
            profile = network([1.0] * 20, geometric(math.exp(chi / 2 * 19), reverse=True))
            made.append(trained_with(gain, seed=seed, loss=(2.0, 1.0, last), profiles=((0, profile),)))
    return TrainingSet.of(made)


def test_the_final_loss_is_drawn_over_the_axis_and_over_the_distance_from_criticality() -> None:
    found = prepare_final_losses(trainings())
    assert found is not None
    axis, distance = found.panels
    (line,) = axis.lines
    assert line.at.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert line.center == pytest.approx([0.505, 0.105, 0.305, 0.6], rel=0.01)
    assert line.lost.tolist() == [False, False, False, True]
    assert line.low[0] == pytest.approx(0.5)
    assert line.high[0] == pytest.approx(0.51)
    (near,) = distance.lines
    assert near.at == pytest.approx([-0.4, 0.0, 0.2, 0.5], abs=1e-9)
    assert near.center == pytest.approx(line.center)
    assert distance.origin == 0
    assert "0 (grey line): critical" in found.header.reading
    assert "a seed diverged" in found.header.reading


def test_trainings_that_were_not_profiled_have_no_distance() -> None:
    bare = TrainingSet.of(trained_with(gain) for gain in (1, 2, 3))
    found = prepare_final_losses(bare)
    assert found is not None
    assert len(found.panels) == 1
    assert prepare_final_losses(TrainingSet.of([run()])) is None


def test_log_chi_of_these_profiles_is_what_was_asked_for() -> None:
    assert log_chi(network([1.0] * 20, geometric(math.exp(0.3 / 2 * 19), reverse=True))) == pytest.approx(0.3)


@pytest.mark.slow
def test_sweeps_become_one_picture_each(tmp_path: Path) -> None:
    profiles = over("gain", [0.5, 1.0, 1.5, 2.0], norm="none") + over("gain", [0.5, 1.0, 1.5, 2.0], norm="layer")
    paths = draw_all(profiles, tmp_path, stem="run", only=["sweep", "overview"])
    assert [path.name for path in paths] == ["run-overview.png", "run-sweep.png"]
    assert draw_all(trainings(), tmp_path, stem="train", only=["final-loss"])[0].name == "train-final-loss.png"
    made: Figure = draw_sweep(prepared(profiles))
    assert len(made.axes) == 2


def test_lines_of_a_sweep_share_a_picture_as_far_as_there_is_room() -> None:
    profiles = ProfileSet.of(grown(1, 1, gain=gain, depth=depth) for gain in range(1, 9) for depth in (10, 20, 30))
    suffixes = [page.suffix for page in pages(profiles, within=("initializer",), lines_at_most=24, columns_at_most=1)]
    assert suffixes == [""]
    suffixes = [page.suffix for page in pages(profiles, within=("initializer",), lines_at_most=10, columns_at_most=1)]
    assert suffixes == ["depth10", "depth20", "depth30"]
    suffixes = [page.suffix for page in pages(profiles, within=("initializer",), lines_at_most=4, columns_at_most=1)]
    assert suffixes == [f"gain{gain}" for gain in range(1, 9)]


def test_norms_of_one_run_share_a_picture_and_two_depths_do_not() -> None:
    profiles = ProfileSet.of(
        grown(1, 1, norm=norm, dtype=dtype, depth=depth)
        for norm in ("none", "layer")
        for dtype in ("float32", "float64")
        for depth in (10, 20)
    )
    limits: dict[str, Any] = {"within": ("initializer",), "columns_at_most": 1}
    assert [page.suffix for page in pages(profiles, lines_at_most=24, **limits)] == ["depth10", "depth20"]
    suffixes = [page.suffix for page in pages(profiles, lines_at_most=2, **limits)]
    assert suffixes == [f"dtype{dtype}-depth{depth}" for dtype in ("float32", "float64") for depth in (10, 20)]
