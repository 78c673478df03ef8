"""What surrounds a model, rather than the model, is undisturbed too, and does not blind propscope."""

import threading

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import propscope
from zoo.faults import fault
from zoo.models import ZOO
from zoo.running import prepare


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def test_a_mode_that_counts_operations_counts_the_model_alone():
    model, x = net(), torch.randn(6, 4)
    with FlopCounterMode(display=False) as bare:
        model(x).sum().backward()
    with propscope.track(model), FlopCounterMode(display=False) as tracked:
        model(x).sum().backward()
    assert tracked.get_total_flops() == bare.get_total_flops()


def test_profile_leaves_the_batch_without_a_gradient():
    x = torch.randn(6, 4, requires_grad=True)
    propscope.profile(net(), x)
    assert x.grad is None


class Rotated(nn.Module):
    """A compiled function that is no module, between layers that are not compiled: rotary embeddings, losses."""

    def __init__(self, function) -> None:
        super().__init__()
        self.linear, self.function, self.head = nn.Linear(4, 8), function, nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.function(self.linear(x)))


def soft(x):
    # Not used elsewhere in the zoo, so that nothing of it is known when the compiler meets it.
    return nn.functional.softsign(x) * torch.cos(x)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_function_is_neither_compiled_again_nor_traced_with_propscope():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    model, x = Rotated(torch.compile(soft, backend=counter)), torch.randn(6, 4)
    expected = model(x)
    graphs = counter.frame_count
    with propscope.track(model) as recorder:
        found = model(x)
    assert torch.equal(found, expected)
    assert torch.equal(model(x), expected)
    assert recorder.profile().without_inputs.sites[0].name == "linear"
    assert counter.frame_count == graphs


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_a_compiled_loss_outside_the_model_is_not_compiled_again():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    loss = torch.compile(lambda y: y.square().mean(), backend=counter)
    model, x = net(), torch.randn(6, 4)
    loss(model(x)).backward()
    graphs = counter.frame_count
    with propscope.track(model):
        loss(model(x)).backward()
    loss(model(x)).backward()
    assert counter.frame_count == graphs


@pytest.mark.parametrize("batches", [1, 3])
def test_sites_do_not_grow_when_only_parts_of_the_model_are_called(batches):
    # A GAN's wrapper or a LightningModule is never called itself; its parts are.
    model = nn.ModuleDict({"encoder": net(), "decoder": nn.Linear(2, 4)})
    with propscope.track(model) as recorder:
        for _ in range(batches):
            model["decoder"](model["encoder"](torch.randn(6, 4))).sum().backward()
    names = [site.name for site in recorder.profile().without_inputs.sites]
    assert names == ["encoder.0", "encoder.1", "encoder.2", "decoder"]
    assert recorder.profile()["decoder"].forward.count == batches * 6 * 4


def test_a_thread_that_began_in_inference_mode_measures_later():
    found = []

    def work():
        model, x = net(), torch.randn(6, 4)
        with torch.inference_mode():
            propscope.profile(model, x)
        try:
            found.append(propscope.profile(model, x))
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not isinstance(found[0], Exception), found[0]
    assert [site.name for site in found[0].without_inputs.sites] == ["0", "1", "2"]
    assert found[0]["0"].backward is not None


@fault("gradients are watched of the parameters alone that required one at the start")
def test_a_parameter_unfrozen_meanwhile_is_not_said_to_have_no_gradient():
    model, x = net(), torch.randn(6, 4)
    model[0].requires_grad_(False)
    with propscope.track(model) as recorder:
        model(x).sum().backward()
        model[0].requires_grad_(True)
        model(x).sum().backward()
    weight = next(parameter for parameter in recorder.profile().parameters if parameter.name == "0.weight")
    assert weight.gradient is not None


def test_a_model_without_data_runs_and_no_value_of_it_is_measured():
    with torch.device("meta"):
        model, x = net(), torch.randn(6, 4)
    with propscope.track(model) as recorder:
        model(x).sum().backward()
    profile = recorder.profile()
    assert not profile.without_inputs.sites
    notes = {note.name: note.reason for note in profile.coverage}
    assert notes.keys() == {"input", "0", "1.input", "1", "2", ""}
    assert set(notes.values()) == {"it is on the meta device: no values"}


@pytest.mark.parametrize(
    "use",
    [
        lambda y: y.sum(),
        lambda y: y.mean(0).sum(),
        lambda y: torch.view_as_complex(y.unflatten(-1, (-1, 2))).real.square().sum(),
        lambda y: y[:, ::2].square().sum(),
        lambda y: y.t().contiguous().square().sum(),
        lambda y: y[:1].expand(6, 2).square().sum(),
    ],
    ids=["expanded", "rows_expanded", "real_part", "every_other", "transposed", "one_row"],
)
def test_gradients_of_any_layout_are_measured(use):
    model, x, seen = net(), torch.randn(6, 4), []
    with propscope.track(model) as recorder:
        output = model(x)
        output.register_hook(seen.append)
        use(output).backward()
    backward = recorder.profile()["2"].backward
    assert backward.rms == pytest.approx(float(seen[0].double().square().mean().sqrt()), rel=1e-6)
    assert (backward.min, backward.max) == (float(seen[0].min()), float(seen[0].max()))


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("keywords", "linear"),
        ("mlp", "0"),
        ("functional", "layers.0"),
        ("user_hooks", "first"),
    ],
)
def test_what_enters_a_nonlinearity_is_a_pre_activation(name, site):
    model, batch = prepare(ZOO[name])
    assert propscope.profile(model, batch)[site].role == "pre-activation"


def test_functions_after_a_caught_exception_belong_to_the_module_that_caught_it():
    model, batch = prepare(ZOO["caught_exception"])
    names = [site.name for site in propscope.profile(model, batch).without_inputs.sites]
    assert names == ["relu.input", "relu", "head"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mamba", "functional"])
def test_inputs_of_repeated_functions_are_sites_of_their_own(name):
    pytest.importorskip(ZOO[name].needs)
    model, batch = prepare(ZOO[name])
    sites = propscope.profile(model, batch).without_inputs.sites
    assert not [site.name for site in sites if site.forward.count != torch.Size(site.shape).numel()]
