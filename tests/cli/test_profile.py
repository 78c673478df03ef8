"""`propscope profile`: file, table, pictures and JSON; everything that may be wrong; what an interrupt leaves."""

import errno
import importlib.util
import json
import os
import re
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from building.command_line import files, process
from building.records import plain

from propscope.cli.grid_runs import print_paths
from propscope.experiments import profile_mlp
from propscope.store import load, save

TINY = ("--depth", 2, "--width", 4, "--batch", 4, "--seeds", 2, "--init", "he_normal")
BARE = (*TINY, "--plots", "none")


# What it does


@pytest.mark.slow
def test_a_file_pictures_and_a_table(command, place, mlp_plots):
    out = command.fine("profile", *TINY)
    lines = out.splitlines()
    assert lines[0] == "1 pair, initializer he_normal, activation relu, depth 2, width 4, batch 4, 2 seeds"
    assert "file      outputs/mlp-relu-d2.h5" in lines
    assert f"plots     outputs/mlp-relu-d2-{mlp_plots[0]}.png" in lines
    assert lines[-1].startswith("2 networks in ")
    written = {f"outputs/mlp-relu-d2-{name}.png" for name in mlp_plots} | {"outputs/mlp-relu-d2.h5", "outputs"}
    assert set(files(place)) == written
    assert command.fine("show", "outputs/mlp-relu-d2.h5").splitlines()[:7] == lines[:7]


@pytest.mark.slow
def test_main_plots_are_the_curves_and_the_overview(command, place):
    out = command.fine("profile", *TINY, "--plots", "main")
    assert out.splitlines()[-3:-1] == [
        "plots     outputs/mlp-relu-d2-curves.png",
        "          outputs/mlp-relu-d2-overview.png",
    ]
    assert [name for name in files(place) if name.endswith(".png")] == [
        "outputs/mlp-relu-d2-curves.png",
        "outputs/mlp-relu-d2-overview.png",
    ]


@pytest.mark.slow
def test_only_main_plots_are_drawn_of_many_pairs(command, place):
    activations = "relu,tanh,sigmoid,gelu,silu,elu,selu,softplus,mish,identity,softsign,hardtanh,relu6"
    many = ("--depth", 1, "--width", 2, "--batch", 2, "--seeds", 1, "--act", activations, "-o", "many.h5")
    out = command.fine("profile", *many, "--init", "he_normal,zeros")
    assert {path.split("-")[1].removesuffix(".png") for path in files(place) if path.endswith(".png")} == {
        "curves",
        "overview",
    }
    assert out.startswith("26 pairs")


def pictures_in(place):
    return [name for name in files(place) if name.endswith(".png")]


def test_no_plots(command, place):
    assert "plots" not in command.fine("profile", *BARE)
    assert not pictures_in(place)


def test_plots_by_name(command, place):
    command.fine("profile", *TINY, "--plots", "weights, curves", "-o", "run.h5")
    assert pictures_in(place) == ["run-curves.png", "run-weights.png"]


def test_a_plot_that_is_none_is_refused_before_the_run(command, place):
    outcome = command("profile", *TINY, "--plots", "curve")
    assert outcome.code == 2
    assert outcome.err.startswith('error: unknown plot "curve"; valid are curves, activations')
    assert outcome.err.endswith('hint: did you mean "curves"?\n')
    assert not files(place)


