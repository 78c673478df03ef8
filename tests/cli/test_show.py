"""`propscope show`: tables and JSON of a stored file, and every file that is none."""

import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from building.command_line import files, missing

from propscope.records import Expected, ProfileSet
from propscope.records.expectations import theory_note
from propscope.store import load, save


def test_the_table_of_pairs(command, run_file):
    out = command.fine("show", run_file)
    assert out.splitlines()[0] == "4 pairs, depth 3, width 8, batch 8, 2 seeds"
    rows = [line.split()[:3] for line in out.splitlines()[5:9]]
    assert rows == [
        ["relu", "he_normal", "healthy"],
        ["relu", "zeros", "broken:"],
        ["tanh", "he_normal", "healthy"],
        ["tanh", "zeros", "broken:"],
    ]
    assert out.count("broken: symmetric") == 2
    assert out.count("100%") >= 2


def test_the_table_is_that_of_python(command, run_file):
    assert command.fine("show", run_file) == str(load(run_file)) + "\n"


def test_one_pair_layer_by_layer(command, run_file):
    out = command.fine("show", run_file, "--init", "he_normal", "--act", "relu")
    lines = out.splitlines()
    assert lines[0].startswith("input: 8,8 float32, rms ")
    assert lines[1] == "healthy: no problem found at 6 sites"
    assert lines[2].startswith("expect: Adam trains it")
    assert lines[3] == "judged as an initialization"
    assert lines[4] == (
        "initializer he_normal, activation relu, depth 3, width 8, batch 8, networks 2: 6 sites, 6 parameters"
    )
    assert [line.split()[1] for line in lines[9:15]] == [
        f"layers.{number}.{part}" for number in range(3) for part in ("linear", "activation")
    ]


def test_one_network(command, run_file):
    out = command.fine("show", run_file, "--init", "he_normal", "--act", "relu", "--seed", "1")
    assert ", seed 1: 6 sites" in out.splitlines()[4]


def test_some_of_the_pairs(command, run_file):
    out = command.fine("show", run_file, "--act", "relu")
    assert out.splitlines()[0] == "2 pairs, activation relu, depth 3, width 8, batch 8, 2 seeds"
    assert command.fine("show", run_file, "--depth", "3", "--width", "8", "--seed", "0,1") == command.fine(
        "show", run_file
    )
    assert "1 seed" in command.fine("show", run_file, "--seed", "0").splitlines()[0]


def test_a_file_of_one_pair_shows_its_row_until_it_is_asked_for(command, run_file, place):
    save("one.h5", load(run_file).subset(activation="relu", initializer="he_normal"))
    assert command.fine("show", "one.h5").startswith("1 pair, ")
    assert "6 sites" in command.fine("show", "one.h5", "--act", "relu").splitlines()[4]
    save("single.h5", load(run_file)[0])
    assert "6 sites" in command.fine("show", "single.h5").splitlines()[4]


def test_json_of_the_pairs(command, run_file):
    pairs = command("show", run_file, "--json").document
    assert [(pair["labels"]["activation"], pair["labels"]["initializer"]) for pair in pairs] == [
        ("relu", "he_normal"),
        ("relu", "zeros"),
        ("tanh", "he_normal"),
        ("tanh", "zeros"),
    ]
    dead = pairs[1]
    assert dead["forward_factor"] == {"center": 0.0, "low": 0.0, "high": 0.0, "count": 2}
    assert (dead["dead_fraction"], dead["mean_cosine"], dead["seeds"], dead["layers"]) == (1.0, None, 2, 3)
    assert 0.1 < pairs[0]["forward_gain"]["center"] < 10
    assert (pairs[0]["verdict"], pairs[0]["findings"], dead["verdict"]) == ("healthy", [], "broken")
    worst = dead["findings"][0]
    assert (worst["kind"], worst["severity"], worst["first"]) == ("symmetric", "broken", "layers.0.linear")
    assert worst["confidence"] == 0.75
    assert worst["evidence"]["layers"] == 3
    assert worst["remedy"]["text"].startswith("initialize the weights with he_normal")


