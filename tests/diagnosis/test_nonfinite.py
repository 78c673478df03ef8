import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from building.networks import zeroed
from building.records import evidence, network
from torch import nn

import propscope
from propscope.diagnosis.nonfinite import nonfinite, precision
from propscope.records import TensorSummary

NAN = math.nan


def with_weight(profile, values, index=1):
    parameters = list(profile.parameters)
    parameters[index] = replace(parameters[index], value=TensorSummary.of(np.array(values)))
    return replace(profile, parameters=tuple(parameters))


def test_the_first_site_forward_is_named_and_all_after_it_marked():
    (found,) = nonfinite(evidence(network([1.0, NAN, NAN], [NAN, NAN, NAN])))
    assert (found.severity, found.direction, found.first, found.last) == (
        "broken",
        "forward",
        "layers.1.linear",
        "layers.2.linear",
    )
    assert found.marks == {"layers.1.linear": "NaN", "layers.2.linear": "NaN"}
    assert "1 NaN of 8192 values" in found.message


def test_a_gradient_alone_is_named_where_it_starts_going_back():
    (found,) = nonfinite(evidence(network([1.0] * 3, [NAN, NAN, 1.0])))
    assert (found.direction, found.first, found.last) == ("backward", "layers.1.linear", "layers.0.linear")
    assert found.marks["layers.1.linear"] == "grad NaN"


def test_a_weight_is_named_as_the_cause():
    (found,) = nonfinite(evidence(with_weight(network([1.0, NAN, NAN]), [NAN, 1.0])))
    assert "layers.1.linear.weight itself" in found.cause
    (found,) = nonfinite(evidence(with_weight(network([1.0] * 3), [math.inf, 1.0])))
    assert found.sites == ("layers.1.linear",)
    assert found.severity == "broken"


def test_overflow_asks_for_smaller_weights():
    profile = network([1.0, 1.0])
    overflown = replace(profile.sites[1], forward=TensorSummary.of(np.array([1.0, math.inf])))
    (found,) = nonfinite(evidence(replace(profile, sites=(profile.sites[0], overflown))))
    assert found.remedy.action == "calibrate"
    assert found.marks == {"layers.1.linear": "Inf"}


def test_one_seed_of_two_lowers_the_confidence():
    (found,) = nonfinite(evidence(network([1.0, 1.0], seed=0), network([1.0, NAN], seed=1)))
    assert found.confidence == 0.5


def test_finite_values_find_nothing():
    assert list(nonfinite(evidence(network([1.0, 1e300, 0.0])))) == []


def test_values_that_fp16_would_lose_are_a_note():
    profile = network([1.0, 1.0])
    far = replace(profile.sites[1], forward=TensorSummary.of(np.array([1.0, 1e6])))
    found = list(precision(evidence(replace(profile, sites=(profile.sites[0], far)))))
    assert [(each.severity, each.first) for each in found] == [("note", "layers.1.linear")]
    assert found[0].evidence["overflow"] == 0.5
    assert list(precision(evidence(profile))) == []


class Between(nn.Module):
    """Two layers with an operation in between, which is given exact zeros."""

    def __init__(self, operation):
        super().__init__()
        self.first, self.last, self.operation = nn.Linear(8, 8), nn.Linear(8, 4), operation

    def forward(self, x):
        return self.last(self.operation(torch.relu(self.first(x))))


def gradient_of(operation, loss=None):
    torch.manual_seed(0)
    batch = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
    batch[0] = 0
    net = Between(operation)
    nn.init.zeros_(net.first.bias)
    (found, *_) = propscope.diagnose(propscope.profile(net, batch, loss)).findings
    assert (found.kind, found.severity, found.direction) == ("non-finite", "broken", "backward")
    return found


@pytest.mark.parametrize(
    ("name", "operation", "remedy"),
    [
        ("sqrt", torch.sqrt, "under the root"),
        ("pow", lambda h: h**0.5, "to its base"),
        ("where", lambda h: torch.where(h > 0, torch.sqrt(h), torch.zeros_like(h)), "before the operation"),
        ("sqrt", lambda h: torch.where(h > 0, torch.sqrt(h), torch.zeros_like(h)), "before the operation"),
        ("log", lambda h: torch.exp(torch.log(h)), "clamp its argument"),
        ("arccos", lambda h: torch.arccos(torch.cos(h)), "a little inside"),
        ("hypot", lambda h: torch.hypot(h, 2 * h), "under the root"),
        ("xlogy", lambda h: torch.xlogy(h, h), "clamp its argument"),
    ],
)  # fmt: skip
def test_a_gradient_that_is_not_finite_names_the_operation_that_was_called_there(name, operation, remedy):
    found = gradient_of(operation)
    assert found.first == "first.relu"
    assert re.search(rf"\b{name}\b.* between first.relu and last", found.cause)
    assert remedy in found.remedy.text


