"""The recorder on small models: what it sees, and that it leaves no trace."""

import copy
import gc
import weakref
from typing import ClassVar

import pytest
import torch
from building.device_waits import NoWaits
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.measure import Options, Recorder
from propscope.measure.profiler import profile_batches
from propscope.measure.sites import SiteAccumulator


def net(width=16, depth=3):
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def run(model, x):
    model.zero_grad()
    loss = model(x).square().sum()
    loss.backward()
    return loss.detach()


def hooks_of(model):
    names = [name for name in vars(model) if name.endswith("_hooks")]
    return {(path, name): len(getattr(module, name)) for path, module in model.named_modules() for name in names} | {
        path: len(parameter._backward_hooks or {}) for path, parameter in model.named_parameters()
    }


def test_summaries_are_those_of_the_tensors():
    model, x = net(), torch.randn(32, 16)
    with torch.no_grad():
        z = model[0](x)
        h = model[1](z)
    with propscope.track(model, histogram_limit=0) as recorder:
        run(model, x)
    profile = recorder.profile()
    assert [site.name for site in profile.without_inputs.sites] == [str(i) for i in range(7)]
    assert profile["0"].forward.std == pytest.approx(float(z.std(correction=0)), rel=1e-6)
    assert profile["1"].forward.histogram == propscope.LogHistogram.of(h.numpy())
    assert profile["0"].forward.count == 32 * 16
    weight = dict(model.named_parameters())["0.weight"]
    recorded = {parameter.name: parameter for parameter in profile.parameters}["0.weight"]
    assert recorded.value_norm == pytest.approx(float(weight.detach().norm()), rel=1e-6)
    assert recorded.gradient_norm == pytest.approx(float(weight.grad.norm()), rel=1e-6)


def test_backward_is_the_gradient_of_the_loss():
    model, x = net(), torch.randn(32, 16)
    seen = {}

    def watch(name):
        def hook(module, inputs, output):
            output.register_hook(lambda gradient: seen.update({name: gradient}))

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_children()]
    with propscope.track(model) as recorder:
        run(model, x)
    for handle in handles:
        handle.remove()
    for name, gradient in seen.items():
        assert recorder.profile()[name].backward.rms == pytest.approx(float(gradient.square().mean().sqrt()), rel=1e-6)


def test_roles_follow_the_signal():
    profile = propscope.profile(
        nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(5, 4)
    )
    assert [site.role for site in profile.without_inputs.sites] == ["other", "pre-activation", "activation", "output"]
    assert profile["1"].activation == "Tanh"


@pytest.mark.parametrize("look", [True, False])
def test_dead_symmetric_and_flat_units(look):
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU())
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
        model[0].bias[2] = -100.0
    with Recorder(model, options=Options(look=look)) as recorder:
        for _ in range(2):
            model(torch.randn(20, 8))
    site = recorder.profile()["0"]
    assert (site.units, site.dead_units, site.symmetric_units) == (6, 1, 2)
    assert site.flat_fraction > 1 / 6
    assert {p.name: p.symmetric_units for p in recorder.profile().parameters} == {"0.weight": 2, "0.bias": None}


@pytest.mark.parametrize("look", [True, False])
def test_a_unit_saturated_on_both_sides_is_dead(look):
    # Half the samples far above, half far below: the extremes alone cannot tell it from a responsive unit.
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Tanh())
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([[10.0], [1.0]])
    x = torch.tensor([[1.0], [-1.0], [3.0], [-3.0]])
    with Recorder(model, options=Options(look=look)) as recorder:
        model(x)
    assert recorder.profile()["0"].dead_units == 1


