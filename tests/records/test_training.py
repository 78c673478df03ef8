"""TrainingRun and TrainingSet: what they refuse, how a run ended, what is selected, which profiles they hold."""

import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import layered, trained

from propscope.errors import InputError
from propscope.records import ProfileSet, TrainingRun, TrainingSet


@pytest.fixture
def grid():
    return TrainingSet.of(
        trained([2.0, 1.0], [0.1, 0.5], initializer=initializer, activation="relu", seed=seed)
        for initializer in ("he_normal", "zeros")
        for seed in range(3)
    )


def test_a_run_ends_on_the_validation_data_where_there_are_some():
    run = trained([2.0, 1.0], [0.1, 0.5])
    assert (run.epochs, run.final_loss, run.final_accuracy) == (1, 1.0, 0.5)
    run = trained([2.0, 1.0], [0.1, 0.5], validation_loss=[3.0, 1.5], validation_accuracy=[0.0, 0.25])
    assert (run.final_loss, run.final_accuracy) == (1.5, 0.25)
    assert math.isnan(trained([2.0, 1.0]).final_accuracy)
    lost = trained([2.0, 1.0], [0.1, 0.5], validation_loss=[3.0, math.nan], validation_accuracy=[0.0, math.nan])
    assert math.isnan(lost.final_loss)
    assert math.isnan(lost.final_accuracy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train_accuracy": np.zeros(3)},
            r"train_accuracy must have shape \(2,\).* 2 values, got \(3,\)",
        ),
        ({"update_ratio": np.zeros(2)}, r"update_ratio must have shape \(1,\).*got \(2,\)"),
        ({"rows": (4, 4)}, "rows, distinct_rows_before and distinct_rows_after .* got 2, 0 and 0"),
        ({"profiles": ((2, layered([1.0])),)}, r"profiles must be of epochs from 0 to 1 .*got \[2\]"),
        ({"profiles": ((1, layered([1.0])), (0, layered([1.0])))}, r"ascending.*got \[1, 0\]"),
    ],
)
def test_fields_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        trained([2.0, 1.0], options=options)


def test_profiles_by_epoch():
    early, late = layered([1.0], name="own"), layered([2.0], name="own")
    run = trained([3.0, 2.0, 1.0], profiles={0: early, 2: late}, initializer="zeros", seed=1)
    assert (run.profile(), run.profile(1), run.profile(2)) == (early, None, late)
    assert (run.profile(-1), run.profile(-2), run.profile(-3)) == (late, early, None)
    bare = trained([3.0, 2.0, 1.0], initializer="zeros", seed=2)
    assert bare.profile(-1) is None
    found = TrainingSet((run, bare)).profiles(2)
    assert isinstance(found, ProfileSet)
    assert [dict(profile.labels) for profile in found] == [{"initializer": "zeros", "seed": 1}]
    assert found[0].sites == late.sites


def test_a_sequence_that_adds_up(grid):
    assert len(grid) == 6
    assert isinstance(grid[0], TrainingRun)
    assert isinstance(grid[1:3], TrainingSet)
    assert (grid + TrainingSet(())).runs == grid.runs == (TrainingSet(()) + grid).runs
    assert len(grid + grid) == 12
    assert dict(grid.axes) == {"initializer": ("he_normal", "zeros"), "activation": ("relu",), "seed": (0, 1, 2)}


def test_runs_are_selected_as_profiles_are(grid):
    assert grid.subset(initializer="zeros", seed=[0, 2]).runs == (grid[3], grid[5])
    assert grid.subset(seed=9) == TrainingSet(())
    assert grid.select(initializer="zeros", seed=1) is grid[4]
    assert len(grid.select(seed=1)) == 2
    with pytest.raises(InputError, match="no run has initializer he; there are initializer he_normal, zeros; activati"):
        grid.select(initializer="he")
    with pytest.raises(InputError, match='no run has a label "init"; the labels are initializer, activation, seed'):
        grid.subset(init="zeros")
    with pytest.raises(InputError, match="the set holds no run to select"):
        TrainingSet(()).select()
    assert [len(members) for members in grid.groups().values()] == [3, 3]


def test_frames(grid):
    pytest.importorskip("pandas")
    epochs = grid.to_frame()
    assert epochs.shape[0] == 12
    assert list(epochs)[:5] == ["run", "initializer", "activation", "seed", "number"]
    assert epochs.query("run == 4 and number == 1").train_accuracy.item() == 0.5
    runs = grid.to_frame("run")
    assert (runs.shape[0], runs.stability[0], runs.steps_per_epoch[0]) == (6, "converged", 10)
    with pytest.raises(InputError, match='table must be "run" or "epoch", got "site"'):
        grid.to_frame("site")


def test_it_prints_as_the_table_of_pairs(grid):
    assert str(grid).startswith("2 trained pairs, activation relu, 3 seeds, 1 epoch\n")
    assert grid._repr_html_().count("<tr>") == 3
    assert str(TrainingSet(())).startswith("0 trained pairs, 0 seeds")


def test_a_run_can_be_changed_in_part():
    assert replace(trained([2.0, 1.0]), stability="stalled").stability == "stalled"
