"""Two trainings: the first step and site where they part, and the alarms that one of them lacks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from building.records import monitored, sampled_at
from torch import nn

import propscope
from propscope.errors import InputError
from propscope.records import Alarm, MonitoredRun


def recorded(steps=12, *, start=0, state=None, change=None, every=3, **options):
    """Return the run of a small training from the same seed and data; `change`: called with each step and its parts."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    if state is not None:
        model.load_state_dict(state)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    samples, states = [], {}
    with propscope.monitor(model, optimizer, every=every, budget=None, **options) as monitor:
        for number in range(start, steps):
            states[number] = {name: value.clone() for name, value in model.state_dict().items()}
            if change is not None:
                change(number, model, optimizer)
            generator = torch.Generator().manual_seed(number)
            batch = torch.randn(16, 8, generator=generator)
            with monitor.step(number) as step:
                optimizer.zero_grad()
                loss = model(batch).square().mean()
                loss.backward()
                optimizer.step()
                step.loss(loss)
            if (number - start) % every == 0:
                samples.append(replace(monitor.profile, labels={"step": number}))
        found = MonitoredRun(tuple(samples), monitor.steps, monitor.alarms)
    return found, states


@pytest.fixture(scope="module")
def usual():
    return recorded()


def test_the_same_run_twice_is_the_same(usual):
    found = propscope.compare(usual[0], recorded()[0])
    assert (found.same, found.exit_code, found.equal_until) == (True, 0, None)
    assert (found.same_batch, found.same_weights, found.steps) == (True, True, 12)
    assert str(found).startswith("the same: 12 steps, 3 sites agree, forward and backward")


def test_the_first_step_and_site_are_named(usual):
    def faster(number, model, optimizer):
        if number == 4:
            optimizer.param_groups[0]["lr"] = 1.0

    found = propscope.compare(usual[0], recorded(change=faster)[0])
    assert [(one.quantity, one.step) for one in found.differences if not one.site][-1] == ("learning rate", 4)
    assert found.equal_until == 5
    assert found.first("forward").step == 6
    said = (
        "different: first at step 4: learning rate x10.0, from 0.100 to 1.00, in 8 steps of 12; first forward at 2 at"
    )
    assert " ".join(str(found).split()).startswith(said)
    assert "weights: norms first unequal at step 6, 4 of 4 parameters (0.weight, 0.bias, 2.weight, ...)" in found.inputs


def test_a_layer_that_changes_between_two_steps_is_named_where_its_signal_parts(usual):
    def larger(number, model, optimizer):
        if number == 6:
            with torch.no_grad():
                model[2].weight *= 3

    found = propscope.compare(usual[0], recorded(change=larger)[0])
    first = found.first("forward")
    assert (first.site, first.step, first.quantity) == ("2", 6, "rms")
    assert found.first("backward").step == 6


def test_nan_is_a_state_of_sites_and_a_difference_of_curves(usual):
    def lost(number, model, optimizer):
        if number == 5:
            with torch.no_grad():
                model[0].weight.fill_(math.nan)

    found = propscope.compare(usual[0], recorded(change=lost)[0])
    first = found.first("forward")
    assert (first.site, first.step, first.quantity, first.message) == ("0", 6, "state", "NaN or Inf")
    loss = next(one for one in found.differences if one.quantity == "loss")
    assert (loss.step, math.isnan(loss.after)) == (5, True)
    assert {alarm.kind for alarm in found.only_second} >= {"non-finite loss", "non-finite weight"}
    assert found.only_first == ()


def test_a_run_resumed_from_a_checkpoint_is_the_same_from_there_on(usual):
    run, states = usual
    found = propscope.compare(run, recorded(start=6, state=states[6])[0])
    assert found.same, found
    assert (found.steps, found.same_batch) == (6, None)
    assert "6 steps only in the first, not compared: steps 0 to 5" in found.notes


def test_another_cadence_compares_what_both_have_sampled(usual):
    found = propscope.compare(usual[0], recorded(every=4)[0])
    assert found.same
    assert found.method == "12 steps and 1 sample of both"


def test_steps_that_were_taken_again_count_once():
    first = monitored([1.0, 0.9, 0.8, 0.7])
    again = monitored([1.0, 0.9, 5.0]).superseded_from(2) + monitored([0.8, 0.7], first=2)
    assert propscope.compare(first, again).same


def test_losses_within_the_tolerance_are_the_same_and_the_first_unequal_one_is_kept():
    found = propscope.compare(monitored([1.0, 0.9, 0.8]), monitored([1.0, 0.9001, 0.8]))
    assert (found.same, found.equal_until) == (True, 1)
    other = propscope.compare(monitored([1.0, 0.9, 0.8]), monitored([1.0, 0.9001, 0.7]))
    assert (other.differences[0].step, other.differences[0].ratio) == (2, pytest.approx(0.875))


def test_what_a_step_raised_is_a_difference():
    error = monitored([1.0, 0.9])
    error = replace(error, steps=replace(error.steps, error=np.array(["", "RuntimeError: no"], object)))
    (found,) = propscope.compare(monitored([1.0, 0.9]), error).differences
    assert (found.quantity, found.step, found.message) == ("error", 1, "none -> RuntimeError: no")


def test_alarms_of_one_alone_make_a_difference_and_those_of_both_none():
    def alarm(step, kind, site, **more):
        return Alarm(step, step, kind, site=site, **more)

    both, own = alarm(3, "collapse", "fc"), alarm(2, "dead units", "act")
    gone = alarm(1, "exploding", "fc", superseded=1)
    one, other = monitored([1.0] * 5, alarms=[both, gone]), monitored([1.0] * 5, alarms=[replace(both, step=4), own])
    found = propscope.compare(one, other)
    assert (found.same, found.only_first, found.only_second) == (False, (), (own,))
    assert propscope.compare(other, one).only_first == (own,)
    assert "alarm of the second alone, step 2: dead units at act (strained)" in str(found)
    assert str(found).startswith("different: 1 alarm of one alone")


def test_samples_alone_are_compared():
    one = sampled_at([0, 10, 20], sites=3)
    other = sampled_at([0, 10, 20], sites=3, rms=lambda step, place: 2.0 if step == 20 and place else 1.0)
    found = propscope.compare(one, other)
    assert (found.steps, found.first("forward").site, found.first("forward").step) == (3, "fc.1", 20)
    renamed = sampled_at([0, 10, 20], names=["a", "b", "c"])
    assert propscope.compare(one, renamed).renamed == (("fc.0", "a"), ("fc.1", "b"), ("fc.2", "c"))


def test_nothing_in_common_is_refused():
    with pytest.raises(InputError, match="the first has steps 0 to 1, the second has steps 7 to 8"):
        propscope.compare(monitored([1.0, 1.0]), monitored([1.0, 1.0], first=7))


def test_no_common_sample_is_said():
    found = propscope.compare(sampled_run([0, 2]), sampled_run([1, 3]))
    assert "no step was sampled in both, so no site is compared" in found.notes


def sampled_run(steps):
    return replace(monitored([1.0] * 4), profiles=sampled_at(steps, sites=2).profiles)
