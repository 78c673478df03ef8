"""`propscope compare`: files, targets and both, the exit code, and what is refused."""

import json

import pytest
import torch
from building.records import DATA, monitored, sampled_at

from propscope.store import load, save

NETS = """
import torch
from torch import nn

def sound(scale=1.0):
    net = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[2].weight *= float(scale)
    return net

def louder():
    return sound(2)

def Stops():
    return nn.Linear(3, 3)
"""
SHAPE = ("--input-shape", "16,16")


@pytest.fixture
def nets(place):
    (place / "nets.py").write_text(NETS)
    return place


class TestTargets:
    def test_the_same_target_twice_is_the_same(self, command, nets):
        out = command.fine("compare", "nets.py:sound", "nets.py:sound", *SHAPE)
        lines = out.splitlines()
        assert lines[0] == "the same: 5 sites agree, forward and backward"
        assert lines[1].startswith("first: nets.py:sound: Sequential, input 16,16 float32, train")
        assert any(line.startswith("batch: the same, digest ") for line in lines)

    def test_a_change_is_named_in_the_first_line_and_by_the_code(self, command, nets):
        outcome = command("compare", "nets.py:sound", "nets.py:louder", *SHAPE)
        assert (outcome.code, outcome.err) == (1, "")
        assert outcome.out.startswith("different: first forward at 2: gain x")
        assert command("compare", "nets.py:sound", "nets.py:louder", *SHAPE, "--tolerance", 9).code == 0

    def test_a_quiet_command_draws_and_prints_the_verdict_alone(self, command, nets):
        out = command.fine("compare", "nets.py:sound", "nets.py:sound", *SHAPE, "-q", "-o", "both.png")
        assert out == "the same: 5 sites agree, forward and backward\n"
        assert (nets / "both.png").exists()

    def test_two_checkpoints_of_one_target(self, command, nets):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)
        )
        torch.save(model.state_dict(), "before.pt")
        with torch.no_grad():
            model[4].bias += 1
        torch.save(model.state_dict(), "after.pt")
        twice = ("--checkpoint", "before.pt", "--checkpoint", "after.pt")
        outcome = command("compare", "nets.py:sound", *twice, *SHAPE)
        assert outcome.code == 1
        assert outcome.out.startswith("different: first forward at 4: ")
        assert "weights: 1 of 6 parameters differs (4.bias)" in outcome.out
        assert command("compare", "nets.py:sound", "nets.py:sound", *SHAPE, *twice[:2]).code == 0

    def test_two_precisions_of_one_target(self, command, nets):
        out = command.fine("compare", "nets.py:sound", "--dtype", "float32", "--dtype", "bfloat16", *SHAPE)
        assert "batch: differs: 16x16 float32 -> 16x16 bfloat16, rounded" in out
        assert "tolerance 5.0% (bfloat16)" in out

    def test_two_initializers_of_one_target(self, command, nets):
        twice = ("--init", "he_normal", "--init", "normal:std=0.01")
        assert command("compare", "nets.py:sound", *twice, *SHAPE).code == 1

    def test_a_model_that_stops_is_bad_input(self, command, nets):
        assert "the model stopped" in command("compare", "nets.py:sound", "nets.py:Stops", *SHAPE).error


class TestFiles:
    def test_a_grid_with_itself(self, command, run_file):
        out = command.fine("compare", run_file, run_file)
        assert out.splitlines()[0] == "the same: 24 sites agree, forward and backward"
        assert "batches: the same" in out
        out = command.fine("compare", run_file, run_file, "--init", "he_normal", "--act", "relu")
        assert out.startswith("the same: 6 sites")

    def test_a_file_with_a_target_has_the_seeds_of_the_file(self, command, nets):
        command.fine("inspect", "nets.py:sound", *SHAPE, "--seeds", 4, "-o", "four.h5")
        out = command.fine("compare", "four.h5", "nets.py:sound", *SHAPE)
        assert "4 seeds, the same on both sides" in out
        assert command("compare", "four.h5", "nets.py:louder", *SHAPE).code == 1

    def test_two_runs(self, command, place):
        run = sampled_at([0, 10], sites=2)
        save("a.h5", monitored([1.0, 0.9]) + run)
        save("b.h5", monitored([1.0, 0.8]) + run)
        command.fine("compare", "a.h5", "a.h5")
        outcome = command("compare", "a.h5", "b.h5")
        assert outcome.code == 1
        assert outcome.out.startswith("different: first at step 1: loss x0.889, from 0.900 to 0.800")

    def test_the_trainings_of_a_grid_are_refused_by_what_they_are(self, command, place):
        save("train.h5", load(DATA / "schema-7-training.h5"))
        for pair in (("train.h5", "train.h5"), ("train.h5", "no.h5")):
            assert "train.h5 holds training runs of a grid, not profiles" in command("compare", *pair).error

    @pytest.mark.parametrize("version", range(1, 7))
    def test_an_older_file_is_read_and_said_to_hold_no_digest(self, command, place, version):
        save("old.h5", load(DATA / f"schema-{version}.h5")[0])
        said = command.fine("compare", "old.h5", "old.h5")
        assert "no digest (an older file" in " ".join(said.split())


def test_a_picture_is_drawn_and_kept(command, nets):
    line = ("compare", "nets.py:sound", "nets.py:louder", *SHAPE, "-o", "parts.png")
    outcome = command(*line)
    assert outcome.code == 1
    assert outcome.out.splitlines()[-1].endswith("parts.png")
    assert (nets / "parts.png").read_bytes().startswith(b"\x89PNG")
    assert command(*line).error == "parts.png exists"
    assert command(*line, "--overwrite").code == 1


def test_one_document_says_all(command, nets):
    outcome = command("compare", "nets.py:sound", "nets.py:louder", *SHAPE, "--json")
    assert (outcome.code, outcome.err) == (1, "")
    document = json.loads(outcome.out)
    assert document["first"]["forward"]["site"] == "2"
    assert document["names"][1].startswith("nets.py:louder: ")
    assert document["differences"][0]["quantity"] == "gain"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("run.h5",), "nothing to compare run.h5"),
        (("nets.py:sound", *SHAPE), "nothing to compare nets.py:sound"),
        (("nets.py:sound", *SHAPE, "--dtype", "float32"), "nothing to compare"),
        (("run.h5", "run.h5", "--eval"), "--train TARGET FILE"),
        (("nets.py:sound", "nets.py:sound", *SHAPE, "--depth", "3"), "--depth FILE TARGET"),
        (("nets.py:sound", *SHAPE, *("--dtype", "float32") * 3), "--dtype twice 3"),
        (("run.h5", "run.h5", "--tolerance", "-1"), "--tolerance -1 0"),
        (("run.h5", "run.h5", "--tolerance", "nan"), "--tolerance nan"),
        (("nets.py:sound", "nets.py:sound"), "input"),
        (("nets.py:sound", "nets.py:sound", *SHAPE, "--seeds", "0"), "--seeds 0 1"),
        (("run.h5", "nets"), "nets neither"),
        (("run.h5", "none.h5"), "none.h5"),
        (("run.h5", "nets.py:sound", *SHAPE), "no network is in both"),
    ],
)
def test_wrong_use_is_one_clear_line(command, nets, run_file, line, said):
    outcome = command("compare", *line)
    assert outcome.code == 2
    assert not outcome.missing(said)
