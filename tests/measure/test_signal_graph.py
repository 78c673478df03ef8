"""What each site was computed from: the parents of fifteen families of models, and what hides them."""

import gc
import re
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from building.families import FAMILIES, Net, gpt
from torch import nn
from torch.utils.checkpoint import checkpoint

import propscope
from propscope.measure import signal_graph
from propscope.records import UNKNOWN

# Of each site, its parents; "!" where no gradient passes. Whatever input it is reads "input".
PARENTS = {
    "resnet": {
        "stem": "!input",
        "layer.0.conv1": "stem",
        "layer.0.bn1": "layer.0.conv1",
        "layer.0.bn1.relu": "layer.0.bn1",
        "layer.0.conv2": "layer.0.bn1.relu",
        "layer.0.bn2": "layer.0.conv2",
        "layer.0.add": "stem layer.0.bn2",
        "layer.0.relu": "layer.0.add",
        "layer.1.conv1": "layer.0.relu",
        "layer.1.bn1": "layer.1.conv1",
        "layer.1.bn1.relu": "layer.1.bn1",
        "layer.1.conv2": "layer.1.bn1.relu",
        "layer.1.bn2": "layer.1.conv2",
        "layer.1.down.0": "layer.0.relu",
        "layer.1.down.1": "layer.1.down.0",
        "layer.1.add": "layer.1.bn2 layer.1.down.1",
        "layer.1.relu": "layer.1.add",
        "fc": "layer.1.relu",
    },
    "unet": {
        "down1": "!input",
        "down1.relu": "down1",
        "down2": "down1.relu",
        "down2.relu": "down2",
        "middle": "down2.relu",
        "up": "middle",
        "join": "down2.relu up",
        "out": "down1.relu join",
    },
    "mobilenet": {
        "expand": "!input",
        "expand.hardswish": "expand",
        "depthwise": "expand.hardswish",
        "depthwise.hardswish": "depthwise",
        "down": "depthwise.hardswish",
        "down.relu": "down",
        "up": "down.relu",
        "up.hardsigmoid": "up",
        "project": "depthwise.hardswish up.hardsigmoid",
        "norm": "project",
        "add": "!input norm",
    },
    "gpt": {
        "wte": "!input",
        "wpe": "",
        "ln1": "wte wpe",
        "attn": "ln1",
        "attn.softmax": "attn",
        "proj": "attn attn.softmax",
        "add#0": "wte wpe proj",
        "ln2": "add#0",
        "fc1": "ln2",
        "fc1.gelu": "fc1",
        "fc2": "fc1.gelu",
        "add#1": "add#0 fc2",
        "ln_f": "add#1",
        "head": "ln_f",
    },
    "llama": {
        "embed": "!input",
        "norm1": "embed",
        "q": "norm1",
        "add#0": "q",
        "k": "norm1",
        "add#1": "k",
        "v": "norm1",
        "scaled_dot_product_attention": "add#0 add#1 v",
        "o": "scaled_dot_product_attention",
        "add#2": "embed o",
        "norm2": "add#2",
        "gate": "norm2",
        "gate.silu": "gate",
        "up": "norm2",
        "down": "gate.silu up",
        "add#3": "add#2 down",
        "norm": "add#3",
        "head": "norm",
    },
    "phi": {
        "norm": "!input",
        "q": "norm",
        "q_norm": "q",
        "k": "norm",
        "k_norm": "k",
        "v": "norm",
        "scaled_dot_product_attention": "q_norm k_norm v",
        "dense": "scaled_dot_product_attention",
        "fc1": "norm",
        "fc1.gelu": "fc1",
        "fc2": "fc1.gelu",
        "add#0": "dense fc2",
        "add#1": "!input add#0",
    },
    "bert": {
        "words": "!input",
        "places": "",
        "norm0": "words places",
        "q": "norm0",
        "k": "norm0",
        "softmax": "!input q k",
        "drop": "softmax",
        "v": "norm0",
        "o": "drop v",
        "add#0": "norm0 o",
        "norm1": "add#0",
        "fc1": "norm1",
        "fc1.gelu": "fc1",
        "fc2": "fc1.gelu",
        "add#1": "norm1 fc2",
        "norm2": "add#1",
        "pooler": "norm2",
        "pooler.tanh": "pooler",
    },
    "vit": {
        "patch": "!input",
        "norm1#0": "patch",
        "norm1#1": "patch",
        "norm1#2": "patch",
        "attn[0]": "norm1#0 norm1#1 norm1#2",
        "add#0": "patch attn[0]",
        "norm2": "add#0",
        "mlp.0": "norm2",
        "mlp.1": "mlp.0",
        "mlp.2": "mlp.1",
        "add#1": "add#0 mlp.2",
        "norm": "add#1",
        "head": "norm",
    },
    "lstm": {
        "embed": "!input",
        "drop": "embed",
        "lstm[0]": "drop",
        "lstm[1][0]": "drop",
        "lstm[1][1]": "drop",
        "head": "lstm[0] lstm[1][0]",
    },
    "cells": {
        "cell#0": "!input",
        "cell#1": "!input cell#0",
        "cell#2": "!input cell#1",
        "head": "cell#0 cell#1 cell#2",
    },
    "experts": {
        "router": "!input",
        "router.softmax": "router",
        "experts.0.0": "!input !router.softmax",
        "experts.0.1": "experts.0.0",
        "experts.1.0": "!input !router.softmax",
        "experts.1.1": "experts.1.0",
        "add": "!input router.softmax experts.0.1 experts.1.1",
        "head": "add",
    },
    "mamba": {
        "norm": "!input",
        "into": "norm",
        "conv": "into",
        "conv.silu.input": "conv",
        "conv.silu": "conv.silu.input",
        "step": "conv.silu",
        "step.softplus": "step",
        "add#0": "conv.silu step.softplus",
        "add#1": "conv.silu step.softplus add#0",
        "add#2": "conv.silu step.softplus add#1",
        "add#3": "conv.silu step.softplus add#2",
        "add#4": "conv.silu add#0 add#1 add#2 add#3",
        "into.silu.input": "into",
        "into.silu": "into.silu.input",
        "out": "add#4 into.silu",
        "add#5": "!input out",
    },
    "graph": {
        "embed": "!input",
        "layers.0": "!input embed",
        "layers.0.relu": "layers.0",
        "add#0": "!input embed layers.0.relu",
        "layers.1": "!input add#0",
        "layers.1.relu": "layers.1",
        "add#1": "!input add#0 layers.1.relu",
        "head": "!input add#1",
    },
    "siamese": {
        "encoder.0#0": "!input",
        "encoder.1#0": "encoder.0#0",
        "encoder.0#1": "!input",
        "encoder.1#1": "encoder.0#1",
        "projector#0": "!encoder.1#1",
        "projector#1": "encoder.1#0",
        "head": "projector#1",
        "bias": "encoder.1#0 !encoder.1#1",
        "": "!projector#0 head bias",
    },
    "controlnet": {
        "first": "!input",
        "first.silu": "!first",
        "zero_in": "!input",
        "add#0": "!first.silu zero_in",
        "copied": "add#0",
        "copied.silu": "copied",
        "second": "!first.silu",
        "second.silu": "!second",
        "zero_out": "copied.silu",
        "add#1": "!second.silu zero_out",
        "out": "add#1",
    },
}


