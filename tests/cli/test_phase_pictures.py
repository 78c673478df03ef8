"""Phase diagrams of a sweep: which networks are dots, where they lie, and what a file may not bring about."""

import math
import sys
from dataclasses import replace

import pytest
from building.command_line import files

from propscope.cli.phase_pictures import draw_all_with_phase, phase_pictures
from propscope.errors import InputError
from propscope.experiments import profile_mlp
from propscope.records import ProfileSet
from propscope.theory import MeanField

pytestmark = pytest.mark.slow

SWEPT = {"activation": "tanh", "initializer": "normal", "batch": 32, "histogram_limit": 16}


@pytest.fixture(scope="module")
def measured():
    return profile_mlp(20, 48, weight_variance=[0.6, 1.2, 3.0], bias_variance=[0.05, 0.3], seeds=2, **SWEPT)


def prepared(profiles, folder):
    return [picture.prepared for picture in phase_pictures(profiles, folder, stem="run")]


def test_the_dots_are_the_variances_and_depths_of_the_networks(measured, tmp_path):
    (picture,) = prepared(measured, tmp_path)
    dots = picture.measured
    expected = [(weight, bias) for weight in (0.6, 1.2, 3.0) for bias in (0.05, 0.3)]
    # 19 layers of 2304 weights scatter by 0.7% together, of 48 biases by 5%; over two seeds less.
    assert [dot.weight_variance for dot in dots] == pytest.approx([weight for weight, _ in expected], rel=0.03)
    assert [dot.bias_variance for dot in dots] == pytest.approx([bias for _, bias in expected], rel=0.2)
    ordered = MeanField("tanh", weight_variance=0.6, bias_variance=0.05).depth_scales().correlation
    assert dots[0].correlation_depth == pytest.approx(ordered, rel=0.2)
    assert picture.chart.activation == "tanh"
    assert picture.chart.weight_limits[1] > 3
    assert picture.chart.bias_limits[1] > 0.3
    assert "depth 20" in picture.header.facts


def test_a_gain_moves_along_the_weight_variance(tmp_path):
    swept = profile_mlp(8, 64, gain="0.5..1.5:3", seeds=1, **SWEPT | {"initializer": "lecun_normal"})
    (picture,) = prepared(swept, tmp_path)
    assert [dot.weight_variance for dot in picture.measured] == pytest.approx([0.25, 1.0, 2.25], rel=0.05)


def test_without_biases_a_network_of_relu_has_no_depth_scale(tmp_path):
    swept = profile_mlp(
        16, 32, weight_variance=[1, 2, 3], bias_variance=[0, 0.1], seeds=1, **SWEPT | {"activation": "relu"}
    )
    (picture,) = prepared(swept, tmp_path)
    known = {dot.bias_variance > 0 for dot in picture.measured if not math.isnan(dot.correlation_depth)}
    assert known == {True}
    assert "not resolved" in picture.header.reading


def test_each_depth_and_activation_has_a_picture_and_a_norm_has_none(tmp_path):
    swept = profile_mlp(
        [8, 9], 8, weight_variance=[1, 2, 3], norm=["none", "layer"], seeds=1, **SWEPT | {"activation": "tanh,relu"}
    )
    names = [picture.paths[0].name for picture in phase_pictures(swept, tmp_path, stem="run")]
    assert names == [f"run-phase-{act}-depth{depth}.png" for act in ("tanh", "relu") for depth in (8, 9)]


def test_a_grid_without_variances_has_none(tmp_path):
    assert prepared(profile_mlp([2, 3, 4], 4, seeds=1, **SWEPT), tmp_path) == []
    assert prepared(profile_mlp(2, 4, weight_variance=[1, 2], seeds=1, **SWEPT), tmp_path) == []
    with pytest.raises(InputError, match="nothing to draw for phase: no gain, weight variance"):
        draw_all_with_phase(profile_mlp(2, 4, seeds=1, **SWEPT), tmp_path, stem="run", only=["phase"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evil:act", "tanh:evil", "evil.py:act", "no_such", "tanh:slope=1"])
def test_what_a_file_names_is_not_imported(measured, tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("raise SystemExit('run')\n")
    (tmp_path / "tanh.py").write_text("raise SystemExit('run')\n")
    forged = ProfileSet.of(replace(one, labels={**one.labels, "activation": name}) for one in measured)
    assert prepared(forged, tmp_path) == []
    assert not {"evil", "tanh"} & set(sys.modules)


def test_profile_and_plot_draw_it(command, place):
    run = ("--act", "tanh", "--depth", 8, "--width", 8, "--batch", 8, "--seeds", 1, "--weight-variance", "1..3:3")
    out = command.fine("profile", *run, "--plots", "main", "-o", "run.h5")
    assert {"run-sweep.png", "run-phase.png"} <= set(out.split())
    for name in ("run-sweep.png", "run-phase.png"):
        (place / name).unlink()
    assert command.fine("plot", "run.h5", "--plots", "phase,sweep").split() == ["run-sweep.png", "run-phase.png"]
    assert {"run-sweep.png", "run-phase.png"} <= set(files(place))
    assert "exists" in command("plot", "run.h5", "--plots", "phase").error
