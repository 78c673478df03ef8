"""What comes of a network depends neither on the engine, nor on the number of workers, nor on the order."""

import os
import warnings

import h5py
import numpy as np
import pytest
import torch
from building.records import plain
from building.training_plans import plan_of, seen
from building.works import Squares, attempts

import propscope
from propscope.cli import main
from propscope.errors import InputError, OutOfMemoryError, PropscopeError
from propscope.experiments import make_grid, run
from propscope.experiments.engine import Failure, Recipe, engine_for
from propscope.experiments.engine.choice import Here
from propscope.experiments.engine.cluster import Cluster, versions
from propscope.experiments.engine.processes import DIED, Processes
from propscope.experiments.training import run as train

GRID = {
    "depth": 3,
    "width": 16,
    "activation": "relu,gelu",
    "initializer": "he_normal,critical",
    "seeds": 2,
    "batch": 64,
}
GRID |= {"dropout": 0.2, "jacobian": 2, "norm": "none,layer"}
# Wide enough for sums in several threads.
WIDE = {"depth": 2, "width": 256, "activation": "tanh", "initializer": "orthogonal", "seeds": 2, "batch": 256}


@pytest.fixture(scope="module")
def cluster():
    """The address of a scheduler with one worker of two threads."""
    import dask
    from distributed import LocalCluster

    options = {"distributed.scheduler.allowed-failures": 0, "distributed.worker.daemon": True}
    with warnings.catch_warnings(), dask.config.set(options):
        warnings.simplefilter("ignore")
        with LocalCluster(
            n_workers=1, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
        ) as made:
            yield f"dask:{made.scheduler_address}"


def profiled(grid, **options):
    found = dict(run(grid, **options))
    assert sorted(found) == list(range(len(grid)))
    return {number: plain((p.sites, p.parameters, p.labels, p.coverage)) for number, p in found.items()}