class SumBeforeReLU(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.norm, self.first, self.passes = nn.LayerNorm(4), first, 0

    def forward(self, x):
        self.passes += 1
        value = self.norm(x) + x
        return torch.relu(value) if self.passes > self.first else value


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("look", [True, False])
def test_units_that_only_an_activation_shows_are_watched_in_every_batch(look, first):
    model, x = SumBeforeReLU(first), torch.tensor([[-3.0, -1.0, 2.0, 2.0], [-2.0, -1.0, 1.0, 2.0]])
    with Recorder(model, options=Options(look=look)) as recorder:
        dead = []
        for number in range(6):
            model(x if number <= first else -x)
            dead.append(recorder.profile()["add"].dead_units)
    assert dead == [None] * first + [2] + [0] * (5 - first)


def test_both_ways_of_looking_agree():
    model, x = net(), torch.randn(64, 16)
    profiles = []
    for look in (True, False):
        with Recorder(model, options=Options(look=look)) as recorder:
            run(model, x)
        profiles.append(recorder.profile())
    for a, b in zip(*(profile.without_inputs.sites for profile in profiles), strict=True):
        assert a.forward.histogram == b.forward.histogram
        assert a.forward.std == pytest.approx(b.forward.std, rel=1e-6)
        assert a.backward.std == pytest.approx(b.backward.std, rel=1e-6)
        assert (a.dead_units, a.symmetric_units, a.flat_fraction) == (b.dead_units, b.symmetric_units, b.flat_fraction)
        assert a.mean_cosine == pytest.approx(b.mean_cosine, rel=1e-6)


def test_nothing_waits_for_the_device():
    model, x = net(), torch.randn(32, 16)
    with Recorder(model, options=Options(look=False)) as recorder, NoWaits():
        run(model, x)
        run(model, x)
    assert recorder.profile()["0"].backward.count == 2 * 32 * 16


@pytest.mark.parametrize(
    "wait", [lambda tensor: tensor.sum().item(), lambda tensor: tensor.tolist(), torch.Tensor.nonzero]
)
def test_the_watch_itself_sees_a_wait(wait):
    with pytest.raises(AssertionError, match="waits"), NoWaits():
        wait(torch.ones(3))


def test_batches_merge():
    model, x = net(), torch.randn(60, 16)
    with propscope.track(model, histogram_limit=0) as whole:
        run(model, x)
    with propscope.track(model, histogram_limit=0) as parts:
        for part in x.split(17):
            run(model, part)
    a, b = whole.profile(), parts.profile()
    assert (b.provenance.batches, b.provenance.samples) == (4, 60)
    for left, right in zip(a.without_inputs.sites, b.without_inputs.sites, strict=True):
        assert left.forward.histogram.total == right.forward.histogram.total
        assert left.forward.std == pytest.approx(right.forward.std, rel=1e-5)
        assert right.samples == 60


def test_model_is_bit_identical_with_and_without():
    model, x = (
        nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5), nn.ReLU(inplace=True)),
        torch.randn(9, 16),
    )
    twin = copy.deepcopy(model)
    before = hooks_of(model)
    torch.manual_seed(5)
    plain = run(twin, x)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    with propscope.track(model):
        watched = run(model, x)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(plain, watched)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)
    assert hooks_of(model) == before


def test_profile_leaves_no_trace():
    model, x = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Dropout(0.5)), torch.randn(9, 16)
    model[0].weight.grad = torch.ones(16, 16)
    saved, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    profile = propscope.profile(model, x)
    assert profile["0"].backward is not None
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones(16, 16))
    assert model[0].bias.grad is None


def test_hooks_go_after_an_exception():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle")

    model = nn.Sequential(nn.Linear(4, 4), Fails())
    before = hooks_of(model)
    recorder = propscope.track(model)
    with pytest.raises(RuntimeError, match="in the middle"), recorder:
        model(torch.randn(3, 4))
    assert hooks_of(model) == before
    assert [site.name for site in recorder.profile().without_inputs.sites] == ["0"]


@pytest.mark.slow
def test_no_tensor_is_kept():
    model, kept = net(), []
    model[2].register_forward_hook(lambda m, i, o: kept.append(weakref.ref(o)))
    with propscope.track(model) as recorder:
        run(model, torch.randn(8, 16))
        gc.collect()
        assert kept[0]() is None
    assert recorder.profile().without_inputs.sites


