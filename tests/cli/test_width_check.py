"""`propscope width-check`: its exit codes, its table, its picture, and what it refuses."""

import json

import pytest
from building.command_line import files

MODELS = """
from torch import nn, optim

def standard(width, depth=2):
    sizes = [16, *[width] * depth]
    return nn.Sequential(*(part for m, n in zip(sizes, sizes[1:]) for part in (nn.Linear(m, n), nn.ReLU())),
                         nn.Linear(width, 10))

class Divided(nn.Linear):
    def reset_parameters(self):
        nn.init.normal_(self.weight, std=self.in_features**0.5 if self.out_features > 10 else 1.0)
        nn.init.zeros_(self.bias)

    def forward(self, x):
        return super().forward(x) / self.in_features

def mup(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), Divided(width, width), nn.ReLU(), Divided(width, 10))

def narrow(width):
    return nn.Linear(16, 10)

def picky(width):
    if width > 8:
        raise ValueError("too wide")
    return standard(width, 1)

def loud(width):
    print("building")
    return standard(width, 1)

def mine(model, lr):
    return optim.Adam([{"params": [p], "lr": lr * 32 / p.shape[-1] if p.dim() > 1 else lr} for p in model.parameters()])

module = standard(16)
"""
WIDE = ("--width", "32,64,128", "--input-shape", "64,16", "--optimizer", "adam", "--lr", "0.01")
SHORT = ("--width", "8,16", "--input-shape", "8,16", "--steps", "1", "--seeds", "1")


@pytest.fixture
def models(place):
    (place / "net.py").write_text(MODELS)
    return place


@pytest.mark.slow
def test_mup_passes_and_the_standard_parametrization_fails(command, models):
    out = command.fine("width-check", "net.py:mup", *WIDE, "--expect", "mup")
    assert out.splitlines()[-1].startswith("passed: ")
    assert out.startswith("net.py:mup at widths 32, 64, 128: adam, lr 0.01, 4 steps, 3 seeds, loss cotangent")
    assert max(map(len, out.split("\n\n")[1].splitlines())) <= 80
    outcome = command("width-check", "net.py:standard", *WIDE, "--expect", "mup")
    assert (outcome.code, outcome.err) == (1, "")
    assert outcome.out.splitlines()[-1].startswith("failed: ")
    assert "! 2: by weights at step 4 grows as n^" in outcome.out
    assert files(models).keys() == {"net.py"}


@pytest.mark.slow
def test_nothing_expected_is_fine_and_the_picture_is_drawn(command, models):
    out = command.fine("width-check", "net.py:standard", *SHORT, "--arg", "depth=1", "-o", "it.png")
    assert "nothing expected" in out
    assert "it.png" in out.splitlines()[-1]
    assert (models / "it.png").read_bytes().startswith(b"\x89PNG")
    assert command("width-check", "net.py:standard", *SHORT, "-o", "it.png").error == "it.png exists"
    command.fine("width-check", "net.py:standard", *SHORT, "-o", "it.png", "--overwrite")


def test_the_document_is_all_that_is_printed(command, models):
    outcome = command("width-check", "net.py:loud", *SHORT, "--json")
    document = json.loads(outcome.out)
    assert "building" in outcome.err
    assert (document["model"], document["widths"], document["passed"]) == ("net.py:loud", [8, 16], None)
    assert {one["quantity"] for one in document["exponents"]} == {
        "size", "change", "weights_part", "input_part", "gradient", "update"
    }  # fmt: skip


def test_an_optimizer_of_ones_own(command, models):
    document = command(
        "width-check", "net.py:standard", *SHORT, "--lr", "0.01", "--optimizer", "net.py:mine", "--json"
    ).document
    assert document["optimizer"] == "mine"
    updates = {one["name"]: one["exponent"] for one in document["exponents"] if one["quantity"] == "update"}
    assert updates["2.weight"] == pytest.approx(-1, abs=0.15)
    assert updates["0.weight"] == pytest.approx(0, abs=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["net.py:narrow", *SHORT], "make_model ignores width"),
        (["net.py:picky", *SHORT], 'target "net.py:picky" failed with width=16: ValueError: too wide'),
        (["net.py:module", *SHORT], 'target must be a callable that takes width=, got the module "net.py:module"'),
        (["net.py:standard", *SHORT, "--width", "8"], "widths must be two or more different numbers"),
        (["net.py:standard", *SHORT, "--width", "16,8"], "widths must be two or more different numbers"),
        (["net.py:standard", *SHORT, "--width", "8,8"], "widths must be two or more different numbers"),
        (["net.py:standard", *SHORT, "--width", "0,8"], "widths must be a whole number of at least 1, got 0"),
        (["net.py:standard", *SHORT, "--width", "a"], "--width must be a list of whole numbers"),
        (["net.py:standard", *SHORT, "--arg", "width=3"], "--arg must not set width, which --width sets"),
        (["net.py:standard", *SHORT, "--arg", "wdith=3"], 'target "net.py:standard": got an unexpected keyword'),
        (["net.py:standard", *SHORT, "--lr", "1e30", "--steps", "2"], "has NaN or infinite values at width 8"),
        (["net.py:standard", *SHORT, "--expect", "mean"], 'expect must be "standard", "mup" or "ntk", got "mean"'),
        (["net.py:standard", *SHORT, "--optimizer", "net.py:nothing"], 'optimizer "net.py:nothing"'),
        (["net.py:standard", *SHORT, "--optimizer", "net.py:mine"], "lr must be a finite number above 0, got None"),
        (["net.py:standard", *SHORT, "--input-shape", "2,3"], "the model stopped at width 8"),
        (["net.py:standard", *SHORT, "--loss", "nll"], "--loss must be"),
        (["net.py:standard", *SHORT, "-o", "it.gif"], "--output must end in one of"),
        (["net.py:standard", "--width", "8,16"], "the model needs an input"),
        (["net.py:standard", "--input-shape", "8,16"], "Missing option '--width'"),
    ],
    ids=str,
)
def test_what_is_refused(command, models, options, said):
    before = files(models)
    assert said in command("width-check", *options).error
    assert files(models) == before
