"""`propscope merge`: files in order into one, and what is refused."""

import pytest
from building.command_line import files
from building.records import plain

from propscope.experiments import profile_mlp
from propscope.store import load, save


def again(name):
    """The profiles of the other pairs, measured a second time."""
    pairs = {"activation": ["relu", "tanh"], "initializer": ["he_normal", "zeros"]}
    save(name, profile_mlp(3, 8, **pairs, seeds=2, batch=8, histogram_limit=64))
    return name


@pytest.mark.slow
def test_files_in_order(command, run_file, place):
    (place / "new").mkdir()
    second = again("second.h5")
    assert command.fine("merge", run_file, second, "-o", "new/both.h5") == "16 profiles in new/both.h5\n"
    both, one = load("new/both.h5"), load(run_file)
    assert [dict(profile.labels) for profile in both] == [dict(profile.labels) for profile in (*one, *one)]
    assert command.fine("show", "new/both.h5").startswith("4 pairs, depth 3, width 8, batch 8, 4 seeds")


def test_the_same_run_is_written_once(command, run_file):
    outcome = command("merge", run_file, run_file, "-o", "both.h5")
    assert (outcome.code, outcome.out) == (0, "8 profiles in both.h5\n")
    assert outcome.err.startswith("left out 8 profiles of run.h5: ")
    assert plain(load("both.h5")) == plain(load(run_file))


@pytest.mark.slow
def test_files_that_overlap(command, run_file):
    held = load(run_file)
    save("first.h5", held[:5])
    save("last.h5", held[3:])
    outcome = command("merge", "last.h5", "first.h5", run_file, "-o", "all.h5")
    assert outcome.out == "8 profiles in all.h5\n"
    assert outcome.err.splitlines()[0].startswith("left out 2 profiles of first.h5: ")
    assert outcome.err.splitlines()[1].startswith("left out 8 profiles of run.h5: ")
    assert plain(load("all.h5")) == plain(held[3:] + held[:3])
    # A file that the old merge wrote has its seeds twice.
    save("twice.h5", held + held)
    assert command("merge", "twice.h5", "-o", "once.h5").err.startswith("left out 8 profiles of twice.h5: ")
    assert plain(load("once.h5")) == plain(held)


def test_what_exists_is_kept(command, run_file, place):
    (place / "out.h5").write_text("precious")
    before = files(place)
    outcome = command("merge", run_file, "-o", "out.h5")
    assert outcome.error == "out.h5 exists and is kept"
    assert "--overwrite" in outcome.hint
    assert files(place) == before
    assert command("merge", run_file, run_file, "-o", run_file).error == "run.h5 exists and is kept"
    command.fine("merge", run_file, again("second.h5"), "-o", run_file, "--overwrite")
    assert len(load(run_file)) == 16


@pytest.mark.slow
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
