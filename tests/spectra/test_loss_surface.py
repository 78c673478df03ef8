import math

import numpy as np
import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks import initialize_
from propscope.spectra import hessian_eigenvalues, loss_surface


def network(*, seed=0, inputs=3, units=5):
    model = nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), nn.Linear(units, 2)).double()
    initialize_(model, "xavier_normal", bias_std=0.3, generator=torch.Generator().manual_seed(seed))
    return model


X = torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.arange(20) % 2


def loss(output):
    return nn.functional.cross_entropy(output, Y)


def test_the_middle_is_the_model_and_steps_are_relative_to_its_weights():
    model = network()
    found = loss_surface(model, X, loss, reach=0.5, points=5, name="tanh")
    assert (found.name, found.losses.shape, found.steps.tolist()) == ("tanh", (5, 5), [-0.5, -0.25, 0, 0.25, 0.5])
    assert found.here == loss(model(X)).item()
    assert found.lowest <= found.here <= found.highest
    # The loss of a linear model is the square of what its one weight matrix makes, so the surface is known.
    line = nn.Linear(3, 4, bias=False).double()
    rows = loss_surface(line, torch.eye(3, dtype=torch.float64), lambda out: out.square().sum(), points=3)
    own = line.weight.square().sum().item()
    # w - d and w + d: the cross terms cancel, and each row of d has the norm of that of w.
    assert rows.losses[1, 0] + rows.losses[1, 2] == pytest.approx(4 * own)
    assert rows.losses[0, 1] + rows.losses[2, 1] == pytest.approx(4 * own)
    assert rows.here == pytest.approx(own)


def test_biases_stay_and_shared_weights_move_together():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[1].weight = model[0].weight
    seen = []

    def biases(output):
        seen.append([parameter.clone() for name, parameter in model.named_parameters() if "bias" in name])
        seen[-1].append(model[0].weight - model[1].weight)
        return output.square().sum()

    found = loss_surface(model, X, biases, points=3)
    assert len(seen) == 9
    assert all(torch.equal(one, model[number].bias) for at in seen for number, one in enumerate(at[:2]))
    assert not any(at[2].any() for at in seen)
    assert len(set(found.losses.flatten().tolist())) == 9


def test_scaling_a_layer_up_and_the_next_one_down_changes_nothing():
    # The same function, which is what the normalization of directions is for.
    model = nn.Sequential(nn.Linear(3, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False)).double()
    before = loss_surface(model, X, loss, points=5)
    with torch.no_grad():
        model[0].weight.mul_(100)
        model[2].weight.div_(100)
    np.testing.assert_allclose(loss_surface(model, X, loss, points=5).losses, before.losses, rtol=1e-9)


def test_the_model_and_the_random_state_stay():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).double()
    loss(model(X)).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    state = torch.get_rng_state()
    found = loss_surface(model, X, loss, points=3)
    hessian_eigenvalues(model, X, loss)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, one) for p, one in zip(model.parameters(), gradients, strict=True))
    assert model.training
    # The same dropout at every point, so that the surface is smooth; another one for another seed.
    assert np.array_equal(found.losses, loss_surface(model, X, loss, points=3).losses)
    assert found.here != loss_surface(model, X, loss, points=3, seed=1).here


def test_losses_that_are_not_finite_are_kept():
    model = nn.Linear(1, 1, bias=False)
    found = loss_surface(model, torch.ones(1, 1), lambda out: out.sum() / (model.weight > 1e30), points=3)
    assert not np.isfinite(found.losses).any()
    assert math.isnan(found.lowest)
    assert math.isnan(found.highest)


@pytest.mark.parametrize("inputs", [(X,), {"input": X}, X.numpy()], ids=["tuple", "dict", "array"])
def test_batches_as_in_profile(inputs):
    model = network()
    assert loss_surface(model, inputs, loss, points=3).here == loss(model(X)).item()


def test_eigenvalues_of_a_quadratic_are_those_of_its_matrix():
    model = nn.Linear(3, 1, bias=False).double()
    found = hessian_eigenvalues(model, X, lambda out: out.square().sum() / 2)
    np.testing.assert_allclose(found, torch.linalg.eigvalsh(X.T @ X).numpy(), rtol=1e-12)
    assert found.dtype == np.float64


def test_eigenvalues_are_those_of_torchs_own_hessian():
    model = network(units=70)
    found = hessian_eigenvalues(model, X, loss)
    parameters = dict(model.named_parameters())
    sizes = [value.numel() for value in parameters.values()]

    def at(flat):
        pieces = flat.split(sizes)
        moved = {name: piece.view_as(p) for (name, p), piece in zip(parameters.items(), pieces, strict=True)}
        return loss(torch.func.functional_call(model, moved, (X,)))

    whole = torch.cat([value.detach().flatten() for value in parameters.values()])
    expected = torch.linalg.eigvalsh(torch.autograd.functional.hessian(at, whole))
    assert found.shape == (sum(sizes),)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)


def test_what_takes_no_part_is_flat_and_what_is_frozen_is_left_out():
    model = network()
    model.unused = nn.Linear(2, 1).double()
    model[0].bias.requires_grad_(False)
    found = hessian_eigenvalues(model[:3], X, loss)
    assert found.shape == (3 * 5 + 5 * 2 + 2,)

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2).double(), nn.Linear(2, 1).double()

        def forward(self, x):
            return self.used(x)

    assert np.sum(hessian_eigenvalues(Half(), X, loss) == 0) >= 3
    # A loss that is linear in the parameters is flat everywhere.
    assert hessian_eigenvalues(nn.Linear(3, 2).double(), X, torch.sum).tolist() == [0] * 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss_surface(network(), X, loss, points=4), "points must be odd"),
        (lambda: loss_surface(network(), X, loss, points=1), "points must be .* got 1"),
        (lambda: loss_surface(network(), X, loss, reach=0), "reach must be .* got 0"),
        (lambda: loss_surface(network(), X, loss, seed=0.5), "seed must be .* got 0.5"),
        (lambda: loss_surface(network(), X, "mse"), "loss must be a function"),
        (lambda: loss_surface(network(), X, lambda out: out), "one element, got shape"),
        (lambda: loss_surface(nn.BatchNorm1d(3).double(), X, loss), "no weight of two or more dimensions"),
        (lambda: loss_surface(network(), X[:0], loss), "at least one element"),
        (lambda: hessian_eigenvalues(nn.ReLU(), X, loss), "no parameter that requires a gradient"),
        (lambda: hessian_eigenvalues(network(), X, lambda out: X.sum()), "does not depend on a parameter"),
        (lambda: hessian_eigenvalues(network(), X, loss, seeds=0), "seeds"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_hessian_beyond_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr("propscope.checks.machine_memory", lambda: 1000)
    with pytest.raises(InputError, match=r"the Hessian of 32 parameters needs .* this machine has 1,000 bytes"):
        hessian_eigenvalues(network(), X, loss)