@pytest.mark.parametrize(
    ("name", "loss", "remedy"),
    [
        ("sqrt", lambda out: (out - out.detach()).pow(2).sum(-1).sqrt().mean(), "under the root"),
        ("pow", lambda out: ((out - out.detach()) ** 2).sum(-1).pow(0.5).mean(), "to its base"),
        ("div", lambda out: (out / (out - out.detach())).mean(), "to the divisor"),
        ("log", lambda out: (out - out.detach()).log().mean(), "clamp its argument"),
        ("acos", lambda out: torch.acos(out / out.detach()).mean(), "a little inside"),
    ],
)  # fmt: skip
def test_a_gradient_that_the_loss_spoils_names_the_operation_of_the_loss(name, loss, remedy):
    found = gradient_of(torch.tanh, loss)
    assert found.first == "last"
    assert f"{name} in the loss" in found.cause
    assert remedy in found.remedy.text


def test_the_loss_of_a_users_own_loop_is_only_said_to_be_at_fault():
    net, batch = Between(torch.tanh), torch.randn(32, 8)
    with propscope.track(net) as recorder:
        out = net(batch)
        (out - out.detach()).pow(2).sum(-1).sqrt().mean().backward()
    (found, *_) = propscope.diagnose(recorder.profile()).findings
    assert "in the loss" in found.cause
    assert "of the loss" in found.remedy.text


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("log", lambda out: torch.log(-out.square()).mean()),
        ("mean", lambda out: out[out > 1e9].mean()),
        ("cross_entropy", lambda out: nn.functional.cross_entropy(out, torch.full((32,), -100))),
    ],
)
def test_a_loss_that_is_not_finite_is_found_where_its_gradient_is(name, loss):
    (found, *_) = propscope.diagnose(propscope.profile(Between(torch.tanh), torch.randn(32, 8), loss)).findings
    assert (found.kind, found.severity, found.first) == ("non-finite", "broken", "last")
    assert f"{name} in the loss" in found.message
    assert found.remedy.text.startswith(f"{name} in the loss: ")


def test_values_of_the_loss_that_are_not_chosen_are_no_fault():
    def loss(out):
        return torch.where(out > 0, out.clamp_min(1e-8).log(), torch.log(out.detach())).nan_to_num().mean()

    assert propscope.diagnose(propscope.profile(Between(torch.tanh), torch.randn(32, 8), loss)).verdict == "healthy"


def test_values_without_a_result_name_the_operation_before_the_site():
    net = Between(lambda h: torch.log(h - 1))
    (found, *_) = propscope.diagnose(propscope.profile(net, torch.randn(16, 8))).findings
    assert (found.first, found.direction) == ("last", "forward")
    assert "log between first.relu and last" in found.cause


def test_a_row_that_is_masked_throughout_is_named():
    def masked(h):
        return torch.softmax(h.masked_fill(torch.arange(16)[:, None] < 2, -math.inf), -1)

    (found, *_) = propscope.diagnose(propscope.profile(Between(masked), torch.randn(16, 8))).findings
    assert (found.direction, found.severity) == ("forward", "broken")
    assert found.first == "first.softmax"
    assert "12% of the rows of its softmax are masked throughout" in found.message
    assert "leave each row an entry" in found.remedy.text


class Scored(nn.Module):
    """Attention that returns its masked scores beside its output."""

    def __init__(self, fill):
        super().__init__()
        self.q, self.v, self.fill = nn.Linear(8, 8), nn.Linear(8, 8), fill

    def forward(self, x):
        future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        scores = (self.q(x) @ x.transpose(1, 2)).masked_fill(future, self.fill)
        return {"out": torch.softmax(scores, -1) @ self.v(x), "scores": scores}


class Masking(nn.Module):
    """A mask as a module of its own."""

    def forward(self, scores):
        return scores + torch.full(scores.shape[-2:], -math.inf).triu(1)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.v, self.mask = nn.Linear(8, 8), nn.Linear(8, 8), Masking()

    def forward(self, x):
        return torch.softmax(self.mask(self.q(x) @ x.transpose(1, 2)), -1) @ self.v(x)


@pytest.mark.parametrize("net", [Scored(-math.inf), Scored(torch.finfo(torch.float32).min), Masked()])
def test_what_a_mask_leaves_out_is_no_signal(net):
    assert propscope.diagnose(propscope.profile(net, torch.randn(8, 6, 8))).verdict == "healthy"


def test_the_logarithm_of_zero_is_no_mask():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    net.forward = lambda x: torch.log(net[1](net[0](x)))
    (found, *_) = propscope.diagnose(propscope.profile(net, torch.randn(16, 8))).findings
    assert (found.kind, found.severity) == ("non-finite", "broken")


@pytest.mark.parametrize("silent", [lambda: nn.Dropout(1.0), lambda: zeroed(nn.Linear(16, 16), "weight", "bias")])
def test_zeros_that_norms_get_are_named_and_not_where_their_gradient_overflows(silent):
    torch.manual_seed(0)
    parts = [part for _ in range(8) for part in (nn.Linear(16, 16, bias=False), nn.LayerNorm(16, eps=1e-12))]
    net = nn.Sequential(nn.Linear(16, 16), silent(), *parts, nn.Linear(16, 4))
    found = propscope.diagnose(propscope.profile(net, torch.randn(32, 16)), notes=False)
    (worst,) = found.findings
    assert (worst.severity, worst.first) == ("broken", "1")
    assert "probability to drop" in worst.remedy.text or "at random" in worst.remedy.text
