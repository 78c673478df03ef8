"""What is made of a model while it is tracked is what would be made of it untracked, and holds nothing of propscope."""

import copy
import io
import pickle
import re
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.fx.experimental.proxy_tensor import make_fx

import propscope
from propscope.measure import arena, calls


class Net(nn.Module):
    """Modules and functions, so that both are watched."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.act, self.head = nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.head(torch.tanh(self.act(self.norm(self.first(x)))))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4))


def mixed():
    torch.manual_seed(0)
    return Net()


def parameters_of(model):
    return {name: value.detach() for name, value in model.named_parameters()}


def functions(model, x):
    """Return the results of torch.func's transforms of a model."""
    parameters = parameters_of(model)

    def loss(parameters, x):
        return functional_call(model, parameters, (x,)).square().sum()

    return [
        *vmap(grad(loss), in_dims=(None, 0))(parameters, x).values(),
        vmap(model)(x[:, None]),
        jvp(model, (x,), (torch.ones_like(x),))[1],
        jacrev(model)(x[0]),
        functional_call(model, parameters, (x,)),
    ]


def script(model, x):
    made = torch.jit.script(model)
    return re.sub(r"___torch_mangle_\d+\.", "", str(made.inlined_graph)), made(x)


def trace(model, x):
    made = torch.jit.trace(model, x)
    return re.sub(r"___torch_mangle_\d+\.", "", str(made.inlined_graph)), made(x)


def export(model, x):
    made = torch.export.export(model, (x,))
    return str(made.graph), made.module()(x)


def export_strict(model, x):
    made = torch.export.export(model, (x,), strict=True)
    return str(made.graph), made.module()(x)


def symbolic(model, x):
    made = torch.fx.symbolic_trace(model)
    return made.code, made(x)


def proxies(model, x):
    made = make_fx(model)(x)
    return made.code, made(x)


def fakes(model, x):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        out = model(mode.from_tensor(x))
    return type(out).__name__, tuple(out.shape), str(out.dtype)


def deep_copy(model, x):
    made = copy.deepcopy(model)
    return hooks_of(made), made(x)


def saved(model, x):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    made = torch.load(file, weights_only=False)
    return hooks_of(made), made(x)


def pickled(model, x):
    # Storages are named by their addresses.
    made = pickle.dumps(model)
    return b"propscope" in made, len(made) // 10, pickle.loads(made)(x)


def saved_output(model, x):
    file = io.BytesIO()
    torch.save(model(x), file)
    file.seek(0)
    return torch.load(file)


def copied(model, x):
    # It shares the parameters.
    made = copy.copy(model)
    return [len(value) for name, value in sorted(vars(made).items()) if name.endswith("_hooks")], made(x)


MADE = (script, trace, export, symbolic, proxies, fakes, functions, deep_copy, saved, pickled, saved_output, copied)


def hooks_of(model):
    return {
        f"{path} {name}": len(value)
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if name.endswith("_hooks")
    } | {path: len(parameter._backward_hooks or {}) for path, parameter in model.named_parameters()}


def same(a, b):
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.slow
@pytest.mark.parametrize("build", [plain, mixed])
@pytest.mark.parametrize("make", [*MADE, export_strict], ids=lambda made: made.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_what_is_made_of_a_tracked_model_is_what_is_made_of_any(build, make):
    x = torch.randn(3, 4)
    model = build()
    before = hooks_of(model)
    expected = make(build(), x)
    with propscope.track(model) as recorder:
        found = make(model, x)
        model(x).sum().backward()
    assert same(found, expected)
    assert same(make(model, x), expected)
    assert hooks_of(model) == before
    site = recorder.profile().without_inputs.sites[0]
    assert site.forward.count % 24 == 0
    assert site.backward.count == 24
    assert all(type(size) is int for size in site.shape)
    # Nothing stays behind that a later profile of another model would meet.
    other = propscope.profile(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), x)
    assert other["0"].forward.count == 15


@pytest.mark.parametrize("make", [trace, export, symbolic, proxies, fakes, functions], ids=lambda made: made.__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_run_without_values_is_noted_not_recorded(make):
    model, x = mixed(), torch.randn(3, 4)
    with propscope.track(model) as recorder:
        make(model, x)
        seen = recorder.profile()
    for site in seen.without_inputs.sites:
        assert site.forward.count % (3 * site.shape[-1]) == 0
    assert make in (export, symbolic) or any("not recorded" in note.reason for note in seen.coverage)


def test_the_arena_gives_memory_of_a_whole_number_of_bytes_while_something_is_traced():
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(lambda x: (found.append(arena.zeros(x.shape[0], float)), x)[1], torch.ones(3))
    assert all(array.shape == (3,) for array in found)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_what_is_compiled_meanwhile_runs_eagerly_and_is_noted():
    model, x, graphs = plain(), torch.randn(3, 4), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    with propscope.track(model) as recorder:
        torch.compile(model, backend=backend)(x)
        model.compile(backend=backend)
        model(x)
        assert not graphs
    assert recorder.profile()["0"].forward.count == 2 * 24
    assert any("torch.compile" in note.reason for note in recorder.profile().coverage)
    torch._dynamo.reset()
    model(x)
    assert graphs


def test_a_compiled_call_is_put_back():
    model = plain()
    model.compile(backend="eager")
    compiled = model._compiled_call_impl
    with propscope.track(model) as outer, propscope.track(model) as inner:
        model(torch.randn(3, 4))
    assert model._compiled_call_impl is compiled
    assert [r.profile()["0"].forward.count for r in (outer, inner)] == [24, 24]


def test_calls_are_their_own_again_and_whoever_wrapped_them_meanwhile_keeps_his_wrapper(monkeypatch):
    original, model, x = nn.Module._call_impl, plain(), torch.randn(3, 4)
    with propscope.track(model):
        assert nn.Module._call_impl is not original
    assert nn.Module._call_impl is original
    assert not calls._watched
    monkeypatch.setattr(calls, "_wrapped", False)
    with propscope.track(model):
        inner = nn.Module._call_impl
        nn.Module._call_impl = lambda self, *args, **kwargs: inner(self, *args, **kwargs)
    try:
        assert propscope.profile(model, x)["0"].forward.count == 24
        assert torch.equal(model(x), plain()(x))
    finally:
        nn.Module._call_impl = original