def unlike(found, expected, where=""):
    """Where two nested tuples or dicts differ, and by what."""
    if type(found) is type(expected) and isinstance(found, (tuple, dict)) and len(found) == len(expected):
        keys = found if isinstance(found, dict) else range(len(found))
        return [each for key in keys for each in unlike(found[key], expected[key], f"{where}/{key}")]
    return [] if found == expected else [f"{where}: {found} instead of {expected}"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_engines_give_the_same_bits(cluster):
    for options in (GRID, WIDE):
        grid = make_grid(**options)
        here = profiled(grid, workers=1)
        for elsewhere in ({"workers": 2}, {"engine": cluster}):
            assert unlike(profiled(grid, **elsewhere), here) == []
    plan = plan_of(initializer="he_normal,zeros", seeds=2, dropout=0.3, learning_rate=[0.1, 0.01], profile_every=None)
    here = {number: seen(each) for number, each in train(plan, workers=1)}
    for options in ({"workers": 2}, {"engine": cluster}):
        assert {number: seen(each) for number, each in train(plan, **options)} == here


def test_nor_do_they_depend_on_the_order():
    grid = make_grid(**GRID | {"jacobian": 0})
    here = profiled(grid, workers=1)
    for number in reversed(range(len(grid))):
        ((_, p),) = run(grid, workers=1, leave_out=set(range(len(grid))) - {number})
        assert plain((p.sites, p.parameters, p.labels, p.coverage)) == here[number]


class Defaults(Squares):
    """What torch does by default where a network is run."""

    def run(self, number):
        return self.now(number)

    def now(self, number):
        made = torch.ones(2, 2)
        return torch.get_num_threads(), made.dtype, made.device.type, (made @ made).dtype


def test_a_network_here_has_what_one_in_a_worker_has_and_the_caller_keeps_its_own():
    here, threads = Here(Recipe(""), Defaults(2)), torch.get_num_threads()
    wanted = (1, torch.float32, "cpu", torch.float32)
    torch.set_num_threads(3)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.autocast("cpu"):
            before = Defaults(2).now(0)
            assert before == (3, torch.float64, "meta", torch.float64)
            assert dict(here.outcomes()) == {0: wanted, 1: wanted}
            assert here.ask("now", 0) == wanted
            assert Recipe(f"{__name__}:made_as").make() == wanted
            assert Defaults(2).now(0) == before
        torch.set_default_dtype(torch.float32)
        with torch.autocast("cpu"):
            assert Defaults(2).now(0)[-1] == torch.bfloat16
            assert here.ask("now", 0) == wanted
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(torch.float32)


def made_as():
    return Defaults(2).now(0)


def contents(path):
    """Everything that a file holds, but for when and how long it was made, and the commit of where a worker runs."""
    found = {}

    def note(name, item):
        if isinstance(item, h5py.Dataset) and not name.endswith(("_seconds", "created", "commit")):
            values = item[()]
            found[name] = np.asarray(values).tobytes() if values.dtype != object else values.tolist()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


COMMANDS = {
    "profile": ("profile", "--depth", "3", "--width", "8", "--init", "he_normal,zeros", "--seeds", "3", "--batch", "8"),
    "train": ("train", "--depth", "1", "--width", "4", "--data", "moons", "--rows", "60", "--epochs", "2",
              "--seeds", "2", "--init", "he_normal,zeros", "--lr", "0.1,0.01"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("name", COMMANDS)
def test_files_are_the_same(name, cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ways = {"here": ["--workers", "1"], "two": ["--workers", "2"], "dask": ["--engine", cluster]}
    for way, options in ways.items():
        assert main([*COMMANDS[name], "--plots", "none", *options, "-o", f"{way}.h5"]) == 0, capsys.readouterr()
    first = contents("here.h5")
    assert len(first) > 50
    for way in ways:
        other = contents(f"{way}.h5")
        assert {key for key in first.keys() | other.keys() if first.get(key) != other.get(key)} == set()


# A cluster


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_what_fails_on_a_cluster_costs_its_network(cluster, tmp_path):
    misbehave = {2: "die", 5: "fail"}
    recipe = Recipe("building.works:Squares", {"networks": 8, "place": str(tmp_path), "misbehave": misbehave})
    with engine_for(recipe, engine=cluster) as engine:
        found = dict(engine.outcomes())
    wanted = {number: number**2 for number in range(8)}
    assert found == wanted | {2: Failure(DIED), 5: Failure("Own: this and that")}
    assert attempts(tmp_path)[0].count(5) == 2
    with (
        pytest.raises(InputError, match="the user's mistake"),
        engine_for(
            Recipe("building.works:Squares", {"networks": 3, "misbehave": {1: "mistake"}}), engine=cluster
        ) as engine,
    ):
        list(engine.outcomes())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_other_versions_on_a_cluster_are_refused_by_name(cluster, monkeypatch):
    monkeypatch.setattr("propscope.experiments.engine.cluster.versions", lambda: (versions()[0], ("torch", "1.0.0")))
    with (
        pytest.raises(InputError, match=r"torch is 1\.0\.0 where the run was started, and .* on a worker"),
        engine_for(Recipe("building.works:Squares", {"networks": 1}), engine=cluster) as engine,
    ):
        engine.ask("extent")


@pytest.mark.slow
def test_nobody_answers(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("propscope.experiments.engine.cluster.ANSWERS_WITHIN", 0.2)
    assert main(["profile", "--engine", "dask:tcp://127.0.0.1:9"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "error: no Dask scheduler answers at tcp://127.0.0.1:9 within 0.2 s"
    assert len(err.splitlines()) == 2
    assert os.listdir(tmp_path) == []


# Which engine


def squares(networks=4, **arguments):
    return Recipe("building.works:Squares", {"networks": networks, **arguments})


def test_the_engine_is_chosen_by_name_workers_and_work(monkeypatch):
    assert isinstance(engine_for(squares()), Processes)
    assert isinstance(engine_for(squares(), engine="joblib", workers=2), Processes)
    assert isinstance(engine_for(squares(), workers=1), Here)
    assert isinstance(engine_for(squares(1), workers=2), Here)
    assert isinstance(engine_for(squares(), engine="dask:tcp://10.0.0.1:8786"), Cluster)
    small = Recipe("propscope.experiments.profiling:typed_work", GRID)
    assert isinstance(engine_for(small), Here)
    assert isinstance(engine_for(Recipe(small.factory, {**GRID, "seeds": 10_000})), Processes)
    # What takes long in a process that has no torch yet is done where it is imported.
    monkeypatch.setattr("propscope.experiments.engine.choice.torch_is_here", lambda: False)
    assert isinstance(engine_for(squares(), workers=1), Processes)
    # Windows runs everything where it is asked for.
    monkeypatch.setattr("propscope.experiments.engine.choice.can_fork", lambda: False)
    assert isinstance(engine_for(squares(), workers=4), Here)


def test_an_object_that_refuses_to_be_pickled_stays_here():
    class Held:
        def __reduce__(self):
            raise TypeError("held")

    assert isinstance(engine_for(squares(misbehave=Held()), workers=2), Here)


@pytest.mark.parametrize("engine", ["dask", "dask:", "joblib:2", "", "threads", None])
def test_an_engine_that_is_not_valid(engine):
    with pytest.raises(InputError, match=r'engine must be "joblib" or "dask:ADDRESS", got '):
        propscope.profile_mlp(1, 4, engine=engine)


@pytest.mark.parametrize("workers", [0, -1, 1.5, True, "2"])
def test_workers_that_are_not_valid(workers):
    with pytest.raises(InputError, match="workers must be a whole number of at least 1, got"):
        propscope.profile_mlp(1, 4, workers=workers)


# Failures


def test_networks_that_fail_are_named_and_the_others_returned(monkeypatch):
    from propscope.experiments import profiling

    measure = profiling._profile

    def fail(grid, cell, *others):
        if cell.seed in (1, 2):
            raise MemoryError
        return measure(grid, cell, *others)

    monkeypatch.setattr(profiling, "_profile", fail)
    with pytest.warns(UserWarning, match=r"2 networks failed, twice each:\n.*seed 1: MemoryError\n.*seed 2: ") as said:
        found = propscope.profile_mlp(1, 4, seeds=4, batch=4, workers=1)
    assert said[0].filename == __file__
    assert [profile.labels["seed"] for profile in found] == [0, 3]
    with pytest.raises(MemoryError):
        propscope.profile_mlp(1, 4, seeds=[1], batch=4, workers=1)


def test_errors_travel_between_processes():
    import pickle

    from propscope.errors import MissingDependencyError, StoreError, UnknownSiteError

    for error in (
        InputError("no", hint="yes"),
        OutOfMemoryError("no", hint="less"),
        MissingDependencyError("dask", extra="cluster", purpose="a cluster"),
        StoreError("cannot"),
        UnknownSiteError("where", hint="there"),
        PropscopeError("no"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy), copy.hint) == (type(error), str(error), error.hint)
