"""The functions that draw pictures into figures and axes of the user's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from building.records import chart, grid, mlp, monitored, run, sampled_at, trainings
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import propscope
from propscope import plots
from propscope.errors import InputError, UnknownArgumentError
from propscope.plots.gallery import NothingToDrawError, draw_all
from propscope.plots.step_maps import MAPS
from propscope.records import Alarm, MonitoredRun, NetworkProfile, ProfileSet, TrainingSet

PROFILES = grid(("he_normal", "xavier_normal", "zeros"), depths=(6,), seeds=2, width=8, batch=4)
RUNS = trainings()
RUN = monitored([3.0, 2.0, 1.0]) + sampled_at([0, 2], sites=3, dead_units=0, largest_logit=2.0, effective_rank=3.0)
# Each draws one panel.
ONE: dict[str, Callable[..., Any]] = {
    "curves": lambda *ax, **how: plots.curves(PROFILES, *ax, **how),
    "histograms": lambda *ax, **how: plots.histograms(PROFILES, *ax, **how),
    "overview": lambda *ax, **how: plots.overview(PROFILES, *ax, quantity="forward", **how),
    "phase": lambda *ax, **how: plots.phase(chart(), *ax, **how),
    "learning": lambda *ax, **how: plots.learning(RUNS, *ax, **how),
    "learning of a run": lambda *ax, **how: plots.learning(RUN, *ax, **how),
    "heatmap": lambda *ax, **how: plots.heatmap(RUN, *ax, **how),
}


@pytest.fixture(autouse=True)
def _figures_are_closed() -> Iterator[None]:
    yield
    plt.close("all")


def saved(figure: Figure, ending: str) -> bytes:
    file = BytesIO()
    figure.savefig(file, format=ending)
    return file.getvalue()


def words(figure: Figure) -> set[str]:
    with mpl.rc_context({"svg.fonttype": "none"}):
        return set(re.findall(r"[\w.]+", " ".join(re.findall(r">([^<]+)</t", saved(figure, "svg").decode()))))


@pytest.mark.parametrize("name", ONE)
def test_the_axes_given_are_those_returned_and_drawn_into(name: str) -> None:
    figure, (left, right) = plt.subplots(1, 2)
    assert ONE[name](right) is right
    assert right.has_data()
    assert not left.has_data()
    # A colour scale may stand beside it.
    assert figure.axes[:2] == [left, right]


@pytest.mark.parametrize("name", ONE)
def test_a_figure_for_a_paper_has_one_column_and_text_that_is_text(name: str) -> None:
    axes = ONE[name](style="paper")
    assert isinstance(axes, Axes)
    figure = axes.figure
    assert figure.get_size_inches()[0] == pytest.approx(3.4)
    assert figure.get_size_inches()[1] < 5
    with mpl.rc_context({"svg.fonttype": "path", "pdf.fonttype": 3, "font.size": 30, "savefig.bbox": "tight"}):
        svg, pdf = saved(figure, "svg").decode(), saved(figure, "pdf")
    assert re.search(r"<text[^>]*>\w", svg)
    assert 'width="244.8pt"' in svg
    assert b"/Type3" not in pdf
    assert b"/FontFile2" in pdf
    # No title, no facts, no paragraph above or below.
    assert not [text for text in figure.texts if text.get_style() == "italic" or text.get_weight() == "bold"]
    sizes = {label.get_fontsize() for label in (*axes.get_xticklabels(), axes.xaxis.label, *axes.texts)}
    assert sizes <= {8.0, 8.0 * 1.3}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("style", ["screen", "slide", "paper"])
def test_nothing_of_a_figure_stands_outside(name: str, style: str) -> None:
    figure = np.ravel(ONE[name](style=style))[0].figure
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    assert box.x0 * figure.dpi > -3
    assert box.y0 * figure.dpi > -3
    assert box.x1 * figure.dpi < width + 3
    assert box.y1 * figure.dpi < height + 3


@pytest.mark.parametrize("name", ONE)
def test_matplotlib_is_set_as_before(name: str) -> None:
    with mpl.rc_context({"font.size": 7, "axes.titlesize": "small", "svg.fonttype": "path", "lines.linewidth": 5}):
        before = dict(mpl.rcParams)
        for how in ({}, {"style": "paper"}, {"ax": plt.subplots()[1]}, {"ax": plt.subplots()[1], "style": "slide"}):
            axes = ONE[name](*[how.pop("ax")] if "ax" in how else [], **how)
            saved(axes.figure, "svg")
            assert dict(mpl.rcParams) == before


def test_a_figure_of_the_users_keeps_its_fonts_unless_a_style_is_given() -> None:
    with mpl.rc_context({"font.size": 6}):
        own, styled = (plots.curves(PROFILES, plt.subplots()[1], **how) for how in ({}, {"style": "slide"}))
    assert own.xaxis.label.get_fontsize() == 6
    assert styled.xaxis.label.get_fontsize() == 16


@pytest.mark.parametrize("name", ONE)
def test_a_layout_that_gives_each_axes_its_room_does(name: str) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    ONE[name](axes[1])
    figure.draw_without_rendering()
    for each in axes:
        assert each.get_position().width > 0.2
        assert each.get_position().height > 0.4


def test_names_beside_an_axes_get_room_from_a_layout() -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    plots.curves(PROFILES, axes[0], legend="beside")
    figure.draw_without_rendering()
    names = [text.get_window_extent() for text in axes[0].texts]
    assert len(names) == 3
    assert max(box.x1 for box in names) < axes[1].bbox.x0
    assert min(box.x0 for box in names) > axes[0].bbox.x1


def test_several_panels_are_an_array_of_axes_in_order() -> None:
    several = grid(("he_normal",), ("relu", "tanh"), depths=(3,), seeds=1, width=8, batch=4)
    drawn = plots.curves(several, quantity=["backward_rms", "forward_std"])
    assert [axes.get_title(loc="left").splitlines() for axes in drawn] == [
        ["relu", "Backward: dL/dz, root mean square"],
        ["tanh", "Backward: dL/dz, root mean square"],
        ["relu", "Forward: activation h, standard deviation about the mean"],
        ["tanh", "Forward: activation h, standard deviation about the mean"],
    ]
    _, axes = plt.subplots(2, 2)
    assert plots.curves(several, axes, quantity=["forward_std", "backward_rms"]) is axes
    assert [each.get_ylabel() for each in axes[0]] == [r"$\sigma(h)$"] * 2
    assert len(plots.learning(RUNS, quantity="all")) == 2
    assert len(plots.overview(PROFILES)) == 3
    assert len(plots.heatmap(RUN, quantity=["forward", "updates"])) == 2


@pytest.mark.parametrize(
    ("plot", "draw"),
    [
        ("curves", lambda: plots.curves(PROFILES, quantity="all")),
        ("weights", lambda: plots.histograms(PROFILES, quantity="weights")),
        ("overview", lambda: plots.overview(PROFILES)),
    ],
)
def test_the_gallery_draws_the_same_picture(plot: str, draw: Callable[[], Any], tmp_path: Path) -> None:
    (path,) = draw_all(PROFILES, tmp_path, stem="gallery", only=[plot])
    plots.write_figure(np.ravel(draw())[0].figure, tmp_path / "mine.png")
    assert (tmp_path / "mine.png").read_bytes() == path.read_bytes()


def test_everything_that_propscope_gives_can_be_drawn(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    with propscope.track(model) as recorder:
        model(torch.ones(3, 4)).sum().backward()
    tracked = recorder.profile()
    propscope.save(tmp_path / "p.h5", PROFILES)
    loaded = propscope.load(tmp_path / "p.h5")
    for given in (tracked, ProfileSet((tracked,)), loaded, PROFILES[0]):
        assert plots.curves(given).has_data()
        assert plots.histograms(given).has_data()
        assert plots.overview(given, quantity="backward").has_data()
    before_and_after = plots.curves(RUNS)
    assert [axes.get_title(loc="left").split("\n")[0] for axes in before_and_after] == [
        "Before training",
        "After training",
    ]
    assert plots.learning(run()).has_data()


def test_samples_of_a_monitored_run_are_lines() -> None:
    samples = tuple(
        NetworkProfile(one.sites, one.parameters, {"step": step})
        for step in range(9)
        for one in [mlp(depth=3, seed=step)]
    )
    axes = plots.curves(MonitoredRun(samples))
    assert {text.get_text()[-6:] for text in axes.texts} == {f"step {step}" for step in (0, 2, 3, 5, 6, 8)}


def test_dots_of_measured_depths_lie_over_a_diagram() -> None:
    settings = {"activation": "tanh", "weight_variance": [1.0, 2.0], "bias_variance": 0.05, "batch": 16}
    networks = propscope.profile_mlp(6, 16, **settings)
    axes = plots.phase(chart(), profiles=networks)
    dots = [*axes.collections[0].get_offsets().tolist(), *axes.lines[2].get_xydata().tolist()]
    assert sorted(dots)[0] == pytest.approx([1.0, 0.05], rel=0.6)
    assert len(dots) == 2


def test_titles_and_captions_are_those_given() -> None:
    axes = plots.curves(PROFILES, title="Mine", caption="A caption of my own.")
    assert axes.get_title(loc="left") == "Mine"
    assert {"Mine", "caption"} <= words(axes.figure)
    assert "healthy" not in words(axes.figure)
    bare = plots.curves(PROFILES, title="", caption="")
    assert not {"Signal", "activation", "healthy"} & words(bare.figure)
    several = plots.curves(PROFILES, quantity="all", title="Everything")
    assert "Everything" in words(several[0].figure)
    assert several[0].get_title(loc="left").startswith("Forward")
    _, own = plt.subplots()
    plots.curves(PROFILES, own, title="Mine", caption="Below it.")
    assert own.get_title() == "Mine"
    assert "Below it." in [text.get_text() for text in own.texts]


@pytest.mark.parametrize("name", ["curves", "learning"])
def test_a_paper_figure_without_a_title_has_no_empty_band_at_its_top(name: str) -> None:
    axes = ONE[name](style="paper", title="")
    figure = axes.figure
    top = axes.get_tightbbox(figure.canvas.get_renderer()).y1
    assert 0 <= figure.bbox.y1 - top < 0.15 * figure.dpi


def test_a_palette_colours_lines_shapes_and_maps() -> None:
    colours = ["#ff0000", "#00ff00", "#0000ff"]
    lines = [line for line in plots.curves(PROFILES, palette=colours).lines if line.get_zorder() == 3]
    assert [to_hex(line.get_color()) for line in lines] == colours
    lines = [line for line in plots.curves(PROFILES, palette="viridis").lines if line.get_zorder() == 3]
    assert len({to_hex(line.get_color()) for line in lines}) == 3
    lines = [line for line in plots.curves(PROFILES, palette="tab10").lines if line.get_zorder() == 3]
    assert to_hex(lines[1].get_color()) == to_hex(mpl.colormaps["tab10"](1))
    shapes = plots.histograms(PROFILES, palette="purple").collections[2]
    assert to_hex(shapes.get_facecolor()[0]) == to_hex("purple")
    faces = [plots.overview(PROFILES, quantity="forward", palette=each).collections[0] for each in (None, "PuOr")]
    assert to_hex(faces[0].get_facecolors()[1]) != to_hex(faces[1].get_facecolors()[1])
    assert plots.phase(chart(), palette="magma").images[0].get_cmap().name == "magma"
    pixels = [plots.heatmap(RUN, palette=each).images[0].get_array() for each in (None, "magma")]
    assert not np.array_equal(*pixels)


@pytest.mark.parametrize("legend", ["beside", "inside", "below", "none"])
def test_names_stand_where_they_are_wanted(legend: str) -> None:
    own, given = plots.curves(PROFILES, legend=legend), plots.curves(PROFILES, plt.subplots()[1], legend=legend)
    for axes in (own, given):
        axes.figure.canvas.draw()
        named = "xavier_normal" in words(axes.figure)
        assert named is (legend != "none")
        assert (axes.get_legend() is not None) is (legend == "inside" or (legend == "below" and axes is given))


@pytest.mark.parametrize("legend", ["beside", "inside", "below", "none"])
def test_a_legend_names_the_dashes_of_theory_where_there_are_some(legend: str) -> None:
    for initializer, known in (("he_normal", True), ("zeros", False)):
        profiles = propscope.profile_mlp(3, 8, activation="relu", initializer=initializer, batch=8)
        own = plots.curves(profiles, legend=legend, caption="")
        given = plots.curves(profiles, plt.subplots()[1], legend=legend)
        for axes in (own, given):
            assert ("theory" in words(axes.figure)) is (known and legend in ("inside", "below"))


def test_histograms_have_as_many_columns_as_are_wanted_or_fit() -> None:
    deep = ProfileSet((mlp(depth=14, width=8, batch=4),))
    for how, columns in (({}, 12), ({"columns": 3}, 3), ({"columns": 20}, 14), ({"style": "paper"}, 4)):
        written = [text.get_text() for text in plots.histograms(deep, **how).texts]
        assert sum(bool(re.fullmatch(r"(layer )?\d+", text)) for text in written if text not in "0246") >= columns - 2
        assert any(f"{columns} of 14" in text for text in written) is (columns < 14)
    small = plots.histograms(deep, plt.subplots(figsize=(3, 2))[1])
    large = plots.histograms(deep, plt.subplots(figsize=(20, 3))[1])
    assert "12 of 14" in large.texts[-1].get_text()
    assert not any("12 of 14" in text.get_text() for text in small.texts)
    assert "logarithmic" in plots.histograms(deep, scale="log").texts[-1].get_text()


def test_a_heatmap_shows_each_quantity_and_the_sites_wanted() -> None:
    recorded = ("forward", "backward", "updates", "largest_logit", "effective_rank")
    for name in recorded:
        assert plots.heatmap(RUN, quantity=name).images
    assert [label.get_text() for label in plots.heatmap(RUN, sites="fc.[12]").get_yticklabels()] == ["fc.1", "fc.2"]
    assert set(recorded) < set(MAPS)
    figure, axes = plt.subplots()
    plots.heatmap(RUN, axes)
    (bar,) = figure.axes[1:]
    assert [label.get_text() for label in bar.get_yticklabels()] == ["1/10", "x10"]
    assert bar.get_ylabel() == "rms over that of the first sample"
    with pytest.raises(NothingToDrawError, match="attention_entropy was not recorded"):
        plots.heatmap(RUN, quantity="attention_entropy")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.curves(PROFILES, quantity="std"), 'quantity must be one of forward_std, .*, got "std"'),
        (lambda: plots.curves(PROFILES, quantity=["forward_std", 3]), "quantity must be one of .*, got 3"),
        (lambda: plots.curves(PROFILES, quantity=[]), r"quantity must be one of .*, got \[\]"),
        (lambda: plots.histograms(PROFILES, quantity="all"), 'quantity must be one of activations, .*, got "all"'),
        (lambda: plots.histograms(PROFILES, scale="asinh"), 'scale must be "linear" or "log", got "asinh"'),
        (lambda: plots.histograms(PROFILES, columns=0), "columns must be a whole number of at least 1, got 0"),
        (lambda: plots.overview(PROFILES, quantity="both"), "quantity must be one of forward, backward, verdict"),
        (lambda: plots.learning(RUNS, quantity="gradient_norm"), "quantity must be one of loss, accuracy, got"),
        (lambda: plots.learning(RUN, quantity="accuracy"), "quantity must be one of loss, gradient_norm, .*accuracy"),
        (lambda: plots.curves(PROFILES, style="poster"), 'style must be "screen", "paper" or "slide", got "poster"'),
        (lambda: plots.curves(PROFILES, legend="left"), 'legend must be "beside", .* got "left"'),
        (lambda: plots.curves(PROFILES, palette="no"), 'palette must name a colormap .*, got "no"'),
        (lambda: plots.curves(PROFILES, palette=["red", 1]), "palette must name a colormap .* or list colours, got 1"),
        (lambda: plots.overview(PROFILES, palette="no"), 'palette must name a colormap of matplotlib, got "no"'),
        (lambda: plots.curves(PROFILES, "axes"), 'ax must be axes of matplotlib, got "axes"'),
        (lambda: plots.curves(PROFILES, plt.subplots(1, 2)[1]), "ax must be 1 axes, for forward_std, got 2"),
        (
            lambda: plots.overview(PROFILES, plt.subplots()[1]),
            "ax must be 3 axes, for forward, backward, verdict, got 1",
        ),
        (lambda: plots.curves(3), "profiles must be a profile or a set of profiles, got 3"),
        (lambda: plots.learning(PROFILES), "runs must be trainings or a monitored run, got"),
        (lambda: plots.heatmap(PROFILES), "run must be a monitored run, got"),
        (lambda: plots.phase("tanh"), 'chart must be a phase chart, got "tanh"'),
        (lambda: plots.curves(ProfileSet(())), "nothing to draw: there is no profile"),
        (lambda: plots.histograms(monitored([1.0])), "nothing to draw: there is no profile"),
        (lambda: plots.learning(TrainingSet(())), "nothing to draw: there is no training"),
        (lambda: plots.write_figure(Figure(), "figure.bmp"), 'path must end in .png, .pdf or .svg, got "figure.bmp"'),
    ],
)
def test_what_cannot_be_drawn_is_said(draw: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw()


@pytest.mark.parametrize("name", ONE)
def test_what_is_no_text_no_colour_no_argument_and_no_axes_of_a_figure_is_said(name: str) -> None:
    draw = ONE[name]
    for wrong in ({"title": 3}, {"caption": 3}, {"palette": 3}):
        (argument,) = wrong
        with pytest.raises(InputError, match=rf"^{argument} must .*, got 3"):
            draw(**wrong)
    with pytest.raises(UnknownArgumentError, match='has no argument "captions"'):
        draw(captions="")
    axes = plt.subplots()[1]
    axes.remove()
    with pytest.raises(InputError, match="ax must be axes of a figure, got axes that were removed"):
        draw(axes)


def test_the_functions_are_listed() -> None:
    assert {"curves", "heatmap", "histograms", "learning", "overview", "phase"} <= set(dir(plots))


def test_a_figure_of_the_users_is_written_with_its_text(tmp_path: Path) -> None:
    figure, axes = plt.subplots()
    plots.curves(PROFILES, axes)
    with mpl.rc_context({"savefig.bbox": "tight"}):
        plots.write_figure(figure, tmp_path / "own.svg")
        plots.write_figure(figure, str(tmp_path / "own.png"))
    assert re.search(r">[^<]*xavier_normal</t", (tmp_path / "own.svg").read_text())
    assert (tmp_path / "own.png").read_bytes().startswith(b"\x89PNG")


def test_pyplot_knows_a_new_figure_where_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plots.curves(PROFILES).figure
    assert figure.number in plt.get_fignums()
    monkeypatch.delitem(__import__("sys").modules, "matplotlib.pyplot")
    assert not hasattr(plots.curves(PROFILES).figure, "number")


def test_a_heatmap_for_a_paper_has_neither_a_list_of_alarms_nor_numbers_of_rows() -> None:
    alarms = (Alarm(1, 1, "loss spike"), Alarm(2, 2, "dead units", "fc.1"))
    alarmed = replace(RUN, alarms=alarms)
    for style, listed in (("screen", True), ("paper", False), ("slide", False)):
        written = words(plots.heatmap(alarmed, style=style).figure)
        assert ("spike" in written) is listed
    assert "first" in words(plots.heatmap(alarmed).figure)
    tall = sampled_at([0, 2], sites=200)
    assert plots.heatmap(tall, style="paper").figure.get_size_inches()[1] < 4