INPUT = re.compile(r"^(input(\[.*\])*|\?)$")


def parents_of(profile):
    """Return the parents of each site but the inputs: in execution order, an input first and under one name."""
    found = {}
    for site in profile.sites:
        if site.role != "input":
            names = [("" if p.gradient else "!") + INPUT.sub("input", p.name) for p in site.parents]
            found[site.name] = " ".join(sorted(dict.fromkeys(names), key=lambda name: name != "!input"))
    return found


def seen(forward, *inputs, batch=None, **modules):
    """Return the profile of a net with this forward function."""
    torch.manual_seed(0)
    net = Net(forward, **modules)
    return propscope.profile(net, inputs or torch.randn(2, 4))


def edges(site):
    return {parent.name: parent.gradient for parent in site.parents}


def ways(site):
    return {parent.name: parent.operations for parent in site.parents}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_the_parents_of_a_family(family):
    torch.manual_seed(0)
    model, batch = family()
    assert parents_of(propscope.profile(model, batch)) == PARENTS[family.__name__]


def test_operations_are_listed_in_order_and_the_last_one_made_the_site():
    torch.manual_seed(0)
    profile = propscope.profile(*gpt())
    attention = ("split", "view", "transpose")
    assert ways(profile["attn.softmax"]) == {"attn": (*attention, "matmul", "div", "masked_fill", "softmax")}
    assert ways(profile["proj"]) == {
        "attn": (*attention, "matmul", "transpose", "reshape", "Linear"),
        "attn.softmax": ("matmul", "transpose", "reshape", "Linear"),
    }
    assert ways(profile["add#1"]) == {"add#0": ("add",), "fc2": ("add",)}


