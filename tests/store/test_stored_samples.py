"""The samples of a run lie in its file: what is asked of them is what they hold, and no more is read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from building.records import kept, plain, small_monitored

from propscope.errors import InputError, StoreError
from propscope.records import MonitoredRun, NetworkProfile, Site, TensorSummary
from propscope.records.figures import SUMMARIES, TABLES
from propscope.records.samples import Samples
from propscope.store import MonitoredFile, load, save
from propscope.store.stored_samples import StoredSamples
from propscope.store.table_reader import TableReader


def grown() -> MonitoredRun:
    """A run whose third sample has a site more, and whose first one was superseded."""
    run = kept(small_monitored(0, 8))
    more = Site("expert", "Linear", "other", (2,), forward=TensorSummary.of([3.0, -3.0]))
    third = replace(run[2], sites=(*run[2].sites, more))
    first = replace(run[0], labels={"superseded_step": 0})
    return replace(run, profiles=(first, run[1], third, run[3]))


def saved(path: Path, run: MonitoredRun) -> MonitoredRun:
    save(path, run)
    found = load(path)
    assert isinstance(found, MonitoredRun)
    assert isinstance(found.profiles, Samples)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, int]]]:
    """What is read: table, column and number of rows."""
    found: list[tuple[str, str, int]] = []
    pick = TableReader.pick

    def noted(tables: TableReader, table: Any, column: str, rows: Any) -> Any:
        found.append((table, column, len(rows)))
        return pick(tables, table, column, rows)

    monkeypatch.setattr(TableReader, "pick", noted)
    yield found
    assert found


def test_samples_are_those_that_were_written(tmp_path: Path) -> None:
    run = grown()
    found = saved(tmp_path / "run.h5", run)
    assert (len(found), found.axes) == (4, run.axes)
    assert plain(found) == plain(run)
    assert [plain(one) for one in found] == [plain(one) for one in run]
    assert plain(found[2]) == plain(run[2])
    assert plain(found[-1]) == plain(run[-1])
    assert plain(found[1:3].profiles) == plain(run.profiles[1:3])
    assert plain(found[::-2].profiles) == plain(run.profiles[::-2])
    assert plain(found.select(step=4)) == plain(run[2])
    assert plain(found.subset(step=[6, 2]).profiles) == plain((run[1], run[3]))
    assert [[*key] for key in found.groups("step")] == [[("superseded_step", 0)], []]
    assert plain((found + run).profiles) == plain((*run, *run))
    with pytest.raises(IndexError):
        found[4]
    with pytest.raises(InputError, match="no sample has step 3"):
        found.select(step=3)


def test_a_run_is_opened_without_its_samples_and_a_step_reads_its_own_rows(
    tmp_path: Path, read: list[tuple[str, str, int]]
) -> None:
    save(tmp_path / "run.h5", kept(small_monitored(0, 80)))
    run = load(tmp_path / "run.h5")
    assert isinstance(run, MonitoredRun)
    assert (len(run), run.axes["step"][-1], len(run.steps), len(run.alarms)) == (40, 78, 80, 2)
    assert {(table, column) for table, column, _ in read if table not in ("step", "alarm")} == {("profile", "labels")}
    read.clear()
    assert isinstance(run.select(step=12), NetworkProfile)
    assert {(table, rows) for table, _, rows in read if table != "histogram"} == {
        ("profile", 1),
        ("site", 2),
        ("parameter", 1),
    }
    read.clear()
    assert isinstance(run[5], NetworkProfile)
    assert max(rows for table, _, rows in read if table != "histogram") == 2


def test_a_quantity_over_steps_reads_its_column_and_the_names(tmp_path: Path, read: list[tuple[str, str, int]]) -> None:
    run = saved(tmp_path / "run.h5", kept(small_monitored(0, 80)))
    read.clear()
    assert run.over_steps("forward_max").values.shape == (40, 2)
    assert {column for table, column, _ in read if table == "site"} == {"name", "forward_max"}
    assert {column for table, column, _ in read if table == "profile"} == {"site_start", "site_count"}
    assert {table for table, _, _ in read} == {"site", "profile"}
    read.clear()
    assert len(run.histograms_over_steps("layers.0").histograms) == 40
    assert sum(rows for table, _, rows in read if table == "histogram") == 2 * sum(
        len(each.bins) for each in run.histograms_over_steps("layers.0").histograms
    )


@pytest.mark.parametrize("make", [grown, lambda: kept(small_monitored(0, 8)), lambda: small_monitored(1, 1)])
def test_every_quantity_over_steps_is_that_of_the_samples(tmp_path: Path, make: Any) -> None:
    run = make()
    stored = saved(tmp_path / "run.h5", run)
    for table in SUMMARIES:
        for field in TABLES[table]:
            if field.dtype in ("int64", "float64") and field.name != "index":
                found, expected = (each.over_steps(field.name, table=table) for each in (stored, run))
                assert (found.steps.tolist(), found.names) == (expected.steps.tolist(), expected.names)
                # An rms is stored as it was computed.
                np.testing.assert_allclose(found.values, expected.values, rtol=1e-15)
                assert found.steps.dtype == np.int64


@pytest.mark.parametrize("part", ["forward", "backward", "jacobian"])
def test_histograms_over_steps_are_those_of_the_samples(tmp_path: Path, part: str) -> None:
    run = grown()
    found, expected = saved(tmp_path / "run.h5", run), run
    for name in ("layers.0", "expert"):
        mine, other = found.histograms_over_steps(name, part), expected.histograms_over_steps(name, part)
        assert mine.steps.tolist() == other.steps.tolist()
        assert plain(mine.histograms) == plain(other.histograms)
    with pytest.raises(InputError, match=r'unknown site "layers\.9"'):
        found.histograms_over_steps("layers.9")
    with pytest.raises(InputError, match='unknown quantity "rms"'):
        found.over_steps("rms")


@pytest.mark.parametrize("table", ["site", "parameter", "profile"])
def test_a_frame_is_that_of_the_samples(tmp_path: Path, table: Any) -> None:
    pandas = pytest.importorskip("pandas")
    for number, run in enumerate((kept(small_monitored(0, 8)), grown())):
        found = saved(tmp_path / f"{number}.h5", run)
        # Where samples differ in their labels, pandas puts those that come later behind the columns.
        mixed = len(run.axes) > 1
        pandas.testing.assert_frame_equal(found.to_frame(table), run.to_frame(table), check_like=mixed)


def test_a_run_is_read_from_its_journal_sample_by_sample_and_stays_what_it_was(tmp_path: Path) -> None:
    file = MonitoredFile(tmp_path / "run.h5")
    for first in (0, 2, 4):
        file.add(small_monitored(first, 2))
    with pytest.warns(UserWarning, match="unfinished"):
        growing = load(tmp_path / "run.h5")
    file.add(small_monitored(6, 2))
    file.save()
    closed = load(tmp_path / "run.h5")
    (tmp_path / "run.h5").unlink()
    for run, count in ((growing, 3), (closed, 4)):
        assert isinstance(run, MonitoredRun)
        assert run.over_steps("forward_max").steps.tolist() == [*range(0, 2 * count, 2)]
        assert plain(run.profiles) == plain(kept(small_monitored(0, 2 * count)).profiles)


def test_a_copy_for_another_process_holds_its_samples(tmp_path: Path) -> None:
    run = saved(tmp_path / "run.h5", kept(small_monitored()))
    copied = pickle.loads(pickle.dumps(run))
    assert isinstance(copied.profiles, tuple)
    assert plain(copied) == plain(run)


def test_a_damaged_sample_is_refused_when_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(tmp_path / "run.h5", kept(small_monitored()))
    pick = TableReader.pick

    def damaged(tables: TableReader, table: Any, column: str, rows: Any) -> Any:
        found = pick(tables, table, column, rows)
        return found - 9 if column == "forward_count" else found

    monkeypatch.setattr(TableReader, "pick", damaged)
    assert isinstance(run.profiles, StoredSamples)
    for ask in (lambda: run[0], lambda: [*run], lambda: run.over_steps("forward_count"), lambda: run.to_frame()):
        with pytest.raises(StoreError, match=r"run\.h5 is truncated or damaged: table site, row 0, column forward"):
            ask()
