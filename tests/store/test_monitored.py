"""A monitored run in a file: read whole or in part, merged, kept piece by piece, and made whole after a kill."""

from __future__ import annotations

import errno
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from building.records import (
    DATA,
    few_examples,
    kept,
    masking_profile,
    monitored_runs,
    plain,
    small_monitored,
    small_set,
    small_training,
)
from hypothesis import given

from propscope.errors import InputError, StoreError
from propscope.records import MonitoredRun, NetworkProfile, ProfileSet, Site
from propscope.records.figures import ALARM_FIELDS, STEP_FIELDS
from propscope.records.monitored import no_steps
from propscope.store import SCHEMA_VERSION, MonitoredFile, compact, load, merge, open_networks, save
from propscope.store.journal import Journal, journal_name


@given(run=monitored_runs)
@few_examples
def test_what_is_saved_is_loaded(run: MonitoredRun, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    save(path, run)
    assert plain(load(path)) == plain(run)


def test_a_step_is_selected_with_its_sites_and_parameters(tmp_path: Path) -> None:
    run = small_monitored()
    save(tmp_path / "run.h5", run)
    found = load(tmp_path / "run.h5")
    assert isinstance(found, MonitoredRun)
    sample = found.select(step=2)
    assert isinstance(sample, NetworkProfile)
    assert plain(sample) == plain(run.profiles[1])
    part = load(tmp_path / "run.h5", step=2)
    assert isinstance(part, MonitoredRun)
    assert plain(part) == plain(replace(run, profiles=run.profiles[1:]))
    assert plain(part.steps) == plain(run.steps)
    assert plain(part.alarms) == plain(run.alarms)
    with open_networks(tmp_path / "run.h5") as networks:
        assert [dict(one.axes) for one in networks] == [{"step": (0,)}, {"step": (2,)}]
    assert "2 alarms" in str(found)
    assert "collapse" in str(found)


def test_the_profiles_of_other_files_are_no_run(tmp_path: Path) -> None:
    save(tmp_path / "set.h5", small_set())
    assert type(load(tmp_path / "set.h5")) is ProfileSet


@pytest.mark.parametrize("version", range(5, SCHEMA_VERSION + 1))
def test_every_version_stays_readable(version: int) -> None:
    expected = small_monitored()
    if version < 6:
        steps = replace(expected.steps, monitor_share=np.full(4, np.nan), judged=np.full(4, -1))
        alarms = tuple(replace(alarm, superseded=-1) for alarm in expected.alarms)
        expected = replace(expected, steps=steps, alarms=alarms)
    assert plain(load(DATA / f"schema-{version}-monitored.h5")) == plain(expected)


def test_the_step_of_a_sample_is_a_column(tmp_path: Path) -> None:
    save(tmp_path / "run.h5", small_monitored().superseded_from(2))
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["profile/step"][:].tolist() == [0, -1]


def test_files_merge_and_what_is_there_twice_is_written_once(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_monitored())
    save(tmp_path / "b.h5", small_monitored(4))
    save(tmp_path / "c.h5", small_set())
    merge([tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "c.h5"], tmp_path / "all.h5")
    expected = small_monitored() + small_monitored(4) + small_set()
    assert plain(load(tmp_path / "all.h5")) == plain(expected)
    merge([tmp_path / "b.h5", tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "again.h5")
    found = load(tmp_path / "again.h5")
    assert isinstance(found, MonitoredRun)
    assert found.steps.number.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert plain(found.alarms) == plain(small_monitored(4).alarms + small_monitored().alarms)


def test_two_runs_are_not_mixed(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_monitored())
    other = small_monitored()
    save(tmp_path / "b.h5", replace(other, steps=replace(other.steps, loss=other.steps.loss + 1)))
    with pytest.raises(InputError, match="two monitored runs: both have a step 1, and it differs") as refused:
        merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    assert refused.value.hint == "leave each run in its own file"
    assert not (tmp_path / "all.h5").exists()
    again = small_monitored().superseded_from(2) + small_monitored(2)
    save(tmp_path / "c.h5", again)
    merge([tmp_path / "c.h5", tmp_path / "c.h5"], tmp_path / "all.h5")
    found = load(tmp_path / "all.h5")
    assert isinstance(found, MonitoredRun)
    assert plain((found.steps, found.alarms)) == plain((again.steps, again.alarms))


def test_a_run_merges_with_trainings(tmp_path: Path) -> None:
    save(tmp_path / "a.h5", small_training())
    save(tmp_path / "b.h5", small_monitored())
    merge([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "all.h5")
    assert plain(load(tmp_path / "all.h5")) == plain(small_training())
    with h5py.File(tmp_path / "all.h5") as file:
        for field in STEP_FIELDS:
            column = file[f"step/{field.name}"]
            found = column.asstr()[:] if h5py.check_string_dtype(column.dtype) else column[:]
            np.testing.assert_array_equal(found, getattr(small_monitored().steps, field.name))
        assert len(file["alarm/step"]) == len(small_monitored().alarms)


def test_of_a_sample_each_number_keeps_24_bits_and_its_range(tmp_path: Path) -> None:
    # One third, the largest number, and one that has no 24 bits any more once it is rounded.
    numbers = {"mean": 1 / 3, "std": 1e-300, "min": -1e300, "max": sys.float_info.max, "zero_fraction": 1 - 2.0**-30}
    sample = small_monitored()[0]
    first, second = sample.sites
    assert first.forward is not None
    first = replace(first, forward=replace(first.forward, **numbers), effective_rank=1 / 7, largest_logit=math.inf)
    file = MonitoredFile(tmp_path / "run.h5")
    file.add(replace(small_monitored(), profiles=(replace(sample, sites=(first, second)),)))
    file.save()
    run = load(tmp_path / "run.h5")
    assert isinstance(run, MonitoredRun)
    found = run[0].sites[0]
    assert found.forward is not None
    assert found.forward.mean == float(np.float32(1 / 3))
    assert found.forward.std == pytest.approx(1e-300, rel=2**-24)
    assert (found.forward.max, found.forward.zero_fraction) == (sys.float_info.max, 1.0)
    assert (found.effective_rank, found.largest_logit) == (float(np.float32(1 / 7)), math.inf)
    assert math.isnan(run.steps.loss[0])
    assert run.steps.loss[2] == 2 / 3


def test_a_sample_more_takes_the_space_of_what_changed(tmp_path: Path) -> None:
    def size(samples: int) -> int:
        sites = tuple(replace(masking_profile().sites[0], name=f"blocks.{n}.{'x' * 40}") for n in range(100))
        profile = replace(masking_profile(), sites=sites, parameters=())
        run = MonitoredRun(tuple(replace(profile, labels={"step": step}) for step in range(samples)))
        save(tmp_path / "run.h5", replace(run, steps=small_monitored().steps), overwrite=True)
        return (tmp_path / "run.h5").stat().st_size

    # Here nothing changes but the step and the place of the histograms; the names alone have 5 kB.
    assert size(220) - size(20) < 200 * 700


def pieces() -> list[MonitoredRun]:
    return [kept(small_monitored(first, 2)) for first in (0, 2, 4)]


def whole() -> MonitoredRun:
    first, second, third = pieces()
    return first + second + third


def started(path: Path) -> MonitoredFile:
    file = MonitoredFile(path)
    for piece in pieces():
        file.add(piece)
    return file


@pytest.mark.parametrize("name", ["run.h5", ".run.h5.partial"])
def test_a_run_is_read_while_it_grows(tmp_path: Path, name: str) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    for number, piece in enumerate(pieces(), 1):
        file.add(piece)
        with pytest.warns(UserWarning, match=f"unfinished: {number} pieces of a monitored run"):
            found = load(tmp_path / name)
    assert plain(found) == plain(whole())
    file.save()
    assert [one.name for one in tmp_path.iterdir()] == ["run.h5"]
    assert plain(load(tmp_path / "run.h5")) == plain(whole())


def test_a_kill_at_any_byte_costs_at_most_the_piece_that_was_being_written(tmp_path: Path) -> None:
    file, ends = MonitoredFile(tmp_path / "run.h5"), []
    journal = journal_name(tmp_path / "run.h5", 1)
    for piece in pieces():
        file.add(piece)
        ends.append(journal.stat().st_size)
    content = journal.read_bytes()
    parts = pieces()
    expected = {ends[0]: parts[0], ends[1]: parts[0] + parts[1], ends[2]: whole()}
    for at in sorted({*ends, *range(ends[0], ends[2], 4999), ends[1] - 1, ends[2] - 1}):
        place = tmp_path / str(at)
        place.mkdir()
        (place / journal.name).write_bytes(content[:at])
        assert compact(place / "run.h5") == place / "run.h5"
        assert plain(load(place / "run.h5")) == plain(expected[max(end for end in ends if end <= at)])
        assert len([*place.iterdir()]) == 1


def blocks(count: int, **changes: Any) -> tuple[Site, ...]:
    first = kept(small_monitored())[0].sites[0]
    return tuple(replace(first, name=f"blocks.{number}.{'x' * 40}", **changes) for number in range(count))


def journal_of(path: Path, run: MonitoredRun) -> tuple[list[int], MonitoredFile]:
    """Return the bytes that each sample takes in the journal."""
    file, sizes = MonitoredFile(path), [0]
    for sample in run:
        file.add(replace(run, profiles=(sample,), steps=no_steps(), alarms=()))
        sizes.append(journal_name(path, 1).stat().st_size)
    return np.diff(sizes).tolist(), file


def test_the_journal_has_what_is_the_same_in_every_sample_once(tmp_path: Path) -> None:
    sample = replace(kept(small_monitored())[0], sites=blocks(100), parameters=())
    bare = tuple(replace(site, forward=None, jacobian=None, effective_rank=1 / 3) for site in sample.sites)
    samples = [replace(sample, sites=bare if step % 3 else blocks(100), labels={"step": step}) for step in range(9)]
    sizes, file = journal_of(tmp_path / "run.h5", MonitoredRun(tuple(samples)))
    # A name alone has 50 bytes; the first sample with histograms and the first one without are written in full.
    assert min(sizes[:2]) > 100 * 50
    assert all(size < 100 * 4 + 1000 for step, size in enumerate(sizes) if step > 1 and step % 3)
    file.save()
    assert plain(load(tmp_path / "run.h5").profiles) == plain(kept(MonitoredRun(tuple(samples))).profiles)


def test_a_number_of_64_bits_and_a_network_that_changes_are_kept_in_the_journal(tmp_path: Path) -> None:
    base = replace(kept(small_monitored())[0], parameters=())
    sizes = [3, 3, 5, 3, 5, 1, 3]
    changes = [
        {},
        {"effective_rank": 2.0**900},
        {"samples": 2**40},
        {"effective_rank": 2.0**-900},
        {},
        {},
        {"units": None},
    ]
    samples = [
        replace(base, sites=blocks(count, **change), labels={"step": step})
        for step, (count, change) in enumerate(zip(sizes, changes, strict=True))
    ]
    _, file = journal_of(tmp_path / "run.h5", MonitoredRun(tuple(samples)))
    with pytest.warns(UserWarning, match="unfinished: 7 pieces"):
        growing = load(tmp_path / "run.h5")
    assert isinstance(growing, MonitoredRun)
    assert plain(growing.profiles) == plain(tuple(samples))
    assert plain(growing[::-2].profiles) == plain(tuple(samples[::-2]))
    assert plain(growing[3]) == plain(samples[3])
    assert growing.over_steps("samples").values[2].tolist() == [2**40] * 5
    file.save()
    assert plain(load(tmp_path / "run.h5").profiles) == plain(growing.profiles)


def test_a_piece_whose_writing_was_interrupted_is_written_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    append = Journal.append

    def interrupted(journal: Journal, payload: bytes) -> None:
        monkeypatch.setattr(Journal, "append", append)
        if len(journal):
            raise KeyboardInterrupt
        append(journal, payload)
        monkeypatch.setattr(Journal, "append", interrupted)

    monkeypatch.setattr(Journal, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        file.add(small_monitored(0, 2))
    file.add(small_monitored(2, 2))
    file.add(small_monitored(4, 2))
    file.save()
    assert [one.labels["step"] for one in load(tmp_path / "run.h5")] == [0, 2, 4]


def test_a_complete_file_is_never_written_over_by_what_is_left_of_a_journal(tmp_path: Path) -> None:
    path, journal = tmp_path / "run.h5", journal_name(tmp_path / "run.h5", 1)
    file = started(path)
    content = journal.read_bytes()
    file.save()
    # As a kill leaves it that comes before the journal is removed, or while a resumed run copies the earlier part.
    for size in (len(content), 300):
        journal.write_bytes(content[:size])
        assert compact(path) == path
        assert [one.name for one in tmp_path.iterdir()] == ["run.h5"]
        assert plain(load(path)) == plain(whole())
        journal.write_bytes(content[:size])
        resumed = MonitoredFile(path)
        resumed.resume(path, file.identity)
        resumed.add(small_monitored(6, 2))
        resumed.save()
        assert [one.labels for one in load(path)][:3] == [{"step": 0}, {"step": 2}, {"step": 4}]
        path.unlink()
        journal.write_bytes(content)
        compact(path)


def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.h5"
    file = MonitoredFile(path)
    file.add(small_monitored(0, 2))

    def full(journal: Journal, payload: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def shown() -> list[object]:
        with pytest.warns(UserWarning, match="unfinished"):
            return [one.labels["step"] for one in load(path)]

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        file.add(small_monitored(2, 2))
        file.add(small_monitored(4, 2))
        assert shown() == [0]
        assert file.steps.number.tolist() == [*range(6)]
    file.add(small_monitored(6, 2))
    assert shown() == [0, 2, 4, 6]
    assert file.steps.number.tolist() == [*range(8)]
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", full)
        file.add(small_monitored(8, 2))
    assert file.steps.number.tolist() == [*range(10)]
    file.save()
    assert file.steps.number.tolist() == [*range(10)]
    assert [one.labels["step"] for one in load(path)] == [0, 2, 4, 6, 8]
    assert capsys.readouterr().err.count("No space left on device; the run goes on") == 1


def test_a_run_that_goes_on_is_not_compacted_and_a_file_without_a_journal_neither(tmp_path: Path) -> None:
    file = started(tmp_path / "run.h5")
    with pytest.raises(StoreError, match="another process is writing"):
        compact(tmp_path / "run.h5")
    file.save()
    with pytest.raises(StoreError, match="there is no journal of"):
        compact(tmp_path / "run.h5")


def test_a_name_that_is_taken_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.h5"
    save(path, small_set())
    first, second = started(path), started(path)
    assert (first.path.name, second.path.name) == ("run-2.h5", "run-3.h5")
    assert capsys.readouterr().err.splitlines() == [
        f"{path} is there already; this run is written to {other.path}" for other in (first, second)
    ]
    first.save(), second.save()
    assert plain(load(path)) == plain(small_set())
    assert plain(load(tmp_path / "run-2.h5")) == plain(load(tmp_path / "run-3.h5")) == plain(whole())


def test_nothing_is_written_of_a_run_without_pieces_and_a_missing_directory_is_refused(tmp_path: Path) -> None:
    MonitoredFile(tmp_path / "run.h5").save()
    assert not [*tmp_path.iterdir()]
    with pytest.raises(StoreError, match="there is no directory"):
        MonitoredFile(tmp_path / "missing" / "run.h5")


@pytest.mark.parametrize("killed", [False, True])
def test_a_resumed_run_goes_on_in_its_file_and_marks_what_it_takes_again(tmp_path: Path, killed: bool) -> None:
    path = tmp_path / "run.h5"
    file = started(path)
    if killed:
        shutil.copy(journal_name(path, 1), tmp_path / "kept")
        file.save()
        path.unlink()
        (tmp_path / "kept").rename(journal_name(path, 1))
    else:
        file.save()
    resumed = MonitoredFile(tmp_path / "other.h5")
    resumed.resume(path, file.identity)
    resumed.add(small_monitored(2, 2))
    with pytest.warns(UserWarning, match="unfinished"):
        growing = load(path)
    resumed.save()
    for found in (growing, load(path)):
        assert isinstance(found, MonitoredRun)
        assert [one.labels for one in found] == [
            {"step": 0},
            {"superseded_step": 2},
            {"superseded_step": 4},
            {"step": 2},
        ]
        assert found.steps.number.tolist() == [0, 1, 2, 3, 4, 5, 2, 3]
        assert found.steps.superseded.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    assert [one.name for one in tmp_path.iterdir()] == ["run.h5"]


def test_the_file_of_another_run_is_not_resumed(tmp_path: Path) -> None:
    started(tmp_path / "run.h5").save()
    other = MonitoredFile(tmp_path / "run.h5")
    other.resume(tmp_path / "run.h5", "another")
    other.add(small_monitored(2, 2))
    other.save()
    assert plain(load(tmp_path / "run.h5")) == plain(whole())
    assert plain(load(tmp_path / "run-2.h5")) == plain(kept(small_monitored(2, 2)))


def test_frames_have_the_columns_of_the_tables() -> None:
    pytest.importorskip("pandas")
    run = small_monitored()
    steps = run.to_frame("step")
    assert [*steps.columns] == [field.name for field in STEP_FIELDS]
    assert steps.number.tolist() == [0, 1, 2, 3]
    alarms = run.to_frame("alarm")
    assert [*alarms.columns] == [field.name for field in ALARM_FIELDS]
    assert alarms.site.tolist() == ["", "layers.0"]
    assert run.to_frame("parameter").update_norm[0] == 0.5
    wrong: Any = "steps"
    with pytest.raises(InputError, match="table must be"):
        run.to_frame(wrong)
