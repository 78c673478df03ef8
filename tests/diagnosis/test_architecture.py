"""Parts unlike their peers: kinds, norms and sums, just below and above each limit."""

import math

import pytest
import torch
from building.records import evidence, model, scaled, site, summary, with_mean
from torch import nn

import propscope
from propscope.diagnosis import limits
from propscope.diagnosis.architecture import doubled_sums, missing_norms, odd_kinds


def found(rule, profile):
    return [(finding.kind, finding.severity, finding.first) for finding in rule(evidence(profile))]


def activations(varying, kind="Sigmoid", *, name="act", count=4, at=1):
    sites = [with_mean(f"h.{n}.{name}" if name else f"{n}", "ReLU", 0.7) for n in range(count)]
    sites[at] = with_mean(sites[at].name, kind, varying)
    return model(sites)


@pytest.mark.parametrize(
    ("varying", "is_found"), [(0.7 * limits.HIDDEN * 0.99, True), (0.7 * limits.HIDDEN * 1.01, False)]
)
def test_an_activation_unlike_its_peers_is_at_fault_where_it_hides_differences(varying, is_found):
    said = found(odd_kinds, activations(varying))
    assert said == [("collapse", "strained", "h.1.act")] * is_found


def test_peers_of_one_kind_may_differ():
    assert found(odd_kinds, activations(0.01, "ReLU")) == []


def test_two_kinds_without_a_majority_are_none_odd():
    sites = [with_mean(f"h.{n}.act", "Sigmoid" if n % 2 else "ReLU", 0.05 if n % 2 else 0.7) for n in range(4)]
    assert found(odd_kinds, model(sites)) == []


def test_a_row_of_layers_may_end_in_another_activation_but_not_have_one_within():
    assert found(odd_kinds, activations(0.05, name="", count=5, at=4)) == []
    assert found(odd_kinds, activations(0.05, name="", count=5, at=2)) == [("collapse", "strained", "2")]


def test_calls_of_one_module_are_one_activation():
    sites = [with_mean(f"h.0.act#{n}", "ReLU", 0.7) for n in range(3)] + [with_mean("h.1.act#0", "Sigmoid", 0.05)]
    assert found(odd_kinds, model(sites)) == []


def normed(*, without=(), count=3, rms=0.1):
    sites = [site("stem")]
    for n in range(count):
        sites += [] if n in without else [site(f"h.{n}.norm", "LayerNorm", role="norm")]
        sites += [site(f"h.{n}.up", rms=rms), site(f"h.{n}.act", "ReLU", role="activation", rms=rms)]
    return model(sites)


def test_a_block_without_the_norm_of_the_others_is_named_where_it_would_stand():
    assert found(missing_norms, normed()) == []
    assert found(missing_norms, normed(without=[1])) == [("vanishing", "strained", "h.1.up")]
    assert found(missing_norms, normed(without=[1], rms=5.0)) == [("exploding", "strained", "h.1.up")]


@pytest.mark.parametrize("role", ["other", "pre-activation"])
def test_what_stands_in_a_norms_place_and_hands_on_its_input_is_no_norm(role):
    sites = [site("stem")]
    for n in range(4):
        norm = (site(f"h.{n}.norm", "Identity", role=role, rms=0.1) if n == 2
                else site(f"h.{n}.norm", "BatchNorm2d", role="pre-activation"))  # fmt: skip
        sites += [site(f"h.{n}.conv", "Conv2d", rms=0.1), norm, site(f"h.{n}.act", "ReLU", role="activation")]
    assert found(missing_norms, model(sites)) == [("vanishing", "strained", "h.2.act")]


def test_of_two_blocks_or_where_half_have_none_nothing_is_missing():
    assert found(missing_norms, normed(without=[1], count=2)) == []
    assert found(missing_norms, normed(without=[1, 2], count=4)) == []


