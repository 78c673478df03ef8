from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import matplotlib as mpl
import numpy as np
import pytest
from building.records import course, grid, mlp, model, monitored, run, sampled_at, trainings
from matplotlib.figure import Figure
from PIL import Image

import propscope.plots.gallery
from propscope import cli
from propscope.errors import InputError, StoreError
from propscope.plots import DPI, PLOTS, TRAINING_PLOTS, Plot, draw_all, pictures, styled, table, write_figure
from propscope.plots.gallery import NothingToDrawError, png
from propscope.records import MonitoredRun, ProfileSet, TrainingSet

SMALL = grid(("he_normal", "zeros"), depths=(3,), seeds=2, width=8, batch=4)
# A plot that is added may draw what these tests draw as well; none of these may come or go.
KNOWN = ("curves", "activations", "gradients", "weights", "weight-gradients", "overview", "jacobian", "over-time")


def drawn(profiles: ProfileSet, folder: Path, stem: str) -> list[str]:
    """Draw everything that there is to draw, and return the names of the known plots among it, in order."""
    paths = draw_all(profiles, folder, stem=stem)
    recorded = [plot.name for plot in PLOTS if plot.prepare(profiles) is not None]
    assert [path.name for path in paths] == [f"{stem}-{name}.png" for name in recorded]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert {path.name for path in folder.iterdir() if path.name.startswith(stem)} == {path.name for path in paths}
    return [name for name in recorded if name in KNOWN]


@pytest.mark.slow
def test_every_plot_becomes_a_picture(tmp_path: Path) -> None:
    assert drawn(SMALL, tmp_path / "new" / "folder", "run") == [
        "curves",
        "activations",
        "gradients",
        "weights",
        "weight-gradients",
        "overview",
    ]


@pytest.mark.slow
def test_several_activations_and_depths_are_told_apart(tmp_path: Path) -> None:
    profiles = grid(("he_normal",), ("relu", "tanh"), depths=(2, 3), seeds=1, width=8, batch=4)
    paths = draw_all(profiles, tmp_path, stem="run", only=["overview", "weights"])
    assert [path.name for path in paths] == [
        "run-weights-relu-depth2.png",
        "run-weights-relu-depth3.png",
        "run-weights-tanh-depth2.png",
        "run-weights-tanh-depth3.png",
        "run-overview-depth2.png",
        "run-overview-depth3.png",
    ]


@pytest.mark.slow
def test_trainings_have_pictures_of_their_own(tmp_path: Path) -> None:
    names = ["learning", "signal", "activation-map"]
    paths = draw_all(trainings(activations=("relu", "tanh")), tmp_path, stem="run", only=names)
    assert [path.name for path in paths] == [
        "run-learning.png",
        "run-signal-relu.png",
        "run-signal-tanh.png",
        "run-activation-map-relu.png",
        "run-activation-map-tanh.png",
    ]
    with pytest.raises(InputError, match='unknown plot "curves"; valid are learning, signal, '):
        draw_all(trainings(), tmp_path, stem="other", only=["curves"])
    bare = TrainingSet((run(taken=()),))
    assert [path.name for path in draw_all(bare, tmp_path, stem="bare", only=names)] == ["bare-learning.png"]
    with pytest.raises(
        InputError, match="nothing to draw for signal: not recorded in any of the 1 trainings"
    ) as caught:
        draw_all(bare, tmp_path, stem="other", only=["signal"])
    assert "profile_every" in caught.value.hint


@pytest.mark.slow
def test_other_formats(tmp_path: Path) -> None:
    paths = draw_all(SMALL, tmp_path, stem="run", only=["overview"], formats=("svg", "pdf"))
    assert [path.suffix for path in paths] == [".svg", ".pdf"]
    assert b"<svg" in paths[0].read_bytes()
    assert paths[1].read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_what_was_not_recorded_is_left_out(tmp_path: Path) -> None:
    forward = ProfileSet((mlp(depth=2, backward=False),))
    assert drawn(forward, tmp_path, "run") == ["curves", "activations", "weights", "overview"]
    with pytest.raises(InputError, match=r"nothing to draw for gradients"):
        draw_all(forward, tmp_path, stem="run", only=["gradients"])
    with pytest.raises(InputError, match="0 profiles"):
        draw_all(ProfileSet(()), tmp_path, stem="run")
    assert drawn(ProfileSet((model(20),)), tmp_path, "model") == ["curves", "activations", "gradients", "overview"]


