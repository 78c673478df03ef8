"""The file of a run: it grows in a journal that can be read meanwhile, and holds in the end what `save` would write."""

from __future__ import annotations

import errno
import random
import tracemalloc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pytest
from building.command_line import Command
from building.records import masking_profile, plain, small_profile, small_set, small_training

from propscope.errors import InputError, StoreError
from propscope.records import ProfileSet, TrainingSet
from propscope.store import RunFile, begin, load, merge, open_networks, packed, save
from propscope.store.journal import Journal

SETS = {"profiles": small_set, "trainings": small_training}


def running(path: Path, networks: int, command: str = "profile", **options: Any) -> RunFile:
    usual = {"overwrite": False, "resume": False, "named": True}
    return begin([path], {"command": command}, lambda _: None, networks=networks, **{**usual, **options})


def columns(path: Path) -> dict[str, list[Any]]:
    with h5py.File(path) as file:
        found: dict[str, list[Any]] = {}
        for table, group in file.items():
            found |= {f"{table}/{name}": [repr(one) for one in column[:].tolist()] for name, column in group.items()}
        return found


@contextmanager
def unfinished(part: str) -> Iterator[None]:
    with pytest.warns(UserWarning, match=rf"partial is unfinished: {part}"):
        yield


@pytest.mark.parametrize("most", [1, 1 << 24], ids=["one at a time", "all at once"])
@pytest.mark.parametrize("made", SETS)
def test_the_file_of_a_run_holds_what_save_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, most: int
) -> None:
    monkeypatch.setattr(packed, "_WRITTEN", most)
    entries = [*SETS[made]()]
    numbered = [*enumerate(entries)]
    random.Random(0).shuffle(numbered)
    with running(tmp_path / "run.h5", len(entries)) as file:
        for number, entry in numbered:
            file.add(number, entry if number % 2 else packed.pack(entry))
        assert plain([*file.entries()]) == plain(entries)
        file.save(unfinished=False)
    save(tmp_path / "saved.h5", SETS[made]())
    assert columns(tmp_path / "run.h5") == columns(tmp_path / "saved.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", "saved.h5"}


def test_some_entries_in_another_order(tmp_path: Path) -> None:
    entries = [*small_set()]
    with running(tmp_path / "run.h5", len(entries)) as file:
        for number, entry in enumerate(entries):
            file.add(number, entry)
        file.save([2, 0], unfinished=False)
    assert plain([*load(tmp_path / "run.h5")]) == plain([entries[2], entries[0]])


def test_what_is_kept_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_WRITTEN", 1 << 18)
    profile = packed.pack(masking_profile())
    with running(tmp_path / "run.h5", 3000, overwrite=True) as file:
        file.add(0, profile)
        tracemalloc.start()
        try:
            for number in range(1, 3000):
                file.add(number, profile)
            grown, _ = tracemalloc.get_traced_memory()
            # A chunk is in memory while the file is written, and the columns of HDF5, whatever their number.
            tracemalloc.reset_peak()
            file.save(range(1000), unfinished=True, keep_journal=True)
            _, third = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            file.save(range(3000), unfinished=True)
            _, whole = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert len(profile) > 2000
    assert grown < 300 * 3000
    assert whole - third < 600 * 2000


@pytest.mark.parametrize("name", ["run.h5", ".run.h5.partial"])
@pytest.mark.parametrize("made", SETS)
def test_a_run_is_read_while_it_grows(tmp_path: Path, made: str, name: str) -> None:
    entries = [*SETS[made]()]
    with running(tmp_path / "run.h5", 9, "train" if made == "trainings" else "profile") as file:
        with unfinished("0 of 9"):
            assert len(load(tmp_path / name)) == 0
        for number in (1, 0):
            file.add(number, entries[number])
        half = (tmp_path / ".run.h5.partial").read_bytes() + b"\x90\x01" + bytes(30)
        (tmp_path / ".run.h5.partial").write_bytes(half)
        with unfinished("2 of 9 training runs" if made == "trainings" else "2 of 9 networks"):
            assert plain(load(tmp_path / name)) == plain(SETS[made]()[:2])
        with unfinished("2 of 9"):
            assert plain(load(tmp_path / name, seed=entries[1].labels["seed"])) in (
                plain(SETS[made]()[:2]),
                plain(SETS[made]()[1:2]),
            )
        with unfinished("2 of 9"), open_networks(tmp_path / name) as networks:
            assert len([*networks]) > 0
        # What was read is what it was: nothing is cut off, nothing is locked.
        assert (tmp_path / ".run.h5.partial").read_bytes() == half
        file.add(2, entries[0])
        with unfinished("3 of 9"):
            assert len(load(tmp_path / name)) == 3
    with unfinished("3 of 9"):
        assert len(load(tmp_path / name)) == 3