def test_a_shared_weight_has_all_its_names():
    torch.manual_seed(0)
    profile = propscope.profile(*gpt())
    assert profile["wte"].parameters == profile["head"].parameters == ("wte.weight", "head.weight")
    assert profile["attn"].parameters == ("attn.weight", "attn.bias")
    assert profile["add#0"].parameters == ()


def test_parameters_that_are_given_to_functions_are_known_frozen_ones_too():
    def forward(net, x):
        h = F.relu(F.linear(x, net.weight.t().contiguous(), net.bias))
        return (h * net.scale) @ net.other.detach()

    net = Net(forward)
    net.weight, net.bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.zeros(4), requires_grad=False)
    net.scale, net.other = nn.Parameter(torch.ones(4)), nn.Parameter(torch.randn(4, 2))
    profile = propscope.profile(net, torch.randn(2, 4))
    assert profile["relu.input"].parameters == ("weight", "bias")
    assert profile["relu"].parameters == ()
    assert profile.sites[-1].parameters == ("scale", "other")


def test_trainable_tensors_that_are_no_parameters_are_counted():
    weights = [torch.randn(4, 4, requires_grad=True) for _ in range(3)]

    def forward(net, x):
        for weight in weights:
            x = F.relu(F.linear(x, weight))
        return x

    with propscope.track(net := Net(forward)) as recorder:
        net(torch.randn(2, 4))
    assert [operation for operation, _ in recorder._observer.graph.unregistered] == ["linear"] * 3


def test_an_opaque_module_is_one_operation():
    class SquaredNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            return x / x.square().sum(-1, keepdim=True) * self.weight

    SquaredNorm.__name__ = "SquaredRMSNorm"
    profile = seen(lambda net, x: net.norm(net.fc(x)), fc=nn.Linear(4, 4), norm=SquaredNorm())
    assert ways(profile["norm"]) == {"fc": ("SquaredRMSNorm",)}
    assert profile["norm"].parameters == ("norm.weight",)


def test_an_activation_in_place_has_the_parent_that_it_overwrites():
    profile = seen(lambda net, x: net.act(net.fc(x)), fc=nn.Linear(4, 4), act=nn.ReLU(inplace=True))
    assert edges(profile["act"]) == {"fc": True}
    profile = seen(lambda net, x: net.out(F.relu_(net.fc(x))), fc=nn.Linear(4, 4), out=nn.Linear(4, 4))
    assert edges(profile["fc.relu"]) == {"fc": True}
    assert ways(profile["fc.relu"]) == {"fc": ("relu_",)}
    assert edges(profile["out"]) == {"fc.relu": True}


def test_a_module_that_returns_its_input_is_no_parent():
    parts = {"fc": nn.Linear(4, 4), "same": nn.Identity(), "off": nn.Dropout(0.0).eval(), "out": nn.Linear(4, 4)}
    profile = seen(lambda net, x: net.out(net.off(net.same(net.fc(x)))), **parts)
    assert edges(profile["out"]) == {"off": True} if "off" in profile.graph.names else {"fc": True}
    assert "same" not in profile.graph.names


