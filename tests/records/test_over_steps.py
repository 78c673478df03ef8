"""A quantity of a monitored run over its steps, and the histograms of one place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from building.records import plain, small_monitored

from propscope.errors import InputError
from propscope.records import MonitoredRun, Site, TensorSummary


def test_a_quantity_has_a_row_for_each_sample_and_a_column_for_each_site_or_parameter() -> None:
    run = small_monitored()
    rms = run.over_steps("forward_rms")
    assert (rms.quantity, rms.steps.tolist(), rms.names) == ("forward_rms", [0, 2], ("layers.0", "layers.0.act"))
    assert rms.values.tolist() == [[site.forward.rms for site in profile.sites] for profile in run if profile.sites]
    ratio = run.over_steps("update_ratio")
    assert (ratio.names, ratio.values.tolist()) == (("layers.0.weight",), [[0.25], [0.25]])
    assert ratio.of("layers.0.weight").tolist() == [0.25, 0.25]
    assert run.over_steps("update_norm").of("layers.0.weight").tolist() == [0.5, 2.5]


def test_what_was_not_recorded_is_nan() -> None:
    run = small_monitored()
    assert np.isnan(run.over_steps("backward_rms").of("layers.0")).all()
    assert run.over_steps("softmax_axis").values[:, 1].tolist() == [1, 1]
    assert np.isnan(run.over_steps("softmax_axis").values[:, 0]).all()


def test_a_column_of_both_tables_is_that_of_the_site_unless_the_table_is_named() -> None:
    run = small_monitored()
    assert run.over_steps("symmetric_units").names == ("layers.0", "layers.0.act")
    assert run.over_steps("symmetric_units", table="parameter").names == ("layers.0.weight",)


def test_sites_that_run_at_some_steps_only_have_a_column_and_superseded_samples_no_row() -> None:
    run = small_monitored(0, 6)
    more = Site("expert", "Linear", "other", (2,), forward=TensorSummary.of([3.0, -3.0]))
    last = replace(run[2], sites=(*run[2].sites, more))
    grown = MonitoredRun((*run.profiles[:2], last), run.steps, run.alarms)
    assert grown.over_steps("forward_max").of("expert").tolist()[2] == 3.0
    assert np.isnan(grown.over_steps("forward_max").of("expert")[:2]).all()
    again = grown.superseded_from(4) + small_monitored(2, 4)
    assert again.over_steps("forward_max").steps.tolist() == [0, 2, 2, 4]


def test_histograms_are_those_of_the_samples_that_kept_one() -> None:
    run = small_monitored()
    bare = replace(run[1], sites=tuple(replace(site, forward=None) for site in run[1].sites))
    found = MonitoredRun((run[0], bare, replace(run[1], labels={"step": 4}))).histograms_over_steps("layers.0")
    assert found.steps.tolist() == [0, 4]
    expected = tuple(one.sites[0].forward.histogram for one in run if one.sites[0].forward)
    assert plain(found.histograms) == plain(expected)
    assert run.histograms_over_steps("layers.0.weight", "value").steps.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("quantity", "table", "message"),
    [
        ("forward_rmse", None, 'unknown quantity "forward_rmse"'),
        ("index", None, 'unknown quantity "index"'),
        ("kind", None, 'unknown quantity "kind"'),
        ("forward_rms", "parameter", 'unknown quantity "forward_rms"'),
        ("forward_rms", "profile", 'table must be "site" or "parameter", got "profile"'),
    ],
)
def test_an_unknown_quantity_is_named(quantity: str, table: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        small_monitored().over_steps(quantity, table=table)


def test_an_unknown_place_is_named() -> None:
    run = small_monitored()
    with pytest.raises(InputError, match='unknown name "layers\\.1"'):
        run.over_steps("forward_rms").of("layers.1")
    with pytest.raises(InputError, match='unknown site "layers\\.1"'):
        run.histograms_over_steps("layers.1")
    with pytest.raises(InputError, match='unknown summary "sideways"'):
        run.histograms_over_steps("layers.0", "sideways")
