"""Remedies applied to copies of existing models, and the models left as they were."""

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import propscope
from propscope.diagnosis import diagnose
from propscope.errors import InputError
from propscope.measure import profile
from propscope.records import Remedy
from propscope.remedies import apply_remedy, centre, try_remedies
from propscope.remedies.apply import module_expression, scaling_lines
from propscope.report.remedies import trials_text

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from models import misscaled_resnet, resnet, sigmoid_net

sys.path.pop(0)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model, before):
    after = model.state_dict()
    return set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


def pasted(model, batch, lines):
    """Run the lines of Python that a trial gives."""
    import propscope

    exec("\n".join(lines), {"model": model, "batch": batch, "propscope": propscope})


def stack(depth=12, width=64, nonlinearity=nn.Tanh):
    return nn.Sequential(*(layer for _ in range(depth) for layer in (nn.Linear(width, width), nonlinearity())))


def test_a_layer_that_is_mis_scaled_is_named_and_scaled_back():
    net, batch = misscaled_resnet(), torch.randn(8, 3, 32, 32)
    before, random = state(net), torch.get_rng_state()
    found = try_remedies(net, batch)
    assert unchanged(net, before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [parameter.grad for parameter in net.parameters()] == [None] * len(list(net.parameters()))
    assert found.before.diagnosis.worst.first == "stage2.1.conv1"
    (trial,) = found.trials
    assert trial.helped
    assert trial.remedy.factors["stage2.1.conv1"] == pytest.approx(0.01, rel=0.1)
    assert trial.lines == ("model.stage2[1].conv1.weight.data.mul_(0.0101)",)
    assert trial.after.diagnosis.verdict == "healthy"
    pasted(net, batch, trial.lines)
    assert diagnose(profile(net, batch), notes=False).verdict == "healthy"
    assert [name for name, value in net.state_dict().items() if not torch.equal(value, before[name])] == [
        "stage2.1.conv1.weight"
    ]


def test_centred_layers_come_first_where_values_have_one_sign():
    net, batch = sigmoid_net(depth=30), torch.randn(64, 128)
    before = state(net)
    found = try_remedies(net, batch)
    assert unchanged(net, before)
    assert [(trial.remedy.action, trial.helped) for trial in found.trials] == [("centre", True)]
    pasted(net, batch, found.trial.lines)
    after = diagnose(profile(net, batch), notes=False)
    assert after.verdict == found.trial.after.diagnosis.verdict == "healthy"


@pytest.mark.slow
@pytest.mark.parametrize(("nonlinearity", "action"), [(nn.Sigmoid, "centre"), (nn.Softplus, "centre"),
                                                      (nn.GELU, "scale"), (nn.Tanh, "scale")])  # fmt: skip
def test_what_is_advised_is_what_helps(nonlinearity, action):
    net, batch = stack(24, 64, nonlinearity), torch.randn(128, 64)
    found = try_remedies(net, batch)
    assert found.before.diagnosis.verdict == "broken"
    assert found.trial.remedy.action == action
    # Softplus, whose slope varies most, is left strained by some draws.
    assert found.trial.healed or nonlinearity is nn.Softplus
    assert (found.before.diagnosis.worst.remedy.action == "centre") == (action == "centre")


def test_what_does_not_heal_is_set_aside_and_the_next_is_tried():
    net, batch = stack(40, 64, nn.GELU), torch.randn(128, 64)
    found = try_remedies(net, batch)
    assert [(trial.remedy.action, trial.healed) for trial in found.trials] == [("scale", False), ("calibrate", True)]
    for trial in found.trials:
        by_line, by_remedy = copy.deepcopy(net), copy.deepcopy(net)
        pasted(by_line, batch, trial.lines)
        assert apply_remedy(by_remedy, trial.remedy, batch)
        for one, other in zip(by_line.parameters(), by_remedy.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-6)


def test_two_layers_at_fault_are_both_repaired():
    net, batch = resnet(), torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        net.stage1[1].conv2.weight.mul_(300)
        net.stage3[1].conv1.weight.mul_(200)
    found = try_remedies(net, batch)
    assert found.trial.after.diagnosis.verdict == "healthy"
    assert set(found.trial.remedy.factors) == {"stage1.1.conv2", "stage3.1.conv1"}


def test_a_healthy_model_is_left_alone():
    found = try_remedies(resnet(), torch.randn(8, 3, 32, 32))
    assert (found.trials, found.trial) == ((), None)


def test_a_diagnosis_that_is_given_is_not_made_again():
    net, batch = stack(), torch.randn(32, 64)
    given = diagnose(profile(net, batch), notes=False)
    assert try_remedies(net, batch, diagnosis=given).before.diagnosis is given


def test_what_the_model_raises_passes_through():
    class Raises(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError) as raised:
        try_remedies(Raises(), torch.randn(4, 4))
    assert str(raised.value) == "no"


def test_an_interrupt_passes_through_and_leaves_the_model(monkeypatch):
    net, batch = sigmoid_net(depth=30), torch.randn(64, 128)
    before = state(net)

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("propscope.remedies.apply.apply_remedy", stop)
    with pytest.raises(KeyboardInterrupt):
        try_remedies(net, batch)
    assert unchanged(net, before)


def test_a_model_that_cannot_be_copied_or_stops_when_changed_is_a_reason():
    class Single(nn.Sequential):
        def __deepcopy__(self, memo):
            raise TypeError("there is but one")

    net = Single(*sigmoid_net(depth=30))
    found = try_remedies(net, torch.randn(64, 128))
    assert found.trial is None
    assert {trial.reason for trial in found.trials} == {"the model cannot be copied: TypeError: there is but one"}

    class Watched(nn.Sequential):
        def forward(self, x):
            if float(self[2].weight.detach().std()) > 0.06:
                raise ValueError("too large")
            return super().forward(x)

    net = Watched(*sigmoid_net(depth=30))
    found = try_remedies(net, torch.randn(64, 128))
    assert found.trials[0].reason == "the changed model stopped: ValueError: too large"
    assert found.trials[0].after is None


def test_weights_that_are_nan_are_not_repaired_by_a_factor():
    net = stack()
    with torch.no_grad():
        net[4].weight[0, 0] = float("nan")
    found = try_remedies(net, torch.randn(32, 64))
    assert found.before.diagnosis.worst.kind == "non-finite"
    assert found.trial is None
    assert len(found.trials) == 2


def test_remedies_that_change_more_than_weights_are_refused():
    with pytest.raises(InputError, match='"norm" changes more than weights'):
        apply_remedy(stack(), Remedy("norm", "put a norm", options={"norm": "layer"}), torch.randn(8, 64))
    with pytest.raises(InputError, match='no module "nowhere"'):
        apply_remedy(stack(), Remedy("scale", "", factors={"nowhere": 2.0}), torch.randn(8, 64))


def test_a_weight_that_modules_share_is_multiplied_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    before = net[0].weight.detach().clone()
    apply_remedy(net, Remedy("scale", "", factors={"0": 2.0, "1": 2.0}), torch.randn(8, 4))
    assert torch.equal(net[0].weight, 2 * before)


@pytest.mark.parametrize("batch", [torch.randn(64, 8), (torch.randn(64, 8),), {"input": torch.randn(64, 8)}])
def test_centred_units_have_mean_0_and_layers_deviation_1(batch):
    net = stack(4, 8, nn.Sigmoid)
    assert centre(net, batch) == ("0", "2", "4", "6")
    signal = batch["input"] if isinstance(batch, dict) else batch[0] if isinstance(batch, tuple) else batch
    for module in net:
        signal = module(signal)
        if isinstance(module, nn.Linear):
            assert signal.mean(0).abs().max() < 1e-5
            assert abs(signal.std(correction=0).item() - 1) < 1e-5


def test_a_linear_layer_over_a_sequence_is_centred_by_its_last_axis():
    net, batch = stack(1, 8), torch.randn(4, 5, 8) + 1
    assert centre(net, batch) == ("0",)
    assert net[0](batch).mean((0, 1)).abs().max() < 1e-5


def test_a_layer_that_runs_again_is_centred_by_its_first_run():
    layer, batch = nn.Linear(8, 8), torch.randn(64, 8) + 1
    assert centre(nn.Sequential(layer, nn.Sigmoid(), layer), batch) == ("0",)
    assert layer(batch).mean(0).abs().max() < 1e-5


def test_convolutions_are_centred_by_channel_and_buffers_stay():
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3, bias=False))
    before = state(net)
    batch = torch.randn(6, 3, 9, 9) + 2
    assert centre(net, batch) == ("0",)
    seen = net[0](batch)
    assert seen.mean((0, 2, 3)).abs().max() < 1e-5
    assert abs(seen.std(correction=0).item() - 1) < 1e-5
    assert all(torch.equal(net.state_dict()[name], before[name]) for name in before if not name.startswith("0."))


