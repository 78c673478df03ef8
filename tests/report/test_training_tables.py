"""The table of trained pairs and the summaries behind it."""

import math

import pytest
from building.records import trained

from propscope.records import TrainingSet
from propscope.records.training_summary import DistinctRows, summarize_training
from propscope.report.training_tables import training_table

NAN = math.nan


def of(*runs):
    return TrainingSet.of(runs)


def cells(runs, *, narrow=False):
    table = training_table(runs)
    table = table.narrow if narrow else table
    return [dict(zip((name.replace("\n", " ") for name in table.columns), row, strict=True)) for row in table.rows]


def test_final_figures_are_means_over_the_runs_that_ended():
    lost = {"stability": "diverged", "diverged_at": 7}
    runs = of(
        trained([2.0, 1.0], [0.1, 0.8], initializer="a", seed=0),
        trained([2.0, 4.0], [0.1, 0.9], initializer="a", seed=1),
        trained([2.0, NAN], [0.1, NAN], initializer="a", seed=2, options=lost),
    )
    (pair,) = summarize_training(runs)
    assert (pair.runs, pair.final_accuracy.count, pair.final_loss.count) == (3, 2, 2)
    assert pair.final_accuracy.center == pytest.approx(0.85)
    assert pair.final_loss.center == pytest.approx(2.0)
    assert dict(pair.stability) == {"converged": 2, "diverged": 1}
    (row,) = cells(runs)
    assert row["final accuracy"] == "85.0% [21.5%, 100.0%] (2 of 3)"
    assert row["stability"] == "2 converged, 1 diverged (step 7)"
    assert cells(runs, narrow=True)[0]["final accuracy"] == "85.0% (2 of 3)"
    assert "Runs that diverged have none." in training_table(runs).notes[0]


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        ([120, 80, 100], "100"),
        ([120, None, 100], "120 (never: 1 of 3)"),
        ([None, None, 100], "never (2 of 3)"),
        ([100, None], "never (1 of 2)"),
        ([None, None], "never"),
    ],
)
def test_steps_to_the_target(steps, text):
    runs = of(
        *(
            trained([2.0, 1.0], [0.1, 0.9], seed=seed, options={"target": 0.9, "steps_to_target": count})
            for seed, count in enumerate(steps)
        )
    )
    assert cells(runs)[0]["steps to target"] == text
    assert "target: accuracy 90.0%; steps: median over seeds." in training_table(runs).notes


def test_columns_that_say_nothing_are_left_out():
    assert list(cells(of(trained([2.0, 1.0], seed=0)))[0]) == ["final loss", "stability", "learning rate"]
    given = of(trained([2.0, 1.0], learning_rate=0.1, seed=0))
    assert "learning rate" not in cells(given)[0]
    assert "learning_rate 0.1" in training_table(given).title


def test_the_learning_rates_chosen_and_those_they_were_chosen_from():
    runs = of(
        *(
            trained([2.0, 1.0], seed=seed, options={"learning_rate": rate, "learning_rates_tried": (0.1, 0.03, 0.01)})
            for seed, rate in enumerate((0.1, 0.01, 0.03))
        )
    )
    assert cells(runs)[0]["learning rate"] == "0.01 to 0.1"
    assert "learning rate: the best of 0.01, 0.03, 0.1." in training_table(runs).notes


def rows(before, after, **options):
    counts = {"rows": (8, 8, 8, 3), "distinct_rows_before": before, "distinct_rows_after": after}
    return trained([2.0, 1.0], initializer="zeros", options={**counts, **options})


def test_weights_whose_rows_are_equal():
    (pair,) = summarize_training(of(rows((1, 1, 8, 1), (1, 1, 8, 3))))
    assert pair.collapsed == (DistinctRows(1, 2, 8, 1, 1), DistinctRows(4, 4, 3, 1, 3))
    together = of(rows((1, 1, 8, 1), (1, 1, 8, 3)), trained([2.0, 1.0], initializer="he_normal"))
    zeros, he = (row["distinct rows before -> after"] for row in cells(together))
    assert (zeros, he) == ("1 -> 1 of 8 (1-2), 1 -> 3 of 3 (4)", "all")


def test_rows_of_a_run_that_diverged_did_not_collapse():
    (pair,) = summarize_training(of(rows((8, 8, 8, 3), (1, 2, 1, 1), stability="diverged")))
    assert pair.collapsed == ()


def test_of_several_seeds_the_fewest_rows_count():
    runs = of(rows((8, 8, 8, 3), (8, 8, 8, 3)), rows((8, 8, 8, 3), (5, 8, 4, 3)))
    (pair,) = summarize_training(runs)
    assert pair.collapsed == (DistinctRows(1, 1, 8, 8, 5), DistinctRows(3, 3, 8, 8, 4))


def test_unusual_epochs_are_a_label_and_not_said_twice():
    assert training_table(of(trained([2.0, 1.0], epochs=1, seed=0))).title == "1 trained pair, epochs 1, 1 seed"
    mixed = of(trained([2.0, 1.0], seed=0), trained([2.0, 1.5, 1.0], seed=1))
    assert training_table(mixed).title == "1 trained pair, 2 seeds, 1 to 2 epochs"
