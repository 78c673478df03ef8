"""What a shell completes: commands, options, and the names that options take; and how completion is installed."""

import subprocess
import sys

import pytest
from building.command_line import HANGS

from propscope.cli import COMMANDS
from propscope.cli.completion import ACTIVATIONS, DATA, INITIALIZERS, INPUTS, NAMES, OPTIMIZERS


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request, command, monkeypatch):
    """What the shell is offered for a line whose last word is being typed."""

    def run(line):
        monkeypatch.setenv("_PROPSCOPE_COMPLETE", f"complete_{request.param}")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.delenv("COMP_WORDS", raising=False)
        if request.param == "bash":
            monkeypatch.setenv("COMP_WORDS", line)
            monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - (not line.endswith(" "))))
        out = command.fine()
        if request.param == "zsh":
            return [part.split('"')[1] for part in out.removeprefix("_arguments '*: :((").splitlines() if '"' in part]
        return [line.split("\t")[0] for line in out.splitlines() if line]

    return run


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("propscope sh", ["show"]),
        ("propscope profile --alp", ["--alpha-dropout"]),
        ("propscope profile --init he", ["he_uniform", "he_normal"]),
        ("propscope show run.h5 --init zeros,he_n", ["zeros,he_normal"]),
        ("propscope check net.py:build --init ort", ["orthogonal"]),
        ("propscope theory --act tanh", ["tanh", "tanhshrink"]),
        ("propscope train --data moo", ["moons"]),
        ("propscope inspect net.py:build --sort ", list(NAMES["sort"])),
        ("propscope plot run.h5 --plots main,over", ["main,overview", "main,over-time"]),
        ("propscope width-check net.py:build --expect m", ["mup"]),
        ("propscope nothing --init he", []),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_offered(complete, line, offered):
    assert complete(line) == offered


def test_every_command_is_offered(complete):
    assert sorted(complete("propscope ")) == sorted(command.name for command in COMMANDS)


def test_the_names_are_those_of_the_tables():
    from propscope.experiments import training
    from propscope.networks import activations, initializers, inputs

    tables = {
        ACTIVATIONS: activations.ACTIVATIONS,
        INITIALIZERS: initializers.INITIALIZERS,
        INPUTS: inputs.INPUTS,
        DATA: training.DATA,
        OPTIMIZERS: training.OPTIMIZERS,
    }
    for names, table in tables.items():
        assert names == tuple(entry.name for entry in table if not entry.name.startswith("."))


@pytest.mark.parametrize(("name", "values"), [(name, NAMES[name]) for name in ("sort", "stage", "expect", "fail_on")])
def test_the_other_names_are_those_that_the_command_takes(command, place, name, values):
    (place / "net.py").write_text("import torch\nbuild = lambda width=2: torch.nn.Linear(4, width)\n")
    line = {
        "sort": ("inspect", "net.py:build", "--input-shape", "2,4"),
        "stage": ("inspect", "net.py:build", "--input-shape", "2,4"),
        "expect": ("width-check", "net.py:build", "--width", "2,3", "--input-shape", "2,4", "--steps", 1),
        "fail_on": ("check", "net.py:build", "--input-shape", "2,4"),
    }[name]
    flag = f"--{name.replace('_', '-')}"
    for value in values:
        assert command(*line, flag, value).code in (0, 1)
    assert not command(*line, flag, "nothing").missing(" ".join(values))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_shown_and_installed(command, place, monkeypatch, shell):
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell)
    monkeypatch.setattr("typer._completion_shared._get_shell_name", lambda: shell)
    assert "_PROPSCOPE_COMPLETE" in command.fine("--show-completion")
    assert f"{shell} completion installed in {place}" in command.fine("--install-completion")
    assert any("_PROPSCOPE_COMPLETE" in path.read_text() for path in place.rglob("*") if path.is_file())


def test_completion_imports_nothing_heavy(place):
    code = "import sys; from propscope.cli import main; main([]); print(*sys.modules, file=sys.stderr)"
    surroundings = {"_PROPSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "propscope show --act ", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path), **surroundings}, timeout=HANGS,
    )  # fmt: skip
    assert done.stdout.split() == list(ACTIVATIONS)
    assert not {"torch", "numpy", "h5py", "matplotlib", "rich.console"} & set(done.stderr.split())
