"""Jacobians written down: against closed forms, by every way of computing them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from propscope.records import LogHistogram
from propscope.spectra import exact as jacobian_exact
from propscope.spectra import jacobian


def tanh_net(sizes=(6, 5, 7, 4), seed=0):
    torch.manual_seed(seed)
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m, bias=False), nn.Tanh())]
    return nn.Sequential(*layers)


def closed_form(net, x):
    """Return the Jacobians of a net of Linear and Tanh, shape (rows, outputs, inputs), at every module."""
    h = x.double().numpy()
    product = np.broadcast_to(np.eye(x.shape[1]), (len(x), x.shape[1], x.shape[1]))
    found = []
    for module in net:
        if isinstance(module, nn.Linear):
            weight = module.weight.detach().double().numpy()
            h, product = h @ weight.T, weight @ product
        else:
            h = np.tanh(h)
            product = (1 - h**2)[:, :, None] * product
        found.append(product)
    return found


def singular(matrices):
    return np.linalg.svd(matrices, compute_uv=False)


def own_jacobians(model, x, key=None):
    """Return d output_i / d x_i from torch's own, with the rest of the batch held fixed."""

    def of(row):
        def output(one):
            batch = torch.cat([x[:row], one[None], x[row + 1 :]]).clone()
            return model(batch)[row].flatten()

        return torch.autograd.functional.jacobian(output, x[row]).flatten(1)

    return torch.stack([of(row) for row in range(len(x))]).double().numpy()


def test_a_linear_network_has_the_singular_values_of_its_product():
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(12, 12) for _ in range(4)))
    profile = jacobian(net, torch.randn(3, 12))
    product = np.eye(12)
    for site, layer in zip(profile.sites, net, strict=True):
        product = layer.weight.detach().double().numpy() @ product
        expected = singular(product)
        assert site.jacobian.max == pytest.approx(expected[0], rel=1e-5)
        assert site.jacobian.mean == pytest.approx(expected.mean(), rel=1e-5)
        assert site.jacobian.rms == pytest.approx(math.sqrt((expected**2).mean()), rel=1e-5)
        assert site.jacobian.min == pytest.approx(expected[-1], abs=1e-5 * expected[0])
        assert site.jacobian.count == 3 * 12


def test_every_prefix_of_a_tanh_network():
    net, x = tanh_net(), torch.randn(4, 6)
    profile = jacobian(net, x, include=".*")
    assert [site.name for site in profile.sites] == [str(index) for index in range(6)]
    for site, matrices in zip(profile.sites, closed_form(net, x), strict=True):
        expected = singular(matrices)
        assert site.jacobian.count == expected.size
        assert site.jacobian.mean == pytest.approx(expected.mean(), rel=1e-5)
        assert site.jacobian.histogram.total == expected.size
        squares = expected**2
        variance = ((squares**2).mean(1) / squares.mean(1) ** 2 - 1).mean()
        assert site.jacobian_square_variance == pytest.approx(variance, rel=1e-4)
        # Behind the layer of 5, one of the layer of 7's six values is 0 but for rounding.
        full = expected[0, -1] > 1e-12
        condition = np.exp(np.log(expected[:, 0] / expected[:, -1]).mean()) if full else math.inf
        assert site.jacobian_condition == pytest.approx(condition, rel=1e-4)


def test_the_histogram_is_of_the_singular_values():
    net, x = tanh_net().double(), torch.randn(4, 6, dtype=torch.float64)
    profile = jacobian(net, x, include="5")
    assert profile["5"].jacobian.histogram == LogHistogram.of(singular(closed_form(net, x)[-1]))


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.last = nn.Linear(3, 5)

    def forward(self, x):
        return self.last(self.act(self.norm(self.first(x))).flatten(2).mean(2))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class StraightThrough(nn.Module):
    """Neither forward derivatives nor vmap know this one."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x):
        return Sign.apply(self.linear(x))


class Unaware(nn.Module):
    """Divides by what it takes for a constant: forward derivatives look into `no_grad`, backward ones do not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x):
        with torch.no_grad():
            largest = x.abs().amax(1, keepdim=True)
        return self.linear(x) / largest


