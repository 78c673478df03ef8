"""Another process changes which steps of a run are sampled; nothing that it writes stops the run."""

import os

import pytest
from building.trainings import training

import propscope
from propscope.cli import main as cli
from propscope.monitoring import control
from propscope.store.control_file import ALLOWED, SETTINGS, control_name


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of which every step looks at the control file."""
    monkeypatch.setattr(control, "_SECONDS", 0.0)
    made = training("lstm")
    with propscope.monitor(made.model, made.optimizer, every=1000, file=tmp_path / "run.propscope") as monitor:
        yield Watched(made, monitor)


class Watched:
    """A monitored training whose steps are taken by `step`."""

    def __init__(self, made, monitor):
        self.monitor, self.made = monitor, made

    @property
    def name(self):
        """The control file."""
        return control_name(self.monitor.file)

    def write(self, text, mode="w"):
        """Write to the control file, and take the step at whose end it is read."""
        with self.name.open(mode) as file:
            file.write(text)
        self.step()

    def step(self, count=1):
        """Take steps, and return the numbers of those that were sampled."""
        sampled = []
        for _ in range(count):
            with self.monitor.step() as one:
                self.made.update()
            if self.monitor.profile.labels["step"] == one.number:
                sampled.append(one.number)
        return sampled


def test_lines_of_the_control_file_change_which_steps_are_sampled(run):
    assert run.step(3) == [0]
    run.write("every = 2   # more often\n\n")
    assert run.step(4) == [4, 6]
    run.write("off\n", mode="a")
    assert run.step(3) == []
    run.write("sample\n", mode="a")
    assert run.step(3) == [13]
    # What was done is not done again, but a file in the place of the old one is new.
    run.write("sample\nstop=19\non\n")
    assert run.step(7) == [17, 18]
    run.write("stop=none")
    assert run.step(2) == [26]
    run.write("start=29")
    assert run.step(5) == [30, 32]
    assert run.monitor.every == 2


def test_python_turns_sampling_off_and_on(run):
    assert run.step() == [0]
    run.monitor.every = 1
    run.monitor.sampling = False
    assert run.step(3) == []
    run.monitor.request()
    assert run.step(2) == [4]
    run.monitor.sampling = True
    assert run.monitor.sampling
    assert run.step(2) == [6, 7]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"evry=1\n", f'line 1 of NAME is left out: a setting must be one of {ALLOWED}, got "evry=1"'),
        (b"every=0\n", "line 1 of NAME is left out: every must be a whole number of at least 1, got 0"),
        (b"# all\nevery=many\n", 'line 2 of NAME is left out: every must be a whole number of at least 1, got "many"'),
        (b"budget=2\n", "line 1 of NAME is left out: budget must be a finite number above 0 and at most 1, got 2.0"),
        (b"sample=3\n", f'line 1 of NAME is left out: a setting must be one of {ALLOWED}, got "sample=3"'),
        (b"every\n", f'line 1 of NAME is left out: a setting must be one of {ALLOWED}, got "every"'),
        (b"\xff\x00\n", f'line 1 of NAME is left out: a setting must be one of {ALLOWED}, got "�\\x00"'),
        (b"every=-1", 'line 1 of NAME is left out: every must be a whole number of at least 1, got "-1"'),
        (b"#" * (1 << 17), "the control file cannot be read: NAME is no file of a few lines"),
    ],
)
def test_a_line_that_says_nothing_is_one_warning_and_the_others_count(run, caplog, text, said):
    run.step()
    run.name.write_bytes(text)
    run.step(2)
    assert [record.message for record in caplog.records] == [f"{said}; the run goes on".replace("NAME", str(run.name))]
    run.name.write_bytes(text[:2000] + b"\nevery=1\n")
    run.step()
    assert len(run.step(2)) == 2


@pytest.mark.parametrize("kind", ["directory", "fifo", "dangling"])
def test_what_is_no_file_is_one_warning_at_most_and_never_waited_for(run, caplog, kind):
    run.step()
    {"directory": run.name.mkdir, "fifo": lambda: os.mkfifo(run.name), "dangling": lambda: run.name.symlink_to("no")}[
        kind
    ]()
    assert run.step(3) == []
    assert len(caplog.records) == (kind != "dangling")


def test_what_lies_there_from_an_earlier_run_is_not_read_and_the_file_goes_with_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "_SECONDS", 0.0)
    control_name(tmp_path / "run.propscope").write_text("every=1\n")
    made = training("lstm")
    with propscope.monitor(made.model, made.optimizer, every=1000, file=tmp_path / "run.propscope") as monitor:
        run = Watched(made, monitor)
        assert run.step(3) == [0]
        assert run.name.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["run.propscope"]


def test_the_control_file_is_that_of_the_file_which_the_run_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(control, "_SECONDS", 0.0)
    (tmp_path / "run.propscope").write_text("of somebody else")
    made = training("lstm")
    with propscope.monitor(made.model, made.optimizer, every=1000, file=tmp_path / "run.propscope") as monitor:
        run = Watched(made, monitor)
        run.step(2)
        control_name(tmp_path / "run.propscope").write_text("every=1\n")
        assert run.step(2) == []
        run.write("every=1\n")
        assert run.step(2) == [5, 6]


def test_the_file_is_looked_at_once_a_second(run, monkeypatch):
    looks, now = [], [100.0]
    monkeypatch.setattr(control, "_SECONDS", 1.0)
    monkeypatch.setattr(control.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(control.ControlFile, "added", lambda self: looks.append(now[0]) or [])
    for _ in range(20):
        run.step()
        now[0] += 0.25
    # The first look finds what is of an earlier run.
    assert looks == [100.0, 100.0, 101.0, 102.0, 103.0, 104.0]


def test_the_command_asks_a_run_that_goes_on_and_refuses_any_other(run, capsys, tmp_path):
    run.step()
    assert cli(["control", str(run.monitor.file), "every=3", "sample"]) == 0
    assert capsys.readouterr().out == f"asked {run.monitor.file} for every=3, sample\n"
    assert cli(["control", str(run.monitor.file), "budget = 0.5"]) == 0
    assert run.step(6) == [2, 3, 6]
    assert run.monitor._cadence.budget == 0.5
    capsys.readouterr()
    assert cli(["control", str(run.monitor.file), "every=3", "evry=2"]) == 2
    assert f'a setting must be one of {ALLOWED}, got "evry=2"' in capsys.readouterr().err
    assert cli(["control", str(run.monitor.file)]) == 2
    assert "got none" in capsys.readouterr().err
    assert cli(["control", str(tmp_path / "other.propscope"), "off"]) == 2
    assert f"no run writes {tmp_path / 'other.propscope'} now" in capsys.readouterr().err
    assert cli(["control", str(run.monitor.file), "budget=none"]) == 0
    run.step()
    assert run.monitor._cadence.budget is None
    assert run.name.read_text() == "every=3\nsample\nbudget = 0.5\nbudget=none\n"
    file = run.monitor.file
    run.monitor.close()
    assert cli(["control", str(file), "off"]) == 2
    assert [one.name for one in tmp_path.iterdir()] == ["run.propscope"]


def test_the_help_and_the_docs_name_every_setting(pytestconfig, capsys):
    assert cli(["control", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    text = (pytestconfig.rootpath / "docs" / "monitoring.md").read_text()
    assert [each.usage for each in SETTINGS if each.usage not in said] == []
    assert [each.name for each in SETTINGS if f"`{each.name}" not in text] == []
