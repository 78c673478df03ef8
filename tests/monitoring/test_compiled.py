"""What torch.compile makes of a training stays as it is, and sampled steps record every site."""

import pytest
import torch
import torch.nn.functional as F
from building.trainings import training
from torch import nn

import propscope

STEPS = 7
# torch's compiler asks the input of a compiled part for its gradient, ignores a profiler, and loads scripted methods,
# and warns of all this itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
    pytest.mark.filterwarnings("ignore:.*Profiler record function"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]


@pytest.fixture
def graphs():
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


def compiled(graphs, subject, **options):
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    return torch.compile(subject, backend=backend, **options)


def made(name="resnet"):
    return training(name, "SGD")


def whole(graphs):
    run = made("gpt2")
    run.model = compiled(graphs, run.model, fullgraph=True)
    return run, run.update


def in_place(graphs):
    run = made()
    run.model.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    return run, run.update


def part(graphs):
    run = made()
    run.model.inner = compiled(graphs, run.model.inner)
    return run, run.update


def parts_in_place(graphs):
    run = made("gpt2")
    for block in run.model.blocks:
        block.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    return run, run.update


def shapes_that_change(graphs):
    run = made("gpt2")
    run.model = compiled(graphs, run.model, dynamic=True)
    sizes, generator = iter(range(4, 100)), torch.Generator().manual_seed(3)
    run.batch = lambda: torch.randint(16, (next(sizes), 6), generator=generator)
    return run, run.update


def accumulated(graphs):
    run, _ = whole(graphs)

    def update():
        run.optimizer.zero_grad()
        for _ in range(3):
            loss = run.loss() / 3
            loss.backward()
        run.optimizer.step()
        return loss

    return run, update


def function_of_the_loss(graphs):
    run = made()
    loss_of = compiled(graphs, lambda batch: F.cross_entropy(run.model(batch), torch.arange(len(batch))))

    def update():
        run.optimizer.zero_grad()
        loss = loss_of(run.batch())
        loss.backward()
        run.optimizer.step()
        return loss

    return run, update


def function_of_the_step(graphs):
    run = made()

    def work(batch):
        run.optimizer.zero_grad()
        loss = F.cross_entropy(run.model(batch), torch.arange(len(batch)))
        loss.backward()
        run.optimizer.step()
        return loss

    work = compiled(graphs, work)
    return run, lambda: work(run.batch())


def optimizer_alone(graphs):
    run = made()
    step = compiled(graphs, run.optimizer.step)

    def update():
        run.optimizer.zero_grad()
        loss = run.loss()
        loss.backward()
        nn.utils.clip_grad_norm_(run.model.parameters(), 0.1)
        step()
        return loss

    return run, update


KINDS = (
    whole,
    in_place,
    part,
    parts_in_place,
    shapes_that_change,
    accumulated,
    function_of_the_loss,
    function_of_the_step,
    optimizer_alone,
)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_graphs_are_those_without_a_monitor_and_every_site_is_recorded(make, graphs):
    _, update = make(graphs)
    for _ in range(STEPS):
        update()
    expected = len(graphs)
    assert expected
    torch._dynamo.reset()
    graphs.clear()
    eager = made("resnet" if hasattr(make([])[0].model, "stem") else "gpt2")
    with propscope.monitor(eager.model, eager.optimizer, every=1) as monitor, monitor.step():
        eager.update()
    sites = [(site.name, site.backward is None) for site in monitor.profile.sites]
    run, update = make(graphs)
    counted = []
    with propscope.monitor(run.model, run.optimizer, every=3) as monitor:
        for _ in range(STEPS):
            with monitor.step() as one:
                one.loss(update())
            counted.append(len(graphs))
            assert [(site.name, site.backward is None) for site in monitor.profile.sites] == sites
            assert monitor.profile.labels == {"step": one.number - one.number % 3}
    assert counted == [0, *[expected] * (STEPS - 1)]
    assert not monitor.steps.skipped.any()
    assert (monitor.steps.gradient_norm > 0).all()
    assert monitor.steps.learning_rate.tolist() == [1e-2] * STEPS
    assert all(one.update_norm is not None and one.step_gradient_norm is not None for one in monitor.profile.parameters)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_model_that_is_compiled_in_the_middle_is_recorded_as_before(in_place, graphs):
    run = made()
    with propscope.monitor(run.model, run.optimizer, every=3) as monitor:
        for step in range(STEPS):
            if step == 2 and in_place:
                run.model.compile(backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
            elif step == 2:
                run.model = compiled(graphs, run.model)
            with monitor.step(step):
                run.update()
            if not step:
                sites = [site.name for site in monitor.profile.sites]
            assert [site.name for site in monitor.profile.sites] == sites
            assert monitor.profile.labels == {"step": step - step % 3}
    assert len(graphs) == 1
