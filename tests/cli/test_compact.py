"""`propscope compact` writes the file of a run that was killed, and `show` prints a monitored run with its alarms."""

import json
import shutil

import pytest
from building.records import small_monitored

from propscope.cli import main
from propscope.store import MonitoredFile, load
from propscope.store.journal import journal_name


@pytest.fixture
def killed(tmp_path):
    path = tmp_path / "run.propscope"
    file = MonitoredFile(path)
    file.add(small_monitored())
    shutil.copy(journal_name(path, 1), tmp_path / "kept")
    file.save()
    path.unlink()
    (tmp_path / "kept").rename(journal_name(path, 1))
    return path


@pytest.mark.parametrize("by_journal", [False, True])
def test_the_file_of_a_killed_run_is_written(killed, capsys, by_journal):
    assert main(["compact", str(journal_name(killed, 1) if by_journal else killed)]) == 0
    assert capsys.readouterr().out == f"saved as {killed}\n"
    assert len(load(killed)) == 2
    assert main(["compact", str(killed)]) == 2
    assert "there is no journal of" in capsys.readouterr().err


def test_a_monitored_run_is_shown_with_its_alarms_while_it_grows(killed, capsys):
    assert main(["show", str(killed)]) == 0
    shown = capsys.readouterr()
    assert "unfinished: 1 pieces of a monitored run" in shown.err
    assert "2 alarms" in shown.out
    assert "step 1: loss spike (strained, since step 0): the loss rose" in shown.out
    assert main(["show", str(killed), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["samples"], document["last_sample"], len(document["alarms"])) == (2, 2, 2)
