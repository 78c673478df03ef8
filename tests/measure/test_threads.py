"""Forks, threads, and recorders that are left late, elsewhere, in the wrong order or not at all."""

import gc
import multiprocessing
import os
import threading

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import propscope
from propscope.measure import arena, calls

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.head(torch.relu(self.first(x)))


@pytest.fixture(autouse=True)
def compile_before():
    """Keep what `torch.compile` is before each test; lightning puts its own in its place when it is imported."""
    global _compile
    _compile = torch.compile


def clean(model):
    hooks = [v for m in model.modules() for name, v in vars(m).items() if name.endswith("_hooks")]
    assert not any(hooks)
    assert not any(parameter._backward_hooks for parameter in model.parameters())
    assert not calls._watched
    assert nn.Module._call_impl.__module__ == "torch.nn.modules.module"
    assert torch._C._len_torch_function_stack() == 0
    assert torch.compile is _compile


def step(model, seed=0):
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(seed))
    model(x).square().sum().backward()


def in_thread(work):
    found = []

    def run():
        try:
            found.append(work())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def in_child(work):
    """Return what `work` returns in a child of a fork."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(work()))
    child.start()
    found = receiver.recv()
    child.join()
    return found


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_writes_to_memory_of_its_own():
    array = arena.zeros(4, float)
    array[:] = 1

    def work():
        array[:] += 1
        return array.tolist()

    assert in_child(work) == [2.0] * 4
    assert array.tolist() == [1.0] * 4


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_passes_with_a_child_in_between_count_two_passes():
    model = Net()
    with propscope.track(model) as recorder:
        step(model)
        expected = recorder.profile()

        def work():
            step(model, 1), step(model, 2), step(model, 3)
            return recorder.profile()["first"].forward.count

        assert in_child(work) == 4 * 16 * 8
        assert recorder.profile()["first"].forward == expected["first"].forward
        step(model)
    found = recorder.profile()
    for site in found.without_inputs.sites:
        assert site.forward.count == 2 * expected[site.name].forward.count
        assert site.backward.count == 2 * expected[site.name].backward.count
        assert site.forward.mean == pytest.approx(expected[site.name].forward.mean, rel=1e-6)
    assert [p.gradient.count for p in found.parameters] == [2 * p.gradient.count for p in expected.parameters]


def _profiled(seed):
    model = Net()
    x = torch.randn(512, 4, generator=torch.Generator().manual_seed(seed))
    return propscope.profile(model, x)["first"].forward


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_pool_of_forks_profiles_as_one_process_does():
    _profiled(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.map(_profiled, range(6), chunksize=1)
    assert found == [_profiled(seed) for seed in range(6)]
    assert {summary.count for summary in found} == {512 * 8}


class Embedded(Dataset):
    """Examples that pass through the tracked model in the worker."""

    def __init__(self, model):
        self.model = model

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return self.model(torch.full((4,), float(index))).detach()


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_workers_of_a_loader_leave_the_statistics_of_the_training_loop_alone():
    model = Net()
    with propscope.track(model) as recorder:
        for batch in DataLoader(Embedded(model), batch_size=2, num_workers=2, multiprocessing_context="fork"):
            model(batch)
    assert recorder.profile()["first"].forward.count == 6 * 8
    clean(model)


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_large_tensor_is_read_in_a_child_though_the_team_of_threads_is_not_there():
    before, x = torch.get_num_threads(), torch.ones(512, 512)
    torch.set_num_threads(2)
    try:
        with propscope.track(nn.Identity()) as recorder:
            recorder._model(x)
        expected = recorder.profile().without_inputs.sites[0].forward

        def work():
            # A model that leaves all to propscope: torch itself would wait for its threads here.
            with propscope.track(nn.Identity()) as again:
                again._model(x)
            return again.profile().without_inputs.sites[0].forward

        assert in_child(work) == expected
    finally:
        torch.set_num_threads(before)


def test_another_thread_that_runs_the_tracked_model_is_noted_and_disturbs_nothing():
    model = Net()
    alone = propscope.track(model)
    with alone:
        step(model)
    expected = alone.profile()
    model.zero_grad()
    with propscope.track(model) as recorder:
        step(model)
        in_thread(lambda: step(model, 1))
    found = recorder.profile()
    assert found.without_inputs.sites == expected.without_inputs.sites
    assert [p.gradient for p in found.parameters] == [p.gradient for p in expected.parameters]
    assert any("another thread" in note.reason for note in found.coverage)
    assert not any("another thread" in note.reason for note in expected.coverage)
    clean(model)


def test_threads_that_run_at_the_same_time_get_what_they_would_get_alone():
    model, errors, start = Net(), [], threading.Barrier(4)
    expected = model(torch.ones(3, 4)).detach()

    def work():
        start.wait()
        same = [torch.equal(model(torch.ones(3, 4)), expected) for _ in range(30)]
        errors.extend(right for right in same if not right)

    with propscope.track(model) as recorder:
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        start.wait()
        for _ in range(30):
            model(torch.ones(3, 4))
        for thread in threads:
            thread.join()
    assert not errors
    assert recorder.profile()["first"].forward.count == 30 * 3 * 8
    clean(model)


def test_each_thread_tracks_a_model_of_its_own():
    # Built one after the other: the generator of random numbers is one for all threads.
    models = [Net() for _ in range(4)]

    def work(seed):
        models[seed].zero_grad()
        with propscope.track(models[seed]) as recorder:
            step(models[seed], seed), step(models[seed], seed)
        return recorder.profile().without_inputs.sites

    alone = [work(seed) for seed in range(4)]
    found = {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: work(seed)})) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone
    clean(Net())


@pytest.mark.parametrize("same", [True, False])
def test_two_trackers_left_in_the_wrong_order(same):
    a = Net()
    b = a if same else Net()
    first, second = propscope.track(a), propscope.track(b)
    first.__enter__()
    second.__enter__()
    step(a)
    first.__exit__(None, None, None)
    step(b)
    second.__exit__(None, None, None)
    step(a), step(b)
    assert first.profile()["first"].forward.count == 16 * 8
    assert second.profile()["first"].forward.count == (2 if same else 1) * 16 * 8
    assert {site.name for site in second.profile().without_inputs.sites} == {"first", "first.relu", "head", "add"}
    clean(a), clean(b)


def test_compiler_and_fast_path_are_as_before_when_trackers_leave_in_the_wrong_order():
    import torch._dynamo.eval_frame as eval_frame

    model = nn.TransformerEncoderLayer(4, 2, dim_feedforward=8, batch_first=True)
    before = torch.backends.mha.get_fastpath_enabled(), eval_frame._stance.stance
    first, second = propscope.track(model), propscope.track(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (torch.backends.mha.get_fastpath_enabled(), eval_frame._stance.stance) == (False, "force_eager")
    second.__exit__(None, None, None)
    assert (torch.backends.mha.get_fastpath_enabled(), eval_frame._stance.stance) == before


def test_a_recorder_entered_in_one_thread_and_left_in_another():
    model = Net()
    recorder = propscope.track(model)
    recorder.__enter__()
    step(model)
    in_thread(lambda: recorder.__exit__(None, None, None))
    step(model)
    assert recorder.profile()["first.relu"].forward.count == 16 * 8
    clean(model)
    recorder = propscope.track(model)
    in_thread(recorder.__enter__)
    step(model)
    recorder.__exit__(None, None, None)
    assert any("another thread" in note.reason for note in recorder.profile().coverage)
    clean(model)
    in_thread(lambda: clean(model))


@pytest.mark.slow
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_recorder_that_is_dropped_without_leaving_is_left(elsewhere):
    model = Net()

    def work():
        recorder = propscope.track(model)
        recorder.__enter__()
        step(model)

    in_thread(work) if elsewhere else work()
    gc.collect()
    clean(model)
    step(model)
    assert propscope.profile(model, torch.randn(3, 4))["first"].forward.count == 3 * 8


def test_a_recorder_in_a_generator_that_is_dropped():
    model = Net()

    def batches():
        with propscope.track(model):
            yield 1
            yield 2

    next(batches())
    gc.collect()
    clean(model)


def test_a_recorder_can_be_left_while_the_model_runs_and_entered_again():
    model = Net()
    recorder = propscope.track(model)
    handle = model.first.register_forward_hook(lambda *_: recorder.__exit__(None, None, None))
    recorder.__enter__()
    step(model)
    handle.remove()
    clean(model)
    with recorder:
        step(model)
    assert recorder.profile()["head"].forward.count in (16 * 4, 2 * 16 * 4)
    clean(model)
