"""Which steps are sampled, and how the budget stretches the cadence."""

import itertools
import time

import pytest
from building.trainings import training

import propscope
from propscope.monitoring import optimizer_steps
from propscope.monitoring.cadence import WARM_UP, Cadence


def sampled(cadence, steps, *, bare=1.0, cost=0.5, own=0.0, start=0):
    """The sampled ones of so many steps, each of `bare` seconds, a sampled one of `cost` more."""
    found = []
    for step in range(start, start + steps):
        due = cadence.due(step)
        found += [step] * due
        cadence.end(seconds=bare + (cost if due else own), own=own, sampled=due)
    return found


def free(every=1, start=0, stop=None):
    return Cadence(every, start=start, stop=stop, budget=1.0)


def test_the_first_step_and_each_multiple_are_sampled_from_start_to_stop():
    assert sampled(free(4), 12, start=1) == [1, 4, 8, 12]
    assert sampled(free(4, start=3, stop=9), 12) == [3, 4, 8]


def test_a_requested_step_and_those_after_something_suspicious_are_sampled():
    cadence = free(100)
    assert sampled(cadence, 3) == [0]
    cadence.request()
    assert sampled(cadence, 5, start=3) == [3]
    cadence.hurry()
    assert sampled(cadence, 20, start=8) == list(range(8, 16))


@pytest.mark.parametrize("every", [1, 5, 20])
def test_the_cost_stays_within_the_budget_after_the_first_samples(every):
    cadence = Cadence(every, start=0, stop=None, budget=0.02)
    found = sampled(cadence, 5000)
    assert found[:WARM_UP] == [every * at for at in range(WARM_UP)]
    assert cadence.cost == pytest.approx(0.5 * len(found), rel=0.1)
    assert cadence.share <= 0.02
    assert cadence.share > 0.0195 or every * 0.02 > 0.5
    # It stretches evenly, instead of leaving out the end.
    assert found[-1] > 5000 - 2 * max(every, 0.5 / 0.02) - every


def test_what_every_step_costs_counts_too():
    cheap, dear = (Cadence(1, start=0, stop=None, budget=0.02) for _ in range(2))
    many, few = len(sampled(cheap, 2000)), len(sampled(dear, 2000, own=0.015))
    assert few < many / 2
    assert dear.share <= 0.02
    assert dear.cost == pytest.approx(0.015 * (2000 - few) + 0.5 * few, rel=0.1)


def test_steps_that_cost_more_than_the_budget_leave_a_quarter_of_it_for_samples():
    cadence = Cadence(1, start=0, stop=None, budget=0.02)
    found = sampled(cadence, 5000, cost=0.5, own=0.1)
    assert 0.5 * len(found) == pytest.approx(0.25 * 0.02 * cadence.elapsed, rel=0.1)
    assert found[-1] > 4000


def test_suspicion_does_not_break_the_budget():
    cadence = Cadence(100, start=0, stop=None, budget=0.02)
    for start in range(0, 5000, 10):
        cadence.hurry()
        sampled(cadence, 10, start=start)
    assert 0.0195 < cadence.share <= 0.02


def test_samples_come_back_where_dense_ones_have_spent_the_budget():
    cadence = Cadence(20, start=0, stop=None, budget=0.02)
    sampled(cadence, 1000)
    for start in range(1000, 1200, 5):
        cadence.hurry()
        sampled(cadence, 5, start=start)
    found = sampled(cadence, 4000, start=1200)
    # As often as the budget allows, which is every 25th step, and to the end.
    assert max(late - early for early, late in itertools.pairwise(found)) <= 60
    assert found[0] < 1300
    assert cadence.share <= 0.02


@pytest.mark.parametrize("every", [1, 7])
def test_without_a_budget_each_sample_is_taken_whatever_it_costs(every):
    cadence = Cadence(every, start=0, stop=None, budget=None)
    assert sampled(cadence, 100, cost=50.0, own=1.0) == [*range(0, 100, every)]


def test_a_budget_of_the_whole_run_leaves_out_hardly_any_sample():
    cadence = Cadence(1, start=0, stop=None, budget=1.0)
    found = sampled(cadence, 1000, cost=1.0)
    assert len(found) >= 995


def test_what_hooks_of_the_optimizer_take_counts_as_cost(monkeypatch):
    norms = optimizer_steps.norms
    monkeypatch.setattr(optimizer_steps, "norms", lambda found: (time.sleep(0.01), norms(found))[1])
    run = training()
    with propscope.monitor(run.model, run.optimizer, every=100) as monitor:
        for _ in range(6):
            before = monitor._cadence.cost
            with monitor.step():
                run.update()
            assert monitor._cadence.cost - before >= 0.01


def test_what_the_first_samples_cost_is_known_once_a_step_without_one_is_timed():
    cadence = Cadence(1, start=0, stop=None, budget=0.02)
    found = sampled(cadence, WARM_UP + 1, bare=1.0, cost=9.0)
    assert found == [*range(WARM_UP)]
    assert cadence.cost == pytest.approx(9.0 * WARM_UP)
    assert cadence.share == pytest.approx(9.0 * WARM_UP / (10.0 * WARM_UP + 1))


def test_a_short_run_may_spend_two_seconds():
    cadence = Cadence(1, start=0, stop=None, budget=0.02)
    # What the first samples cost is guessed, until a step without one is timed.
    assert 200 <= len(sampled(cadence, 1000, bare=1e-3, cost=0.01)) < 300


def test_a_cadence_goes_on_from_its_state_without_a_first_sample():
    cadence, resumed = free(10), free(10)
    sampled(cadence, 105)
    resumed.restore(cadence.state())
    assert resumed.state() == cadence.state()
    assert sampled(resumed, 10, start=105) == sampled(cadence, 10, start=105) == [110]
