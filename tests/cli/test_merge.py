"""`propscope merge`: files in order into one, and what is refused."""

import pytest
from building.command_line import files

from propscope.store import load


def test_files_in_order(command, run_file, place):
    (place / "new").mkdir()
    assert command.fine("merge", run_file, run_file, "-o", "new/both.h5") == "16 profiles in new/both.h5\n"
    both, one = load("new/both.h5"), load(run_file)
    assert [dict(profile.labels) for profile in both] == [dict(profile.labels) for profile in (*one, *one)]
    assert command.fine("show", "new/both.h5").startswith("4 pairs, depth 3, width 8, batch 8, 4 seeds")


def test_what_exists_is_kept(command, run_file, place):
    (place / "out.h5").write_text("precious")
    before = files(place)
    outcome = command("merge", run_file, "-o", "out.h5")
    assert outcome.error == "out.h5 exists and is kept"
    assert "--overwrite" in outcome.hint
    assert files(place) == before
    assert command("merge", run_file, run_file, "-o", run_file).error == "run.h5 exists and is kept"
    command.fine("merge", run_file, run_file, "-o", run_file, "--overwrite")
    assert len(load(run_file)) == 16


@pytest.mark.parametrize("second", ["none.h5", "text.h5"])
def test_one_bad_file_of_several_writes_nothing(command, run_file, place, second):
    (place / "text.h5").write_text("no")
    before = files(place)
    assert second in command("merge", run_file, second, "-o", "out.h5").error
    assert files(place) == before


def test_where_nothing_can_be_written(command, run_file, place):
    before = files(place)
    outcome = command("merge", run_file, "-o", run_file / "out.h5")
    assert outcome.error.startswith("cannot write run.h5/out.h5: ")
    assert outcome.hint == "name a file in a directory that can be written"
    assert files(place) == before
