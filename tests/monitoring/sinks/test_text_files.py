"""CSV and JSON lines are read back as they were written, also after a kill, a full disk, and a resumed run."""

import csv
import json
import math

import pandas
import pytest
from building.trainings import steps_of, training

import propscope
from propscope.monitoring.sinks import CsvSink, JsonLinesSink
from propscope.records.monitored import Alarm

ALARM = Alarm(7, 5, "large update", "", "head.weight", 0.5, math.nan, "broken", 'it said "no", twice')
SAID = 'step 7: large update (broken, since step 5): it said "no", twice'
VALUES = {"loss": 2.5, "activation/max_rms": math.inf, "gradient/min_rms": -math.inf}


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


def test_both_hold_the_samples_and_alarms_of_a_run(tmp_path):
    run = training()
    sinks = [f"csv:{tmp_path / 'x.csv'}", f"jsonl:{tmp_path / 'x.jsonl'}:sites=all"]
    with propscope.monitor(run.model, run.optimizer, every=2, sinks=sinks) as monitor:
        steps_of(run, monitor, 5, broken=[4])
    frame = pandas.read_csv(tmp_path / "x.csv")
    assert frame.step.tolist() == [0, 2, 4, 4]
    samples = frame[frame.alarm.isna()]
    assert samples.loss.tolist() == monitor.steps.loss[::2].tolist()
    assert samples.gradient_norm.tolist()[2] == math.inf
    (alarm,) = frame.alarm.dropna()
    assert alarm.startswith("step 4: non-finite gradient (broken): the gradient of tokens.weight")
    found = lines(tmp_path / "x.jsonl")
    assert [one["step"] for one in found] == [0, 2, 4, 4]
    assert found[3]["gradient_norm"] == "inf"
    assert "activation/blocks.0.feed.1/rms" in found[0]
    assert found[2]["alarm"]["kind"] == "non-finite gradient"
    assert found[2]["alarm"]["parameter"] == "tokens.weight"
    assert found[2]["alarm"]["baseline"] is None


def test_the_columns_are_those_of_the_first_sample_and_later_ones_stand_behind_them(tmp_path):
    sink = CsvSink(tmp_path / "x.csv")
    sink.alarm(ALARM)
    sink.write(8, VALUES)
    sink.write(9, {"loss": math.nan, "late": 0.1})
    sink.write(10, {"late": 1e-300})
    sink.close()
    found = rows(tmp_path / "x.csv")
    assert list(found[0]) == ["step", "alarm", *VALUES, "late"]
    assert [one["step"] for one in found] == ["7", "8", "9", "10"]
    assert found[0]["alarm"] == SAID
    assert {name: float(found[1][name]) for name in VALUES} == VALUES
    assert (found[2]["loss"], found[2]["late"], found[3]["loss"], float(found[3]["late"])) == ("nan", "0.1", "", 1e-300)
    assert pandas.read_csv(tmp_path / "x.csv").shape == (4, 6)
    assert [one.name for one in tmp_path.iterdir()] == ["x.csv"]


@pytest.mark.parametrize(("kind", "read"), [(CsvSink, rows), (JsonLinesSink, lines)])
def test_a_name_that_is_taken_is_left_alone_but_a_resumed_run_goes_on_in_its_file(tmp_path, capsys, kind, read):
    path = tmp_path / "x.txt"
    one = kind(path)
    one.write(1, VALUES)
    one.close()
    other = kind(path)
    other.write(1, {"loss": 3.0})
    other.close()
    assert len(read(path)) == len(read(tmp_path / "x-2.txt")) == 1
    assert f"{path} is there already; this run is written to {tmp_path / 'x-2.txt'}" in capsys.readouterr().err
    # What a process that was killed left of its last line.
    with path.open("ab") as file:
        file.write(b'{"step": 2, "los')
    resumed = kind(path)
    resumed.resume(1)
    resumed.write(1, VALUES | {"new": 4.0})
    resumed.alarm(ALARM)
    resumed.close()
    assert [int(one["step"]) for one in read(path)] == [1, 1, 7]
    assert float(read(path)[1]["new"]) == 4.0
    fresh = kind(tmp_path / "fresh.txt")
    fresh.resume(1)
    fresh.write(1, VALUES)
    fresh.close()
    assert len(read(tmp_path / "fresh.txt")) == 1


class Full:
    """The file of a disk that takes so many bytes more."""

    def __init__(self, file, room):
        self._file, self.room = file, room

    def write(self, data):
        taken = self._file.write(bytes(data[: self.room]))
        self.room -= taken
        if not taken:
            raise OSError(28, "No space left on device")
        return taken

    def __getattr__(self, name):
        return getattr(self._file, name)


@pytest.mark.parametrize(("kind", "read"), [(CsvSink, rows), (JsonLinesSink, lines)])
def test_a_disk_that_takes_a_part_of_a_line_keeps_none_of_it(tmp_path, kind, read):
    path = tmp_path / "x.txt"
    sink = kind(path)
    sink.write(1, VALUES)
    sink._lines._file = full = Full(sink._lines._file, 9)
    with pytest.raises(OSError, match="No space left"):
        sink.write(2, VALUES)
    assert [int(one["step"]) for one in read(path)] == [1]
    full.room = 10_000
    sink.write(3, VALUES)
    assert [int(one["step"]) for one in read(path)] == [1, 3]
    sink.close()


def test_a_name_of_a_site_cannot_break_a_line(tmp_path):
    for kind in (CsvSink, JsonLinesSink):
        sink = kind(tmp_path / "x")
        sink.write(1, {"activation/a\nb\udcff,\x1b/rms": 1.0})
        sink.write(2, {"activation/a\nb\udcff,\x1b/rms": 2.0})
        sink.close()
    assert len((tmp_path / "x").read_text().splitlines()) == 3
    assert [one["step"] for one in lines(tmp_path / "x-2")] == [1, 2]
