"""A function's site is named after the layer whose weights made its value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import propscope

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def names(model: nn.Module, **options: object) -> list[str]:
    return [site.name for site in propscope.profile(model, X, **options).without_inputs.sites]


class Net(nn.Module):
    """Whatever `forward` does with the modules and parameters that it is given."""

    def __init__(self, forward, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def linears(number: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(4, 4) for _ in range(number))


def test_a_function_after_a_layer_is_named_after_it():
    net = Net(lambda n, x: F.relu(n.fc2(torch.tanh(n.fc1(x)))), fc1=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    assert names(net) == ["fc1", "fc1.tanh", "fc2", "fc2.relu"]


def test_modules_without_weights_and_moves_in_between_change_nothing():
    def forward(net: Net, x: Tensor) -> Tensor:
        return F.relu(net.pool(net.drop(net.conv(x[:, None]))).flatten(1)[:, :3] * 2 + 1)

    net = Net(forward, conv=nn.Conv1d(1, 2, 1), drop=nn.Dropout(0.5), pool=nn.AvgPool1d(2))
    assert names(net)[-1] == "conv.relu"


def test_weights_given_to_a_function_stand_for_their_layer():
    def forward(net: Net, x: Tensor) -> Tensor:
        for layer in net.layers:
            x = F.relu(F.linear(x, layer.weight, layer.bias))
        return x

    net = Net(forward, layers=linears(3))
    expected = [name for at in range(3) for name in (f"layers.{at}", f"layers.{at}.relu")]
    assert names(net) == expected
    assert propscope.profile(net, X)["layers.1"].role == "pre-activation"


def test_parameters_without_a_layer_are_one():
    def forward(net: Net, x: Tensor) -> Tensor:
        for weight in net.weights:
            x = torch.tanh(x @ weight.t())
        return torch.sigmoid(torch.matmul(x, net.last) + net.shift)

    weights = nn.ParameterList(torch.randn(4, 4) for _ in range(2))
    net = Net(forward, weights=weights, last=nn.Parameter(torch.randn(4, 2)), shift=nn.Parameter(torch.zeros(2)))
    assert names(net) == ["weights.0", "weights.0.tanh", "weights.1", "weights.1.tanh", "last", "last.sigmoid"]


def test_a_layer_called_by_its_forward_is_known_by_its_parameters():
    net = Net(lambda n, x: F.relu(n.fc.forward(x)), fc=nn.Linear(4, 4))
    profile = propscope.profile(net, X)
    assert [site.name for site in profile.without_inputs.sites] == ["fc", "fc.relu"]
    assert profile["fc"].parameters == ("fc.weight", "fc.bias")
    assert any(note.name == "fc" and "forward" in note.reason for note in profile.coverage)


def test_what_several_layers_made_is_named_after_the_module_that_runs_it():
    net = Net(lambda n, x: F.relu(n.a(x) + n.b(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert names(net) == ["a", "b", "add", "relu"]
    product = Net(lambda n, x: torch.softmax(n.a(x) @ n.b(x).t(), -1), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    assert names(product)[-1] == "softmax"


def test_a_layer_in_a_block_keeps_the_path_of_the_block():
    def block(net: Net, x: Tensor) -> Tensor:
        return x + F.gelu(net.up(x))

    net = Net(lambda n, x: n.blocks(x), blocks=nn.Sequential(*(Net(block, up=nn.Linear(4, 4)) for _ in range(2))))
    assert names(net) == ["blocks.0.up", "blocks.0.up.gelu", "blocks.0.add", *(
        "blocks.1.up", "blocks.1.up.gelu", "blocks.1.add",
    )]  # fmt: skip


def test_a_function_in_a_module_of_its_own_is_named_after_that():
    net = Net(lambda n, x: n.act(n.fc(x)), fc=nn.Linear(4, 4), act=Net(lambda n, x: F.gelu(x) * 2))
    assert names(net) == ["fc", "act.gelu", "act"]
    custom = Net(lambda n, x: F.relu(x @ n.weight), weight=nn.Parameter(torch.randn(4, 4)))
    assert names(Net(lambda n, x: n.layer(x), layer=custom)) == ["layer.relu.input", "layer.relu"]


def test_a_functional_norm_is_named_after_its_own_weights():
    def forward(net: Net, x: Tensor) -> Tensor:
        return F.layer_norm(net.fc(x), (4,), net.norm.weight, net.norm.bias)

    assert names(Net(forward, fc=nn.Linear(4, 4), norm=nn.LayerNorm(4))) == ["fc", "norm.layer_norm"]


def test_names_are_unique():
    def forward(net: Net, x: Tensor) -> Tensor:
        x = F.relu(net.fc(x)) + F.relu(net.fc(x + 1))
        return F.relu(x)

    found = names(Net(forward, fc=nn.Linear(4, 4)))
    assert found == ["fc#0", "fc.relu#0", "fc#1", "fc.relu#1", "add", "relu"]
    inner = Net(lambda n, x: F.relu(x @ n.weight) * 2, weight=nn.Parameter(torch.randn(4, 4)))
    found = names(Net(lambda n, x: F.relu(n.fc(x)), fc=inner))
    assert len(found) == len(set(found))
    assert {"fc.relu", "fc.relu#1"} < set(found)


def test_a_module_of_that_name_is_told_from_the_function():
    fc = nn.Linear(4, 4)
    fc.relu = nn.Identity()
    assert names(Net(lambda n, x: F.relu(n.fc(x)), fc=fc)) == ["fc", "fc.relu()"]


@pytest.mark.parametrize("reentrant", [True, False])
def test_many_passes_and_checkpoints_keep_the_names(reentrant):
    def part(net: Net, x: Tensor) -> Tensor:
        return F.relu(net.b(torch.tanh(net.a(x))))

    net = Net(lambda n, x: checkpoint(part, n, n.first(x), use_reentrant=reentrant), first=nn.Linear(4, 4),
              a=nn.Linear(4, 4), b=nn.Linear(4, 4))  # fmt: skip
    with propscope.track(net) as recorder:
        for _ in range(3):
            net(X).sum().backward()
    sites = recorder.profile().without_inputs.sites
    assert [site.name for site in sites] == ["first", "a", "a.tanh", "b", "b.relu"]
    assert [site.forward.count for site in sites] == [60] * 5
    assert [site.backward.count for site in sites if site.kind == "Linear"] == [60] * 3


def test_patterns_are_searched_in_these_names():
    net = Net(lambda n, x: F.relu(n.fc2(F.relu(n.fc1(x)))), fc1=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    assert names(net, include=r"fc2\.relu$") == ["fc2.relu"]
    assert names(net, exclude="fc1") == ["fc2", "fc2.relu"]


def test_the_jacobian_has_the_same_names():
    net = Net(lambda n, x: F.relu(n.fc2(F.relu(n.fc1(x)))), fc1=nn.Linear(4, 4), fc2=nn.Linear(4, 4))
    found = propscope.jacobian(net, X, include=r"relu")
    assert {"fc1.relu", "fc2.relu"} <= {site.name for site in found.sites}


def test_an_older_baseline_is_compared_under_the_names_of_today():
    from dataclasses import replace

    from propscope.comparison import compare
    from propscope.records import ProfileSet

    def forward(net: Net, x: Tensor) -> Tensor:
        for layer in net.layers:
            x = F.relu(layer(x))
        return x

    new = []
    for seed in range(3):
        torch.manual_seed(seed)
        new.append(replace(propscope.profile(Net(forward, layers=linears(3)), X), labels={"seed": seed}))
    old_names = dict(zip((f"layers.{at}.relu" for at in range(3)), ("relu#0", "relu#1", "relu#2"), strict=True))
    assert set(old_names) < {site.name for site in new[0].sites}
    old = [
        replace(
            profile,
            sites=tuple(
                replace(site, name=old_names.get(site.name, site.name), parents=None, parameters=())
                for site in profile.without_inputs.sites
            ),
        )
        for profile in new
    ]
    found = compare(ProfileSet.of(old), ProfileSet.of(new))
    assert not found.differences
    assert found.comparisons == compare(ProfileSet.of(new), ProfileSet.of(new)).comparisons - 1


class Block(nn.Module):
    def __init__(self, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm, self.fc, self.acts = norm, nn.Linear(4, 4), nn.ModuleList([act])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.acts[0](self.fc(F.silu(self.norm(x))))


def test_a_module_that_blocks_share_is_named_by_the_block_that_runs_it():
    norm, act = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model = nn.Sequential(*(Block(norm, act) for _ in range(3)))
    profile = propscope.profile(model, X)
    expected = [
        f"{block}.{place}" for block in range(3) for place in ("norm", "norm.silu", "fc", "acts.0.0", "acts.0.1", "add")
    ]
    assert [site.name for site in profile.without_inputs.sites] == expected
    assert profile["2.norm"].parameters == tuple(f"{n}.norm.{own}" for own in ("weight", "bias") for n in range(3))
    assert not [note for note in profile.coverage if note.what == "module"]


def test_a_shared_block_names_what_is_inside_it():
    block = Block(nn.LayerNorm(4), nn.ReLU())
    net = Net(lambda n, x: n.late(n.early(x)), early=block, late=block)
    # Its holder runs it twice, and cannot tell under which name: it has the first one.
    assert names(net)[:2] == ["early.norm#0", "early.norm.silu#0"]
    outer = Net(lambda n, x: n.late(n.early(x)), early=nn.Sequential(block), late=nn.Sequential(block))
    assert names(outer)[::5] == ["early.0.norm", "late.0.norm"]


def test_a_shared_module_that_its_caller_does_not_hold_keeps_its_name():
    norm = nn.LayerNorm(4)
    inner = Net(lambda n, x: n.fc(norm(x)), fc=nn.Linear(4, 4))
    net = Net(lambda n, x: n.inner(n.a.norm(x)), a=nn.ModuleDict({"norm": norm}), b=nn.ModuleDict({"norm": norm}),
              inner=inner)  # fmt: skip
    assert names(net) == ["a.norm#0", "a.norm#1", "inner.fc"]


def test_shared_modules_keep_their_names_and_figures_over_many_passes():
    norm = nn.LayerNorm(4)
    model = nn.Sequential(*(Block(norm, nn.ReLU()) for _ in range(2)))
    with propscope.track(model) as recorder:
        for _ in range(3):
            model(X).sum().backward()
    profile = recorder.profile()
    assert [profile[f"{block}.norm"].forward.count for block in range(2)] == [60, 60]
    assert [profile[f"{block}.norm"].backward.count for block in range(2)] == [60, 60]


class Unregistered(Net):
    """Its weights are in a list, which registers nothing."""

    def __init__(self, forward, *shapes: tuple[int, ...], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__(forward, **parts)
        self.weights = [torch.randn(shape, requires_grad=True) for shape in shapes]


def test_what_unregistered_weights_make_is_named_after_the_operation():
    def forward(net: Net, x: Tensor) -> Tensor:
        first, second = net.weights
        x = F.relu(F.linear(net.first(x), first))
        x = F.gelu(F.linear(x, weight=second) * 2)
        return F.silu(torch.matmul(x, second.t().contiguous()))

    net = Unregistered(forward, (4, 4), (4, 4), first=nn.Linear(4, 4))
    assert names(net) == [
        "first", "linear#0", "linear.relu", "linear#1", "linear.gelu", "matmul", "matmul.silu",
    ]  # fmt: skip


def test_layers_in_a_list_are_named_after_their_operation_where_they_run():
    def block(net: Net, x: Tensor) -> Tensor:
        for layer in net.layers:
            x = torch.tanh(layer(x))
        return x

    inner = Net(block)
    inner.layers = [nn.Linear(4, 4) for _ in range(2)]
    found = names(Net(lambda n, x: n.body(n.first(x)), first=nn.Linear(4, 4), body=inner))
    assert found == ["first", "body.linear#0", "body.linear.tanh#0", "body.linear#1", "body.linear.tanh#1"]


def test_a_module_of_the_name_is_told_from_the_operation():
    net = Unregistered(lambda n, x: F.relu(F.linear(n.linear(x), n.weights[0])), (4, 4), linear=nn.Linear(4, 4))
    assert names(net) == ["linear", "linear()", "linear().relu"]


def test_inputs_and_values_that_require_a_gradient_are_no_weights():
    def forward(net: Net, x: Tensor) -> Tensor:
        return F.relu(x @ net.mask) + F.relu(x.detach().requires_grad_() * 2)

    net = Net(forward)
    net.mask = torch.eye(4)
    found = [site.name for site in propscope.profile(net, X.clone().requires_grad_()).without_inputs.sites]
    assert found == ["relu.input#0", "relu#0", "relu.input#1", "relu#1", "add"]
    with propscope.track(net, include="relu") as recorder:
        net(X.clone().requires_grad_())
    assert [site.name for site in recorder.profile().sites] == found[:-1]


def test_what_scales_the_input_names_its_product():
    net = Net(lambda n, x: F.relu(x * n.scale), scale=nn.Parameter(torch.ones(4)))
    assert names(net) == ["scale", "scale.relu"]
    assert names(Unregistered(lambda n, x: F.relu(x * n.weights[0]), (4,))) == ["mul", "mul.relu"]
