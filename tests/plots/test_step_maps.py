"""Maps of sites against steps: which colours stand for what, what is crossed out, which rows are named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from building.records import sampled_at
from matplotlib.colors import to_rgba

from propscope.plots import step_maps
from propscope.plots.run_view import RunView
from propscope.plots.step_maps import (
    FORWARD,
    UPDATES,
    StepMap,
    StepMaps,
    borders,
    draw_step_maps,
    group_of,
    prepare_map,
    row_labels,
)
from propscope.plots.style import ALARM, styled
from propscope.records import Alarm, MonitoredRun, TensorSummary


def picture(run: MonitoredRun, name: str) -> StepMaps:
    found = getattr(step_maps, f"prepare_{name}")(RunView(run))
    assert found is not None
    return found


def one(run: MonitoredRun, name: str) -> StepMap:
    (found,) = picture(run, name).maps
    return found


def test_a_row_is_held_against_its_own_first_sample() -> None:
    found = one(sampled_at([0, 1, 2], sites=2, rms=lambda step, place: (1 + place) * 10.0**step), "forward")
    assert found.values.tolist() == [[1.0, 10.0, 100.0]] * 2
    assert (found.first, found.last) == (("1", "2"), ("100", "200"))
    assert found.colours.ends == ("1/100", "x100")
    assert found.colours.fraction(np.array([0.01, 1.0, 100.0, 1e9])).tolist() == pytest.approx([0, 0.5, 1, 1])


def test_a_first_value_of_zero_is_not_what_the_others_are_held_against() -> None:
    found = one(sampled_at([0, 1, 2], sites=1, back=lambda step, _: [0.0, 4.0, 8.0][step]), "backward")
    assert found.values.tolist() == [[pytest.approx(0.1), 1.0, 2.0]]
    assert found.zero.tolist() == [[True, False, False]]


@pytest.mark.parametrize(
    "quantity",
    [{"update": lambda step, _: math.inf if step else 1.0}, {"rms": lambda step, _: math.inf if step else 1.0}],
)
def test_a_run_that_is_infinite_at_most_samples_is_drawn(quantity) -> None:
    run = sampled_at(range(5), sites=1, **quantity)
    name = "updates" if "update" in quantity else "forward"
    found = one(run, name)
    assert found.values[0, 0] == 1.0
    with styled():
        draw_step_maps(picture(run, name)).canvas.draw()


def test_what_a_row_showed_first_and_last_stands_beside_it() -> None:
    run = sampled_at([0, 1], sites=1, rms=lambda step, _: [0.25, 75.0][step])
    with styled():
        axes = draw_step_maps(picture(run, "forward")).axes[1]
    assert [text.get_text() for text in axes.texts] == ["first", "0.25", "last", "75"]


def test_a_change_is_shown_up_to_a_thousandfold() -> None:
    colours = one(sampled_at([0, 1, 2, 3], sites=1, rms=lambda step, _: 1e8**step), "forward").colours
    assert (colours.ends, colours.beyond) == (("1/1000 or less", "x1000 or more"), True)


def test_what_lies_beyond_a_scale_is_said() -> None:
    run = sampled_at(range(40), sites=1, rms=lambda step, _: 1e7 if step == 39 else 1.0)
    colours = one(run, "forward").colours
    assert (colours.low, colours.high) == (0.1, 10.0)
    assert colours.ends == ("1/10 or less", "x10 or more")


def test_nonfinite_values_are_red_and_crossed_out() -> None:
    run = sampled_at([0, 1], sites=2, rms=lambda step, place: math.nan if step and place else 1.0)
    found = picture(run, "forward")
    assert found.maps[0].nonfinite.tolist() == [[False, False], [False, True]]
    assert found.maps[0].last == ("1", "NaN/Inf")
    assert "Red: NaN or Inf" in found.header.reading
    with styled():
        axes = draw_step_maps(found).axes[1]
    pixels = axes.images[0].get_array()
    assert pixels[1, 1].tolist() == pytest.approx(to_rgba(ALARM))
    assert [len(each.get_paths()) for each in axes.collections] == [1]


def test_what_was_not_sampled_is_left_blank() -> None:
    found = picture(sampled_at([0, 1, 20, 21], sites=1), "forward")
    assert np.isnan(found.maps[0].values[0]).tolist() == [False] * 2 + [True] * 18 + [False] * 2
    assert "Hatched: not recorded" in found.header.reading
    with styled():
        pixels = draw_step_maps(found).axes[1].images[0].get_array()
    assert pixels[0, :, 3].tolist() == [1.0] * 2 + [0.0] * 18 + [1.0] * 2


def test_a_single_bad_sample_of_thousands_is_seen() -> None:
    run = sampled_at(range(3000), sites=1, rms=lambda step, _: 1e-4 if step == 1234 else 1.0)
    found = picture(run, "forward")
    (at,) = np.flatnonzero(found.maps[0].values[0] < 0.5)
    edges = found.maps[0].axis.edges
    assert edges[at] <= 1234 < edges[at + 1]
    assert "A column of cells covers 10 steps" in found.header.reading


def test_updates_are_absolute_and_zero_is_black() -> None:
    ratios = [0.0, 1e-3, 0.5]
    found = one(sampled_at([0, 1, 2], sites=1, update=lambda step, _: ratios[step]), "updates")
    assert found.names == ("fc.0.weight",)
    assert found.zero.tolist() == [[True, False, False]]
    assert found.values[0, 1:].tolist() == ratios[1:]
    assert found.colours.ends == ("10⁻³", "0.5")


def test_dead_units_are_a_share() -> None:
    found = one(sampled_at([0, 1], sites=1, units=8, dead_units=2), "dead_units")
    assert found.values.tolist() == [[0.25, 0.25]]
    assert (found.colours.low, found.colours.high, found.colours.worst) == (0.0, 1.0, "high")
    assert step_maps.prepare_dead_units(RunView(sampled_at([0], sites=1, units=None))) is None


def test_attention_and_geometry_have_two_maps() -> None:
    run = sampled_at([0, 1], sites=2, attention_entropy=2.0, largest_logit=50.0, effective_rank=3.0, mean_cosine=-0.5)
    attention, geometry = picture(run, "attention"), picture(run, "geometry")
    assert [each.key for each in attention.maps] == ["mean entropy in nats", "largest logit"]
    assert (geometry.maps[1].colours.low, geometry.maps[1].values[0, 0]) == (-1.0, -0.5)
    assert attention.maps[0].colours.map(0.0) == attention.maps[1].colours.map(1.0)
    with styled():
        figure = draw_step_maps(attention)
    assert [text.get_text() for text in figure.texts if text.get_weight() == "bold"][1:] == [
        "Entropy of its rows",
        "Largest logit",
    ]


@pytest.mark.parametrize("worst", ["low", "high", "both"])
def test_colours_read_in_grey(worst: str) -> None:
    colours = step_maps.Colours("linear", 0.0, 1.0, worst).map(np.linspace(0, 1, 64))[:, :3]
    lightness = colours @ [0.2126, 0.7152, 0.0722]
    change = np.diff(lightness)
    assert (change > 0).all() or (change < 0).all()


def test_alarms_are_on_the_axis_and_at_their_rows() -> None:
    run = sampled_at(range(5), sites=3)
    alarms = (Alarm(3, 3, "collapse", "fc.1", severity="broken"), Alarm(4, 4, "loss spike"))
    found = picture(MonitoredRun(run.profiles, run.steps, alarms), "forward")
    assert found.maps[0].rings == ((1, 3),)
    with styled():
        figure = draw_step_maps(found)
    axes = figure.axes[1]
    assert [tick.get_color() == ALARM for tick in axes.get_yticklabels()] == [False, True, False]
    triangles = [line for line in axes.lines if line.get_marker() == "v"]
    assert [line.get_xdata().tolist() for line in map(_as_arrays, triangles)] == [[3.5], [4.5]]
    circles = [line for line in axes.lines if line.get_marker() == "o"]
    assert {(*line.get_xdata(), *line.get_ydata()) for line in circles} == {(3.5, 1.5)}
    assert ALARM in [line.get_markeredgecolor() for line in circles]
    assert "Circles: the rows that alarms name" in found.header.reading
    texts = [text.get_text() for text in figure.texts]
    assert "1  step 3: collapse at fc.1" in texts
    assert "2  step 4: loss spike" in texts


def _as_arrays(line):
    line.set_xdata(np.asarray(line.get_xdata()))
    return line


def names(*groups: tuple[str, int]) -> list[str]:
    return [f"{group}.part{at}" for group, count in groups for at in range(count)]


def test_rows_are_grouped_by_module() -> None:
    blocks = names(("transformer.h.0", 3), ("transformer.h.1", 4))
    assert borders(blocks) == [3]
    assert group_of(blocks, 5) == "transformer.h.1"
    assert borders([f"fc{n}" for n in range(9)]) == []
    assert borders(["a"]) == []


def test_a_module_around_all_others_is_no_group() -> None:
    inside = names(("transformer.h.0", 6), ("transformer.h.1", 6), ("transformer.h.2", 6))
    whole = ["input", "transformer.wte", *inside, "lm_head"]
    assert borders(whole) == [1, 2, 8, 14, 20]
    assert group_of(whole, 9) == "transformer.h.1"
    assert borders(["input", *(f"net.{n}" for n in range(9))]) == []


def test_every_row_is_named_where_there_is_room() -> None:
    found = one(sampled_at([0], sites=3), "forward")
    assert row_labels(found, 0.2) == [(0, "fc.0"), (1, "fc.1"), (2, "fc.2")]


def test_thin_rows_are_named_by_alarms_and_modules_and_names_never_overlap() -> None:
    run = sampled_at([0, 1], names=names(*((f"blocks.{n}", 8) for n in range(50))))
    alarm = Alarm(1, 1, "collapse", "blocks.30.part5")
    found = picture(MonitoredRun(run.profiles, run.steps, (alarm,)), "forward")
    labels = row_labels(found.maps[0], 0.0225)
    assert (245, "blocks.30.part5") in labels
    assert (4, "blocks.0") in labels
    rows = [row for row, _ in labels]
    assert min(np.diff(rows)) * 0.0225 >= 10 * 1.25 / 72
    assert len(rows) >= 45
    with styled():
        figure = draw_step_maps(found)
    assert any("A name stands for a module" in text.get_text() for text in figure.texts)
    assert figure.get_size_inches()[1] < 13


def test_a_site_that_is_called_several_times_belongs_to_its_module() -> None:
    assert borders(["b.0.add#0", "b.0.add#1", "b.1.add#0", "b.1.add#1"]) == [2]


def test_a_map_of_nothing_is_none() -> None:
    view = RunView(sampled_at([0], sites=1, back=lambda *_: None, update=lambda *_: None))
    assert step_maps.prepare_backward(view) is None
    assert prepare_map(view, UPDATES) is None
    assert prepare_map(view, FORWARD) is not None
    assert TensorSummary.empty().count == 0


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([1.0, 23.0], (1.0, 50.0)),
        ([0.3, 0.3], (0.2, 2.0)),
        ([1e-12, 0.99], (1e-8, 1.0)),
        ([20.0, 2000.0], (20.0, 2000.0)),
    ],
)
def test_a_logarithmic_scale_ends_at_round_numbers(values: list[float], ends: tuple[float, float]) -> None:
    run = sampled_at([0, 1], sites=1, effective_rank=None, update=lambda step, _: values[step])
    colours = one(run, "updates").colours
    assert (colours.low, colours.high) == pytest.approx(ends)


def test_small_logits_are_no_large_ones() -> None:
    small = picture(sampled_at([0, 1], sites=1, largest_logit=0.07), "attention").maps[0]
    assert (small.colours.low, small.colours.high) == (1.0, 100.0)
    assert small.colours.fraction(small.values).tolist() == [[0.0, 0.0]]
    assert picture(sampled_at([0], sites=1, largest_logit=23_600.0), "attention").maps[0].colours.high == 50_000.0
    below = picture(sampled_at([0], sites=1, largest_logit=-3.0), "attention").maps[0]
    assert below.colours.fraction(below.values).tolist() == [[0.0]]
