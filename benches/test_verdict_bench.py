"""A slice of benches/verdict.py: what is said before the first step against whether the network then trains."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from outcomes import Outcome, outcomes
from verdict import Case, Setting, area, cases, table

from propscope.experiments.training import make_data
from propscope.networks import MLPSpec


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    setting = Setting(
        tmp_path_factory.mktemp("runs"),
        activations=("relu", "tanh"),
        initializers=("zeros", "normal:std=2", "xavier_normal", "he_normal"),
        width=48,
        steps=100,
    )
    return cases(setting, 8)


@pytest.mark.slow
def test_broken_networks_do_not_train_and_the_others_do(found):
    assert len(found) == 8
    assert {(case.verdict == "broken", case.trains("adam")) for case in found} == {(True, False), (False, True)}
    assert all((case.expects["adam"] == "trains") is case.trains("adam") for case in found)
    assert area(found, "propscope, adam", "adam") == area(found, "propscope, sgd", "sgd") == 1


@pytest.mark.slow
def test_networks_that_are_trained_together_do_what_one_does_alone():
    made = make_data("moons", seed=0, rows=200, scale="zscore")
    specs = [
        MLPSpec(2, width=16, activation="tanh", initializer=name, input_size=2, output_size=2)
        for name in ("he_normal", "zeros", "normal:std=3")
    ]
    for optimizer in ("adam", "sgd"):
        together = outcomes(specs, made, optimizer, steps=40, target=2.0)
        alone = [outcomes([spec], made, optimizer, steps=40, target=2.0)[0] for spec in specs]
        assert together == alone
    assert together[0].accuracy > 0.8 > together[1].accuracy


def test_what_has_reached_the_target_is_not_trained_at_another_rate(monkeypatch):
    reached = {1e-3: [0.9, 0.5, 0.1], 3e-3: [0.7, 0.2], 3e-4: [0.6], 1e-4: [0.8]}
    monkeypatch.setattr("outcomes._trained", lambda nets, data, optimizer, rate, *rest: reached[rate][: len(nets)])
    made = make_data("moons", seed=0, rows=20)
    specs = [MLPSpec(1, width=4, initializer=name, input_size=2, output_size=2) for name in ("zeros", "ones", "eye")]
    found = outcomes(specs, made, "adam", steps=1, target=0.65)
    assert found == [Outcome(0.9, 1e-3), Outcome(0.7, 3e-3), Outcome(0.8, 1e-4)]


def case(verdict, accuracy, expects="trains", smdebug=False, load=0.0):
    outcome = {name: Outcome(accuracy, 1e-3) for name in ("adam", "sgd")}
    scores = {"propscope, adam": load, "propscope, sgd": load, "smdebug": 1.0, "gradient ratio": -load}
    said = {"adam": expects, "sgd": expects}
    return Case(10, "relu", "he_normal", verdict, "vanishing forward", said, outcome, 0.9, smdebug, False, scores)


def test_the_table_counts_and_lists_what_disagrees():
    lines = table([
        case("healthy", 0.95, load=0.1),
        case("broken", 0.3, "fails", load=1.2),
        case("broken", 0.92, "fails", load=1.1),
        case("healthy", 0.2, "trains", smdebug=True, load=0.2),
        case("strained", 0.5, "slow", load=0.7),
    ])  # fmt: skip
    text = "\n".join(lines)
    assert "healthy                   1         1" in text
    assert "broken                    1         1" in text
    assert "propscope          agrees on 2 of 5, 40.0%" in text
    assert "smdebug            agrees on 3 of 5, 60.0%" in text
    assert "adam: 2 train; trains or fails is right for 2 of 4, 1 slow (20%)" in text
    assert sum("accuracy 0.92" in line or "accuracy 0.20" in line for line in lines) == 4
    assert not any("accuracy 0.95" in line or "accuracy 0.50" in line for line in lines)


def test_the_area_is_how_often_what_fails_has_the_higher_score():
    at = [case("healthy", 0.95, load=0.1), case("broken", 0.92, load=1.1), case("broken", 0.3, load=0.5)]
    assert area(at, "propscope, adam", "adam") == 0.5
    assert area(at, "smdebug", "adam") == 0.5
    assert area(at, "gradient ratio", "adam") == 0.5
    assert area([*at, case("broken", 0.1, load=2)], "propscope, adam", "adam") == 0.75