class Rounded(torch.autograd.Function):
    """Computes out of torch's sight, with a gradient of its own."""

    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.round(x.detach().numpy()))

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_the_autograd_graph_shows_what_is_computed_out_of_sight():
    profile = seen(lambda net, x: net.out(Rounded.apply(net.fc(x))), fc=nn.Linear(4, 4), out=nn.Linear(4, 4))
    assert edges(profile["out"])["fc"]


def test_what_neither_source_shows_is_unknown():
    def forward(net, x):
        return net.out(torch.from_numpy(net.fc(x).detach().numpy() * 2))

    profile = seen(forward, fc=nn.Linear(4, 4), out=nn.Linear(4, 4))
    assert edges(profile["out"]) == {UNKNOWN: False}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradients_pass_through_a_checkpoint(reentrant):
    def part(net, x, mask):
        return net.inner(torch.tanh(net.before(x)) * mask)

    def forward(net, x):
        h = checkpoint(part, net, net.fc(x), torch.ones(4), use_reentrant=reentrant)
        return checkpoint(part, net, h, torch.ones(4), use_reentrant=reentrant)

    parts = {name: nn.Linear(4, 4) for name in ("fc", "before", "inner")}
    profile = seen(forward, **parts)
    assert edges(profile["before#0"]) == {"fc": True}
    assert edges(profile["before.tanh#0"]) == {"before#0": True}
    assert edges(profile["inner#0"]) == {"before.tanh#0": True}
    assert edges(profile["before#1"]) == {"inner#0": True}
    assert edges(profile["inner#1"]) == {"before.tanh#1": True}


def test_gradients_pass_through_an_opaque_module_in_a_checkpoint_and_not_through_what_was_hidden_before():
    def forward(net, x):
        h = net.fc(x)
        with torch.no_grad():
            hidden = net.before(h) * 2
        return checkpoint(lambda a, b: net.norm(a) * b, net.out(x), hidden, use_reentrant=True)

    class OwnRMSNorm(nn.Module):
        def forward(self, x):
            return x * 2

    parts = {name: nn.Linear(4, 4) for name in ("fc", "before", "out")}
    profile = seen(forward, **parts, norm=OwnRMSNorm())
    assert edges(profile["norm"]) == {"out": True}
    assert edges(profile[""]) == {"before": False, "norm": True}


def test_hooks_of_the_user_do_not_hide_the_parents():
    block = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0, 0), nn.Linear(4, 4))
    block.register_full_backward_hook(lambda module, before, after: None)
    block[0].register_full_backward_hook(lambda module, before, after: None)
    profile = seen(lambda net, x: net.out(net.block(net.fc(x))), fc=nn.Linear(4, 4), block=block, out=nn.Linear(4, 4))
    assert edges(profile["block.0"]) == {"fc": True}
    assert edges(profile["block.2"]) == {"block.1" if "block.1" in profile.graph.names else "block.0": True}
    assert edges(profile["out"]) == {"block.2": True}


def test_parts_called_one_after_the_other_are_one_graph():
    model = nn.ModuleDict({"encode": nn.Linear(4, 4), "decode": nn.Linear(4, 2)})
    with propscope.track(model) as recorder:
        for _ in range(3):
            model["decode"](torch.tanh(model["encode"](torch.randn(2, 4)))).sum().backward()
    profile = recorder.profile()
    assert edges(profile["decode"]) == {"decode.input": True}
    assert edges(profile["decode.input"]) == {"encode": True, UNKNOWN: False}
    with propscope.track(model) as recorder:
        for _ in range(3):
            model["decode"](model["encode"](torch.randn(2, 4))).sum().backward()
    assert edges(recorder.profile()["decode"]) == {"encode": True}