def test_a_dozen_names_of_pictures_are_printed(capsys):
    print_paths("plots", [Path(f"out/{number}.png") for number in range(97)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "plots     out/0.png"
    assert lines[11:] == ["          out/11.png", "          ... and 85 more in out"]
    print_paths("plots", [Path(f"{number}.png") for number in range(12)])
    assert capsys.readouterr().out.splitlines()[-1] == "          11.png"


def test_the_file_holds_what_python_measures(command):
    command.fine("profile", *BARE, "--act", "tanh,relu", "-o", "run.h5")
    stored = load("run.h5")
    measured = profile_mlp(2, 4, activation="tanh,relu", initializer="he_normal", seeds=2, batch=4)
    assert [dict(profile.labels) for profile in stored] == [dict(profile.labels) for profile in measured]
    for one, other in zip(stored, measured, strict=True):
        assert plain(one.sites) == plain(other.sites)


def test_json_is_one_document_and_nothing_else(command, place):
    document = command("profile", *BARE, "--json", "--act", "relu,tanh").document
    assert document["file"] == "outputs/mlp-relu-tanh-d2.h5"
    assert document["pictures"] == []
    assert document["seconds"] > 0
    assert [pair["labels"]["activation"] for pair in document["pairs"]] == ["relu", "tanh"]
    assert document["pairs"] == command("show", document["file"], "--json").document


def test_a_second_run_takes_another_name(command, place):
    for _ in range(3):
        command.fine("profile", *BARE)
    assert sorted(os.listdir("outputs")) == ["mlp-relu-d2-2.h5", "mlp-relu-d2-3.h5", "mlp-relu-d2.h5"]


def test_names_in_outputs(command, place):
    (place / "own.py").write_text("import torch\ndef act(z):\n    return torch.tanh(z)\n")
    out = command.fine("profile", *BARE, "--act", f"{place}/own.py:act,leaky_relu:negative_slope=0.2", "--depth", "1,2")
    assert "outputs/mlp-own-leaky_relu-d1-d2.h5" in out


def test_every_initializer_for_a_square_mlp_is_the_default(command):
    from propscope.networks import SQUARE_DEFAULTS

    command.fine("profile", "--depth", 1, "--width", 3, "--batch", 2, "--seeds", 1, "--plots", "none", "-o", "all.h5")
    assert load("all.h5").axes["initializer"] == SQUARE_DEFAULTS


@pytest.mark.slow
def test_every_option_reaches_the_network(command):
    networks = ("--depth", 3, "--width", "8-2,4-4-4", "--act", "elu:alpha=2", "--init", "normal:std=0.5,zeros")
    layers = ("--bias", 0.5, "--norm", "layer", "--dropout", 0.25, "--input-size", 5, "--output-size", 3)
    data = ("--input", "uniform:low=-2:high=2", "--scale", "zscore", "--batch", 6, "--seeds", 1)
    others = ("--loss", "mse", "--dtype", "bfloat16", "--plots", "none", "-o", "all.h5")
    out = command.fine("profile", *networks, *layers, *data, *others)
    assert out.startswith("4 pairs, ")
    profile = load("all.h5", initializer="normal:std=0.5", width="8-2")[0]
    assert dict(profile.labels) == {
        "initializer": "normal:std=0.5",
        "activation": "elu:alpha=2",
        "depth": 3,
        "width": "8-2",
        "input": "uniform:low=-2:high=2",
        "scale": "zscore",
        "loss": "mse",
        "batch": 6,
        "dtype": "bfloat16",
        "input_size": 5,
        "output_size": 3,
        "bias": 0.5,
        "norm": "layer",
        "dropout": 0.25,
        "seed": 0,
    }
    assert [site.shape for site in profile.sites if site.kind == "Linear"] == [(6, 8), (6, 4), (6, 2), (6, 3)]
    residual = command.fine("profile", *BARE, "--residual", "--alpha-dropout", "0.1", "-o", "residual.h5")
    assert "residual True, alpha_dropout 0.1" in residual


@pytest.mark.slow
def test_axes_and_ranges(command, place):
    out = command.fine(
        "profile", "--depth", "2..4:2", "--width", "4..8:4", "--seeds", 1, "--init", "he_normal", "--gain", "0.5..1:2",
        "--bias-variance", 0.1, "--norm", "none,layer", "--residual-scale", "none,0.5", "--batch", "4,8", "--dtype",
        "float32,float64", "--plots", "none", "-o", "axes.h5",
    )  # fmt: skip
    assert out.startswith("128 pairs, ")
    found = load("axes.h5")
    axes = {
        "depth": (2, 4), "width": (4, 8), "gain": (0.5, 1.0), "bias_variance": (0.1,), "norm": ("none", "layer"),
        "residual": ("False", 0.5), "batch": (4, 8), "dtype": ("float32", "float64"),
    }  # fmt: skip
    assert {name: found.axes[name] for name in axes} == axes
    profile = found.select(depth=4, width=8, gain=0.5, norm="layer", residual=0.5, batch=8)
    assert {one.provenance.dtype for one in profile} == {"float32", "float64"}
    assert {one.sites[1].shape for one in profile} == {(8, 8)}
    # The labels tell all networks apart, as a run that goes on needs it.
    assert len({json.dumps(dict(profile.labels)) for profile in found}) == 128


def test_weight_variance_scales_normal_weights_by_default(command):
    tiny = (*TINY[:8], "--act", "tanh", "--plots", "none")
    out = command.fine("profile", *tiny, "--weight-variance", "1..3:3", "-o", "run.h5")
    assert "initializer normal" in out
    assert load("run.h5").axes["weight_variance"] == (1.0, 2.0, 3.0)


@pytest.mark.slow
def test_all_activations(command):
    from propscope.networks import ACTIVATIONS

    command.fine("profile", *BARE, "--seeds", 1, "--act", "all", "-o", "run.h5")
    assert load("run.h5").axes["activation"] == tuple(entry.name for entry in ACTIVATIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gain", "2..1:3"), '--gain has the range "2..1:3", which runs backwards'),
        (("--gain", "0.5..2"), "--gain has the range .* which says no number of values"),
        (("--gain", "nan"), "--gain must be a list of numbers and ranges FIRST..LAST:COUNT, got"),
        (("--depth", "50..10:10"), '--depth has the range "50..10:10", which runs backwards'),
        (("--depth", "1..1000000000"), "--depth has the range .* more than 1,000,000 values"),
        (("--batch", "0"), "batch must be a whole number of at least 1, got 0"),
        (("--weight-variance", "1", "--gain", "2"), "gain and weight_variance cannot both be set"),
        (("--bias-variance", "1", "--bias", "2"), "bias and bias_variance cannot both be set"),
        (("--residual", "--residual-scale", "2"), "--residual and --residual-scale cannot both be given"),
        (("--residual-scale", "half"), "residual must be a list of numbers and ranges"),
        (("--width", "8..4"), "width has the range .* runs backwards"),
        (("--norm", "none,,rms"), "has an empty entry"),
    ],
)
def test_axes_that_are_not_valid(command, options, message):
    error = command("profile", *options).error
    assert re.search(message, error)


def test_digits_end_to_end(command):
    if importlib.util.find_spec("sklearn") is None:
        pytest.skip("needs scikit-learn")
    digits = ("--input", "digits", "--scale", "zscore", "--loss", "cross-entropy")
    out = command.fine("profile", *BARE, "--batch", 64, *digits)
    assert "input digits, scale zscore, loss cross-entropy" in out
    assert load("outputs/mlp-relu-d2.h5")[0].sites[1].shape == (64, 4)


def test_own_data(command):
    np.save("data.npy", np.random.default_rng(0).normal(size=(9, 3)))
    command.fine("profile", *BARE, "--input", "data.npy", "-o", "run.h5")
    assert load("run.h5")[0].sites[1].shape == (4, 4)
    assert load("run.h5")[0].parameters[0].shape == (4, 3)


def test_overflow_is_a_result(command):
    out = command.fine("profile", *BARE, "--depth", 40, "--init", "normal:std=1e20", "-o", "inf.h5")
    assert " inf " in out.splitlines()[5]
    assert int(out.splitlines()[5].split()[-1]) > 0


def too_early(*arguments, **options):
    raise AssertionError("this must be known before anything is computed")


def test_existing_files_are_replaced_only_when_asked(command, place, monkeypatch):
    (place / "run.h5").write_text("precious")
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["propscope.experiments.profiling"], "_profile", too_early)
        outcome = command("profile", *BARE, "-o", "run.h5")
    assert outcome.error == "run.h5 exists and is kept"
    assert "--overwrite" in outcome.hint
    assert (place / "run.h5").read_text() == "precious"
    command.fine("profile", *BARE, "-o", "run.h5", "--overwrite")
    assert len(load("run.h5")) == 2


