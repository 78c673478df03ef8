"""`propscope check`: exit codes, what a log shows, the JSON document, and each way to use it wrongly."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from building.command_line import process
from torch import nn

import propscope
from propscope import NetworkProfile, ProfileSet, save
from propscope.diagnosis.check import CheckOutcome
from propscope.records import Diagnosis, Finding, Remedy
from propscope.report.check import check_text

MODELS = """
import torch
from torch import nn

def sound(depth=4, scale=1.0):
    layers = []
    for place in range(depth):
        linear = nn.Linear(64, 64)
        nn.init.kaiming_normal_(linear.weight)
        nn.init.zeros_(linear.bias)
        if place == 2:
            with torch.no_grad():
                linear.weight.mul_(scale)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 4))

def fading():
    layers = []
    for _ in range(20):
        layers += [nn.Linear(64, 64), nn.Sigmoid()]
    return nn.Sequential(*layers)

class Stops(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act, self.second = nn.Linear(64, 4), nn.ReLU(), nn.Linear(5, 4)

    def forward(self, x):
        print("models print")
        return self.second(self.act(self.first(x)))
"""
SHAPE = ("--input-shape", "32,64")


@pytest.fixture
def nets(place):
    (place / "nets.py").write_text(MODELS)


@pytest.fixture
def baseline(nets, command):
    command.fine("inspect", "nets.py:sound", *SHAPE, "--seeds", 5, "--output", "baseline.h5")
    return "baseline.h5"


def write(name, models, *, labels=None, gradient=True):
    """Write a file of one profile a model, seeds from 0."""
    profiles = []
    for seed, model in enumerate(models):
        with torch.set_grad_enabled(gradient):
            seen = propscope.profile(model, torch.randn(32, 16, generator=torch.Generator().manual_seed(seed)))
        profiles.append(replace(seen, labels={"seed": seed} if labels is None else labels))
    save(name, ProfileSet.of(profiles))
    return name


def nets_of(count, *, bad=()):
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)))
        if seed in bad:
            nn.init.constant_(made[-1][0].weight, float("nan"))
    return made


class TestTarget:
    def test_a_sound_model_passes(self, command, nets):
        out = command.fine("check", "nets.py:sound", *SHAPE).splitlines()
        assert out[0].startswith("nets.py:sound: Sequential, input 32,64 float32, train, loss cotangent, 5 seeds")
        assert out[-1] == "passed: healthy"

    def test_a_broken_one_fails_with_its_remedy_worst_first(self, command, nets):
        outcome = command("check", "nets.py:fading", *SHAPE, "--seeds", 2)
        assert (outcome.code, outcome.err) == (1, "")
        lines = outcome.out.splitlines()
        assert lines[0].endswith("2 seeds")
        assert lines[1].startswith("broken: vanishing backward: the gradient shrinks by a factor of ")
        assert " from 38 to 0" in lines[1]
        assert lines[2].startswith("  remedy: bring each unit to mean 0")
        assert re.match(r'failed: \d+ findings? .*"broken"$', lines[-1])

    def test_options_reach_the_model(self, command, nets):
        out = command.fine(
            "check", "nets.py:sound", "--input-shape", "16,64", "--arg", "depth=2", "--eval", "--loss", "sum",
            "--dtype", "float64", "--init", "orthogonal", "--batches", 2, "--seeds", 1,
        )  # fmt: skip
        head = out.splitlines()[0]
        for said in ("16,64 float64", "eval", "loss sum", "init orthogonal (6 of 6 parameters set)", "2 batches"):
            assert said in head
        assert "seeds" not in head

    def test_filters_of_sites_reach_the_recorder(self, command, nets):
        document = command("check", "nets.py:sound", *SHAPE, "--include", "^0$", "--json").document
        assert document["findings"][0]["message"] == "one layer was seen: no gain can be measured"
        document = command("check", "nets.py:sound", *SHAPE, "--exclude", "[1-9]", "--json").document
        assert document["findings"][0]["message"] == "one layer was seen: no gain can be measured"

    def test_input_and_weights_come_from_files(self, command, nets, place):
        np.save("x.npy", np.random.default_rng(0).normal(size=(32, 64)).astype("float32"))
        torch.manual_seed(0)
        linear = nn.Sequential(*(nn.Linear(64, 64) if i % 2 == 0 else nn.ReLU() for i in range(8)), nn.Linear(64, 4))
        torch.save({name: torch.zeros_like(value) for name, value in linear.state_dict().items()}, "zeros.pt")
        assert "passed" in command.fine("check", "nets.py:sound", "--input", "x.npy")
        outcome = command("check", "nets.py:sound", "--input", "x.npy", "--checkpoint", "zeros.pt")
        assert outcome.code == 1
        assert "weights zeros.pt" in outcome.out

    def test_a_model_that_stops_is_bad_input(self, command, nets):
        outcome = command("check", "nets.py:Stops", *SHAPE)
        assert outcome.code == 2
        assert outcome.out == ""
        assert "error: the model stopped in second (Linear) on input 32,64 float32: RuntimeError: " in outcome.err
        assert "hint: " in outcome.err

    def test_a_filter_that_leaves_nothing_is_bad_input(self, command, nets):
        assert command("check", "nets.py:sound", *SHAPE, "--include", "nothing").error.startswith(
            "no site was recorded"
        )


class TestFile:
    def test_every_network_of_a_grid_is_judged_and_named(self, command, run_file):
        outcome = command("check", run_file)
        assert outcome.code == 1
        lines = outcome.out.splitlines()
        assert lines[0] == "run.h5: 4 networks, 8 profiles"
        assert lines[1].startswith("broken: ")
        assert any("initializer zeros, activation tanh: " in line for line in lines)
        assert not any("he_normal, activation" in line for line in lines if line.startswith("broken"))

    def test_filters_leave_networks_out(self, command, run_file):
        out = command.fine("check", run_file, "--init", "he_normal", "--act", "tanh")
        assert out.splitlines()[0] == "run.h5: 1 network, 2 profiles"
        assert command("check", run_file, "--init", "zeros").code == 1
        assert "no profile in run.h5 has depth 9" in command("check", run_file, "--depth", 9).error
        assert "no profile in run.h5 has width 9" in command("check", run_file, "--width", 9).error

    def test_filters_hold_for_the_baseline_too(self, command, run_file):
        out = command.fine("check", run_file, "--init", "he_normal", "--baseline", run_file)
        assert "note:" not in [line[:5] for line in out.splitlines() if "network" in line]
        assert "nothing moved from run.h5 (" in out
        assert "2 seeds, the same on both sides" in out

    @pytest.mark.slow
    def test_strained_fails_only_when_asked(self, command, place):
        # A network whose signal and gradient fade to 3e-5 in two ways.
        command.fine(
            "profile", "--depth", 30, "--act", "relu", "--init", "xavier_normal", "-o", "x.h5", "--plots", "none"
        )
        out = command.fine("check", "x.h5")
        assert "\nstrained: vanishing " in out
        assert re.search(r'\npassed: strained .*"broken".*\n$', out)
        outcome = command("check", "x.h5", "--fail-on", "strained")
        assert outcome.code == 1
        assert re.match(r'failed: \d+ findings? .*"strained"', outcome.out.splitlines()[-1])

    def test_what_a_profile_cannot_tell_is_said_and_passes_unless_nothing_shows_that_it_learns(self, command, place):
        write("one.h5", [nn.Linear(16, 4) for _ in range(2)])
        assert "note: insufficient evidence: one layer was seen" in command.fine("check", "one.h5")
        write("forward.h5", nets_of(2), gradient=False)
        outcome = command("check", "forward.h5")
        assert outcome.code == 2
        assert "note: insufficient evidence: no gradient was seen: only the forward pass is judged" in outcome.out
        assert outcome.out.splitlines()[-1].startswith("not measured: no gradient was seen")
        assert json.loads(command("check", "forward.h5", "--json").out)["failed"] is False

    def test_nan_everywhere_is_broken(self, command, place):
        outcome = command("check", write("nan.h5", nets_of(2, bad=(0, 1))))
        assert outcome.code == 1
        assert outcome.out.splitlines()[1].startswith("broken: non-finite forward: 0 ")

    @pytest.mark.slow
    def test_the_process_returns_the_code(self, run_file):
        assert process("check", run_file).returncode == 1
        assert process("check", run_file, "--init", "he_normal").returncode == 0
        assert process("check", "none.h5").returncode == 2


class TestBaseline:
    def test_an_unchanged_model_passes(self, command, baseline):
        out = command.fine("check", "nets.py:sound", *SHAPE, "--baseline", baseline)
        last = out.splitlines()[-1]
        assert last.startswith("passed: healthy; nothing moved from baseline.h5 (35 comparisons, 5 seeds, ")
        assert last.endswith(" a change of x1.01)")

    def test_a_layer_scaled_by_1_3_is_found_and_named_first(self, command, baseline):
        line = ("check", "nets.py:sound", *SHAPE, "--arg", "scale=1.3", "--baseline", baseline)
        outcome = command(*line)
        assert (outcome.code, outcome.err) == (1, "")
        lines = outcome.out.splitlines()
        assert lines[1].startswith("moved: forward gain at 4: x1.30, from ")
        assert lines[-1].startswith("failed: ")
        assert "figures moved from baseline.h5 (35 comparisons, 5 seeds" in lines[-1]
        assert command(*line, "--tolerance", "0.31").code == 0

    def test_the_seeds_are_those_of_the_baseline(self, command, nets):
        command.fine("inspect", "nets.py:sound", *SHAPE, "--seeds", 3, "--output", "three.h5")
        out = command.fine("check", "nets.py:sound", *SHAPE, "--baseline", "three.h5")
        assert out.splitlines()[0].endswith(", 3 seeds")
        assert "3 seeds, the same on both sides" in out
        out = command.fine("check", "nets.py:sound", *SHAPE, "--baseline", "three.h5", "--seeds", 1)
        assert "only seed 0, without an interval" in out

    def test_the_initializer_of_a_target_does_not_filter_the_baseline(self, command, baseline):
        error = command("check", "nets.py:sound", *SHAPE, "--init", "orthogonal", "--baseline", baseline).error
        assert error.endswith("the first has (no label), the second has (initializer orthogonal)")

    def test_another_depth_has_moved_and_alike_lines_are_one(self, command, baseline):
        outcome = command("check", "nets.py:sound", *SHAPE, "--arg", "depth=9", "--baseline", baseline)
        assert outcome.code == 1
        # The last layer is known by its width, whatever its number.
        assert outcome.out.splitlines()[1] == "moved: structure at 8 to 17 (10 sites): new"

    def test_findings_and_moves_stand_together(self, command, baseline):
        outcome = command("check", "nets.py:sound", *SHAPE, "--arg", "scale=0", "--baseline", baseline)
        assert outcome.code == 1
        assert "moved: forward state at 4 to 7 (4 sites): all zero in 5 of 5 seeds, in none before" in outcome.out
        assert re.search(r'failed: \d+ findings? .*"broken"; \d+ figures? moved', outcome.out.splitlines()[-1])

    def test_what_was_measured_otherwise_is_said(self, command, baseline):
        outcome = command("check", "nets.py:sound", "--input-shape", "16,64", "--baseline", baseline)
        assert "note: measured differently: shapes ['32,64'] -> ['16,64']" in outcome.out

    @pytest.mark.slow
    def test_a_baseline_of_something_else_is_bad_input(self, command, place):
        good = write("good.h5", nets_of(2))
        write("alone.h5", nets_of(1), labels={})
        write("other.h5", [nn.Linear(16, 4)])
        write("labels.h5", nets_of(1), labels={"act": "tanh", "seed": 0})
        save("empty.h5", ProfileSet(()))
        Path("foreign.h5").write_bytes(b"hello")
        for name, said in {
            "alone.h5": "no interval can be formed: the first has one profile without a seed",
            "other.h5": "no site is in both: the first has (model), the second has 0, 1, 2, ...",
            "labels.h5": "no network is in both: the first has (act tanh), the second has (no label)",
            "none.h5": "there is no file none.h5",
            "foreign.h5": "cannot read foreign.h5: it is not an HDF5 file",
            "empty.h5": "empty.h5 holds no profile",
        }.items():
            assert command("check", good, "--baseline", name).error.startswith(said)


class TestJson:
    KEYS = (
        "checked", "networks", "profiles", "verdict", "stage", "expects", "loads", "not_measured", "fail_on", "failed",
        "exit_code", "findings", "baseline", "moved",
    )  # fmt: skip

    @pytest.mark.slow
    def test_one_document_says_all(self, command, baseline):
        outcome = command("check", "nets.py:sound", *SHAPE, "--arg", "scale=1.3", "--baseline", baseline, "--json")
        assert (outcome.code, outcome.err) == (1, "")
        document = json.loads(outcome.out)
        assert tuple(document) == self.KEYS
        assert (document["verdict"], document["failed"], document["exit_code"]) == ("healthy", True, 1)
        assert document["baseline"]["file"] == "baseline.h5"
        assert document["baseline"]["comparisons"] == 35
        first = document["moved"][0]
        assert (first["site"], first["direction"], first["quantity"]) == ("4", "forward", "gain")
        assert first["ratio"] == pytest.approx(1.3, rel=1e-3)
        assert first["after"] == pytest.approx(1.3 * first["before"], rel=1e-3)

    def test_without_a_baseline_there_is_none(self, command, run_file):
        document = json.loads(command("check", run_file, "--json").out)
        assert tuple(document) == self.KEYS
        assert (document["baseline"], document["moved"]) == (None, [])
        assert (document["networks"], document["profiles"]) == (4, 8)
        finding = document["findings"][0]
        assert finding["severity"] == document["verdict"] == "broken"
        assert finding["first"] == finding["sites"][0]
        assert finding["labels"]["initializer"] == "zeros"
        assert finding["remedy"]["action"] == "initializer"

    def test_what_models_print_stays_out(self, command, nets):
        outcome = command("check", "nets.py:Stops", *SHAPE, "--json")
        assert (outcome.code, outcome.out) == (2, "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (("run.h5", "--fail-on", "note"), "--fail-on note broken strained"),
            (("run.h5", "--tolerance", "-1"), "--tolerance -1 0"),
            (("run.h5", "--tolerance", "nan"), "--tolerance nan"),
            (("run.h5", "--seeds", "3"), "--seeds TARGET FILE"),
            (("run.h5", "--eval"), "--train TARGET FILE"),
            (("nets.py:sound", "--act", "relu"), "--act TARGET FILE"),
            (("nets.py:sound",), "input"),
            (("nets.py:sound", *SHAPE, "--seeds", "0"), "--seeds 0 1"),
            (("nets.py:sound", *SHAPE, "--batches", "0"), "--batches 0 1"),
            (("nets.py:nothing", *SHAPE), "target"),
            (("nets.py",), "nets.py neither result nor target"),
            (("none",), "none neither result nor target"),
            (("none.h5",), "none.h5"),
        ],
    )
    def test_each_is_one_clear_line(self, command, nets, run_file, line, said):
        assert not command("check", *line).missing(said)

    def test_training_runs_are_no_profiles(self, command, place):
        command.fine(
            "train", "--data", "moons", "--depth", 2, "--width", 8, "--act", "relu", "--init", "he_normal",
            "--epochs", 1, "-o", "train.h5", "--plots", "none", "--json",
        )  # fmt: skip
        assert not command("check", "train.h5").missing("train.h5 training runs profiles")

    def test_a_file_of_profiles_without_sites_tells_nothing(self, command, place):
        save("nothing.h5", ProfileSet.of([NetworkProfile((), labels={"seed": 0})]))
        assert not command("check", "nothing.h5").missing("nothing.h5 site")

    def test_any_name_of_a_file_that_exists_is_read(self, command, run_file):
        run_file.rename("profiles.dat")
        assert command.fine("check", "profiles.dat", "--init", "he_normal").startswith("profiles.dat: 2 networks")


def test_a_log_names_a_site_once_and_stops_at_twenty():
    findings = [
        Finding("exploding", "broken", (f"layer{i}",), f"layer{i}: gain 9", "", remedy=Remedy("scale", "by 1/9"))
        for i in range(23)
    ]
    lines = check_text(CheckOutcome("it", 1, 1, (), "broken", Diagnosis(tuple(findings)))).splitlines()
    assert lines[:3] == ["it", "broken: exploding at layer0: gain 9", "  remedy: by 1/9"]
    assert lines[-2] == "and 3 more; --json lists all"
    assert lines[-1].startswith("failed: 23 findings")
    assert len(lines) == 1 + 40 + 2


@pytest.mark.slow
def test_the_workflow_runs_what_it_says(command):
    examples = Path(__file__).parents[2] / "examples"
    text = (examples / "signal-check.yml").read_text()
    lines = re.findall(r"(?:run:|#) propscope ((?:check|inspect) .*)", text)
    assert [line.split()[0] for line in lines] == ["check", "inspect", "check"]
    model = "examples/models.py:resnet"
    written = {"$MODEL": model, "$INPUT": "16,3,32,32", "$BASELINE": "signal-baseline.h5"}
    assert all(f"{name[1:]}: {value}" in text.replace('"', "") for name, value in written.items())
    here = {model: f"{examples.parent}/{model}", "16,3,32,32": "16,3,8,8"}
    for line in lines:
        words = [written.get(word, word) for word in shlex.split(line)]
        command.fine(*(here.get(word, word) for word in words))
    assert text.index("pip install -c pinned.txt torch") < text.index('pip install -c pinned.txt "$PROPSCOPE"')
