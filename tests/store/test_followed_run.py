"""A run that is followed while it is written: each look returns what was added, and reads no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from building.records import kept, plain, small_monitored, small_set

from propscope.errors import InputError, StoreError
from propscope.store import Added, FollowedRun, MonitoredFile, save
from propscope.store.journal import Journal, journal_name


def told(added: Added) -> tuple[list[int], bool, bool]:
    return added.run.steps.number.tolist(), added.anew, added.ended


def test_each_look_returns_what_was_added_since_the_last_one(tmp_path: Path) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    file.add(small_monitored(0, 2))
    file.add(small_monitored(2, 2))
    with FollowedRun(tmp_path / "run.h5") as run:
        first = run.read()
        assert told(first) == ([0, 1, 2, 3], True, False)
        assert plain(first.run) == plain(kept(small_monitored(0, 2) + small_monitored(2, 2)))
        assert told(run.read()) == ([], False, False)
        file.add(small_monitored(4, 2))
        later = run.read()
        assert told(later) == ([4, 5], False, False)
        assert plain(later.run) == plain(kept(small_monitored(4, 2)))
        file.add(small_monitored(6, 2))
        file.save()
        assert told(run.read()) == ([6, 7], False, True)
        assert told(run.read()) == ([], False, True)
    with FollowedRun(tmp_path / "run.h5") as again:
        assert told(again.read()) == ([*range(8)], True, True)
        assert told(again.read()) == ([], False, True)


def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    for first in range(0, 40, 2):
        file.add(small_monitored(first, 2))
    read: list[int] = []
    whole = Journal._bytes

    def counted(journal: Journal, start: int, count: int) -> bytes:
        read.append(count)
        return whole(journal, start, count)

    monkeypatch.setattr(Journal, "_bytes", counted)
    with FollowedRun(tmp_path / "run.h5") as run:
        run.read()
        size = (tmp_path / ".run.h5.partial").stat().st_size
        assert sum(read) >= size
        read.clear()
        file.add(small_monitored(40, 2))
        assert told(run.read()) == ([40, 41], False, False)
        assert sum(read) < 3 * size / 20
    file.save()


def test_half_a_record_is_read_once_it_is_whole(tmp_path: Path) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    journal = journal_name(tmp_path / "run.h5", 1)
    file.add(small_monitored(0, 2))
    size = journal.stat().st_size
    file.add(small_monitored(2, 2))
    content = journal.read_bytes()
    file.save()
    (tmp_path / "run.h5").unlink()
    journal.write_bytes(content[: size + 100])
    with FollowedRun(tmp_path / "run.h5") as run:
        assert told(run.read()) == ([0, 1], True, False)
        assert told(run.read()) == ([], False, False)
        with journal.open("ab") as stream:
            stream.write(content[size + 100 :])
        assert told(run.read()) == ([2, 3], False, False)


def test_a_run_that_is_resumed_is_read_anew_with_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    file = MonitoredFile(path)
    file.add(small_monitored(0, 4))
    with FollowedRun(path) as run:
        run.read()
        file.save()
        assert told(run.read()) == ([], False, True)
        resumed = MonitoredFile(tmp_path / "other.h5")
        resumed.resume(path, file.identity)
        resumed.add(small_monitored(2, 2))
        found = run.read()
        assert told(found) == ([0, 1, 2, 3, 2, 3], True, False)
        assert found.run.steps.superseded.tolist() == [0, 0, 1, 1, 0, 0]
        resumed.save()
        assert told(run.read()) == ([], False, True)


def test_what_is_no_monitored_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no file"):
        FollowedRun(tmp_path / "run.h5").read()
    save(tmp_path / "set.h5", small_set())
    with pytest.raises(InputError, match="is not the file of a monitored run"):
        FollowedRun(tmp_path / "set.h5").read()