# What is refused: one line, nothing written


def bad_data(place):
    np.save("nan.npy", np.array([[1.0, np.nan], [np.inf, 0.0]]))
    np.save("empty.npy", np.zeros((0, 3)))
    np.save("flat.npy", np.zeros(5))
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("objects.npy", np.array([[None]]), allow_pickle=True)
    np.save("huge.npy", np.full((3, 2), 1e300))
    np.save("fine.npy", np.zeros((3, 2)))
    (place / "damaged.npy").write_bytes((place / "fine.npy").read_bytes()[:90])
    torch.save([1, 2, 3], "list.pt")
    torch.save((torch.zeros(3, 2), torch.tensor([0, 1, 7])), "labels.pt")
    (place / "pickle.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (place / "folder.npy").mkdir()


REFUSED = {
    ("--depth", "0"): "depth 0 1",
    ("--depth", "-3"): "depth -3 1",
    ("--depth", "4,0"): "depth 0",
    ("--depth", "x"): "--depth 'x'",
    ("--depth", "2.5"): "--depth 2.5",
    ("--depth", "2,,3"): "--depth '2,,3'",
    ("--width", "0"): "width '0' 1",
    ("--width", "-4"): "width -4",
    ("--width", "wide"): "width wide",
    ("--width", "8-4-2"): "width 3 depth 2",
    ("--act", "rleu"): "activation rleu celu elu",
    ("--act", "relu,"): "relu,",
    ("--act", "relu:slope=1"): "activation relu slope",
    ("--act", "elu:alpha=x"): "alpha activation elu 'x'",
    ("--act", "nowhere:act"): "activation nowhere:act ModuleNotFoundError",
    ("--init", "he_norml"): "initializer he_norml constant",
    ("--init", "normal:sdt=1"): "initializer normal sdt std",
    ("--init", "normal:std=x"): "std initializer normal 'x' 0",
    ("--init", "normal:std=-1"): "std initializer normal -1",
    ("--init", "he_normal,dirac"): "initializer dirac convolutions MLP",
    ("--seeds", "0"): "seeds 0 1",
    ("--batch", "0"): "batch 0 1",
    ("--bias", "-1"): "bias -1 0",
    ("--norm", "group"): "norm group none batch layer rms",
    ("--norm", "batch", "--batch", "1"): "norm batch 1",
    ("--dropout", "1"): "dropout 1 0",
    ("--loss", "ce"): "loss ce cotangent mse cross-entropy",
    ("--dtype", "int8"): "dtype int8 float32",
    ("--device", "abacus"): "device abacus",
    ("--scale", "log"): "scale log zscore minmax none",
    ("--input-size", "0"): "input_size 0 1",
    ("--output-size", "-1"): "output_size -1 1",
    ("--width", "4,1000000000"): "depth 2 width 1000000000 batch 4",
    ("--depth", "1000000000000"): "depth 1000000000000 width 4 batch 4",
    ("--batch", "1000000000000"): "depth 2 width 4 batch 1000000000000",
    ("--input", "norml"): "input norml normal",
    ("--input", "none.npy"): "input none.npy",
    ("--input", "folder.npy"): "input folder.npy directory",
    ("--input", "nan.npy"): "nan.npy 1 NaN infinite row 0 feature",
    ("--input", "empty.npy"): "empty.npy (0 3) one",
    ("--input", "flat.npy"): "flat.npy (5,) (rows features)",
    ("--input", "words.npy"): "words.npy <U1 real",
    ("--input", "objects.npy"): "objects.npy numpy array",
    ("--input", "damaged.npy"): "damaged.npy numpy array",
    ("--input", "huge.npy"): "input huge.npy torch.float32",
    ("--input", "list.pt"): "list.pt tensor",
    ("--input", "pickle.pt"): "pickle.pt torch",
    ("--input", "fine.npy", "--input-size", "7"): "features 7 input fine.npy 2",
    ("--input", "labels.pt", "--loss", "cross-entropy", "--output-size", "3"): "output_size 3 labels",
    ("-o", "."): ". directory",
    ("-o", "fine.npy/run.h5"): "fine.npy/run.h5",
    ("-o", "fine.npy/deeper/run.h5"): "fine.npy/deeper/run.h5",
}


@pytest.mark.slow
@pytest.mark.parametrize("options", REFUSED, ids=" ".join)
def test_bad_input_is_one_line_and_nothing_is_written(command, place, options):
    bad_data(place)
    before = files(place)
    output = () if "-o" in options else ("-o", "new/run.h5")
    assert not command("profile", *BARE, *options, *output).missing(REFUSED[options])
    assert files(place) == before


@pytest.mark.parametrize(
    ("options", "nearest"),
    [(("--act", "rleu"), "relu"), (("--init", "kaming_normal"), "kaiming_normal"), (("--input", "digts"), "digits")],
    ids=str,
)
def test_the_nearest_name_is_the_hint(command, options, nearest):
    assert f'did you mean "{nearest}"?' in command("profile", *BARE, *options).hint


def test_outputs_that_cannot_be_made_are_known_before_any_work(command, place, monkeypatch):
    (place / "outputs").write_text("a file")
    monkeypatch.setattr(sys.modules["propscope.experiments.profiling"], "_profile", too_early)
    outcome = command("profile", "--plots", "none")
    assert outcome.error.startswith("cannot write outputs/mlp-relu-d20.h5: ")
    assert (place / "outputs").read_text() == "a file"


# A disk that fills


def test_a_full_disk_leaves_the_earlier_file(command, place):
    save("run.h5", profile_mlp(2, 4, initializer="zeros", seeds=1, batch=4))
    before = files(place)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        outcome = command("profile", *BARE, "-o", "run.h5", "--overwrite")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.error == "cannot write run.h5: File too large"
    assert outcome.hint.startswith("free some space, or write to another disk")
    # What was finished is still there, and the same command has nothing left to compute.
    after = files(place)
    assert ".run.h5.partial" in outcome.hint
    assert after.pop(".run.h5.partial")
    assert after == before
    assert command("profile", *BARE, "-o", "run.h5", "--overwrite").err.startswith("going on with run.h5: 2 of 2 ")
    assert set(files(place)) == {"run.h5"}


def test_a_disk_without_room_for_the_pictures_keeps_the_results(command, place, monkeypatch):
    from pathlib import Path

    # Where matplotlib is, this process draws, which the patch reaches.
    import matplotlib.figure  # noqa: F401

    def full(self, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    outcome = command("profile", *TINY, "-o", "run.h5")
    assert outcome.code == 2
    assert outcome.err.startswith("error: cannot write run-curves.png: No space left on device")
    # The table and where the results are stand on stdout before the pictures are drawn.
    assert outcome.out.startswith("1 pair, ")
    assert outcome.out.endswith("file      run.h5\n")
    assert len(load("run.h5")) == 2
    assert set(files(place)) == {"run.h5"}


# Stopped on the way


def test_a_failure_on_the_way_keeps_what_is_finished(command, place, monkeypatch):
    module = sys.modules["propscope.experiments.profiling"]
    measure, calls = module._profile, []

    def third_fails(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise module.InputError("depth 2, width 4, batch 4 ran out of memory", hint="choose a smaller width")
        return measure(*arguments)

    monkeypatch.setattr(module, "_profile", third_fails)
    outcome = command("profile", *BARE, "--seeds", 5, "-o", "run.h5")
    assert outcome.code == 2
    assert outcome.err.splitlines() == [
        "stopped after 2 of 5 networks; their results are saved",
        "error: depth 2, width 4, batch 4 ran out of memory",
        "hint: choose a smaller width",
    ]
    assert len(load("run.h5")) == 2
    assert "2 networks in " in outcome.out


def test_an_interrupt_before_anything_is_finished_writes_nothing(command, place, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["propscope.experiments.profiling"], "_profile", interrupted)
    outcome = command("profile", *BARE, "-o", "run.h5")
    assert (outcome.code, outcome.out) == (130, "")
    assert outcome.err == "stopped after 0 of 2 networks\n"
    assert files(place) == {}


@pytest.mark.slow
def test_the_whole_in_a_process_of_its_own(place, mlp_plots):
    done = process("profile", *TINY, "--json", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["file"] == "outputs/mlp-relu-d2.h5"
    assert document["pictures"] == [f"outputs/mlp-relu-d2-{name}.png" for name in mlp_plots]
    assert all((place / picture).is_file() for picture in document["pictures"])


def test_the_end_of_a_large_run_fills_neither_terminal_nor_memory(command, place, monkeypatch):
    monkeypatch.setattr("propscope.cli.grid_runs._ROWS", 2)
    monkeypatch.setattr("propscope.cli.grid_runs._DRAWN", 1000)
    outcome = command(
        "profile", "--depth", "2,3,4", "--width", 4, "--batch", 4, "--seeds", 2, "--init", "zeros", "-o", "x.h5"
    )
    lines = outcome.out.splitlines()
    assert lines[0] == "3 pairs, initializer zeros, activation relu, width 4, batch 4, 2 seeds"
    assert [line.split()[0] for line in lines[5:7]] == ["2", "3"]
    assert lines[8].startswith("and 1 more pairs: propscope show")
    assert outcome.err.startswith("no pictures of so many networks, which would take 0.0 GB")
    assert list(files(place)) == ["x.h5"]
    shown = command.fine("show", "x.h5").splitlines()
    assert [line.split()[0] for line in shown[5:8]] == ["2", "3", "4"]
