"""The journal: what a kill leaves is read up to the last whole record, and one process at a time writes."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from building.records import plain, small_set

from propscope.errors import StoreError
from propscope.records import LogHistogram, NetworkProfile, TrainingRun
from propscope.store.journal import MAGIC, Journal
from propscope.store.packed import PackedRows, pack
from propscope.store.read import entries_in
from propscope.store.table_reader import TableReader, reading

RECORDS = [b"", b"one", b"x" * 1000]


def written(path: Path) -> bytes:
    journal = Journal.open(path)
    assert journal is not None
    for record in RECORDS:
        journal.append(record)
    journal.close()
    return path.read_bytes()


def read(path: Path) -> list[bytes]:
    journal = Journal.open(path)
    assert journal is not None
    found = list(journal)
    journal.close()
    return found


def test_a_cut_anywhere_keeps_the_whole_records_before_it(tmp_path: Path) -> None:
    path = tmp_path / ".run.h5.partial"
    whole = written(path)
    ends, seen = [len(MAGIC)], set()
    for record in RECORDS:
        ends.append(ends[-1] + 24 + len(record))
    assert ends[-1] == len(whole)
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        assert read(path) == RECORDS[:kept]
        seen.add(kept)
    assert seen == {0, 1, 2, 3}


def test_a_changed_byte_ends_the_journal_before_its_record(tmp_path: Path) -> None:
    path = tmp_path / "j"
    whole = written(path)
    for at in range(len(MAGIC), len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        assert read(path) == RECORDS[: 0 if at < len(MAGIC) + 24 else 1 if at < len(MAGIC) + 51 else 2]


def test_what_is_added_after_a_cut_follows_the_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "j"
    path.write_bytes(written(path)[:-1])
    journal = Journal.open(path)
    assert journal is not None
    journal.append(b"again")
    journal.close()
    assert read(path) == [*RECORDS[:2], b"again"]


def test_a_file_of_another_kind_is_kept(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"propscope journal 4\nwhat a later version wrote")
    with pytest.raises(StoreError, match="j is not a journal of this version"):
        Journal.open(tmp_path / "j")
    assert (tmp_path / "j").read_bytes().startswith(b"propscope journal 4\n")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "j"
    code = (
        "import sys; from pathlib import Path; from propscope.store.journal import Journal\n"
        "journal = Journal.open(Path(sys.argv[1])); print(journal is not None, flush=True); sys.stdin.read()"
    )
    line = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert Journal.open(path) is None
        other.kill()
        other.wait()
    # The lock ends with its process, however that ends.
    assert read(path) == []


def test_a_disk_that_takes_no_more_leaves_whole_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.open(tmp_path / "j")
    assert journal is not None
    journal.append(b"one")
    real, calls = os.write, []

    def short(descriptor: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data[:10]))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", short)
        with pytest.raises(OSError, match="No space left"):
            journal.append(b"two")
    journal.append(b"three")
    journal.close()
    assert read(tmp_path / "j") == [b"one", b"three"]


def unpacked(*packed: bytes) -> list[NetworkProfile | TrainingRun]:
    with reading("j"):
        rows = PackedRows([*map(len, packed)], lambda entry, start, stop: packed[entry][start:stop])
    return [*entries_in(TableReader("j", rows.tables()))]


def test_profiles_survive_packing() -> None:
    profiles = [*small_set()]
    assert plain(unpacked(*map(pack, profiles))) == plain(profiles)


def test_counts_beyond_32_bits_survive_packing() -> None:
    profile = small_set()[0]
    forward = profile.sites[0].forward
    assert forward is not None
    assert forward.histogram is not None
    counts = forward.histogram.counts.copy()
    counts[0] = 2**40
    many = replace(forward, count=2**41, histogram=LogHistogram(forward.histogram.bins, counts))
    profile = replace(profile, sites=(replace(profile.sites[0], forward=many), *profile.sites[1:]))
    assert plain(unpacked(pack(profile))) == plain([profile])


@pytest.mark.parametrize("payload", [b"", b"\x02" + bytes(7) + b"{}", b"\xff" * 40, pack(small_set()[0])[:-3]])
def test_a_record_of_something_else_is_one_error(payload: bytes) -> None:
    with pytest.raises(StoreError, match="j is "):
        unpacked(payload)
