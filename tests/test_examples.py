import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from propscope.cli import main
from propscope.cli.example import example_files, examples_folder, title_of

pytestmark = pytest.mark.slow

# How the output of an example begins that shows a fault.
FAULTS = {
    "broken_sigmoid": "broken: vanishing backward: the gradient shrinks by a factor of",
    "misscaled_resnet": "strained: exploding forward at stage2.1.conv1: ",
}
NAMES = [path.stem for path in example_files(examples_folder())]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The examples share modules of short names, which must not outlive a test.
    before = set(sys.modules)
    yield
    for name in {"setting", "models"} - before:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_runs_and_its_conclusion_holds(name, capsys):
    path, arguments = list(sys.path), list(sys.argv)
    assert main(["example", name, "--quick"]) == 0, capsys.readouterr().err
    assert (sys.path, sys.argv) == (path, arguments)
    assert "PROPSCOPE_QUICK" not in os.environ
    out = capsys.readouterr().out
    if name in FAULTS:
        # The input's line comes first.
        assert out.startswith("input: ")
        assert out.splitlines()[1].startswith(FAULTS[name])
    written = {Path(line.removeprefix("picture ")) for line in out.splitlines() if "picture " in line}
    assert written == set(Path().rglob("*.png"))
    assert all(picture.parts[:2] == ("outputs", "quick") for picture in written)


def test_the_list_names_every_example_with_a_line(capsys):
    assert main(["example"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    assert all(len(line.split()) > 5 for line in listed)
    # What others import is no example.
    assert not {"setting", "models"} & set(NAMES)


def test_an_unknown_name_lists_the_choices(capsys):
    assert main(["example", "historgams"]) == 2
    error = capsys.readouterr().err
    assert all(name in error for name in NAMES)
    assert 'did you mean "histograms"?' in error


def test_a_conclusion_that_does_not_hold_is_said_in_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "quickstart.py").write_text('"""A start."""\nprint()\n')
    (tmp_path / "wrong.py").write_text('"""Wrong."""\nimport sys\nprint(sys.argv[1])\nassert 1 + 1 == 3\n')
    monkeypatch.setattr("propscope.cli.example.examples_folder", lambda: tmp_path)
    assert main(["example", "wrong", "given"]) == 1
    said = capsys.readouterr()
    assert said.out == "given\n"
    assert said.err.startswith("wrong.py:4: ")
    assert said.err.endswith(": assert 1 + 1 == 3\n")


def test_without_the_files_it_says_where_they_are(tmp_path, monkeypatch, capsys):
    package = tmp_path / "propscope" / "cli"
    package.mkdir(parents=True)
    monkeypatch.setattr("propscope.cli.example.__file__", str(package / "example.py"))
    assert main(["example"]) == 2
    error = capsys.readouterr().err
    assert all(str(tmp_path / folder) in error for folder in ("propscope/examples", "examples"))
    # Inside an installed package they are found.
    shutil.copytree(Path(__file__).parents[1] / "examples", tmp_path / "propscope" / "examples")
    assert main(["example"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def test_each_title_is_one_line():
    titles = [title_of(path) for path in example_files(examples_folder())]
    assert all(title.endswith(".") and len(title) < 118 for title in titles)


def test_the_table_of_the_five_documents_names_examples_and_leaves_nothing_open():
    text = (Path(__file__).parents[1] / "docs" / "classic-experiments.md").read_text(encoding="utf-8")
    table = text.partition("## The five documents")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    documents = [row[0].strip() for row in rows if row[0].strip()]
    assert [name[0] for name in documents] == list("12345")
    assert all(item.strip() and where.strip() for _, item, where in rows)
    assert "partly" not in table
    named = {name for _, _, where in rows for name in re.findall(r"`(\w+)`", where)} - {"diagnose"}
    assert named <= set(NAMES)
