"""Each rule fires at the step that shows its fault, names the place, and is silent on what healthy runs do."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from building.records import network, site, summary

import propscope
from propscope.monitoring.alarms import Judge
from propscope.monitoring.cadence import WARM_UP
from propscope.monitoring.readings import QUANTITIES
from propscope.monitoring.rules import (
    MOMENT_LEFT,
    OUTSIDE_CHANGE,
    RULES,
    STEP_RULES,
    UPDATE_PER_GRADIENT,
    UPDATE_PER_RATE,
)
from propscope.records import NetworkProfile, Parameter, TensorSummary

WEIGHT = TensorSummary.of([0.1, -0.1])
HEALTHY = {"units": 64, "dead_units": 6, "effective_rank": 7.0, "mean_cosine": 0.3, "features": 64}


def sample(ratio=1e-3, gradient=1.0, entropy=3.0, logit=2.0, nonfinite=0, rms=1.0, *, norm=1.0, **more):
    """A network of an input, an attention and a layer, and the weight of each of these two."""
    given, moment, zeros = (more.pop(name, usual) for name, usual in (("given", 1.0), ("moment", 1.0), ("zeros", 0.1)))
    front = {"effective_rank": 4.0, "mean_cosine": 0.3, "features": 2}
    front |= {name.removeprefix("attend_"): more.pop(name) for name in list(more) if name.startswith("attend_")}
    entered = site("input", "input", rms=given, role="input", mean_cosine=None)
    attention = site("attend", "scaled_dot_product_attention", attention_entropy=entropy, largest_logit=logit, **front)
    last = site("last", rms=rms, **(HEALTHY | more))
    if nonfinite:
        last = replace(last, forward=replace(summary(1.0), nan_count=nonfinite))
    weights = [Parameter(f"{name}.weight", (8, 8), WEIGHT, update_ratio=1e-3) for name in ("attend", "last")]
    stepped = {} if ratio is None else {"update_norm": ratio * norm, "second_moment_norm": moment}
    seen = replace(summary(1.0), zero_fraction=zeros)
    weights[1] = replace(weights[1], update_ratio=ratio, step_gradient_norm=gradient, gradient=seen, **stepped)
    return NetworkProfile((entered, attention, last), tuple(weights))


def judged(samples, every=10):
    judge = Judge()
    return [alarm for at, one in enumerate(samples) for alarm in judge.sample(every * at, one)]


def row(number=0, loss=2.0, norm=1.0, scale=math.nan, *, rate=math.nan, skipped=0, given=True):
    return {
        "number": number,
        "loss": loss,
        "loss_given": given,
        "gradient_norm": norm,
        "loss_scale": scale,
        "learning_rate": rate,
        "skipped": skipped,
    }


def in_a_jump(samples, every=10, *, losses=(2.0, 5.0)):
    """The alarms at samples, of which those behind the warm-up are taken while the loss is the second one."""
    judge = Judge()
    for at in range(40):
        judge.step(row(at - 40, losses[0] + 0.01 * (at % 3), scale=1.0), {})
    found = []
    for at, one in enumerate(samples):
        loss = losses[at >= WARM_UP]
        for number in (every * at - 1, every * at):
            judge.step(row(number, loss, scale=1.0), {})
        found += judge.sample(every * at, one)
    return found


WARM = [sample() for _ in range(WARM_UP)]
SAME = {"attend_effective_rank": 1.0, "attend_mean_cosine": 1.0}
FAULTS = {
    "changed weights": ({"norm": 1.6}, "last.weight", 0.6 - 0.03 * 1.6, 0.0, 0),
    "large update": ({"ratio": 0.1}, "last.weight", 0.1, 1e-3, 0),
    "stalled updates": ({"ratio": 2e-5}, "last.weight", 2e-5, 1e-3, 1),
    "optimizer state": ({"moment": 0.2}, "last.weight", 0.2, 1.0, 0),
    "attention logits": ({"logit": 40.0}, "attend", 40.0, 2.0, 0),
    "attention entropy": ({"entropy": 0.5}, "attend", 0.5, 3.0, 1),
    "dead units": ({"dead_units": 16}, "last", 0.25, 6 / 64, 1),
    "collapse": ({"effective_rank": 1.02, "mean_cosine": 0.99}, "last", 1.02, 7.0, 1),
    "identical samples": (SAME, "attend", 1.0, 4.0, 1),
    "large input": ({"given": 20.0}, "input", 20.0, 1.0, 1),
    "small input": ({"given": 0.0}, "input", 0.0, 1.0, 1),
    "non-finite values": ({"nonfinite": 3}, "last", 3.0, 0.0, 0),
    "lost gradient": ({"gradient": 0.0}, "last.weight", 0.0, 1.0, 2),
}
# What is judged only where the loss is high, or has a scale.
JUMPS = {
    "jump of updates": ({"ratio": 0.008}, "last.weight", 0.008, 1e-3, 0),
    "jump of values": ({"rms": 30.0}, "last", 30.0, 1.0, 0),
    "underflow": ({"zeros": 0.6}, "last.weight", 0.6, 0.1, 1),
}


def test_every_rule_has_a_fault_here_and_every_quantity_a_rule():
    assert {*FAULTS, *JUMPS} == {rule.kind for rule in RULES}
    looked_at = {limit.quantity for rule in RULES for limit in rule.limits}
    assert looked_at == {
        *(one.name for one in QUANTITIES),
        UPDATE_PER_RATE,
        UPDATE_PER_GRADIENT,
        OUTSIDE_CHANGE,
        MOMENT_LEFT,
    }


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_is_named_at_the_sample_that_shows_it_or_when_it_lasts(kind):
    broken, place, value, baseline, later = FAULTS[kind]
    (alarm,) = judged([*WARM, *[sample(**broken)] * 5])
    first = 10 * len(WARM)
    assert (alarm.kind, alarm.site or alarm.parameter) == (kind, place)
    assert (alarm.step, alarm.since) == (first + 10 * later, first)
    assert (alarm.value, alarm.baseline) == (pytest.approx(value), pytest.approx(baseline))
    assert place in alarm.message
    assert "{" not in alarm.message


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_that_ends_may_be_raised_again_and_a_single_sample_of_a_lasting_one_is_let_pass(kind):
    broken, _, _, _, later = FAULTS[kind]
    fault = [sample(**broken)] * (later + 1)
    assert len(judged([*WARM, *fault, *WARM[:3], *fault])) == 2
    assert len(judged([*WARM, *fault, *WARM[:1], *fault])) == 1, "one calm sample does not end it"
    assert judged([*WARM, *fault[:later], *WARM[:3], *fault[:later]]) == []


@pytest.mark.parametrize("kind", JUMPS)
def test_what_rose_with_the_loss_is_named_and_nothing_is_where_the_loss_stays(kind):
    broken, place, value, baseline, later = JUMPS[kind]
    samples = [*WARM, *[sample(**broken)] * 3]
    (alarm,) = in_a_jump(samples)
    assert (alarm.kind, alarm.site or alarm.parameter) == (kind, place)
    assert (alarm.step, alarm.since) == (10 * (WARM_UP + later), 10 * WARM_UP)
    assert (alarm.value, alarm.baseline) == (pytest.approx(value), pytest.approx(baseline))
    assert "{" not in alarm.message
    assert judged(samples) == [], "neither a high loss nor a scale"
    if kind != "underflow":
        assert in_a_jump(samples, losses=(2.0, 2.03)) == []


def test_the_first_site_whose_values_jumped_is_named_and_values_that_shrank_count_too():
    def grown(*sizes):
        layers = network([1.0] * 7)
        return replace(
            layers,
            sites=tuple(replace(one, forward=summary(rms)) for one, rms in zip(layers.sites, sizes, strict=True)),
        )

    usual = [grown(*[1.0] * 7)] * WARM_UP
    for sizes in ((1, 1, 1, 30, 60, 1, 90), (1, 1, 1, 0.1, 1, 60, 1)):
        (alarm,) = in_a_jump([*usual, grown(*sizes)])
        assert alarm.site == usual[0].sites[3].name
    # Values that wandered far from the first ones are held against the last ones.
    drifting = [grown(*[1.2**at] * 7) for at in range(WARM_UP)]
    assert in_a_jump([*drifting, grown(*[1.2**WARM_UP] * 7)]) == []


def test_what_follows_from_a_place_that_was_named_is_not_named_while_that_lasts():
    def alike(*names):
        same = {"effective_rank": 1.0, "mean_cosine": 1.0}
        sites = [site(name, **({"effective_rank": 6.0} | (same if name in names else {}))) for name in "abc"]
        return NetworkProfile(tuple(sites))

    spreading = [alike(), alike("a"), alike("a"), alike("a", "c"), alike("a", "c"), *[alike()] * 2, *[alike("b")] * 2]
    found = [(one.step, one.site) for one in judged(spreading) if one.kind == "identical samples"]
    assert found == [(20, "a"), (80, "b")]


def test_an_update_that_a_rule_named_is_not_named_by_another():
    assert [one.kind for one in in_a_jump([*WARM, *[sample(ratio=0.5)] * 3])] == ["large update"]


def test_a_rate_that_rises_at_once_is_named_where_the_updates_follow_however_small_they_were_before():
    def run(rates):
        judge, found = Judge(), []
        for at, rate in enumerate(rates):
            judge.step(row(at, rate=rate), {})
            # They fall to a tenth as the training goes on.
            found += judge.sample(at, sample(ratio=10 * rate / (1 + at / 10)))
        return [(one.step, one.kind) for one in found]

    assert run([1e-3] * 100 + [1e-2] * 3) == [(100, "jump of updates")]
    assert run([1e-2] * 5 + [1e-3] * 100 + [1e-2] * 3) == [], "as high as it was before"
    assert run([*[1e-3] * 100, *np.geomspace(1e-3, 1e-2, 8)]) == [], "step by step"


@pytest.mark.parametrize("steps", [1, 10, 50])
def test_what_the_optimizer_may_have_changed_is_no_outside_change(steps):
    def moved(norm, ratio=0.01):
        return sample(ratio=ratio, norm=norm)

    within, beyond = 1 + 2.9 * steps * 0.01, 1 + 6.0 * steps * 0.01 + 0.4
    for norm, kinds in ((within, []), (beyond, ["changed weights"])):
        judge = Judge()
        judge.sample(0, moved(1.0))
        assert [one.kind for one in judge.sample(steps, moved(norm, 0.01 / norm))] == kinds


def test_weights_that_something_else_sets_back_in_each_step_are_found_from_the_second_sample_on():
    first, second = sample(norm=5.0), sample(norm=0.5)
    assert [one.kind for one in judged([first, second])] == ["changed weights"]
    # A parameter that the optimizer does not step is not its own, as the slow copy of a network.
    assert judged([sample(ratio=None), sample(ratio=None, norm=0.1)]) == []


def test_updates_that_shrink_with_the_gradient_or_the_rate_are_not_stalled():
    assert judged([*WARM, *[sample(ratio=2e-5, gradient=0.02)] * 3]) == []
    assert judged([*WARM, *[sample(ratio=1e-3, gradient=100.0)] * 3]) == []
    judge = Judge()
    for at in range(30):
        # A schedule that falls to a hundredth.
        rate = 1e-3 * 0.85**at
        judge.step(row(at, rate=rate), {})
        assert judge.sample(at, sample(ratio=rate)) == []


def test_moments_that_only_decayed_were_not_lost():
    def decayed(*moments, decay=0.9):
        judge, found = Judge(), []
        for at, moment in enumerate(moments):
            for number in range(10 * at - 9, 10 * at + 1):
                judge.step(row(number), {}, decay)
            judge.restore(judge.state())
            found += [alarm.kind for alarm in judge.sample(10 * at, sample(moment=moment))]
        return found

    assert decayed(1.0, 0.9**10, 3.0) == []
    assert decayed(1.0, 0.9**10, 3.0, decay=0.999) == ["optimizer state"]
    assert decayed(1.0, 0.01, 0.008) == ["optimizer state"]
    assert decayed(1.0, 0.01, decay=0.0) == [], "what the optimizer does not say is not judged"


class Halving(torch.optim.Adam):
    """Adam whose groups do not say what is left of its mean of the squared gradient."""

    def __init__(self, parameters):
        super().__init__(parameters, 1e-3, betas=(0.9, 0.5))

    def step(self, closure=None):
        for group in self.param_groups:
            group["betas"] = (0.9, 0.5)
        super().step(closure)
        for group in self.param_groups:
            del group["betas"]


@pytest.mark.parametrize(
    "made",
    [
        lambda parameters: torch.optim.Adam(parameters, 1e-3, betas=(0.0, 0.9)),
        lambda parameters: torch.optim.AdamW(parameters, 1e-3, betas=(0.9, torch.tensor(0.5).item())),
        Halving,
    ],
)
@pytest.mark.parametrize("steps", [1, 5])
def test_means_of_adam_that_forget_fast_are_no_lost_state_however_often_it_steps(made, steps):
    torch.manual_seed(0)
    layer = torch.nn.Linear(8, 8)
    optimizer = made(layer.parameters())
    with propscope.monitor(layer, optimizer, every=10, budget=None) as monitor:
        for number in range(60):
            with monitor.step(number):
                for _ in range(steps):
                    optimizer.zero_grad()
                    # The gradient falls to a tenth within some steps, as where a critic has learned.
                    (layer(torch.randn(16, 8)).square().mean() * 0.9**number).backward()
                    optimizer.step()
    assert [one.kind for one in monitor.alarms if one.kind == "optimizer state"] == []


def test_a_parameter_that_was_set_to_zero_is_named_where_it_was():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
    optimizer = torch.optim.Adam(layers.parameters(), 1e-3)
    with propscope.monitor(layers, optimizer, every=5, budget=None) as monitor:
        for number in range(12):
            if number == 10:
                layers[1].weight.data.zero_()
            with monitor.step(number):
                optimizer.zero_grad()
                layers(torch.randn(16, 8)).square().mean().backward()
                optimizer.step()
    first = monitor.alarms[0]
    assert (first.step, first.kind, first.parameter) == (10, "changed weights", "1.weight")
    assert first.value > 0.9


@pytest.mark.parametrize(("way", "named"), [("frozen", []), ("detached", ["0.weight"])])
def test_who_froze_a_parameter_knows_that_it_has_no_gradient(way, named):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(*(torch.nn.Linear(8, 8, bias=False) for _ in range(2)))
    optimizer = torch.optim.Adam(layers.parameters(), 1e-3)
    with propscope.monitor(layers, optimizer, every=1, budget=None) as monitor:
        for number in range(20):
            if number == 15 and way == "frozen":
                layers[0].requires_grad_(False)
            if number == 15 and way == "detached":
                layers[0].register_forward_hook(lambda _, given, out: out.detach())
            with monitor.step(number):
                optimizer.zero_grad()
                layers(torch.randn(16, 8)).square().mean().backward()
                optimizer.step()
    assert [one.parameter for one in monitor.alarms if one.kind == "lost gradient"] == named


def test_a_gate_that_is_open_for_all_samples_and_an_input_of_tokens_raise_nothing():
    gate = [replace(site("gate", "Sigmoid", role="activation", mean_cosine=cosine), effective_rank=rank)
            for rank, cosine in ((6.0, 0.2), (1.0, 1.0))]  # fmt: skip
    tokens = [site("input", "input", rms=rms, role="input", dtype="int64") for rms in (10.0, 1000.0)]
    for usual, odd in (gate, tokens):
        # What follows keeps the gate out of the last sites.
        behind = tuple(replace(site(f"behind{at}"), effective_rank=5.0, features=8) for at in range(3))
        profiles = [NetworkProfile((one, *behind)) for one in (*[usual] * WARM_UP, odd, odd, odd)]
        assert judged(profiles) == []


def test_a_site_and_a_parameter_of_an_expert_change_with_the_samples_that_they_get():
    def routed(share, **figures):
        one = sample(**figures)
        expert = replace(one.sites[2], token_share=share, samples=3, parameters=("last.weight",))
        return replace(one, sites=(*one.sites[:2], expert))

    odd = {"ratio": 0.5, "dead_units": 40, "effective_rank": 1.0, "mean_cosine": 1.0}
    assert judged([*[routed(0.2)] * WARM_UP, *[routed(0.1, **odd)] * 3]) == []
    kinds = {one.kind for one in judged([*[routed(1.0)] * WARM_UP, *[routed(1.0, **odd)] * 3])}
    assert kinds == {"large update", "dead units", "collapse", "identical samples"}
    unused = replace(
        routed(None, ratio=0.5), sites=(*routed(None).sites[:2], replace(routed(None).sites[2], samples=0))
    )
    assert judged([*WARM, unused]) == []


def test_one_of_several_outputs_whose_samples_are_alike_is_no_collapse():
    def outputs(*alike):
        ranks = [1.01 if each else 6.0 for each in alike]
        sites = [site(f"out{at}", mean_cosine=0.2 if rank > 2 else 0.99, effective_rank=rank, features=8, role="output")
                 for at, rank in enumerate(ranks)]  # fmt: skip
        return NetworkProfile(tuple(sites))

    def kinds(*alike):
        sound = outputs(*[0] * len(alike))
        return [one.kind for one in judged([sound, sound, outputs(*alike), outputs(*alike)])]

    # The logarithm of the variance, of an autoencoder that learns the same one for all samples.
    assert kinds(0, 0, 1) == []
    assert kinds(0, 1, 1) == ["collapse"]
    assert kinds(1) == ["collapse"]


@pytest.mark.parametrize("kind", ["large update", "attention logits"])
def test_a_jump_is_seen_during_the_warm_up_and_stays_out_of_the_baseline(kind):
    broken, _, value, baseline, _ = FAULTS[kind]
    found = judged([*WARM[:3], *[sample(**broken)] * 6, *WARM, sample(**broken)])
    assert [(one.step, one.value, one.baseline) for one in found] == [(30, value, baseline), (190, value, baseline)]


def test_a_collapse_before_the_second_sample_is_held_against_the_first():
    collapsed = [sample(effective_rank=1.07, mean_cosine=0.99)] * 3
    (alarm,) = judged([sample(effective_rank=4.0), *collapsed])
    assert (alarm.step, alarm.since, alarm.baseline) == (20, 10, 4.0)


def test_a_drift_is_held_against_the_warm_up_however_slow_it_is():
    logits = np.geomspace(2, 60, 200)
    (alarm,) = judged([*WARM, *(sample(logit=one) for one in logits)])
    passed = int(np.argmax(logits > 30))
    assert alarm.step == 10 * (WARM_UP + passed)
    assert alarm.since == 10 * (WARM_UP + int(np.argmax(logits > 15)))


@pytest.mark.parametrize(
    "healthy",
    [
        {"ratio": 9e-4},
        {"ratio": 9e-3},
        {"ratio": None},
        {"logit": 29.0},
        {"logit": -math.inf},
        {"entropy": 0.8},
        {"dead_units": 12},
        {"effective_rank": 1.02},
        {"mean_cosine": 0.999},
        {"effective_rank": None, "mean_cosine": None},
        {"gradient": 1e-12},
        {"gradient": 2e3},
        {"gradient": 100.0},
    ],
    ids=str,
)
def test_what_healthy_runs_do_raises_nothing(healthy):
    assert judged([*WARM, *[sample(**healthy)] * 5]) == []


def test_a_network_that_starts_alike_or_dead_or_with_large_logits_raises_nothing():
    start = {"effective_rank": 1.01, "mean_cosine": 0.999, "dead_units": 60, "logit": 35.0, "entropy": 0.1}
    start |= {"nonfinite": 5, "gradient": 0.0, "ratio": 0.5}
    assert judged([sample(**start)] * 20) == []


def test_the_norm_of_a_few_numbers_may_pass_near_zero():
    def with_bias(ratio):
        bias = Parameter("head.bias", (1,), WEIGHT, update_ratio=ratio, step_gradient_norm=1.0)
        return replace(WARM[0], parameters=(*WARM[0].parameters, bias))

    assert judged([*[with_bias(1e-3)] * WARM_UP, with_bias(0.5)]) == []


def test_several_places_are_one_alarm_that_names_the_worst():
    def grown(first, second):
        one = sample(ratio=first)
        return replace(one, parameters=(replace(one.parameters[0], update_ratio=second), one.parameters[1]))

    (alarm,) = judged([*WARM, grown(0.05, 0.2)])
    assert alarm.parameter == "attend.weight"
    assert "(and at 1 other parameter)" in alarm.message


def test_sites_are_named_in_the_order_of_execution_and_only_the_last_ones_can_collapse():
    layers = network([1.0] * 8, effective_rank=5.0, mean_cosine=0.2, features=64)
    alike = network([1.0] * 8, effective_rank=1.01, mean_cosine=0.999, features=64)
    (alarm,) = judged([layers, alike, alike])
    assert alarm.site == "layers.5.linear"
    early = replace(layers, sites=(*alike.sites[:5], *layers.sites[5:]))
    assert judged([layers, early, early]) == []


def test_a_parameter_that_gets_no_gradient_any_more_is_named_like_one_whose_gradient_is_zero():
    alarms = judged([*WARM, *[frozen(sample())] * 3])
    assert [(one.kind, one.parameter) for one in alarms] == [("lost gradient", "last.weight")]
    assert judged([*map(frozen, WARM), *[frozen(sample())] * 3]) == [], "it never had one"
    nothing = [replace(one, parameters=()) for one in WARM[:3]]
    assert judged([*WARM, *nothing]) == []


def frozen(profile):
    """The profile without a gradient at its last parameter, while the first one has one."""
    first, last = profile.parameters
    return replace(profile, parameters=(replace(first, step_gradient_norm=1.0), replace(last, step_gradient_norm=None)))


def stepped(rows, gradients=None):
    judge = Judge()
    return [alarm for one in rows for alarm in judge.step(one, gradients or {})]


def losses(*values):
    return [row(number, value) for number, value in enumerate(values)]


NOISE = (2 + 0.1 * np.random.default_rng(0).standard_normal(200)).tolist()


def test_a_loss_that_jumps_for_two_steps_is_named_with_the_first_of_them():
    (alarm,) = stepped(losses(*NOISE, 4.0, 4.0, 4.0))
    assert (alarm.step, alarm.since, alarm.kind, alarm.severity) == (201, 200, "loss spike", "strained")
    assert (alarm.value, alarm.baseline) == (4.0, pytest.approx(2.0, abs=0.05))


def test_a_loss_that_rises_step_by_step_does_not_hide_itself():
    rising = (2 + np.linspace(0, 3, 30)).tolist()
    (alarm,) = stepped(losses(*NOISE, *rising))
    assert alarm.kind == "loss spike"
    assert alarm.step < 200 + 12


@pytest.mark.parametrize(
    "values",
    [
        # Nothing was gained, as in a GAN, and the loss wanders.
        (1.3 + 0.01 * np.random.default_rng(0).standard_normal(200) + np.linspace(0, 0.25, 200)).tolist(),
        (*NOISE, 4.0, *NOISE[:9], 4.0, 2.0),
        np.random.default_rng(0).lognormal(0, 1, 500).tolist(),
        (np.linspace(3, 1e-3, 400) * np.random.default_rng(1).lognormal(0, 0.5, 400)).tolist(),
        # A few hard batches at the end of a training that gained all there was.
        (*np.geomspace(3, 1e-4, 300).tolist(), *[1e-4] * 100, 0.05, 0.05, 0.05),
        [2.0] * 50,
        (2.0, 50.0, 50.0),
    ],
)
def test_losses_of_healthy_runs_raise_nothing(values):
    assert stepped(losses(*values)) == []


def test_one_batch_with_a_spike_of_loss_and_gradient_is_named_at_once_and_neither_alone_is():
    def batch(loss, norm):
        return stepped([*losses(*NOISE), row(200, loss, norm), row(201, 2.0)])

    (alarm,) = batch(40.0, 30.0)
    assert (alarm.step, alarm.kind, alarm.value, alarm.baseline) == (200, "outlier", 30.0, 1.0)
    # A gradient that was clipped is small when the optimizer steps with it.
    assert batch(40.0, 1.0) == batch(2.0, 30.0) == []


@pytest.mark.parametrize(("loss", "norm", "curious"), [(2.4, 1.0, True), (2.0, 5.0, True), (2.1, 2.0, False)])
def test_a_judge_is_curious_where_a_step_is_unlike_those_before(loss, norm, curious):
    judge = Judge()
    for one in losses(*NOISE):
        judge.step(one, {})
    assert judge.step(row(200, loss, norm), {}) == []
    assert (judge.curious, judge.suspicious) == (curious, False)
    judge.step(row(201), {})
    assert not judge.curious


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_named_once(value):
    (alarm,) = stepped(losses(2.0, value, value))
    assert (alarm.step, alarm.kind, alarm.severity) == (1, "non-finite loss", "broken")
    assert stepped([row(loss=math.nan, given=False)]) == []


def test_a_gradient_that_is_not_finite_is_named_by_its_parameter():
    found = stepped([row(3, norm=math.inf)], {"a": 1.0, "b": math.inf, "c": math.inf})
    assert [(one.step, one.kind, one.parameter) for one in found] == [(3, "non-finite gradient", "b")]
    assert "(and at 1 other parameter)" in found[0].message
    assert stepped([row(norm=math.inf, skipped=1)], {"b": math.inf}) == [], "the scaler left that step out"


def test_a_parameter_that_is_not_finite_is_named_before_the_gradients_that_follow_from_it():
    judge, broken = Judge(), {"a": math.inf, "b": math.inf}
    found = judge.gradients(3, broken, {"a": 1.0, "b": math.inf})
    assert [(one.kind, one.parameter) for one in found] == [("non-finite weight", "b"), ("non-finite gradient", "a")]
    judge = Judge()
    assert [one.kind for one in judge.gradients(3, broken, {"a": 1.0, "b": 1.0})] == ["non-finite gradient"]
    assert judge.gradients(4, broken, broken) == [], "the optimizer stepped with it"


def test_gradients_that_are_zero_while_the_loss_is_not_are_named():
    found = stepped([row(0), row(1, norm=0.0), row(2, norm=0.0)])
    assert [(one.step, one.since, one.kind) for one in found] == [(2, 1, "zero gradient")]
    assert stepped([row(at, loss=0.0, norm=0.0) for at in range(3)]) == []
    assert stepped([row(at, norm=math.nan) for at in range(3)]) == []


def test_a_loss_scale_that_is_halved_again_and_again_is_named():
    scales = [2.0**16 / 2**at for at in range(6)]
    found = stepped([row(at, scale=scale) for at, scale in enumerate(scales)])
    assert [(one.step, one.kind, one.value, one.baseline) for one in found] == [(4, "loss scale", 2.0**12, 2.0**16)]
    assert stepped([row(at, scale=scale) for at, scale in enumerate([*scales[:4], *scales[3:0:-1], *scales[:4]])]) == []


def test_each_rule_of_steps_raises_its_alarm_with_its_severity():
    spike = [*losses(*NOISE), row(200, 40.0, 30.0), row(201, 40.0)]
    others = [row(300, norm=0.0), row(301, norm=0.0), *[row(400 + at, scale=2.0**-at) for at in range(6)]]
    found = stepped([*spike, *others, row(500, loss=math.nan)]) + stepped([row(0)], {"a": math.inf})
    found += Judge().gradients(0, {"a": math.inf}, {"a": math.inf})
    assert {one.kind: one.severity for one in found} == {kind: rule.severity for kind, rule in STEP_RULES.items()}
    assert len({rule.kind for rule in RULES} | set(STEP_RULES)) == len(RULES) + len(STEP_RULES)
    assert not any("{" in one.message for one in found)


def of_rates(rates, ratio):
    """The alarms of a run whose updates follow its learning rate, sampled at every step."""
    judge, found = Judge(), []
    for number, rate in enumerate(rates):
        judge.step(row(number, rate=rate), {})
        found += judge.sample(number, sample(ratio=ratio * rate))
    return [(one.step, one.kind) for one in found]


def test_a_learning_rate_that_jumps_is_told_from_one_that_follows_a_schedule():
    warmed = np.linspace(0, 1e-3, 301).tolist()
    assert of_rates(warmed, 10) == []
    assert of_rates([*warmed, *[1e-3] * 20, *[0.1] * 3], 10) == [(321, "large update")]
    # Warm restarts go back to what it was.
    cosine = (5e-4 * (1 + np.cos(np.linspace(0, np.pi, 60)))).tolist()
    assert of_rates(cosine * 3, 10) == []
    assert of_rates([*warmed[1:], *cosine], 10) == []


def test_a_judge_is_suspicious_before_a_lasting_fault_raises_its_alarm_and_not_while_it_lasts():
    judge = Judge()
    for at, one in enumerate(WARM):
        assert judge.sample(at, one) == []
        assert not judge.suspicious
    seen = [(len(judge.sample(10 + at, sample(entropy=0.1))), judge.suspicious) for at in range(4)]
    assert seen == [(0, True), (1, True), (0, False), (0, False)]


def test_a_judge_goes_on_from_its_state():
    whole, first, second = Judge(), Judge(), Judge()
    samples = [*WARM, *[sample(entropy=0.1, ratio=0.2)] * 4, sample(norm=3.0, moment=0.1)]
    for judge in (whole, first):
        judge.step(row(scale=4.0, rate=1e-3), {"a": 1.0})
    expected = [alarm for at, one in enumerate(samples) for alarm in whole.sample(at, one)]
    assert {"changed weights", "optimizer state"} <= {one.kind for one in expected}
    found = [alarm for at, one in enumerate(samples[:11]) for alarm in first.sample(at, one)]
    second.restore(json.loads(json.dumps(first.state())))
    assert second.state() == first.state()
    found += [alarm for at, one in enumerate(samples[11:], 11) for alarm in second.sample(at, one)]
    assert found == expected


def test_a_weight_that_became_not_finite_between_two_steps_is_named_where_it_is():
    layers = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(3)))
    optimizer = torch.optim.SGD(layers.parameters(), lr=0.1)
    with propscope.monitor(layers, optimizer, every=100) as monitor:
        for number in range(4):
            if number == 2:
                layers[1].weight.data[0, 0] = math.nan
            with monitor.step(number):
                optimizer.zero_grad()
                layers(torch.randn(8, 4)).square().mean().backward()
                optimizer.step()
    first = monitor.alarms[0]
    assert (first.step, first.kind, first.parameter) == (2, "non-finite weight", "1.weight")
    assert [one.kind for one in monitor.alarms].count("non-finite weight") == 1
