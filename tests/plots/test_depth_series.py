from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from building.records import constant, mlp, model, predicted

from propscope.plots.depth_series import (
    LAYER,
    POSITION,
    WEIGHT,
    evenly,
    merged_at,
    positions_of,
    site_series,
    weight_series,
)
from propscope.records import NetworkProfile, Parameter, Site, TensorSummary


def test_a_layered_network_counts_layers_and_keeps_roles_apart() -> None:
    profile = mlp(depth=3)
    series = site_series(profile, "activation", "forward")
    assert (series.axis, series.subject, series.positions) == (LAYER, "activation", (1, 2, 3))
    assert series.summaries == tuple(site.forward for site in profile.with_role("activation"))
    assert all(math.isnan(norm) for norm in series.norms)


def test_without_layers_the_position_in_execution_order_counts() -> None:
    series = site_series(model(60), "activation", "backward")
    assert series.axis == POSITION
    assert series.positions == tuple(range(4, 61, 5))


def test_a_role_that_is_missing_gives_all_sites() -> None:
    series = site_series(model(60), "pre-activation", "forward")
    assert (series.subject, series.positions) == ("site", tuple(range(1, 61)))


def test_a_layer_seen_twice_is_no_coordinate() -> None:
    site = Site("a", "ReLU", "activation", (1,), layer=1, forward=TensorSummary.of(np.ones(3)))
    assert site_series(NetworkProfile((site, site)), "activation", "forward").axis == POSITION


def test_what_theory_expects_goes_along_with_sites_and_not_with_weights() -> None:
    profile = predicted(mlp(depth=2))
    series = site_series(profile, "activation", "forward")
    assert series.expected == tuple(site.expected for site in profile.with_role("activation"))
    assert weight_series(profile, "value").expected == (None, None)
    assert site_series(mlp(depth=2), "activation", "forward").expected == (None, None)


def test_weights_are_matrices_named_weight_in_order() -> None:
    profile = mlp(depth=4)
    series = weight_series(profile, "gradient")
    assert (series.axis, series.positions) == (LAYER, (1, 2, 3, 4))
    weights = [p for p in profile.parameters if p.name.endswith(".weight")]
    assert series.norms == tuple(p.gradient_norm for p in weights)
    summary = TensorSummary.of(np.ones((2, 2)))
    mixed = (
        Parameter("norm.weight", (2,), summary),
        Parameter("conv.weight", (2, 2, 3, 3), summary),
        Parameter("table", (2, 2), summary),
    )
    series = weight_series(NetworkProfile((), mixed), "gradient")
    assert (series.axis, series.positions, series.summaries) == (WEIGHT, (1,), (None,))
    assert math.isnan(series.norms[0])
    assert weight_series(NetworkProfile((), mixed), "value").norms == (2.0,)


def test_positions_are_the_union() -> None:
    series = [site_series(constant(1.0, depth=depth), "activation", "forward") for depth in (2, 4)]
    assert positions_of(series) == (1, 2, 3, 4)
    assert positions_of([]) == ()


def test_evenly_keeps_the_first_and_the_last() -> None:
    assert evenly((3, 5, 9), 8) == (3, 5, 9)
    assert evenly(range(1, 101), 8) == (1, 15, 29, 43, 58, 72, 86, 100)


def test_merging_leaves_out_summaries_without_a_histogram_where_one_is_wanted() -> None:
    whole = site_series(mlp(depth=2), "activation", "forward")
    moments = replace(whole, summaries=tuple(replace(s, histogram=None) for s in whole.summaries if s is not None))
    first = whole.summaries[0]
    assert first is not None
    both = merged_at([whole, moments], 1)
    assert both is not None
    assert (both.count, both.histogram) == (2 * first.count, None)
    assert merged_at([whole, moments], 1, histogram=True) == first
    assert merged_at([whole], 3) is None
