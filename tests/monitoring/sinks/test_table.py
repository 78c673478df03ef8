"""Sinks by name, and what is no sink: each error says what one is."""

import gc
import subprocess
import sys
import time
import weakref

import pytest
from building.trainings import steps_of, training

import propscope
from propscope.monitoring.sinks import KINDS, CsvSink, JsonLinesSink, TensorBoardSink, sinks_of


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tensorbord:runs"], 'unknown sink "tensorbord"; valid are tensorboard, wandb, mlflow, csv, jsonl'),
        ("tensorboard", 'the sink tensorboard must be tensorboard:DIR, got "tensorboard"'),
        ("wandb:", r'the sink wandb must be wandb:PROJECT\[/NAME\], got "wandb:"'),
        (["csv:x.csv:sites=some"], 'sites of the sink csv must be "worst" or "all", got "some"'),
        (["jsonl:missing/x.jsonl"], "cannot write missing/x.jsonl: there is no directory missing"),
        (
            [print],
            'sinks must be text such as "tensorboard:runs/x", a SummaryWriter, .*, got <built-in function print>',
        ),
        (3, "sinks must be text .*, got 3"),
        ([TensorBoardSink], "sinks must be text"),
        ([sys], "sinks must be text"),
    ],
)
def test_what_is_no_sink_is_refused_and_leaves_no_monitor(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = training("lstm")
    with pytest.raises(propscope.PropscopeError, match=message):
        propscope.monitor(run.model, run.optimizer, sinks=given)
    assert list(tmp_path.iterdir()) == []
    propscope.monitor(run.model, run.optimizer).close()


class Strange:
    """A sink that asks for numbers that there are not."""

    sites = "few"

    def write(self, step, values):
        """Take nothing."""

    def alarm(self, alarm):
        """Take nothing."""


def test_a_sink_of_the_users_own_that_asks_for_other_sites_is_refused():
    with pytest.raises(propscope.PropscopeError, match='sites of the sink Strange must be "worst" or "all", got "few"'):
        sinks_of(Strange())


def test_sinks_may_be_one_or_several_and_of_one_kind_twice(tmp_path):
    path = tmp_path / "of:sites.csv"
    assert [type(sink) for sink in sinks_of(f"csv:{path}:sites=all").values()] == [CsvSink]
    found = sinks_of([one := JsonLinesSink(tmp_path / "a"), JsonLinesSink(tmp_path / "b", sites="all"), f"csv:{path}"])
    assert [*found] == ["JsonLinesSink", "JsonLinesSink (2)", f"csv:{path}"]
    assert found["JsonLinesSink"] is one
    assert [sink.sites for sink in found.values()] == ["worst", "all", "worst"]
    assert sinks_of(()) == {}


def test_what_was_opened_before_one_that_fails_is_closed(tmp_path, monkeypatch):
    closed = []
    monkeypatch.setattr(CsvSink, "close", lambda self: closed.append(self))
    mine = JsonLinesSink(tmp_path / "mine")
    monkeypatch.setattr(JsonLinesSink, "close", lambda self: closed.append(self))
    with pytest.raises(propscope.PropscopeError, match="unknown sink"):
        sinks_of([f"csv:{tmp_path / 'x'}", mine, "unknown:x"])
    assert [type(one) for one in closed] == [CsvSink]


@pytest.mark.parametrize(
    ("text", "package", "modules"),
    [
        ("tensorboard:x", "tensorboard", ("tensorboard", "torch.utils.tensorboard")),
        ("wandb:x", "wandb", ("wandb",)),
        ("mlflow:x", "mlflow", ("mlflow",)),
    ],
)
def test_a_package_that_is_missing_is_named_with_its_extra(text, package, modules, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    # An import of it fails then.
    monkeypatch.setitem(sys.modules, package, None)
    run = training("lstm")
    with pytest.raises(propscope.PropscopeError, match=f"the sink {text} needs {package}.*, which is not") as caught:
        propscope.monitor(run.model, run.optimizer, sinks=[text])
    assert caught.value.hint == f"pip install 'propscope[{package}]'"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_package_is_imported_only_where_its_sink_is_named(tmp_path, pytestconfig):
    code = (
        f"import sys; sys.path.insert(0, {str(pytestconfig.rootpath / 'tests')!r})\n"
        "import propscope\nfrom building.trainings import steps_of, training\nrun = training('lstm')\n"
        "with propscope.monitor(run.model, run.optimizer, sinks=['csv:x.csv', 'jsonl:x.jsonl']) as monitor:\n"
        "    steps_of(run, monitor, 2)\n"
        "print([name for name in ('tensorboard', 'wandb', 'mlflow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"]
    assert {one.name for one in tmp_path.iterdir()} == {"x.csv", "x.jsonl"}


def test_the_docs_name_every_sink(pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "monitoring.md").read_text()
    assert [f"`{kind.name}:{kind.target}`" for kind in KINDS if f"`{kind.name}:{kind.target}`" not in text] == []


def test_a_monitor_that_is_forgotten_closes_its_sinks(tmp_path):
    run = training("lstm")
    monitor = propscope.monitor(run.model, run.optimizer, sinks=[f"csv:{tmp_path / 'x.csv'}"])
    steps_of(run, monitor, 1)
    forgotten = weakref.ref(monitor)
    del monitor
    # Where a thread of a sink collects at this moment, a call does nothing.
    for _ in range(100):
        gc.collect()
        if forgotten() is None:
            break
        time.sleep(0.01)
    assert len((tmp_path / "x.csv").read_text().splitlines()) == 2