class Centred(nn.Module):
    """Overwrites its input, and sees the whole batch."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 6)

    def forward(self, x):
        return torch.tanh(self.linear(x.sub_(x.mean(0))))


CASES = {
    "a batch that is centred": lambda: (Centred(), torch.randn(3, 5)),
    "a convolution in eval mode": lambda: (Convolutional().eval(), torch.randn(3, 2, 4, 4)),
    "batch norm while training": lambda: (Convolutional(), torch.randn(3, 2, 4, 4)),
    "a function of the user's": lambda: (StraightThrough(), torch.randn(3, 5)),
    "a constant of the user's": lambda: (Unaware(), torch.randn(3, 5)),
    "a wide output": lambda: (nn.Sequential(nn.Linear(3, 20), nn.Tanh()), torch.randn(4, 3)),
    "a single output": lambda: (nn.Sequential(nn.Linear(3, 1)), torch.randn(4, 3)),
    "attention": lambda: (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.randn(2, 3, 8)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", ["as chosen", "forward refused", "a direction at a time"])
def test_every_way_gives_what_torch_gives(case, way, monkeypatch):
    torch.manual_seed(0)
    model, x = CASES[case]()
    if way == "forward refused":
        monkeypatch.setattr(jacobian_exact, "_forward_mode", _refuse)
    if way == "a direction at a time":
        monkeypatch.setattr(jacobian_exact, "_BUDGET", 1)
    expected = singular(own_jacobians(model, x))
    last = jacobian(model, x, method="exact").sites[-1]
    assert last.jacobian.count == expected.size
    assert last.jacobian.max == pytest.approx(expected.max(), rel=1e-4)
    assert last.jacobian.mean == pytest.approx(expected.mean(), rel=1e-4)
    squares = expected**2
    variance = ((squares**2).mean(1) / squares.mean(1) ** 2 - 1).mean()
    assert last.jacobian_square_variance == pytest.approx(variance, rel=1e-3, abs=1e-6)


def _refuse(*arguments):
    raise RuntimeError("no forward derivative")


def test_forward_mode_is_taken_where_it_can_be(monkeypatch):
    monkeypatch.setattr(jacobian_exact, "_reverse_mode", _refuse)
    net, x = tanh_net(), torch.randn(4, 6)
    assert jacobian(net, x).sites[-1].jacobian.max == pytest.approx(singular(closed_form(net, x)[-1]).max(), rel=1e-5)


def test_one_sample_of_a_coupled_batch_is_found_to_be_so():
    torch.manual_seed(0)
    model, x = Centred(), torch.randn(3, 5)
    expected = singular(own_jacobians(model, x))[0]
    assert jacobian(model, x, samples=1).sites[-1].jacobian.mean == pytest.approx(expected.mean(), rel=1e-4)


def test_forward_mode_moves_one_sample_of_a_coupled_batch(monkeypatch):
    torch.manual_seed(0)
    model, x = Centred(), torch.randn(3, 5)
    expected = singular(own_jacobians(model, x))
    monkeypatch.setattr(jacobian_exact, "_reverse_mode", _refuse)
    assert jacobian(model, x).sites[-1].jacobian.mean == pytest.approx(expected.mean(), rel=1e-4)


def test_batch_norm_while_training_takes_the_forward_mode(monkeypatch):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh()), torch.randn(4, 5)
    expected = singular(own_jacobians(model, x))
    monkeypatch.setattr(jacobian_exact, "_reverse_mode", _refuse)
    assert jacobian(model, x, include="2").sites[-1].jacobian.mean == pytest.approx(expected.mean(), rel=1e-4)


def test_few_outputs_take_the_reverse_mode(monkeypatch):
    monkeypatch.setattr(jacobian_exact, "_forward_mode", lambda *arguments: pytest.fail("64 passes for 3 outputs"))
    assert jacobian(nn.Sequential(nn.Linear(64, 3)), torch.randn(2, 64)).sites[0].jacobian.count == 6


def test_an_activation_in_place_does_not_change_what_stands_before_it():
    torch.manual_seed(0)
    linear = nn.Linear(6, 6)
    net = nn.Sequential(linear, nn.ReLU(inplace=True), nn.Linear(6, 6))
    expected = singular(linear.weight.detach().numpy())
    assert jacobian(net, torch.randn(2, 6))["0"].jacobian.mean == pytest.approx(expected.mean(), rel=1e-5)


def test_one_mask_of_dropout_holds_for_all_directions(monkeypatch):
    """With masks of its own for each direction, the matrix would be no network's, and its rank that of no mask."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5))
    monkeypatch.setattr(jacobian_exact, "_BUDGET", 1)
    x = torch.randn(1, 16)
    state = torch.get_rng_state()
    kept = int((net(x) != 0).sum())
    torch.set_rng_state(state)
    profile = jacobian(net, x, include="1")
    assert profile["1"].jacobian.zero_fraction == pytest.approx(1 - kept / 16)
    assert 0 < kept < 16


def test_what_rounding_leaves_of_a_zero_is_zero():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8))
    site = jacobian(net, torch.randn(2, 8), include="1").sites[0]
    assert site.jacobian.zero_fraction == pytest.approx(5 / 8)
    assert site.jacobian_condition == math.inf


def test_float64_resolves_what_float32_cannot():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4, bias=False))
    weight = torch.diag(torch.tensor([1.0, 1e-3, 1e-6, 1e-9]))
    with torch.no_grad():
        net[0].weight.copy_(torch.linalg.qr(torch.randn(4, 4))[0] @ weight)
    x = torch.randn(1, 4)
    narrow, wide = (jacobian(net, x, dtype=dtype).sites[0] for dtype in (None, "float64"))
    assert (narrow.jacobian.zero_fraction, narrow.jacobian_condition) == (0.25, math.inf)
    assert wide.jacobian.zero_fraction == 0
    assert wide.jacobian_condition > 1e7
    assert net[0].weight.dtype == torch.float32