@pytest.mark.parametrize("rows", [1, 7, 1 << 16])
def test_rows_are_read_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(packed, "_ROWS", rows)
    for number, (name, make) in enumerate(SETS.items()):
        path, expected = tmp_path / f"{number}.h5", make()
        with running(path, 99) as file:
            for at, entry in enumerate(expected):
                file.add(at, entry)
            with unfinished("[1-9]"):
                assert plain(load(path)) == plain(expected)
            axes = {key: values[-1] for key, values in expected.axes.items()}
            with unfinished("[1-9]"):
                assert plain(load(path, **axes)) == plain(expected.subset(**axes)), name
            with unfinished("[1-9]"):
                merge([path], tmp_path / f"{number}-merged.h5")
        save(tmp_path / f"{number}-saved.h5", expected)
        assert columns(tmp_path / f"{number}-merged.h5") == columns(tmp_path / f"{number}-saved.h5")


def test_the_file_is_read_once_it_is_there(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_profile())
    with running(tmp_path / "run.h5", 5, overwrite=True) as file:
        file.add(0, small_profile(seed=1))
        file.add(1, small_profile(seed=2))
        # The journal is named by itself only.
        assert len(load(tmp_path / "run.h5")) == 1
        with unfinished("2 of 5"):
            assert len(load(tmp_path / ".run.h5.partial")) == 2
        file.save(unfinished=False)
    assert len(load(tmp_path / "run.h5")) == 2
    with pytest.raises(StoreError, match=r"there is no file .*partial"):
        load(tmp_path / ".run.h5.partial")


def test_two_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    with running(tmp_path / "run.h5", 5) as one, running(tmp_path / "run.h5", 6) as other:
        one.add(0, small_profile())
        other.add(0, small_profile(seed=1))
        with pytest.raises(StoreError, match=r"no file .*run\.h5, but 2 runs of it") as raised:
            load(tmp_path / "run.h5")
        assert ".run.h5.2.partial" in raised.value.hint
        with unfinished("1 of 6"):
            assert plain([*load(tmp_path / ".run.h5.2.partial")]) == plain([small_profile(seed=1)])


@pytest.mark.parametrize(
    "content", [b"", b"propscope journal 3\n", b"propscope journal 1\nwhat was before", b"a picture"]
)
def test_what_is_no_journal_is_one_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".run.h5.partial").write_bytes(content)
    for name in ("run.h5", ".run.h5.partial"):
        with pytest.raises(StoreError, match=r"\.run\.h5\.partial is (not a journal|truncated or damaged)"):
            load(tmp_path / name)
    assert (tmp_path / ".run.h5.partial").read_bytes() == content


def test_a_disk_that_takes_no_more_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [*small_set()]
    with running(tmp_path / "run.h5", len(entries)) as file:
        file.add(0, entries[0])

        def full(self: Journal, payload: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", full)
            for number, entry in enumerate(entries[1:], 1):
                file.add(number, entry)
        file.save(unfinished=False)
    assert capsys.readouterr().err.count("No space left on device; the run goes on") == 1
    assert plain(load(tmp_path / "run.h5")) == plain(small_set())
    assert [path.name for path in tmp_path.iterdir()] == ["run.h5"]


def test_a_value_that_fits_no_column_is_known_when_it_is_kept(tmp_path: Path) -> None:
    for labels in ({"activation": "a\0b"}, {"activation": "\ud800"}):
        wrong = ProfileSet.of([small_profile()])[0]
        object.__setattr__(wrong, "labels", {**wrong.labels, **labels})
        with running(tmp_path / "run.h5", 1) as file, pytest.raises(InputError):
            file.add(0, wrong)


def test_commands_read_a_growing_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = Command(capsys)
    path, profiles = tmp_path / "run.h5", small_set()
    save(tmp_path / "whole.h5", profiles)
    with running(path, 99) as file:
        for number, entry in enumerate(profiles):
            file.add(number, entry)
        said = f"{tmp_path}/.run.h5.partial is unfinished: {len(profiles)} of 99 networks\n"
        for name in ("show", "diagnose"):
            expected = command(name, tmp_path / "whole.h5")
            for read in (path, tmp_path / ".run.h5.partial"):
                outcome = command(name, read)
                assert (outcome.code, outcome.out, outcome.err) == (0, expected.out, said)
        outcome = command("plot", tmp_path / ".run.h5.partial", "--plots", "curves")
        assert (outcome.code, outcome.err) == (0, said)
        assert (tmp_path / "run-curves.png").exists()


def test_a_set_of_trainings_stays_one(tmp_path: Path) -> None:
    with running(tmp_path / "run.h5", 2, "train") as file:
        for number, run in enumerate(small_training()):
            file.add(number, run)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert isinstance(load(tmp_path / "run.h5"), TrainingSet)