def test_what_centring_leaves_alone():
    net = stack(3, 8)
    net[0].bias.requires_grad_(False)
    net[4].weight = net[2].weight
    before = state(net)
    with pytest.raises(InputError, match="no layer was centred"):
        centre(net, torch.randn(16, 8))
    assert unchanged(net, before)
    with pytest.raises(InputError, match="no layer was centred"):
        centre(stack(1, 8), torch.ones(16, 8))


def test_an_error_in_the_middle_leaves_the_weights():
    class Stops(nn.Module):
        def forward(self, x):
            raise KeyboardInterrupt

    net = nn.Sequential(nn.Linear(8, 8), Stops(), nn.Linear(8, 8))
    before = state(net)
    with pytest.raises(KeyboardInterrupt):
        centre(net, torch.randn(16, 8))
    assert unchanged(net, before)
    assert not net[0]._forward_hooks


def test_places_as_python_writes_them():
    net = nn.ModuleDict({"a b": nn.Sequential(nn.Linear(2, 2)), "c": nn.ModuleList([nn.Linear(2, 2)])})
    odd = nn.Module()
    odd.add_module("0", nn.Linear(2, 2))
    odd.add_module("class", nn.Linear(2, 2))
    for model, name, text in (
        (net, "a b.0", "model['a b'][0]"),
        (net, "c.0", "model['c'][0]"),
        (odd, "0", "model.get_submodule('0')"),
        (odd, "class", "model.get_submodule('class')"),
        (net, "", "model"),
    ):
        assert module_expression(model, name) == text
        assert eval(text, {"model": model}) is model.get_submodule(name)


