"""What is expected of SGD and of Adam, and what the verdict makes of it."""

import json
import math
from dataclasses import replace

import pytest
from building.records import UNITS, geometric, network
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.expectation import expected
from propscope.records import Provenance


def judged(forward=(1.0,) * 20, backward=(1.0,) * 20, **figures):
    return propscope.diagnose(network(list(forward), list(backward), **figures))


def both(factor, forward=None):
    """Return the diagnosis of a network that changes values and gradients by a factor, or values by `forward`."""
    return judged(geometric(factor if forward is None else forward), geometric(factor, reverse=True))


@pytest.mark.parametrize(
    ("factor", "sgd", "adam", "verdict"),
    [
        (1.0, "trains", "trains", "healthy"),
        (0.05, "trains", "trains", "healthy"),
        (2e-3, "slow", "trains", "healthy"),
        (2e-4, "fails", "slow", "strained"),
        (1e-5, "fails", "slow", "strained"),
        (5e-7, "fails", "fails", "broken"),
        (10.0, "trains", "trains", "healthy"),
        (50.0, "slow", "trains", "healthy"),
        (110.0, "fails", "trains", "healthy"),
        (300.0, "fails", "slow", "strained"),
        (5000.0, "fails", "fails", "broken"),
    ],
)
def test_the_verdict_is_that_of_adam_and_trouble_with_sgd_alone_is_a_note(factor, sgd, adam, verdict):
    found = both(factor)
    assert (dict(found.expects), found.verdict) == ({"sgd": sgd, "adam": adam}, verdict)


def test_trouble_with_sgd_alone_is_said():
    (note,) = [each for each in both(2e-3).findings if each.direction == "forward"]
    assert (note.kind, note.severity) == ("vanishing", "note")
    assert "shrinks by a factor of 0.0020" in note.message


def test_chaos_holds_up_both():
    assert both(10.0, forward=1.0).expects == {"sgd": "trains", "adam": "trains"}
    assert both(30.0, forward=1.0).expects == {"sgd": "slow", "adam": "slow"}
    assert both(110.0, forward=1.0).expects == {"sgd": "fails", "adam": "fails"}


def between(classes, made, loss="cross-entropy"):
    spec = {"network": {"output_size": classes}, "loss": loss}
    return propscope.diagnose(replace(made, provenance=Provenance(spec=json.dumps(spec))))


@pytest.mark.parametrize(
    ("factor", "of_two", "of_ten"),
    [(1e-5, "slow", "slow"), (5e-7, "slow", "fails"), (2e-8, "slow", "fails"), (5e-9, "fails", "fails")],
)
def test_two_classes_need_less_of_a_gradient_with_adam(factor, of_two, of_ten):
    made = network(geometric(factor), geometric(factor, reverse=True))
    for classes, adam in ((2, of_two), (10, of_ten)):
        found = between(classes, made)
        assert found.expects == {"sgd": "fails", "adam": adam}
        assert (found.verdict == "broken") is (adam == "fails")
    assert between(2, made, loss="mse").expects["adam"] == of_ten


def test_two_classes_are_told_apart_by_adam_where_samples_are_alike():
    cosines, ranks = [0.5] * 10 + [1.0] * 10, [8.0] * 10 + [1.0] * 10
    made = network([1.0] * 20, mean_cosine=cosines, effective_rank=ranks)
    found = between(2, made)
    assert found.expects == {"sgd": "fails", "adam": "trains"}
    assert [(each.kind, each.severity) for each in found.findings if each.kind == "collapse"] == [("collapse", "note")]
    assert between(3, made).expects == {"sgd": "fails", "adam": "fails"}


def test_no_optimizer_tells_apart_what_has_become_alike():
    cosines = [0.5] * 10 + [1.0] * 10
    found = judged(mean_cosine=cosines, effective_rank=[8.0] * 10 + [1.0] * 10)
    assert found.expects == {"sgd": "fails", "adam": "fails"}
    assert found.verdict == "broken"


def test_one_or_two_layers_that_are_alike_are_repaired():
    found = judged(mean_cosine=[0.5] * 18 + [1.0] * 2, effective_rank=[8.0] * 18 + [1.0] * 2)
    assert found.expects["adam"] != "fails"
    assert found.verdict != "broken"


@pytest.mark.parametrize("forward", [1.0, None])
def test_the_load_grows_with_what_stands_in_the_way(forward):
    for optimizer in ("sgd", "adam"):
        for sign in (-1, 1):
            loads = [both(math.exp(sign * size), forward).loads[optimizer] for size in (0, 1, 2, 4, 8, 16)]
            assert loads == sorted(loads)
            assert loads[0] < 0.1
            assert loads[-1] > 1


def test_adam_bears_whatever_sgd_bears():
    for size in (-20, -8, -4, -1, 0, 1, 3, 5, 9):
        for forward in (1.0, None):
            found = both(math.exp(size), forward)
            assert found.loads["adam"] <= found.loads["sgd"]


def test_what_is_broken_for_another_reason_fails_with_both():
    still = judged(symmetric_units=UNITS)
    assert still.verdict == "broken"
    assert still.expects == {"sgd": "fails", "adam": "fails"}


def test_nothing_is_expected_of_what_was_not_measured():
    forward_only = propscope.diagnose(network([1.0] * 20, [None] * 20))
    assert forward_only.expects == forward_only.loads == {}
    assert propscope.diagnose(propscope.NetworkProfile(())).expects == {}


def test_the_words_have_limits():
    below = math.nextafter(1, 0)
    assert list(expected({"sgd": below, "adam": 1.0}).values()) == ["slow", "fails"]
    assert list(expected({"sgd": math.nextafter(limits.SLOWED, 0), "adam": limits.SLOWED}).values()) == [
        "trains",
        "slow",
    ]


def test_a_model_is_expected_to_train_too():
    import torch

    torch.manual_seed(0)
    model = nn.Sequential(*(m for _ in range(12) for m in (nn.Linear(32, 32, bias=False), nn.ReLU())))
    found = propscope.diagnose(propscope.profile(model, torch.randn(64, 32)))
    assert (dict(found.expects), found.verdict) == ({"sgd": "fails", "adam": "slow"}, "strained")
    for layer in model[::2]:
        nn.init.kaiming_normal_(layer.weight)
    found = propscope.diagnose(propscope.profile(model, torch.randn(64, 32)))
    assert (dict(found.expects), found.verdict) == ({"sgd": "trains", "adam": "trains"}, "healthy")


def test_the_text_says_what_to_expect():
    assert "expect: Adam is slow (load 0.83), SGD with momentum fails (load 1.6)" in str(both(1e-5))
    assert "expect: Adam trains it (load 0), SGD with momentum trains it (load 0)" in str(both(1.0))
    several = propscope.diagnose(propscope.profile_mlp(3, 16, activation=["relu", "tanh"], seeds=1))
    assert "adam" in str(several)
    assert several.expects == {}
    assert {each.expects["adam"] for each in several.networks} == {"trains"}
