"""The application itself: help, wrong use, what stdout's end and start cost, what is imported."""

import os
import re
import resource
import signal
import subprocess
import sys
import time

import pytest
from building.command_line import HANGS, process

from propscope import cli
from propscope.cli import COMMANDS, running
from propscope.errors import InputError

NAMES = [entry.name for entry in COMMANDS]


def test_without_a_command_there_is_help(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command.fine()
    for entry in COMMANDS:
        # The whole line, which a terminal of 80 columns must not cut.
        assert re.search(rf"^  {entry.name} +{re.escape(entry.help)}$", out, re.MULTILINE)
    assert out == command.fine("--help") == command.fine("-h")


def test_the_version(command):
    assert command.fine("--version") == "propscope 0.1.0\n"


@pytest.mark.parametrize("name", NAMES)
def test_every_command_has_help(command, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = command.fine(name, "--help")
    assert f"Usage: propscope {name}" in out
    assert max(map(len, out.splitlines())) <= 80
    # What every command has comes last, after the options under headings of their own.
    assert out.rstrip().splitlines()[-1].split()[:2] == ["-h,", "--help"]


def test_options_stand_under_their_headings(command):
    out = command.fine("inspect", "--help")
    order = ["Arguments:", "Model:", "Input and loss:", "Run:", "View:", "Results:", "Options:"]
    assert [line for line in out.splitlines() if line in order] == order
    headings = [
        out.index(heading) for heading in ("\nModel:", "\n  --checkpoint", "\nInput and loss:", "\n  --input-shape")
    ]
    assert headings == sorted(headings)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["profle"], "No such command 'profle'"),
        (["show"], "Missing argument"),
        (["show", "a.h5", "b.h5"], "unexpected extra argument"),
        (["show", "a.h5", "--colour"], "No such option: --colour"),
        (["merge", "a.h5"], "Missing option"),
        (["profile", "--depth"], "requires an argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(command, line, message):
    outcome = command(*line)
    assert message in outcome.error
    command_line = "propscope" if line[0] == "profle" else f"propscope {line[0]}"
    assert f"{command_line} --help" in outcome.hint


def test_an_error_without_a_hint_of_its_own_names_the_help(command, monkeypatch):
    def refuse(*arguments, **options):
        raise InputError("no")

    monkeypatch.setattr("propscope.store.open_networks", refuse)
    assert command("show", "a.h5").hint == "propscope show --help lists its options"


@pytest.mark.parametrize("option", ["--seeds", "--batch", "--bias", "--dropout", "--input-size", "--output-size"])
def test_a_value_that_is_no_number_is_named(command, option):
    error = command("profile", option, "lots").error
    assert option in error
    assert "must be a" in error
    assert '"lots"' in error


def test_an_interrupt_has_its_exit_code(command, monkeypatch):
    class Abort(RuntimeError):
        pass

    for raised in (KeyboardInterrupt(), Abort()):

        def interrupted(*arguments, raised=raised, **options):
            raise raised

        assert running.guarded(interrupted, []) == 130


def terminated(arguments, **keywords):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(HANGS)


def test_sigterm_ends_the_program_that_runs_commands():
    with pytest.raises(SystemExit) as ended:
        running.guarded(terminated, [])
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_sigterm_at_the_end_of_a_command_is_no_interrupt(monkeypatch):
    monkeypatch.setattr(running, "_guarded", lambda app, arguments: terminated(arguments))
    with pytest.raises(SystemExit) as ended:
        running.guarded(None, [])
    assert ended.value.code == 143


def test_who_handles_sigterm_keeps_it():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        assert running.guarded(lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM), []) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == [signal.SIGTERM]


@pytest.mark.parametrize("code", ["0", "3", "'done'", ""])
@pytest.mark.parametrize("line", [["inspect"], ["check"], ["width-check", "--width", "4,8"]], ids=" ".join)
def test_a_model_that_ends_the_program_has_passed_nothing(command, tmp_path, line, code):
    (tmp_path / "net.py").write_text(f"def build(width=4):\n    raise SystemExit({code})\n")
    result = command(line[0], f"{tmp_path}/net.py:build", *line[1:], "--input-shape", "8,4")
    assert result.code == 2
    assert "code of yours ended the program: SystemExit" in result.error
    assert "Traceback" not in result.error


def test_a_defect_is_not_hidden():
    def broken(*arguments, **options):
        raise ZeroDivisionError("a defect")

    with pytest.raises(ZeroDivisionError):
        running.guarded(broken, [])


def imported(*lines):
    """What one process that runs these command lines writes, and what it has imported at its end."""
    code = (
        "import sys, propscope.cli\n"
        f"codes = [propscope.cli.main(line.split()) for line in {lines}]\n"
        "print(*sys.modules, file=sys.stderr)\n"
        "sys.exit(max(codes))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split())


@pytest.mark.slow
def test_reading_never_imports_torch(run_file):
    heavy = {"torch", "pandas", "xarray", "matplotlib", "sklearn"}
    out, modules = imported("--help", *(f"{name} --help" for name in NAMES))
    assert out.count("Usage: propscope ") == 1 + len(NAMES)
    assert not modules & (heavy | {"numpy", "h5py", "scipy"})
    check = "check run.h5 --baseline run.h5 --init he_normal"
    out, modules = imported("show run.h5", "show run.h5 --json", "diagnose run.h5", check)
    assert "4 networks: 2 broken, 2 healthy" in out
    assert "\npassed: healthy; " in out
    assert "h5py" in modules
    assert not modules & heavy


@pytest.mark.slow
def test_plotting_never_imports_torch(run_file):
    out, modules = imported("plot run.h5 --plots overview")
    assert out == "run-overview.png\n"
    assert "matplotlib" in modules
    assert "torch" not in modules


def test_only_the_options_of_the_command_that_runs_are_read():
    assert list(cli._application("show").commands) == ["show"]
    assert list(cli._application("").commands) == NAMES
    assert cli._application("show") is cli._application("show")


def test_help_is_quick():
    took = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert process("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        took.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Of the processor, whatever else it does: 0.4 s is promised, and torch's import takes more than 1 s.
    assert min(took) < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("line", [["show", "run.h5"], ["show", "run.h5", "--json"], ["profile", "--help"]])
def test_a_reader_that_leaves_early_sees_no_traceback(run_file, line):
    line = [sys.executable, "-u", "-m", "propscope", *line]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running_command:
        running_command.stdout.close()
        assert running_command.stderr.read() == ""
        assert running_command.wait(timeout=HANGS) == 0


def test_a_name_that_is_too_long_for_a_disk_is_called_so(command):
    outcome = command("profile", "--depth", 1, "-o", "x" * 300 + ".h5")
    assert outcome.code == 2
    assert outcome.hint == "give it a shorter name"


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_one_line(run_file):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "propscope", "show", "run.h5"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: cannot read or write: No space left on device",
        "hint: free some space, or write to another disk",
    ]
