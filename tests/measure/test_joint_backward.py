"""Without a loss, every output that feeds no other one gets a gradient, once."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import propscope
from propscope.measure.joint_backward import backward_with


class Returning(nn.Module):
    """Two layers and two heads, with whatever `give` makes of (hidden, first head, second head)."""

    def __init__(self, give: Any) -> None:
        super().__init__()
        self.body, self.act, self.one, self.two = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4), nn.Linear(8, 3)
        self.give = give

    def forward(self, x: Tensor) -> Any:
        hidden = self.act(self.body(x))
        return self.give(hidden, self.one(hidden), self.two(hidden))


@dataclass
class Prediction:
    logits: Tensor
    boxes: Tensor
    loss: Tensor | None = None


def run(give: Any, **options: Any) -> propscope.NetworkProfile:
    torch.manual_seed(0)
    return propscope.profile(Returning(give), torch.randn(5, 6), **options)


def gradients(profile: propscope.NetworkProfile) -> dict[str, float | None]:
    return {s.name: None if s.backward is None else s.backward.rms for s in profile.sites}


def reasons(profile: propscope.NetworkProfile) -> dict[str, str]:
    return {note.name: note.reason for note in profile.coverage if note.what == "output"}


@pytest.mark.parametrize(
    "give",
    [
        lambda h, a, b: (a, b),
        lambda h, a, b: {"logits": a, "boxes": b},
        lambda h, a, b: Prediction(a, b),
        lambda h, a, b: [[{"boxes": a}], (b, None)],
        lambda h, a, b: (a.argmax(-1), a, b),
        lambda h, a, b: (a.double(), b.half()),
        lambda h, a, b: (torch.complex(a, a), b),
        lambda h, a, b: (a.mean(), b.sum()),
        lambda h, a, b: (a, h.detach(), b),
        lambda h, a, b: (a, b[:0], b),
    ],
)
def test_each_of_several_outputs_gets_a_gradient_of_its_own(give):
    profile = run(give)
    assert profile["one"].backward.rms > 0.01
    assert profile["two"].backward.rms > 0.01
    assert all(parameter.gradient is not None for parameter in profile.parameters)


def test_the_gradients_of_two_outputs_are_independent_and_fixed():
    def seen(seed: int) -> Tensor:
        model, kept = Returning(lambda h, a, b: (a, a.clone() * 1.0, h * 1.0)), []
        model.one.register_forward_hook(lambda m, i, o: o.register_hook(lambda g: kept.append(g.clone())) and None)
        propscope.profile(model, torch.zeros(50, 6), seed=seed)
        return kept[0]

    # The same values out twice: two independent gradients add up to a variance of 2, equal ones to 4.
    assert seen(0).square().mean() == pytest.approx(2, abs=0.5)
    assert torch.equal(seen(0), seen(0))
    assert not torch.equal(seen(0), seen(1))


def test_the_first_output_gets_what_it_gets_alone():
    alone, both = run(lambda h, a, b: a), run(lambda h, a, b: (a, b))
    assert both["one"].backward.rms == alone["one"].backward.rms
    assert alone["two"].backward is None


@pytest.mark.parametrize(
    "give",
    [
        lambda h, a, b: (a, h),
        lambda h, a, b: {"logits": a, "inner": (h, h * 1.0)[:1]},
        lambda h, a, b: {"hidden_states": (h, h.tanh()), "logits": a},
        lambda h, a, b: {"decoder_hidden_states": [h * 3.0], "logits": a},
        lambda h, a, b: {"past_key_values": ((h * 2.0, h * 3.0),), "logits": a},
        lambda h, a, b: {"attentions": (h.softmax(-1),), "logits": a},
        lambda h, a, b: (a, a),
    ],
)
def test_hidden_states_and_caches_add_no_gradient(give):
    assert gradients(run(give))["act"] == gradients(run(lambda h, a, b: a))["act"]


def test_hidden_states_alone_get_their_gradient():
    assert run(lambda h, a, b: {"hidden_states": (h,)})["act"].backward.rms > 0.1


def test_a_part_of_a_split_tensor_that_feeds_no_output_gets_its_own_gradient():
    profile = run(lambda h, a, b: (a, *(part * 1.0 for part in b.split(1, -1)), b.split(1, -1)[0] * 2.0))
    assert profile["two"].backward.zero_fraction == 0
    whole = run(lambda h, a, b: (lambda parts: (parts[0].relu() * 0, *parts))(b.split(1, -1)))
    # The first part feeds the first output, which passes on zeros; the two others have gradients of their own.
    assert whole["two"].backward.zero_fraction == pytest.approx(1 / 3)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpoint_hides_no_hidden_state(reentrant):
    def seen(several: bool) -> float:
        def give(h: Tensor, a: Tensor, b: Tensor) -> Any:
            out = checkpoint(torch.tanh, a, use_reentrant=reentrant)
            return (out, a, h) if several else out

        return run(give)["act"].backward.rms

    assert seen(True) == seen(False)


@pytest.mark.parametrize(
    "give",
    [
        lambda h, a, b: {"loss": a.square().mean(), "logits": a, "other": b},
        lambda h, a, b: OrderedDict(logits=a, loss=a.square().mean(), other=b),
        lambda h, a, b: Prediction(a, b, a.square().mean()),
        lambda h, a, b: SimpleNamespace(loss=a.square().mean(), other=b),
        lambda h, a, b: {"loss": a.square().mean(-1), "other": b},
        lambda h, a, b: {"loss": a.square().mean().reshape(1), "other": b},
    ],
)
def test_the_loss_that_a_model_returns_wins(give):
    profile, expected = run(give), run(lambda h, a, b: a, loss=lambda a: a.square().mean())
    assert profile["one"].backward.rms == pytest.approx(expected["one"].backward.rms, rel=1e-6)
    assert profile["two"].backward is None


@pytest.mark.parametrize("loss", [lambda a: None, lambda a: a.square().mean().detach()])
def test_a_loss_without_a_gradient_does_not_win(loss):
    assert run(lambda h, a, b: {"loss": loss(a), "logits": a})["one"].backward.rms > 0.1


def test_the_parts_of_a_returned_loss_do_not_count_twice():
    whole = run(lambda h, a, b: a.square().mean() + b.square().mean())
    parts = run(lambda h, a, b: (lambda p, q: (p + q, p, q))(a.square().mean(), b.square().mean()))
    for name in ("body", "act", "one", "two"):
        assert parts[name].backward.rms == pytest.approx(whole[name].backward.rms, rel=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_all_that_an_lstm_returns_gets_a_gradient(bidirectional):
    torch.manual_seed(0)
    model = nn.LSTM(4, 5, batch_first=True, bidirectional=bidirectional)
    profile = propscope.profile(model, torch.randn(3, 7, 4))
    assert [site.backward is not None for site in profile.sites if site.role != "input"] == [True, True, True]
    assert not reasons(profile)


def test_an_input_that_is_handed_back_is_not_the_output():
    x = torch.randn(5, 6, requires_grad=True)
    model = Returning(lambda h, a, b: (x, a))
    profile = propscope.profile(model, x)
    assert profile["one"].backward.rms > 0.1
    assert x.grad is None
    assert propscope.profile(nn.Identity(), x).coverage is not None


@pytest.mark.parametrize(
    ("give", "place", "text"),
    [
        (lambda h, a, b: torch.distributions.Categorical(logits=a), "", "inside a Categorical"),
        (lambda h, a, b: None, "", "the output is None"),
        (lambda h, a, b: "a caption", "", "the output is a str"),
        (lambda h, a, b: (), "", "the output is a tuple"),
        (lambda h, a, b: a.argmax(-1), "", "(int64) requires a gradient"),
        (lambda h, a, b: (a.detach(), b > 0), "", "(float32, bool) requires a gradient"),
        (lambda h, a, b: (torch.distributions.Normal(a, 1.0), b), "[0]", "inside a Normal"),
    ],
)
def test_the_coverage_says_why_a_backward_was_not_measured(give, place, text):
    found = reasons(run(give))
    assert text in found[place]
    assert "backward was not measured" in found[place]


def test_what_an_output_holds_beside_tensors_is_not_reported():
    assert not reasons(
        run(lambda h, a, b: {"logits": a, "note": "fine", "n": 3, "state": None, "past_key_values": object()})
    )


def test_the_coverage_says_that_a_given_loss_requires_no_gradient():
    assert "requires no gradient" in reasons(run(lambda h, a, b: a, loss=lambda a: a.detach().sum()))[""]


def test_the_model_is_left_without_gradients():
    model = Returning(lambda h, a, b: (a, b))
    propscope.profile(model, torch.randn(5, 6))
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.slow
def test_no_symbolic_algebra_is_imported():
    # torch imports sympy where gradients are handed to its backward.
    code = (
        "import sys, torch, propscope\n"
        "propscope.profile(torch.nn.Linear(2, 2), torch.ones(3, 2))\n"
        "propscope.profile_mlp(depth=2, width=4, batch=3, seeds=1)\n"
        "sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_each_end_gets_its_gradient():
    value = torch.ones(2, 3, requires_grad=True)
    twice, other = value * 2, (value[0] * 1j).detach().requires_grad_()
    backward_with([twice, other], [torch.full((2, 3), 0.1), torch.full((3,), 2 - 1j)])
    assert torch.equal(value.grad, torch.full((2, 3), 0.1) * 2)
    assert torch.equal(other.grad, torch.full((3,), 2 - 1j))