def test_json_of_one_network(command, run_file):
    one = command("show", run_file, "--json", "--init", "he_normal", "--act", "relu", "--seed", "1").document
    assert one["profile"]["labels"] == {
        "initializer": "he_normal",
        "activation": "relu",
        "depth": 3,
        "width": 8,
        "batch": 8,
        "seed": 1,
    }
    assert one["profile"]["spec"]["network"]["initializer"] == "he_normal"
    assert len(one["sites"]) - 1 == len(one["parameters"]) == 6
    given, first, second = one["sites"][:3]
    assert (given["name"], given["role"], given["forward_rms"]) == ("input", "input", pytest.approx(1, abs=0.1))
    assert (first["name"], first["shape"], first["layer"], first["units"]) == ("layers.0.linear", [8, 8], 1, 8)
    assert second["dead_units"] is None
    assert second["flat_fraction"] is None
    assert first["forward_rms"] > 0
    assert (one["verdict"], one["findings"]) == ("healthy", [])
    together = command("show", run_file, "--json", "--init", "he_normal", "--act", "relu").document
    assert together["profile"]["labels"]["networks"] == 2
    assert together["profile"]["seed"] is None
    assert together["sites"][0]["forward_count"] == 2 * first["forward_count"]


@pytest.fixture
def predicted_file(run_file):
    """The relu networks of `run_file`: he_normal at half what is expected, zeros with a reason for none."""

    def predicted(profile):
        if profile.labels["initializer"] == "zeros":
            return replace(profile, coverage=(theory_note("the weights have no variance"),))
        sites = (
            replace(site, expected=Expected(forward_rms=2 * site.forward.rms, forward_log_std=1.0))
            for site in profile.sites
        )
        return replace(profile, sites=tuple(sites))

    save("predicted.h5", ProfileSet.of(map(predicted, load(run_file, activation="relu"))))
    return "predicted.h5"


def test_what_theory_expects_is_shown_beside_what_was_seen(command, predicted_file):
    lines = command.fine("show", predicted_file).splitlines()
    assert "0.50 (-0.7)" in lines[5]
    assert lines[-3] == "no theory for zeros: the weights have no variance"
    assert command.fine("show", predicted_file, "--init", "he_normal").count("0.50 (-0.7)") == 6


def test_json_of_theory(command, predicted_file):
    he, zeros = command("show", predicted_file, "--json").document
    assert he["forward_deviation"] == {"ratio": 0.5, "sd": pytest.approx(-math.log(2))}
    assert (he["backward_deviation"], he["no_theory"]) == ({"ratio": None, "sd": None}, "")
    assert (zeros["forward_deviation"]["ratio"], zeros["no_theory"]) == (None, "the weights have no variance")
    one = command("show", predicted_file, "--json", "--init", "he_normal", "--seed", "0").document
    linear, activation = one["sites"][1:3]
    assert linear["expected_forward_rms"] == 2 * linear["forward_rms"]
    assert linear["forward_deviation"]["ratio"] == 0.5
    assert linear["second_moment_ratio"] is None
    ratio = (activation["forward_rms"] / linear["forward_rms"]) ** 2
    assert activation["second_moment_ratio"] == {"measured": pytest.approx(ratio), "expected": pytest.approx(ratio)}
    none = command("show", predicted_file, "--json", "--init", "zeros", "--seed", "0").document
    assert none["profile"]["coverage"] == [["", "theory", "the weights have no variance"]]


def test_a_terminal_too_narrow_for_theory_still_shows_the_rest(command, predicted_file, monkeypatch):
    widths = {}
    for width in (300, 120, 90):
        monkeypatch.setattr("propscope.report.terminal.terminal_width", lambda width=width: width)
        out = command.fine("show", predicted_file)
        widths[width] = ("/ theory" in out, "[" in out)
        assert max(map(len, out.splitlines()[1:7])) <= width
    assert widths == {300: (True, True), 120: (True, False), 90: (False, False)}