class Switch(nn.Module):
    """Goes over `a`, over `b`, or past both."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = (nn.Linear(4, 4) for _ in range(3))
        self.way = "a"

    def forward(self, x):
        return self.out(getattr(self, self.way)(x) if self.way else x)


def test_another_way_is_traced_when_it_comes_again():
    model = Switch()
    with propscope.track(model) as recorder:
        for model.way in ("a", "b", "b", "b"):
            model(torch.randn(2, 4))
    profile = recorder.profile()
    assert profile.graph.known
    assert edges(profile["out"]) == {"a": True, "b": True}
    assert profile.graph.names[-3:] == ("a", "b", "out")


def test_a_site_of_a_pass_that_was_not_traced_has_no_known_parents():
    model = Switch()
    with propscope.track(model) as recorder:
        for model.way in ("a", "b"):
            model(torch.randn(2, 4))
    profile = recorder.profile()
    assert profile["b"].parents is None
    assert not profile.graph.known


def test_only_passes_of_a_new_way_are_traced():
    model, traced = Switch(), []
    with propscope.track(model) as recorder:
        for model.way in ("a", "a", "b", "a", "b", "a", "b"):
            model(torch.randn(2, 4))
            traced.append(recorder._observer.graph.taking)
    assert traced == [True, False, False, True, True, False, False]


def test_a_network_that_goes_another_way_each_time_is_traced_a_number_of_times():
    model = nn.ModuleList(nn.Linear(4, 4) for _ in range(8))
    traced = 0
    net = Net(lambda net, x: [net.parts[at](x) for at in net.chosen], parts=model)
    with propscope.track(net) as recorder:
        for number in range(100):
            net.chosen = [at for at in range(8) if number >> at & 1]
            net(torch.randn(2, 4))
            traced += recorder._observer.graph.taking
    assert 0 < traced <= signal_graph._TRACED_AT_MOST


def test_several_batches_are_all_traced():
    model = Switch()
    from propscope.measure.profiler import profile_batches, track

    def batches():
        for model.way in ("a", "b"):
            yield torch.randn(2, 4), None, 0

    profile = profile_batches(model, track(model), batches(), seed=0)
    assert edges(profile["out"]) == {"a": True, "b": True}
    assert profile.graph.known


def test_no_tensor_and_no_autograd_function_is_kept_alive():
    kept = []

    class Saves(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            saved = x * 2
            kept.append(weakref.ref(saved))
            ctx.save_for_backward(saved)
            return x + 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient

    def forward(net, x):
        h = net.fc(x)
        view = h.view(-1)[:4]
        view.mul_(2)
        out = Saves.apply(F.relu(h)) + torch.from_numpy(h.detach().numpy())
        kept.extend(map(weakref.ref, (h, view, out)))
        return out

    model = Net(forward, fc=nn.Linear(4, 4))
    gc.disable()
    try:
        with propscope.track(model) as recorder:
            for _ in range(2):
                model(torch.randn(2, 4))
                assert len(kept) % 4 == 0
                assert [each() for each in kept] == [None] * len(kept)
        recorder.profile()
    finally:
        gc.enable()


def test_the_tables_of_a_pass_are_empty_after_it_and_do_not_grow():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    sizes = []
    with propscope.track(model) as recorder:
        graph = recorder._observer.graph
        for _ in range(200):
            model(torch.randn(2, 4)).sum().backward()
            held = (graph._known, graph._memories, graph._keys, graph._walked, graph._marks, graph._since, graph.nodes)
            sizes.append([*map(len, held), sum(map(len, graph._routes.values()))])
    assert sizes[1:] == [sizes[1]] * 199
    assert sizes[1][:5] == [0] * 5


def test_what_goes_wrong_in_the_graph_is_noted_and_the_model_runs(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no identity")

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    x = torch.randn(2, 4)
    expected = model(x)
    monkeypatch.setattr(signal_graph.SignalGraph, "_source", broken)
    with propscope.track(model) as recorder:
        assert torch.equal(model(x), expected)
    profile = recorder.profile()
    assert [site.parents for site in profile.sites] == [None] * len(profile.sites)
    assert any("no identity" in note.reason for note in profile.coverage)


def test_the_second_pass_of_a_sequential_has_no_function_mode():
    seen_modes = []

    class AskingRMSNorm(nn.Module):
        def forward(self, x):
            seen_modes.append(torch._C._len_torch_function_stack())
            return x * 2

    model = nn.Sequential(nn.Linear(4, 4), AskingRMSNorm())
    with propscope.track(model):
        for _ in range(3):
            model(torch.randn(2, 4))
    assert seen_modes == [1, 0, 0]