def test_backward_after_the_block_is_not_recorded():
    model = net()
    with propscope.track(model) as recorder:
        loss = model(torch.randn(8, 16)).sum()
    loss.backward()
    assert recorder.profile()["0"].backward is None
    assert recorder.profile()["0"].forward is not None


def test_no_grad_sees_the_forward_pass_alone():
    model = net()
    with torch.no_grad(), propscope.track(model) as recorder:
        model(torch.randn(8, 16))
    assert recorder.profile()["0"].backward is None
    with torch.inference_mode(), propscope.track(model) as recorder:
        model(torch.randn(8, 16))
    assert recorder.profile()["0"].dead_units is not None


def test_a_repeated_module_has_a_site_a_call():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    profile = propscope.profile(model, torch.randn(5, 4))
    assert [site.name for site in profile.without_inputs.sites] == ["0#0", "1", "0#1"]


def test_nested_outputs_are_sites_of_their_own():
    model = nn.LSTM(3, 5, batch_first=True)
    profile = propscope.profile(model, torch.randn(2, 7, 3))
    assert [site.name for site in profile.without_inputs.sites] == ["[0]", "[1][0]", "[1][1]"]


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match=r"model .*got a int"):
        propscope.track(3)
    with pytest.raises(InputError, match='stats must be "all" or "moments", got "some"'):
        propscope.track(net(), stats="some")
    with pytest.raises(InputError, match=r"batch .*got a str"):
        propscope.profile(net(), "x")
    with pytest.raises(InputError, match=r"loss .*shape \(3, 4\)"):
        propscope.profile(net(), torch.randn(3, 16), lambda y: y)
    recorder = propscope.track(net())
    with recorder, pytest.raises(InputError, match="already tracking"), recorder:
        pass


def test_several_batches_of_one_recorder_leave_the_model_as_it_was():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Dropout())
    batches = [torch.randn(6, 4), 3 * torch.randn(5, 4)]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    alone = [propscope.profile(model, batch, seed=seed) for seed, batch in enumerate(batches)]
    given = [(batch, None, seed) for seed, batch in enumerate(batches)]
    both = profile_batches(model, propscope.track(model), given, seed=0)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(hooks_of(model).values())
    assert (both.provenance.batches, both.provenance.samples) == (2, 11)
    for one, other, together in zip(*(profile.without_inputs.sites for profile in (*alone, both)), strict=True):
        for side in ("forward", "backward"):
            merged = getattr(one, side) + getattr(other, side)
            found = getattr(together, side)
            assert found.histogram == merged.histogram
            assert (found.count, found.min, found.max) == (merged.count, merged.min, merged.max)
            assert (found.mean, found.std) == pytest.approx((merged.mean, merged.std), rel=1e-6, abs=1e-8)
        for name in ("mean_cosine", "effective_rank"):
            assert getattr(together, name) == pytest.approx((getattr(one, name) + getattr(other, name)) / 2)
    for one, together in zip(alone[0].parameters, both.parameters, strict=True):
        assert one.value == together.value
    first = profile_batches(model, propscope.track(model), given[:1], seed=0)
    assert first.without_inputs.sites == alone[0].without_inputs.sites
    assert first.parameters == alone[0].parameters


def test_a_sink_receives_the_tensors_of_each_site():
    class Keeps(SiteAccumulator):
        takes_gradients = False
        values: ClassVar = {}

        def see_forward(self, value):
            self.values[self.name] = value

    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(3, 4)
    with Recorder(model, sink=Keeps, parameters=False) as recorder:
        output = model(x)
        output.sum().backward()
    assert Keeps.values["1"] is output
    assert Keeps.values["0"].grad_fn is not None
    profile = recorder.profile()
    assert [(site.name, site.role, site.forward, site.backward) for site in profile.without_inputs.sites] == [
        ("0", "pre-activation", None, None),
        ("1", "activation", None, None),
    ]
    assert profile.parameters == ()