def test_json_has_no_infinity_and_no_nan(command, place):
    from propscope.experiments import profile_mlp

    save("inf.h5", profile_mlp(40, 4, activation="relu", initializer="normal:std=1e20", seeds=2, batch=4))
    assert command("show", "inf.h5", "--json").document[0]["forward_factor"]["center"] == "inf"
    sites = command("show", "inf.h5", "--json", "--seed", "0").document["sites"]
    assert sites[-1]["forward_rms"] is None
    assert sites[-1]["forward_nan_count"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--act", "rleu"], "activation rleu relu tanh"),
        (["--init", "he_normal,orthogonal", "--act", "elu"], "activation relu tanh initializer he_normal"),
        (["--seed", "7"], "seed 7 0 1"),
        (["--seed", "x"], "--seed 'x'"),
        (["--depth", "3.0"], "--depth 3.0"),
        (["--width", "huge"], "width huge 8"),
    ],
    ids=str,
)
def test_what_the_file_does_not_hold(command, run_file, options, message):
    assert not command("show", run_file, *options).missing(message)


def newer(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["schema_version"] = 99
        file.attrs["propscope_version"] = "12.0"


def foreign(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = [1, 2, 3]


BAD_FILES = {
    "missing": (lambda path: path.unlink(), "run.h5", "propscope profile"),
    "directory": (lambda path: (path.unlink(), path.mkdir()), "run.h5 directory", "result"),
    "empty": (lambda path: path.write_bytes(b""), "run.h5 empty", "file"),
    "not HDF5": (lambda path: path.write_text("a,b\n"), "run.h5 HDF5", "file"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:5000]), "run.h5 truncated", "copy"),
    "foreign": (foreign, "run.h5 HDF5 propscope", "propscope"),
    "newer": (newer, "run.h5 12.0 99", "pip install"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.parametrize(
    "line", [["show"], ["show", "--json"], ["plot"], ["merge", "-o", "out.h5"], ["show", "--act", "relu"]], ids=" ".join
)
def test_files_that_cannot_be_read(command, run_file, place, kind, line):
    spoil, message, hint = BAD_FILES[kind]
    spoil(run_file)
    before = files(place)
    outcome = command(line[0], run_file, *line[1:])
    assert not outcome.missing(message)
    assert not missing(outcome.hint, hint)
    assert files(place) == before


def test_a_narrow_terminal_drops_the_intervals_and_a_wide_one_keeps_them(command, run_file, monkeypatch):
    monkeypatch.setattr("propscope.report.terminal.terminal_width", lambda: 200)
    assert "[" in command.fine("show", run_file)
    monkeypatch.setattr("propscope.report.terminal.terminal_width", lambda: 130)
    narrow = command.fine("show", run_file)
    assert "[" not in narrow
    assert max(map(len, narrow.splitlines()[1:9])) <= 130


def test_an_empty_file_of_ours(command, place):
    from propscope.records import ProfileSet

    save("none.h5", ProfileSet(()))
    assert command.fine("show", "none.h5").startswith("0 pairs, 0 seeds")
    assert command("show", "none.h5", "--json").document == []
    assert json.loads(command.fine("show", "none.h5", "--json")) == []


def test_a_network_is_found_by_the_initializer_as_typed(command, place):
    line = ("--depth", 2, "--width", 4, "--batch", 4, "--seeds", 1, "--plots", "none")
    command.fine("profile", *line, "--init", "normal:std=0.01,he_normal", "-o", "run.h5")
    alone = command.fine("show", "run.h5", "--init", "normal")
    for typed in ("normal:std=0.01", "normal:std=1e-2", "gaussian"):
        assert command.fine("show", "run.h5", "--init", typed) == alone
    assert command.fine("show", "run.h5", "--init", "normal:std=0.01,kaiming_normal") == command.fine("show", "run.h5")
    assert "normal:std=0.02" in command("show", "run.h5", "--init", "normal:std=0.02").error
    assert command("show", "run.h5", "--init", "he").hint == 'did you mean "he_normal"?'
    assert "--help" in command("show", "run.h5", "--init", "qqqq").hint
