"""The bench of alarms plants what it says, sees when the loss shows it, and counts what names the right place."""

import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from alarms import Bare, Results, Trial, matches, monitored, place_of, planted_at, shown, table
from training_faults import FAULTS
from trainings import HEALTHY, NAMED, TRAININGS, Run

NOISE = [2 + 0.1 * (at % 5) for at in range(60)]


def test_the_loss_shows_a_fault_from_the_second_high_step_on():
    assert shown([*NOISE, 9.0, 2.0, 9.0, 9.0, 2.0], 60) == 63
    assert shown([*NOISE, math.nan, math.nan], 60) == 61
    assert shown([*NOISE, *NOISE], 60) is None


def test_a_place_is_right_where_it_is_the_module_or_within_it():
    assert all(matches(place, {"a.1"}) for place in ("a.1", "a.1.weight", "a.1#2", "a.1[0]"))
    assert not any(matches(place, {"a.1"}) for place in ("a.10.weight", "a", ""))


def test_there_are_enough_faults_models_and_healthy_runs_and_some_of_each_are_held_back():
    for each, least in ((TRAININGS, 6), (HEALTHY, 12), (tuple(FAULTS.values()), 15)):
        assert sum(not one.held for one in each) >= least
        assert sum(one.held for one in each) >= least - 1
    assert len({one.name for one in HEALTHY}) == len(HEALTHY)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_a_place_and_a_run_goes_on_with_it(name):
    training = next(each for each in TRAININGS if place_of(stepped(each), name, 0) is not None)
    run = stepped(training)
    place = place_of(run, name, 0)
    FAULTS[name].plant(run, place)
    assert all(run.step(number).numel() == 1 for number in (1, 2))
    right = FAULTS[name].right
    assert right is None or right(run, place)


def stepped(training):
    run = Run(training, 0)
    run.step(0)
    return run


@pytest.mark.slow
def test_a_planted_fault_does_harm_and_its_place_is_named_in_time():
    training, fault = NAMED["mlp"], FAULTS["weights x30"]
    at = planted_at(training, 0)
    bare = Bare.of(training, 0)
    harm, seen = bare.harm(fault, "2")
    assert harm.startswith("loss")
    alarms = monitored(training, 0, at + 5, fault=fault, place="2", at=at)
    trial = Trial("mlp", "weights x30", "2", 0, at, harm, seen, alarms)
    assert trial.verdict == "in time"
    assert not trial.held


def test_verdicts_and_what_is_known_are_counted(tmp_path):
    def trial(harm, seen, *alarms):
        return Trial("mlp", "rate x10", "", 0, 100, harm, seen, list(alarms))

    early, right, late, wrong = ([step, step, "kind", "at", ok] for step, ok in ((90, 1), (103, 1), (120, 1), (101, 0)))
    found = [
        trial("loss", 105, early, right),
        trial("loss", 105, late),
        trial("loss", None, wrong),
        trial("loss", 105, early),
        trial("", None),
    ]
    assert [each.verdict for each in found] == ["in time", "late", "elsewhere", "missed", "missed"]
    assert table(found)[1].split() == ["rate", "x10", "4", "2", "1", "1", "1", "12", "1"]
    results = Results(tmp_path / "known.jsonl")
    assert results.get("one", lambda: [1, None]) == [1, None]
    assert Results(tmp_path / "known.jsonl").get("one", lambda: 2) == [1, None]