def test_many_layers_with_the_same_factor_are_one_loop():
    torch.manual_seed(0)
    net = nn.Module()
    net.body = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.Tanh())))
    net.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(5))
    blocks = {f"blocks.{at}.0": 3.0 for at in (0, 1, 3, 4)}
    scaled = {**{f"body.{at}": 2.0 for at in (10, 8, 6, 4)}, "body.2": 0.5, **blocks, "body.0.bias": 0.0}
    before = {name: value.clone() for name, value in net.named_parameters()}
    lines = scaling_lines(net, scaled)
    assert lines == [
        "for i in range(10, 3, -2): model.body[i].weight.data.mul_(2.00)",
        "model.body[2].weight.data.mul_(0.500)",
        "for i in (0, 1, 3, 4): model.blocks[i][0].weight.data.mul_(3.00)",
        "model.body[0].bias.data.mul_(0)",
    ]
    exec("\n".join(lines), {"model": net})
    factors = {name if name.endswith("bias") else f"{name}.weight": factor for name, factor in scaled.items()}
    for name, value in net.named_parameters():
        assert torch.equal(value, before[name] * factors.get(name, 1.0)), name
    assert scaling_lines(net, {}) == []


def killed(act=nn.ReLU):
    torch.manual_seed(0)
    net = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(32, 32), act())), nn.Linear(32, 4))
    for layer in net[::2]:
        nn.init.kaiming_normal_(layer.weight)
    nn.init.constant_(net[4].bias, -50.0)
    return net


def test_a_bias_that_turns_a_layer_off_is_set_to_zero():
    net, batch = killed(), torch.randn(128, 32)
    trials = try_remedies(net, batch)
    assert trials.before.diagnosis.verdict == "broken"
    assert trials.trial.after.diagnosis.verdict == "healthy"
    assert trials.trials[0].remedy.text == "set 4.bias to zero"
    assert trials.trial.lines == ("model[4].bias.data.mul_(0)",)


def test_what_failed_is_not_advised_again():
    net, batch = killed(), torch.randn(128, 32)
    trials = try_remedies(net, batch)
    failed = replace(trials, trials=tuple(replace(trial, after=trial.before) for trial in trials.trials))
    assert "advice" in trials_text(replace(trials, trials=()))
    assert "advice" not in trials_text(failed)


def deep(activation=nn.Tanh):
    hidden = (each for _ in range(3) for each in (nn.Linear(64, 64), activation()))
    return nn.Sequential(*hidden, nn.Linear(64, 4))


def test_what_is_found_once_the_input_is_standardized_is_repaired_too():
    net, batch = deep(), torch.randint(0, 256, (64, 64)).float()
    with torch.no_grad():
        net[2].weight.mul_(50)
    before = state(net)
    found = try_remedies(net, batch)
    assert unchanged(net, before)
    (trial,) = found.trials
    assert trial.remedy.text.startswith("standardize the input: ")
    assert "; then multiply the weight of 2 by " in trial.remedy.text
    assert trial.after.diagnosis.verdict == "healthy"
    scope = {"model": net, "batch": batch}
    exec("\n".join(trial.lines), scope)
    assert diagnose(profile(net, scope["batch"]), notes=False).verdict == "healthy"