def test_a_norm_whose_layer_is_missing_as_well_is_not_missing():
    sites = [site("stem")]
    for n in range(3):
        if n:
            sites += [site(f"h.{n}.short"), site(f"h.{n}.norm", "BatchNorm2d", role="norm")]
        sites += [site(f"h.{n}.up"), site(f"h.{n}.act", "ReLU", role="activation")]
    assert found(missing_norms, model(sites)) == []


def convolutions(count, without):
    sites = []
    for n in range(count):
        sites += [site(f"conv{n}", "Conv2d", rms=0.4)]
        sites += [] if n in without else [site(f"norm{n}", "BatchNorm2d", role="norm")]
        sites += [site(f"act{n}", "ReLU", role="activation")]
    return model([*sites, site("head", role="output")])


def test_one_layer_of_six_that_no_norm_follows_is_found():
    assert found(missing_norms, convolutions(6, [2])) == [("vanishing", "strained", "act2")]


@pytest.mark.parametrize(("count", "without"), [(5, [2]), (6, [2, 3]), (6, [5]), (6, [])])
def test_one_of_five_two_of_six_and_the_last_may_be_without(count, without):
    assert found(missing_norms, convolutions(count, without)) == []


def sums(correlation, *, share=0.5, number=2):
    """Return a model with a sum of two sums whose summands correlate; branch and sums before have rms 1."""
    total = math.sqrt((1 + 2 * correlation * math.sqrt(share * (1 - share))) / share)
    sites = [site("h.0.up")]
    sites += [site(f"h.0.add#{n}", "add", role="residual", branch_share=0.5) for n in range(number - 1)]
    sites += [site(f"h.0.add#{number - 1}", "add", rms=total, role="residual", branch_share=share), site("end")]
    return model(sites)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("factor", "is_found"), [(1.01, True), (0.99, False)])
def test_a_summand_that_is_in_the_sum_already_is_found_by_its_correlation(share, factor, is_found):
    said = found(doubled_sums, sums(limits.AGAIN * factor, share=share))
    assert said == [("exploding", "strained", "h.0.add#1")] * is_found


def test_a_sum_of_what_correlates_is_no_doubled_one_unless_it_is_of_a_sum():
    profile = sums(0.9)
    apart = model([profile.sites[0], profile.sites[1], site("h.0.down"), *profile.sites[2:]])
    assert found(doubled_sums, apart) == []


def test_a_row_of_sums_is_a_recurrence():
    assert found(doubled_sums, sums(0.9, number=3)) != []
    assert found(doubled_sums, sums(0.9, number=4)) == []


def test_what_correlates_by_more_than_one_was_no_summand():
    assert found(doubled_sums, sums(1.5)) == []


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_the_loss_changes_nothing(factor):
    cases = ((odd_kinds, activations(0.1)), (missing_norms, normed(without=[1])), (doubled_sums, sums(0.7)))
    for rule, profile in cases:
        assert found(rule, scaled(profile, factor)) == found(rule, profile) != []


@pytest.mark.parametrize("rows", [8, 512])
def test_the_size_of_the_batch_changes_nothing(rows):
    from dataclasses import replace

    profile = sums(0.7)
    sites = tuple(replace(s, samples=rows, forward=summary(s.forward.rms, count=rows * 64)) for s in profile.sites)
    assert found(doubled_sums, replace(profile, sites=sites)) == found(doubled_sums, profile)


def test_branches_of_less_than_a_rounding_are_judged():
    class Faint(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 8)
            for parameter in self.parameters():
                parameter.data *= 1e-12

        def forward(self, x):
            y = x + self.up(x)
            return y + self.down(x)

    torch.manual_seed(0)
    profile = propscope.profile(nn.Sequential(nn.Linear(8, 8), Faint(), nn.Linear(8, 2)), torch.randn(16, 8))
    assert 0 < profile["1.add#1"].branch_share < 1e-20
    assert found(doubled_sums, profile) == []