def test_a_picture_that_exists_is_kept_unless_told(tmp_path: Path) -> None:
    (tmp_path / "run-weights.png").write_text("mine")
    with pytest.raises(InputError, match=r"run-weights.png exists") as caught:
        draw_all(SMALL, tmp_path, stem="run")
    assert "overwrite" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["run-weights.png"]
    assert (tmp_path / "run-weights.png").read_text() == "mine"
    draw_all(SMALL, tmp_path, stem="run", only=["weights"], overwrite=True)
    assert (tmp_path / "run-weights.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        ({"only": ["curve"]}, 'unknown plot "curve"; valid are curves, ', "curves"),
        ({"only": []}, "no plot is named", ""),
        ({"formats": ["gif"]}, 'unknown format "gif"; valid are png, pdf, svg', ""),
        ({"formats": []}, "no format is named", ""),
        ({"stem": "a/b"}, 'got "a/b"', "directory"),
        ({"stem": ""}, 'got ""', "directory"),
    ],
)
def test_wrong_use_names_what_came_and_what_is_valid(
    wrong: dict[str, object], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        draw_all(SMALL, tmp_path, **{"stem": "run", **wrong})  # type: ignore[arg-type]
    assert hint in caught.value.hint
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write"):
        draw_all(SMALL, tmp_path / "file", stem="run", only=["overview"])


def test_a_picture_is_never_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, goal: Path) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "run-overview.png").write_text("mine")
    monkeypatch.setattr(propscope.plots.gallery.os, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        draw_all(SMALL, tmp_path, stem="run", only=["overview"], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["run-overview.png"]
    assert (tmp_path / "run-overview.png").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.parametrize("plot", [*PLOTS, *TRAINING_PLOTS], ids=lambda plot: plot.name)
def test_another_process_draws_the_same_picture(tmp_path: Path, plot: Plot) -> None:
    sites = (replace(site, jacobian=site.forward, jacobian_condition=2.0) for site in SMALL[0].sites)
    every = ProfileSet((replace(SMALL[0], sites=tuple(sites), time_courses=(course(),)),))
    shown = trainings() if plot in TRAINING_PLOTS else every
    if plot.sweeps:
        shown = shown.of(replace(shown[0], labels={**shown[0].labels, "gain": gain}) for gain in (0.5, 1.0, 2.0))
    (picture,) = pictures(shown, tmp_path, stem="run", only=[plot.name])
    (path,) = picture.draw()
    here = path.read_bytes()
    assert pickle.loads(pickle.dumps(picture)).draw() == (path,)
    assert path.read_bytes() == here


def test_a_picture_is_prepared_when_it_is_asked_for(tmp_path: Path) -> None:
    made = pictures(SMALL, tmp_path, stem="run", only=["curves", "overview"])
    assert next(made).plot.name == "curves"
    assert not list(tmp_path.iterdir())


def test_the_main_plots_alone_show_many_pairs() -> None:
    main, every = ["curves", "overview", "sweep"], [plot.name for plot in PLOTS]
    assert table.chosen(PLOTS, None, pairs=24) == every
    assert table.chosen(PLOTS, None, pairs=25) == main
    assert table.chosen(PLOTS, "all", pairs=1000) == every
    assert table.chosen(PLOTS, "main", pairs=1) == main
    assert table.chosen(TRAINING_PLOTS, "main", pairs=1) == ["learning", "activation-map", "final-loss"]
    assert table.chosen(PLOTS, "none", pairs=1) == []


def test_a_png_holds_every_pixel_that_matplotlib_drew(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4)).astype(np.uint8)
    (tmp_path / "noise.png").write_bytes(png(pixels))
    noise = Image.open(tmp_path / "noise.png")
    assert np.array_equal(np.asarray(noise), pixels)
    assert noise.info["dpi"] == pytest.approx((DPI, DPI), abs=0.01)
    # A width and a height that are no whole numbers of pixels.
    with styled():
        figure = Figure(figsize=(3.337, 2.219), dpi=DPI)
        figure.text(0.1, 0.5, "text")
        write_figure(figure, tmp_path / "here.png")
        figure.savefig(tmp_path / "there.png", dpi=DPI)
    here, there = (np.asarray(Image.open(tmp_path / name)) for name in ("here.png", "there.png"))
    assert np.array_equal(here, there)


def test_matplotlib_is_left_as_it_was(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    draw_all(SMALL, tmp_path, stem="run", only=["curves", "weights"])
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_the_users_settings_do_not_reach_the_pictures(tmp_path: Path) -> None:
    only = ["curves"]
    plain = draw_all(SMALL, tmp_path, stem="plain", only=only)[0].read_bytes()
    with mpl.rc_context({"font.size": 20, "figure.autolayout": True, "savefig.bbox": "tight", "axes.grid": True}):
        assert draw_all(SMALL, tmp_path, stem="odd", only=only)[0].read_bytes() == plain


@pytest.mark.slow
def test_drawing_needs_neither_torch_nor_pyplot() -> None:
    code = (
        "import sys, pathlib, tempfile\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from building.records import grid\n"
        "from propscope.plots import draw_all\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    draw_all(grid(depths=(2,), seeds=2, width=8), pathlib.Path(folder), stem='run')\n"
        "sys.exit(' '.join({'torch', 'matplotlib.pyplot'} & set(sys.modules)) or 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


@pytest.mark.parametrize("plot", [*PLOTS, *TRAINING_PLOTS], ids=lambda plot: plot.name)
def test_every_row_of_the_table_has_its_two_steps(plot: Plot) -> None:
    assert callable(plot.prepare)
    assert callable(plot.draw)
    assert [other.name for other in (*PLOTS, *TRAINING_PLOTS)].count(plot.name) == 1


@pytest.mark.parametrize("rows", ["PLOTS", "TRAINING_PLOTS"])
def test_a_plot_of_ones_own_needs_its_file_and_its_row(
    rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ModuleType("propscope.plots.own")
    own.prepare_own = lambda profiles: f"{len(profiles)} in all"  # type: ignore[attr-defined]
    own.draw_own = lambda text: Figure().text(0.5, 0.5, text).figure  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, own.__name__, own)
    monkeypatch.setattr(table, rows, (*getattr(table, rows), Plot("my-own", "own.prepare_own", "own.draw_own")))
    given = SMALL if rows == "PLOTS" else trainings()
    assert [path.name for path in draw_all(given, tmp_path, stem="run", only=["my-own"])] == ["run-my-own.png"]
    with pytest.raises(InputError, match=r"unknown plot \"my-wn\"; valid are .*, my-own"):
        draw_all(given, tmp_path, stem="run", only=["my-wn"])
    # The options were read before the row was there.
    monkeypatch.setattr(cli, "_application", cli._application.__wrapped__)
    cli.main(["plot", "--help"])
    # A narrow terminal may break a name at its hyphen.
    assert ",".join(plot.name for plot in getattr(table, rows)) in "".join(capsys.readouterr().out.split())


RUN = monitored([3.0, 2.0, 1.0]) + sampled_at([0, 2], sites=2)


@pytest.mark.slow
def test_a_monitored_run_has_pictures_of_its_own(tmp_path: Path) -> None:
    paths = draw_all(RUN, tmp_path, stem="run")
    recorded = ["overview", "steps", "sites", "forward", "backward", "updates", "geometry"]
    assert [path.name for path in paths] == [f"run-{name}.png" for name in recorded]
    with pytest.raises(InputError, match='unknown plot "curves"; valid are overview, steps, sites, '):
        draw_all(RUN, tmp_path, stem="run", only=["curves"], overwrite=True)


def test_sites_are_chosen_of_a_monitored_run_alone(tmp_path: Path) -> None:
    (picture,) = pictures(RUN, tmp_path, stem="run", only=["forward"], sites="1$")
    assert picture.prepared.maps[0].names == ("fc.1",)
    with pytest.raises(InputError, match='no site matches "nothing"'):
        draw_all(RUN, tmp_path, stem="run", sites="nothing")
    with pytest.raises(InputError, match="only the pictures of a monitored run are of chosen sites"):
        draw_all(SMALL, tmp_path, stem="run", sites="layers")


def test_a_run_without_samples_and_steps_has_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(NothingToDrawError, match="nothing to draw for overview") as caught:
        draw_all(MonitoredRun(()), tmp_path, stem="run")
    assert "propscope show RUN" in caught.value.hint
    assert [path.name for path in draw_all(MonitoredRun((), RUN.steps), tmp_path, stem="run", only=["steps"])] == [
        "run-steps.png"
    ]


def test_every_plot_of_a_run_can_be_drawn_by_another_process() -> None:
    for made in pictures(RUN, Path("."), stem="run"):
        assert pickle.loads(pickle.dumps(made)).paths == made.paths


def test_names_of_sites_are_drawn_as_they_are(tmp_path: Path) -> None:
    run = sampled_at([0, 1], names=["a$x$", "b\x1b[31m"])
    assert len(draw_all(run, tmp_path, stem="run", only=["forward", "sites", "overview"])) == 3
