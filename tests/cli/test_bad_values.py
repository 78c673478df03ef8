"""Every option of every command, and every argument, with values that are wrong for it: one line, a hint, exit code 2.

The options are those of the application itself, so a new one is tried as soon as it is there.
"""

import os
from typing import get_type_hints

import pytest
import typer
from building.command_line import RIGHT, files

from propscope.cli import COMMANDS, build

APPLICATION = typer.main.get_command(build())
PARAMETERS = {name: command.params for name, command in APPLICATION.commands.items()}
TYPES = {command.name: get_type_hints(command.run) for command in COMMANDS}

COUNTS = ("", "-1", "1.5", "nan", "9" * 5000, "\x1b[31m", "ü")
NUMBERS = ("", "-1", "nan", "inf", "1e999", "\x1b[31m", "ü")
READ = ("", "missing", "missing/run.h5", "directory", "fifo", "empty", "binary", "dangling", "loop", "run.h5/x")
READ += ("a" * 300, "a" * 5000, "\x1b[31m", "nul\udcff", os.devnull)
WRITTEN = ("directory", "fifo", "missing/run.h5", "dangling", "loop", "run.h5/x", "a" * 300, "a" * 5000, os.devnull)
TEXTS = ("", ",", "nan", "-1", "9" * 5000, "\x1b[31m\x07", "ünknown", "normal:std=nan", "a=b", "(")
NAMES_OF_FILES = ("missing.npy", "fifo.npy", "directory.npy", "empty.npy", "binary.pt", "missing.pt")

TARGETS = ("missing.py:build", "net.py:missing", "net.py:number", "syntax.py:build", "fifo:build", "json:dumps")
TARGETS += ("timm:missing", "torchvision:missing")
# Any other text is a pattern.
PATTERN = ("(", "[")
# What is written instead of read, and what may be a file or a name.
OUTPUTS = ("output", "store")
OWN = {
    ("profile", "input"): (*TEXTS, *NAMES_OF_FILES),
    ("train", "data"): (*TEXTS, *NAMES_OF_FILES, "mnist:path=missing", "mnist:path=fifo", "moons:noise=-1"),
    ("check", "what"): (*READ, *TEXTS, *TARGETS, ":", "a:b:c"),
    ("inspect", "target"): (*READ, *TEXTS, *TARGETS),
    ("width-check", "target"): (*READ, *TEXTS, *TARGETS),
    ("compare", "a"): (),
    ("compare", "b"): (*READ, *TEXTS, *TARGETS, ":", "a:b:c"),
    ("compare", "include"): PATTERN,
    ("compare", "exclude"): PATTERN,
    ("inspect", "include"): PATTERN,
    ("inspect", "exclude"): PATTERN,
    ("check", "include"): PATTERN,
    ("check", "exclude"): PATTERN,
    ("plot", "output"): ("fifo", "run.h5", "run.h5/x", "a" * 300, "a" * 5000, os.devnull),
    ("report", "output"): ("", "directory", "x.h5", "run.h5", "run.h5/x.html", "missing/x.html", "a" * 300 + ".html"),
    ("phase", "output"): ("", "directory", "fifo.png", "x.bmp", "run.h5/x.png", "missing/x.bmp", "a" * 300 + ".png"),
    ("example", "arguments"): (),
}  # fmt: skip


@pytest.fixture
def surroundings(run_file, place):
    """Files of every wrong kind, beside a result file and a model."""
    (place / "directory").mkdir()
    (place / "directory.npy").mkdir()
    for name in ("fifo", "fifo.npy", "fifo.png"):
        os.mkfifo(place / name)
    for name in ("empty", "empty.npy"):
        (place / name).touch()
    for name in ("binary", "binary.pt"):
        (place / name).write_bytes(bytes(range(256)) * 10)
    (place / "dangling").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    (place / "net.py").write_text(
        "import torch\nnumber = 3\nbuild = lambda size=2: torch.nn.Linear(4, int(size))\n"
        "widening = lambda width: torch.nn.Linear(4, width)\n"
    )
    (place / "syntax.py").write_text("def build(:\n")
    return place


def wrong_values(name, parameter):
    """The values that are wrong for a parameter of a command."""
    if (name, parameter.name) in OWN:
        return OWN[name, parameter.name]
    kind = str(TYPES[name][parameter.name])
    if "Path" in kind:
        return WRITTEN if parameter.name in OUTPUTS else READ
    return COUNTS if "int" in kind else NUMBERS if "float" in kind else TEXTS


def lines(name):
    """The command lines of a command, each with one wrong value."""
    for parameter in PARAMETERS[name]:
        if getattr(parameter, "is_flag", False):
            continue
        for value in wrong_values(name, parameter):
            if parameter.param_type_name == "argument":
                # "--" ends the options: the value may begin with a dash.
                yield [name, *RIGHT[name][1:], "--", value]
            else:
                yield [name, *RIGHT[name], f"{parameter.opts[0]}={value}"]


def test_every_command_is_tried():
    assert RIGHT.keys() == PARAMETERS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", RIGHT)
def test_a_wrong_value_is_refused_in_one_line(command, surroundings, name):
    before = files(surroundings)
    unlike = []
    for line in lines(name):
        outcome = command(*line)
        said = outcome.err.splitlines()
        shown = all(part.isprintable() and len(part) < 2000 for part in said)
        if (outcome.code, outcome.out, [part[:6] for part in said]) != (2, "", ["error:", "hint: "]) or not shown:
            unlike.append((line, outcome))
    assert not unlike, unlike[:3]
    assert files(surroundings) == before


@pytest.mark.parametrize(
    "line",
    [
        ["profile", "--dropout", "0.1", "--alpha-dropout", "0.1"],
        ["profile", "--resume", "one.h5", "-o", "two.h5"],
        ["profile", "--residual", "--width", "4-2", "--depth", "2"],
        ["profile", "--loss", "mse", "--loss", "x"],
        ["train", "--lr", "0.1,0"],
        ["train", "--target", "2"],
        ["inspect", "net.py:build", "--input-shape", "2,4", "--input", "binary"],
        ["inspect", "net.py:build"],
        ["inspect", "net.py:build", "--input-kind", "tokens"],
        ["inspect", "net.py:build", "--input-shape", "input=2,4", "--input-shape", "2,4"],
        ["inspect", "net.py:build", "--input-shape", "input=2,4", "--input-shape", "input=2,4"],
        ["inspect", "net.py:build", "--input-shape", "1a=2,4"],
        ["inspect", "net.py:build", "--input-shape", "input="],
        ["inspect", "net.py:build", "--input-shape", "2,4", "--config", "tiny"],
        ["inspect", "net.py:build", "--input-shape", "2,4", "--arg", "size"],
        ["inspect", "net.py:build", "--input-shape", "1000000000,1000000000"],
        ["check", "run.h5", "--input-shape", "2,4"],
        ["check", "net.py:build", "--input-shape", "2,4", "--act", "relu"],
        ["diagnose", "run.h5", "--trust"],
        ["phase", "--act", "relu", "--weight-variance", "2..1"],
        ["plot", "run.h5", "--format", "png,bmp"],
        ["merge", "run.h5", "-o", "run.h5"],
        ["merge", "-o", "merged.h5"],
        ["example", "nothing"],
    ],
    ids=" ".join,
)
def test_options_that_contradict_each_other_are_refused(command, surroundings, line):
    before = files(surroundings / "directory")
    assert command(*line).hint
    assert files(surroundings / "directory") == before
    assert not (surroundings / "outputs").exists()