def test_what_is_found_once_a_weight_is_scaled_back_is_repaired_too():
    net, batch = deep(activation=nn.ReLU), torch.randn(64, 64)
    with torch.no_grad():
        net[2].weight.mul_(100)
        net[4].bias.fill_(10.0)
    found = try_remedies(net, batch)
    assert set(found.trial.remedy.factors) == {"2", "4.bias"}
    assert found.trial.remedy.text.endswith(", and set 4.bias to zero")
    assert found.trial.after.diagnosis.verdict == "healthy"


def test_the_remedy_of_the_first_finding_comes_before_that_of_all():
    net, batch = deep(activation=nn.ReLU), torch.randn(64, 64)
    with torch.no_grad():
        net[2].weight.mul_(100)
    given = diagnose(profile(net, batch), notes=False)
    (first,) = given.findings
    other = replace(first, sites=("0",), remedy=Remedy("scale", "", factors={"0": 0.5}))
    trials = try_remedies(net, batch, diagnosis=replace(given, findings=(first, other))).trials
    assert [set(trial.remedy.factors) for trial in trials] == [{"2"}]


class Residual(nn.Module):
    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.norms = nn.ModuleList(norm(32) for _ in range(4))
        self.ups, self.downs = (nn.ModuleList(nn.Linear(32, 32) for _ in range(4)) for _ in range(2))
        self.norm, self.head = norm(32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        for norm, up, down in zip(self.norms, self.ups, self.downs, strict=True):
            x = x + down(nn.functional.gelu(up(norm(x))))
        return self.head(self.norm(x))


def layers(*between: nn.Module, depth: int = 6) -> nn.Sequential:
    hidden = (copy.deepcopy(each) for _ in range(depth) for each in (nn.Linear(32, 32), *between))
    return nn.Sequential(*hidden, nn.Linear(32, 4))


def convolutions(*between: nn.Module) -> nn.Sequential:
    hidden = (copy.deepcopy(each) for _ in range(5) for each in (nn.Conv2d(8, 8, 3, padding=1), *between))
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *copy.deepcopy(between), *hidden, *ends)


def encoder() -> nn.Module:
    block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(block, 3, enable_nested_tensor=False)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": 50, "n_positions": 16, "n_embd": 32, "n_layer": 3, "n_head": 4}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


class Latents(nn.Module):
    """Learned queries that read a set, as in a Perceiver: an average over twenty keys is small."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(1, 4, 32))
        self.attention, self.head = nn.MultiheadAttention(32, 4, batch_first=True), nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(self.queries.expand(len(x), -1, -1), x, x)[0].flatten(1))


def test_a_large_weight_that_makes_its_values_large_is_a_fault_still():
    net = Latents()
    with torch.no_grad():
        net.attention.out_proj.weight.mul_(300)
    assert propscope.diagnose(propscope.profile(net, torch.randn(16, 20, 32))).worst.first == "attention[0]"


class Images(nn.Module):
    """A vision transformer: a class token and learned positions of 0.02 in front of pre-norm blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(3, 32, 2, 2), encoder()
        self.token, self.positions = (nn.Parameter(0.02 * torch.randn(1, n, 32)) for n in (1, 17))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        return self.head(self.norm(self.blocks(x))[:, 0])


VECTORS, PICTURES = (64, 32), (16, 3, 8, 8)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Residual(nn.LayerNorm), VECTORS),
        (lambda: Residual(nn.BatchNorm1d), VECTORS),
        (lambda: Residual(nn.Identity), VECTORS),
        (lambda: layers(nn.ReLU(), depth=10), VECTORS),
        (lambda: layers(nn.Tanh(), depth=10), VECTORS),
        (lambda: layers(nn.LayerNorm(32), nn.ReLU()), VECTORS),
        (lambda: convolutions(nn.BatchNorm2d(8), nn.ReLU()), PICTURES),
        (lambda: convolutions(nn.ReLU()), PICTURES),
        (encoder, (8, 6, 32)),
        (lambda: Latents(), (16, 20, 32)),
        (lambda: Images(), PICTURES),
        (gpt2, None),
    ],
)  # fmt: skip
def test_nothing_is_wrong_with_what_calibrate_did(make, shape):
    torch.manual_seed(0)
    net = make()
    batch = torch.randint(0, 50, (8, 12)) if shape is None else torch.randn(shape)
    propscope.calibrate(net, batch)
    found = propscope.diagnose(propscope.profile(net, batch))
    assert found.verdict == "healthy", found
