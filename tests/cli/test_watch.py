"""`propscope watch` follows a run from before it begins to its end, in a terminal and in a pipe."""

import os
import pty
import re
import select
import subprocess
import sys

import pytest
from building.records import small_monitored

from propscope.cli import watch
from propscope.store import MonitoredFile
from propscope.store.journal import journal_name


@pytest.fixture
def looks(monkeypatch):
    """What happens between one look and the next: a list of functions, one each; KeyboardInterrupt behind the last."""
    found = []

    def sleep(seconds):
        if not found:
            raise KeyboardInterrupt
        found.pop(0)()

    monkeypatch.setattr(watch.time, "sleep", sleep)
    return found


def nothing():
    """Nothing happens."""


def test_a_run_is_waited_for_followed_and_left_at_its_end(command, looks, place):
    file = MonitoredFile(place / "run.h5")
    looks += [
        nothing,
        lambda: file.add(small_monitored(0, 2)),
        nothing,
        lambda: file.add(small_monitored(2, 2)),
        lambda: (file.add(small_monitored(4, 1)), file.save()),
    ]
    outcome = command("watch", "run.h5")
    assert outcome.code == 0
    assert [line.split("  ")[:2] for line in outcome.out.splitlines()] == [
        ["step 0", "loss -"],
        ["step 1: loss spike (strained, since step 0): the loss rose"],
        ["step 3: collapse (broken): alike"],
        ["step 2", "loss 0.667"],
        ["step 3: loss spike (strained, since step 2): the loss rose"],
        ["step 5: collapse (broken): alike"],
        ["step 4", "loss 0.400"],
        ["step 5: loss spike (strained, since step 4): the loss rose"],
        ["step 7: collapse (broken): alike"],
    ]
    assert outcome.err.splitlines() == ["waiting for run.h5", "run.h5: ended"]
    assert outcome.out.isascii()
    assert "\x1b" not in outcome.out


def test_a_run_that_was_killed_ends_the_command_and_names_what_writes_its_file(command, looks, place):
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored())
    copied = journal_name(place / "run.h5", 1).read_bytes()
    file.save()
    (place / "run.h5").unlink()
    journal_name(place / "run.h5", 1).write_bytes(copied)
    outcome = command("watch", "run.h5")
    assert (outcome.code, looks) == (0, [])
    assert outcome.err == "run.h5: stopped before its end; `propscope compact` writes its file\n"
    assert command.fine("watch", "run.h5", "--once").startswith("run.h5   stopped before its end")
    assert command("watch", str(journal_name(place / "run.h5", 1))).out == outcome.out


def test_ctrl_c_ends_it_as_every_command(command, looks, place):
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored())
    outcome = command("watch", "run.h5")
    assert outcome.code == 130
    assert outcome.out.startswith("step 0")
    file.save()


def test_one_view_is_printed_on_request(command, place, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored())
    running = command.fine("watch", "run.h5", "--once").splitlines()
    assert running[0] == "run.h5   running"
    assert running[1].startswith("step 3   1.75 s a step   2 samples   monitor 12.5%   2 alarms")
    assert max(map(len, running)) <= 100
    file.save()
    ended = command.fine("watch", "run.h5", "--once").splitlines()
    assert ended[0] == "run.h5   ended"
    assert ended[1:] == running[1:]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("watch", "missing.h5", "--once"), "missing.h5"),
        (("watch", "missing/run.h5"), "there is no directory missing"),
        (("watch", "other.h5"), "other.h5"),
        (("watch", "run.h5", "--once"), "run.h5 is not the file of a monitored run"),
    ],
)
def test_what_is_no_run_is_refused(command, place, run_file, line, message):
    (place / "other.h5").write_text("something else")
    assert message in command(*line).error


def screen(environment, *arguments):
    """What the command writes to a terminal of 24 lines of 80 characters."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "propscope", "watch", *arguments]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
    } | {
        "TERM": "xterm-256color",
        **environment,
    }
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as running:
        os.close(theirs)
        written = b""
        while True:
            select.select([ours], [], [])
            try:
                more = os.read(ours, 65536)
            except OSError:
                break
            if not more:
                break
            written += more
        code = running.wait()
    os.close(ours)
    return code, written.decode()


@pytest.mark.slow
def test_a_terminal_shows_the_last_view_in_colour_unless_that_is_not_wanted(place):
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored())
    file.save()
    code, written = screen({}, "run.h5")
    assert code == 0
    assert "\x1b[31m" in written
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    code, plain = screen({"NO_COLOR": "1"}, "run.h5")
    assert code == 0
    assert not re.search("\x1b\\[3[0-9]m", plain)
    text = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", plain)
    lines = text.replace("\r", "").splitlines()
    assert lines[0] == "run.h5   ended"
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    code, dumb = screen({"TERM": "dumb"}, "run.h5")
    assert dumb.startswith("step 0  loss")
    assert "\x1b" not in dumb


@pytest.mark.slow
def test_a_pipe_that_is_closed_ends_it_quietly(place):
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored(0, 2000))
    file.save()
    line = [sys.executable, "-m", "propscope", "watch", "run.h5"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout.readline().startswith("step 0")
        running.stdout.close()
        said = running.stderr.read()
        assert running.wait() == 0
    assert said == ""


@pytest.mark.slow
def test_watching_needs_no_torch(place):
    file = MonitoredFile(place / "run.h5")
    file.add(small_monitored())
    file.save()
    code = (
        "import sys; from propscope.cli import main; main(['watch', 'run.h5', '--once']);"
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
