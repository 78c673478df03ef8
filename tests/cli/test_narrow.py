"""What every command prints at 80 columns: no line is longer, and no cell is cut or leaves its row."""

import io
import re

import pytest
from building.command_line import RIGHT

from propscope.cli import main

MODEL = (
    "import torch\n"
    "def build(width=16):\n"
    "    layers = [torch.nn.Linear(8 if n == 0 else width, width) for n in range(6)]\n"
    "    return torch.nn.Sequential(*(m for layer in layers for m in (layer, torch.nn.Tanh())))\n"
    "widening = build\n"
    "def scaled():\n"
    "    model = build()\n"
    "    model[4].weight.data *= 90\n"
    "    return model\n"
)
ON = ("--input-shape", "16,8")
GRID = (
    "--depth",
    "3",
    "--width",
    "8,12",
    "--act",
    "relu,leaky_relu",
    "--init",
    "he_normal,zeros,normal",
    "--batch",
    "8",
)
LINES = [
    ("profile", *GRID, "--seeds", "2", "--plots", "none"),
    ("train", "--depth", "1,2", "--init", "he_normal,zeros", "--epochs", "1", "--rows", "50", "--plots", "none"),
    ("inspect", "net.py:scaled", *ON, "--precision", "--fix"),
    ("inspect", "net.py:scaled", *ON, "--sort", "gain", "--seeds", "2"),
    ("check", "net.py:scaled", *ON),
    ("check", "run.h5"),
    ("compare", "net.py:build", "net.py:scaled", *ON),
    ("show", "run.h5"),
    ("show", "run.h5", "--explain"),
    ("show", "run.h5", "--act", "relu", "--init", "zeros"),
    ("show", "net.h5"),
    ("diagnose", "run.h5"),
    ("diagnose", "run.h5", "--fix"),
    ("diagnose", "net.h5"),
    ("theory", "--act", "relu,tanh,gelu,softplus"),
    ("theory", "--act", "tanh", "--init", "he_normal,normal:std=0.01,zeros", "--explain"),
    ("width-check", "net.py:widening", "--width", "8,16", *ON, "--steps", "2", "--seeds", "2", "--expect", "mup"),
    ("list",),
    ("list", "--explain"),
    ("example",),
    ("watch", "net.h5", "--once"),
]


@pytest.fixture
def surroundings(run_file, place, monitored_file):
    (place / "net.py").write_text(MODEL)
    return place


def test_every_command_that_prints_more_than_paths_is_tried():
    paths = {"plot", "report", "phase", "merge", "compact", "control"}
    assert {line[0] for line in LINES} == RIGHT.keys() - paths


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_eighty_columns(command, surroundings, monkeypatch, line):
    monkeypatch.setenv("COLUMNS", "80")
    outcome = command(*line)
    assert outcome.code in (0, 1), outcome
    printed = outcome.out.splitlines()
    assert max(map(len, printed)) <= 80, max(printed, key=len)
    assert not re.search(r"\w…", outcome.out)
    for at, text in enumerate(printed):
        if re.fullmatch(r" ─+", text) and line[0] != "list":
            # A row that is folded would go on without its first column.
            rows = printed[at + 1 : printed.index("", at) if "" in printed[at:] else None]
            assert all(re.match(r" ?\S|  ?\S|!", row) for row in rows), rows


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_forty_columns_are_no_error(command, surroundings, monkeypatch, line):
    monkeypatch.setenv("COLUMNS", "40")
    assert command(*line).code in (0, 1)


@pytest.mark.parametrize("name", ["profile", "show", "theory", "list", "width-check", "diagnose", "compare", "train"])
def test_what_is_left_out_can_be_asked_for(command, name):
    out = command.fine(name, "--help")
    assert "--wide" in out
    assert "--explain" in out


@pytest.mark.parametrize("line", [("show", "run.h5"), ("list",), ("theory", "--act", "tanh")], ids=" ".join)
def test_a_terminal_without_utf8(surroundings, monkeypatch, line):
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", written)
    assert main(list(line)) == 0
    written.flush()
    assert written.buffer.getvalue().isascii()
