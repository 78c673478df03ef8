"""The two ways through a model, and that they agree."""

import pytest
import torch
from building.calibrated import mlp, state, stds
from torch import nn

from propscope.errors import InputError
from propscope.remedies.calibration import calibrate


def test_one_pass_calibrates_and_runs_each_layer_again_once_a_step():
    model = mlp(6, bias=False)
    nn.init.zeros_(model[-1].bias)
    record = calibrate(model, torch.randn(64, 64))
    assert record.passes == 1
    assert [layer.steps for layer in record.layers] == [1] * 7
    assert record.reruns == 7


def test_the_pass_goes_on_with_the_calibrated_output():
    model = mlp(2)
    x = torch.randn(64, 64)
    seen = []
    model[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].std(correction=0).item()))
    record = calibrate(model, x)
    assert seen == [pytest.approx(record.layers[0].std_after)]
    assert stds(model, x) == pytest.approx([layer.std_after for layer in record.layers])


def test_hooks_of_the_user_see_the_calibrated_output_and_do_not_count():
    model, x, seen = mlp(2), torch.randn(64, 64), []

    def doubled(module, inputs, output):
        seen.append(output.std(correction=0).item())
        return 2 * output

    handle = model[0].register_forward_hook(doubled)
    record = calibrate(model, x)
    assert seen == [pytest.approx(1, rel=0.01)]
    handle.remove()
    assert stds(model, x)[0] == pytest.approx(record.layers[0].std_after)


def test_a_layer_inside_a_layer_is_calibrated_first_and_counted_once():
    class Outer(nn.Linear):
        def __init__(self):
            super().__init__(8, 8)
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return super().forward(self.inner(x))

    torch.manual_seed(0)
    record = calibrate(nn.Sequential(Outer()), torch.randn(32, 8))
    assert [(layer.name, layer.calls) for layer in record.layers] == [("0.inner", 1), ("0", 1)]


def test_batches_pool_to_what_one_batch_gives():
    x = torch.randn(60, 64) * torch.arange(1, 61)[:, None]
    whole, split = mlp(5), mlp(5)
    once = calibrate(whole, x)
    record = calibrate(split, batches=list(x.split((5, 15, 40))))
    for a, b in zip(whole.parameters(), split.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5)
    assert [layer.name for layer in record.layers] == [layer.name for layer in once.layers]
    assert [layer.steps for layer in record.layers] == [layer.steps for layer in once.layers]
    for a, b in zip(record.layers, once.layers, strict=True):
        assert a.std_before == pytest.approx(b.std_before, rel=1e-5)
        assert a.sample_fraction == pytest.approx(b.sample_fraction, rel=1e-4)
    assert record.reruns == 0
    again = calibrate(split, batches=list(x.split(20)))
    assert [(layer.factor, layer.steps) for layer in again.layers] == [(1.0, 0)] * 6
    assert again.passes == 3 * 7
    with torch.no_grad():
        split[0].weight.mul_(2)
        split[0].bias.mul_(2)
    again = calibrate(split, batches=list(x.split(20)))
    assert [layer.steps > 0 for layer in again.layers] == [True] + 5 * [False]


def test_batches_cost_a_pass_a_layer_and_each_ends_early():
    model = mlp(4, bias=False)
    nn.init.zeros_(model[-1].bias)
    ran = []
    model[-1].register_forward_pre_hook(lambda module, inputs: ran.append(1))
    record = calibrate(model, batches=list(torch.randn(3, 32, 64)))
    # Five layers and a look at the last one, over three batches; the last layer runs in the last two of these alone.
    assert record.passes == 18
    assert len(ran) == 6


@pytest.mark.parametrize("many", [False, True])
def test_shared_modules_and_weights_are_scaled_on_their_first_call(many):
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.again, self.tied = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.tied.weight = self.first.weight

        def forward(self, x):
            x = self.again(self.again(self.again(self.first(x))))
            return self.tied(x)

    torch.manual_seed(0)
    model, x = Shared(), torch.randn(32, 8)
    record = calibrate(model, batches=[x[:10], x[10:]]) if many else calibrate(model, x)
    assert [(layer.name, layer.calls) for layer in record.layers] == [("first", 1), ("again", 3)]
    (left,) = record.skipped
    assert (left.name, left.reason) == ("tied", "it shares its weight with first, which was scaled")
    assert stds(model, x)[:2] == pytest.approx([1, 1], rel=0.01)
    assert model.tied.weight is model.first.weight


def test_layers_that_some_batches_do_not_reach():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.even, self.odd, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x, odd):
            return self.head(self.odd(x) if odd else self.even(x))

    torch.manual_seed(0)
    model = Routed()
    record = calibrate(model, batches=[(torch.randn(20, 8), odd) for odd in (False, True, False)])
    assert [layer.name for layer in record.layers] == ["even", "odd", "head"]
    assert record.largest_error < 0.01


def test_a_model_that_stops_every_exception_does_not_stop_these():
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.after = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            try:
                x = self.inner(x)
            except Exception:  # noqa: BLE001, RUF100
                caught.append(x)
            return self.after(x)

    torch.manual_seed(0)
    caught = []
    model, x = Stubborn(), torch.randn(32, 8)
    assert len(calibrate(model, batches=[x, x]).layers) == 2
    assert caught == []
    nn.init.zeros_(model.inner.weight)
    before = state(model)
    for given in ({"batch": x}, {"batches": [x, x]}):
        with pytest.raises(InputError, match=r"the output of \"inner\" .* after 10 steps"):
            calibrate(model, **given)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_random_numbers_are_the_same_in_each_pass():
    model = nn.Sequential(nn.Linear(32, 32, bias=False), nn.Dropout(0.5), nn.Linear(32, 32, bias=False))
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append(output == 0))
    before = torch.get_rng_state()
    calibrate(model, batches=lambda: (torch.randn(8, 32) for _ in range(2)), tolerance=1e-4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[0], seen[1])


def test_batches_that_do_not_come_again():
    once = iter([torch.randn(8, 64)])
    with pytest.raises(InputError, match="batches gave no batch the second time"):
        calibrate(mlp(2), batches=lambda: once)
    given = iter([[(torch.randn(20, 8), 0)], [(torch.randn(20, 8), 1)]])

    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.even, self.odd = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x, odd):
            return self.odd(x) if odd else self.even(x)

    model = Routed()
    before = state(model)
    with pytest.raises(InputError, match='"even" ran in one pass over the batches and not in the next'):
        calibrate(model, batches=lambda: next(given))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_checkpointed_and_compiled_models():
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self, reentrant):
            super().__init__()
            self.first, self.body, self.reentrant = nn.Linear(8, 8), mlp(2, 8), reentrant

        def forward(self, x):
            return checkpoint(self.body, self.first(x), use_reentrant=self.reentrant)

    x = torch.randn(32, 8)
    for reentrant in (False, True):
        model = Checkpointed(reentrant)
        assert calibrate(model, x).largest_error < 0.01
        assert stds(model, x) == pytest.approx([1] * 4, rel=0.01)
    torch._dynamo.reset()
    model = mlp(2, 8)
    compiled = torch.compile(model, backend="eager")
    assert [layer.name for layer in calibrate(compiled, x).layers] == ["0", "2", "4"]
    assert stds(model, x) == pytest.approx([1] * 3, rel=0.01)
