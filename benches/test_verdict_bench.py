"""A slice of benches/verdict.py: the verdict before the first step against whether the network then trains."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from verdict import Case, Setting, cases, table


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    setting = Setting(
        tmp_path_factory.mktemp("runs"),
        activations=("relu", "tanh"),
        initializers=("zeros", "normal:std=1", "xavier_normal", "he_normal"),
        learning_rates=(3e-3,),
        epochs=4,
    )
    with pytest.MonkeyPatch.context() as patch:
        # A second process takes longer to start than the work.
        patch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)
        return cases(setting, 10)


@pytest.mark.slow
def test_broken_networks_do_not_train_and_the_others_do(found):
    assert len(found) == 8
    assert {(case.verdict == "broken", case.trains) for case in found} == {(True, False), (False, True)}


def test_the_table_counts_and_lists_what_disagrees():
    def case(verdict, accuracy, smdebug=False):
        return Case(10, "relu", "he_normal", verdict, "vanishing forward", accuracy, 1e-3, smdebug, False)

    lines = table(
        [case("healthy", 0.95), case("broken", 0.3), case("broken", 0.92), case("healthy", 0.2, smdebug=True)]
    )
    text = "\n".join(lines)
    assert "healthy                   1         1" in text
    assert "broken                    1         1" in text
    assert "propscope          agrees on 2 of 4, 50.0%" in text
    assert "smdebug            agrees on 3 of 4, 75.0%" in text
    assert "gradient ratio     agrees on 2 of 4, 50.0%" in text
    assert sum("accuracy 0.92" in line or "accuracy 0.20" in line for line in lines) == 2
    assert not any("accuracy 0.95" in line or "accuracy 0.30" in line for line in lines)
