"""The JSON of every command is what docs/json.md states; a finding is the same object in all of them."""

import json
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
TYPES = {
    "text": lambda value: isinstance(value, str),
    "text or null": lambda value: value is None or isinstance(value, str),
    "true or false": lambda value: isinstance(value, bool),
    "number": lambda value: isinstance(value, (int, float)),
    "object": lambda value: isinstance(value, dict),
    "object or null": lambda value: value is None or isinstance(value, dict),
    "list of text": lambda value: isinstance(value, list) and all(isinstance(each, str) for each in value),
    "list of object": lambda value: isinstance(value, list) and all(isinstance(each, dict) for each in value),
}
MODEL = """
from torch import nn

def fading():
    return nn.Sequential(*(part for _ in range(12) for part in (nn.Linear(8, 8), nn.Sigmoid())))

def wide(width):
    return nn.Linear(8, width)
"""
SHAPE = ("fading.py:fading", "--input-shape", "16,8")
# Command line -> which of the page's documents it is.
LINES = {
    ("profile", "--depth", 6, "--width", 8, "--act", "relu", "--init", "zeros", "--plots", "none"): "profile",
    ("show", "run.h5"): "show",
    ("show", "run.h5", "--act", "relu", "--init", "zeros"): "show",
    ("diagnose", "run.h5"): "diagnose",
    ("diagnose", "run.h5", "--act", "relu", "--fix"): "diagnose",
    ("check", "run.h5"): "check",
    ("check", "run.h5", "--baseline", "run.h5"): "check",
    ("check", *SHAPE): "check",
    ("compare", "run.h5", "run.h5"): "compare",
    ("inspect", *SHAPE): "inspect",
    ("inspect", *SHAPE, "--fix"): "inspect",
    ("theory", "--act", "relu"): "theory",
    ("width-check", "fading.py:wide", "--width", "2,4", "--input-shape", "4,8", "--steps", 1): "width-check",
    ("list",): "list",
}
UNJUDGED = ("theory", "list", "width-check", "compare")


def table(heading):
    """Return the rows below a heading of the page, each a tuple of cells."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in row) for row in rows[1:]]


def keys(heading):
    return {name.strip("`"): kind for name, kind, _ in table(heading)}


FINDING, REMEDY, TRIED, PARENT = map(keys, ("A finding", "A remedy", "What was tried", "A parent"))
DOCUMENTS = {name.strip("`"): text for name, text in table("The documents")}


def objects(document):
    """Yield every object within a document."""
    if isinstance(document, dict):
        yield document
    for part in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        yield from objects(part)


def hold(found, stated):
    assert set(found) == set(stated)
    for name, kind in stated.items():
        assert TYPES[kind](found[name]), f"{name} is no {kind}"


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(map(str, line)))
def test_the_output_of_every_command(command, run_file, place, line):
    (place / "fading.py").write_text(MODEL)
    # A check that fails ends with 1, whatever it prints.
    document = json.loads(command(*line, "--json").out)
    command_name = LINES[line]
    stated = set(re.findall(r"`(\w+)`", DOCUMENTS[command_name]))
    for part in document if isinstance(document, list) else [document]:
        assert {"verdict", "findings"} <= set(part) or "pairs" in part or command_name in UNJUDGED
        # A pair has figures beside what the page names.
        assert command_name in ("profile", "show") or set(part) <= stated
    findings = [each for each in objects(document) if "severity" in each]
    assert bool(findings) == (command_name not in UNJUDGED)
    for finding in findings:
        hold(finding, FINDING)
        assert finding["kind"] in PAGE
        assert (finding["first"], finding["last"]) == tuple(([*finding["sites"]] or [""])[place] for place in (0, -1))
        assert all(isinstance(value, (int, float, str, type(None))) for value in finding["evidence"].values())
    for site in (each for each in objects(document) if "parents" in each):
        for parent in site["parents"] or ():
            hold(parent, PARENT)
    remedies = [finding["remedy"] for finding in findings if finding["remedy"] is not None]
    tried = [each for each in objects(document) if "trials" in each]
    assert bool(tried) == ("--fix" in line)
    for trials in tried:
        hold(trials, TRIED)
        assert trials["trials"]
        assert set(trials["before"]) == {"verdict", "worst", "forward", "backward"}
        for trial in trials["trials"]:
            assert set(trial) == {"remedy", "helped", "chosen", "after", "reason", "lines"}
        remedies += [trial["remedy"] for trial in trials["trials"]]
    assert bool(remedies) == (command_name not in UNJUDGED)
    for remedy in remedies:
        hold(remedy, REMEDY)
        assert f"`{remedy['action']}`" in PAGE


def test_training_runs(command, place):
    line = ("train", "--data", "moons", "--depth", 2, "--width", 8, "--act", "relu", "--init", "he_normal")
    document = command(*line, "--epochs", 1, "--plots", "none", "--json").document
    assert set(document) == {"pairs", "file", "pictures", "seconds"}
    assert {"labels", "runs", "stability"} <= set(document["pairs"][0])
