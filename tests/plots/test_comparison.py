"""The picture of a comparison: what its lines hold, what is ringed, and that it can be drawn."""

import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import layered

from propscope.comparison import compare
from propscope.plots import styled, write_figure
from propscope.plots.comparison import draw_comparison, prepare_comparison
from propscope.records import NetworkProfile, ProfileSet, Site, TensorSummary


def summary(rms, **counts):
    return TensorSummary(64, 0.0, rms, -rms, rms, 0.0, **counts)


def network(*forward, backward=1.0, **labels):
    sites = [
        Site(f"fc{at}", "Linear", "pre-activation", (8, 8), forward=rms and summary(rms), backward=summary(backward))
        for at, rms in enumerate(forward)
    ]
    return NetworkProfile(tuple(sites), labels=labels)


def test_the_lines_are_the_rms_of_both_and_what_differs_is_ringed():
    prepared = prepare_comparison(compare(network(1.0, 2.0, 4.0), network(1.0, 2.2, 4.4)))
    forward, backward = prepared.panels
    assert forward.first.tolist() == pytest.approx([1, 2, 4])
    assert forward.second.tolist() == pytest.approx([1, 2.2, 4.4])
    assert forward.ratio.tolist() == pytest.approx([1, 1.1, 1.1])
    assert (forward.differing, backward.differing) == ((1, 2), ())
    assert prepared.names == ("fc0", "fc1", "fc2")
    assert prepared.header.facts == "different · tolerance 1% (float32)"


@pytest.mark.parametrize(
    ("names", "called"),
    [
        (
            ("a.py:net: Net, train, weights old.pt", "a.py:net: Net, train, weights new.pt"),
            ("first: weights old.pt", "second: weights new.pt"),
        ),
        (("a.py:net: Net, train", "a.py:net: Net, eval, seed 3"), ("first: train", "second: eval, seed 3")),
        (("run.h5", "run.h5"), ("first", "second")),
        (("", ""), ("first", "second")),
    ],
)
def test_the_legend_says_which_is_which_by_what_only_one_is_called(names, called):
    prepared = prepare_comparison(replace(compare(network(1.0), network(2.0)), names=names))
    assert prepared.called == called


def test_a_ratio_that_is_far_from_one_has_a_logarithmic_axis():
    near, far = (prepare_comparison(compare(network(1.0, 2.0), network(1.0, by))) for by in (2.2, 200.0))
    assert near.panels[0].ratios is None
    assert far.panels[0].ratios is not None


def test_what_is_not_finite_or_not_seen_has_no_ratio():
    bad = network(1.0, 2.0, 4.0)
    bad = replace(bad, sites=(bad.sites[0], replace(bad.sites[1], forward=summary(2.0, nan_count=1)), bad.sites[2]))
    panel = prepare_comparison(compare(network(1.0, 2.0, 4.0), bad)).panels[0]
    assert panel.nonfinite == (1,)
    assert np.isnan(panel.ratio).tolist() == [False, True, False]
    assert panel.differing == (1,)


def test_seeds_are_drawn_by_their_geometric_mean():
    old = ProfileSet.of(network(size, seed=seed) for seed, size in enumerate((1.0, 4.0)))
    panel = prepare_comparison(compare(old, old)).panels[0]
    assert panel.first[0] == pytest.approx(2.0)


def test_of_several_networks_the_first_that_differs_is_drawn():
    old = ProfileSet.of([network(1.0, 2.0, act="relu", seed=0), network(3.0, 4.0, act="tanh", seed=0)])
    new = ProfileSet.of([network(1.0, 2.0, act="relu", seed=0), network(3.0, 8.0, act="tanh", seed=0)])
    prepared = prepare_comparison(compare(old, new))
    assert prepared.panels[0].first.tolist() == pytest.approx([3, 4])
    assert "act tanh" in prepared.header.facts


def test_a_direction_that_was_not_seen_has_no_panel():
    one = layered(forward=[1.0, 2.0, 3.0], backward=None)
    assert [panel.direction for panel in prepare_comparison(compare(one, one)).panels] == ["forward"]
    blind = replace(one, sites=tuple(replace(site, forward=None) for site in one.sites))
    assert prepare_comparison(compare(blind, blind)) is None


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("by", [1.0, 1.1, 1e6, math.inf])
def test_it_can_be_drawn(tmp_path, count, by):
    second = network(*[1.0] * count)
    other = summary(1.0, posinf_count=1) if math.isinf(by) else summary(by)
    second = replace(second, sites=(*second.sites[:-1], replace(second.sites[-1], forward=other)))
    found = replace(compare(network(*[1.0] * count), second), names=("a$b_c^d", "x" * 200))
    with styled():
        write_figure(draw_comparison(prepare_comparison(found)), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
