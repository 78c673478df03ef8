"""What has moved since a baseline: how seldom it is said of an unchanged network, how surely of a changed one."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from propscope.comparison import compare_networks
from propscope.comparison.signal import half_width
from propscope.errors import InputError
from propscope.records import NetworkProfile, ProfileSet, Provenance, Site, TensorSummary

DEPTH, WIDTH, BATCH = 10, 32, 16


def compare(new, old, **options):
    return compare_networks(old, new, same_labels=True, **options)


def summary(rms, **counts):
    return TensorSummary(64, 0.0, rms, -rms, rms, 0.0, **counts)


def site(name, forward=1.0, backward=1.0, **more):
    sizes = (
        None if rms is None else rms if isinstance(rms, TensorSummary) else summary(rms) for rms in (forward, backward)
    )
    options = {"kind": "Linear", "role": "pre-activation", "shape": (8, 8), "units": 8} | more
    return Site(name, **options, **dict(zip(("forward", "backward"), sizes, strict=True)))


def seeded(*members, first=0, **labels):
    """Return a set of networks, one a seed, each given as its sites."""
    return ProfileSet.of(
        NetworkProfile(tuple(sites), labels={**labels, "seed": seed}) for seed, sites in enumerate(members, first)
    )


def wandering(forward, seeds=5, spread=0.05, first=0):
    """Return a network of one site whose ln rms wanders evenly about that of `forward`."""
    logs = math.log(forward) + spread * np.linspace(-1, 1, seeds)
    return seeded(*([site("a", math.exp(log))] for log in logs), first=first)


def draw(seeds, generator, *, scaled=None, factor=1.0, width=WIDTH):
    """Return profiles of ReLU networks with He weights, drawn in numpy: what `profile` would see of their layers."""
    weights = generator.normal(0, math.sqrt(2 / width), (DEPTH, seeds, width, width))
    if scaled is not None:
        weights[scaled] *= factor
    h = generator.normal(size=(seeds, width, BATCH))
    values = []
    for weight in weights:
        values.append(weight @ h)
        h = np.maximum(values[-1], 0)
    gradients = [generator.normal(size=h.shape)]
    for weight, z in zip(weights[:0:-1], values[-2::-1], strict=True):
        gradients.append((weight.swapaxes(1, 2) @ gradients[-1]) * (z > 0))
    sizes = [[np.sqrt((one**2).mean((1, 2))) for one in side] for side in (values, gradients[::-1])]
    return [
        [site(f"layers.{layer}", sizes[0][layer][seed], sizes[1][layer][seed]) for layer in range(DEPTH)]
        for seed in range(seeds)
    ]


@cache
def drawn():
    """Return 2,000 networks: 200 pairs of 5 seeds."""
    return draw(2000, np.random.default_rng(0))


class TestFalseAlarms:
    @pytest.mark.slow
    @pytest.mark.parametrize("first", [0, 100], ids=["same seeds that draw anew", "other seeds"])
    @pytest.mark.parametrize("seeds", [2, 3, 5])
    def test_unchanged_networks_seldom_fail(self, first, seeds):
        pairs = 200
        networks = drawn()[: 2 * seeds * pairs]
        failed = 0
        for at in range(0, len(networks), 2 * seeds):
            old, new = networks[at : at + seeds], networks[at + seeds : at + 2 * seeds]
            found = compare(seeded(*new, first=first), seeded(*old))
            assert found.comparisons == 2 * (2 * DEPTH - 1)
            failed += bool(found.differences)
        assert failed / pairs <= 0.05

    def test_the_same_networks_never_fail(self):
        networks = draw(5, np.random.default_rng(0))
        found = compare(seeded(*networks), seeded(*networks), tolerance=0)
        assert found.differences == ()
        assert found.method == "5 seeds, the same on both sides"
        assert found.visible == 1

    def test_what_kernels_and_versions_make_stays_within_the_tolerance(self):
        old = seeded(*([site("a", 1.0)] for _ in range(5)))
        near = seeded(*([site("a", 1.009)] for _ in range(5)))
        assert not compare(near, old).differences
        assert compare(near, old, tolerance=0.008).differences
        assert compare(near, old).visible == pytest.approx(1.01)

    def test_more_networks_widen_every_interval(self):
        old, new = wandering(1.0), wandering(1.12, first=9)
        alone = compare(new, old)
        many = [
            ProfileSet.of(replace(p, labels={**p.labels, "width": w}) for w in range(400) for p in side)
            for side in (new, old)
        ]
        together = compare(*many)
        assert len(alone.differences) == 1
        assert together.comparisons == 400 * alone.comparisons
        assert not together.differences


class TestDetection:
    @pytest.mark.slow
    @pytest.mark.parametrize("first", [0, 100], ids=["same seeds that draw anew", "other seeds"])
    def test_weights_of_one_layer_times_1_3_are_found_with_5_seeds(self, first):
        generator = np.random.default_rng(1)
        hits = 0
        for _ in range(10):
            old, new = draw(5, generator, width=256), draw(5, generator, scaled=4, factor=1.3, width=256)
            moves = compare(seeded(*new, first=first), seeded(*old)).differences
            hits += any(move.site == "layers.4" and move.quantity == "gain" for move in moves)
        assert hits >= 8

    def test_on_the_same_seeds_the_layer_is_named_first_with_its_factor(self):
        old = draw(5, np.random.default_rng(2))
        new = draw(5, np.random.default_rng(2), scaled=4, factor=1.3)
        moves = compare(seeded(*new), seeded(*old)).differences
        assert (moves[0].site, moves[0].direction, moves[0].quantity) == ("layers.4", "forward", "gain")
        assert moves[0].ratio == pytest.approx(1.3)
        assert (moves[1].site, moves[1].direction, moves[1].quantity) == ("layers.3", "backward", "gain")
        rms = [(move.direction, move.site) for move in moves if move.quantity == "rms"]
        assert rms == [("forward", f"layers.{i}") for i in range(4, 10)] + [
            ("backward", f"layers.{i}") for i in (3, 2, 1, 0)
        ]
        assert all(move.after == pytest.approx(move.before * 1.3) for move in moves)
        assert moves[0].message.startswith("x1.30, from ")

    def test_a_shrinking_signal_moves_too(self):
        move = compare(wandering(0.5), wandering(1.0)).differences[0]
        assert move.ratio == pytest.approx(0.5)
        assert (move.before, move.after) == (pytest.approx(1.0), pytest.approx(0.5))


class TestIntervals:
    def test_students_of_pairs_and_welchs_of_others_are_scipys(self):
        from scipy import stats

        generator = np.random.default_rng(3)
        before, after = generator.normal(size=5), generator.normal(1, 3, size=8)
        expected = stats.ttest_ind(after, before, equal_var=False).confidence_interval(0.99)
        half = half_width(before, after, 0.01, paired=False)
        assert after.mean() - before.mean() + half == pytest.approx(expected.high)
        near = before + generator.normal(0, 0.01, size=5)
        expected = stats.ttest_rel(near, before).confidence_interval(0.995)
        half = half_width(before, near, 0.01, paired=True)
        assert (near - before).mean() - half == pytest.approx(expected.low)
        anew = generator.normal(size=5)
        expected = stats.ttest_ind(anew, before, equal_var=False).confidence_interval(0.995)
        half = half_width(before, anew, 0.01, paired=True)
        assert anew.mean() - before.mean() + half == pytest.approx(expected.high)

    def test_without_spread_there_is_none(self):
        same = np.ones(3)
        assert half_width(same, same, 0.01, paired=False) == 0
        assert half_width(same, same, 0.01, paired=True) == 0
        assert math.isnan(half_width(same[:1], same[:1], 0.01, paired=True))

    def test_a_move_carries_the_interval_that_decided(self):
        move = compare(wandering(2.0, first=9), wandering(1.0)).differences[0]
        half = half_width(0.05 * np.linspace(-1, 1, 5), 0.05 * np.linspace(-1, 1, 5), 0.05 / 2, paired=False)
        assert (move.low, move.high) == (pytest.approx(2 * math.exp(-half)), pytest.approx(2 * math.exp(half)))
        assert move.low < move.ratio < move.high


class TestSeeds:
    def test_the_same_seeds_in_another_order_are_pairs(self):
        old = wandering(1.0, spread=1.0)
        found = compare(ProfileSet.of(reversed(old.profiles)), old)
        assert found.method == "5 seeds, the same on both sides"
        assert found.visible == pytest.approx(1.01)

    def test_seeds_within_those_of_the_baseline_are_pairs(self):
        old = wandering(1.0, spread=1.0)
        assert compare(ProfileSet.of(old.profiles[1:3]), old).method == "2 seeds, the same on both sides"
        assert compare(old, ProfileSet.of(old.profiles[1:3])).visible == pytest.approx(1.01)

    def test_seeds_that_overlap_are_others(self):
        assert compare(wandering(1.0, first=3), wandering(1.0)).method == "5 seeds against 5 other seeds"

    @pytest.mark.parametrize("change", [{}, {"seed": 0}], ids=["none named", "one named twice"])
    def test_profiles_that_no_seed_tells_apart_are_others(self, change):
        old = wandering(1.0)
        new = ProfileSet.of(replace(profile, labels=change) for profile in old)
        assert compare(new, old).method == "5 seeds against 5 other seeds"

    def test_one_seed_is_compared_as_it_is(self):
        one = seeded([site("a"), site("b")])
        found = compare(one, one)
        assert (found.differences, found.comparisons) == ((), 6)
        assert found.method == "only seed 0, without an interval"
        move = compare(seeded([site("a"), site("b", 1.02)]), one).differences[0]
        assert move.message == "x1.02, from 1.00 to 1.02"
        assert math.isnan(move.low)
        assert not compare(seeded([site("a"), site("b", 1.005)]), one).differences

    @pytest.mark.parametrize(
        ("labels", "said"),
        [({"seed": 7}, "the second has seed 7"), ({}, "the second has one profile without a seed")],
    )
    def test_one_other_seed_has_no_interval(self, labels, said):
        new = ProfileSet.of([NetworkProfile((site("a"),), labels=labels)])
        with pytest.raises(InputError, match=said) as caught:
            compare(new, wandering(1.0))
        assert "the first has seeds 0, 1, 2, ..." in str(caught.value)
        assert "--seeds" in caught.value.hint


class TestSites:
    OLD = (site("a"), site("b", kind="ReLU", units=None))

    @pytest.mark.parametrize(
        ("sites", "where", "said"),
        [
            ([site("a")], "b", "gone"),
            ([*OLD, site("c")], "c", "new"),
            ([site("a"), site("b", kind="GELU", units=None)], "b", "was ReLU, is GELU"),
            ([site("a", units=16), OLD[1]], "a", "had 8 units, has 16"),
        ],
    )
    def test_a_changed_structure_has_moved(self, sites, where, said):
        (move,) = compare(seeded(sites, sites), seeded(self.OLD, self.OLD)).differences
        assert (move.site, move.quantity, move.direction, move.message) == (where, "structure", None, said)

    def test_a_site_that_only_some_seeds_have_is_no_change(self):
        both, one = [site("a"), site("b")], [site("a")]
        assert not compare(seeded(both, both, both), seeded(both, one, both)).differences
        assert not compare(seeded(one, one, one), seeded(both, one, both)).differences
        assert not compare(seeded(both, one, both), seeded(one, one, one)).differences

    def test_a_site_is_compared_in_the_seeds_that_have_it(self):
        old = seeded([site("a"), site("b")], [site("a")], [site("a"), site("b")])
        new = seeded([site("a"), site("b", 2.0)], [site("a")], [site("a"), site("b", 2.0)])
        assert {move.site for move in compare(new, old).differences} == {"b"}

    @pytest.mark.parametrize("first", [0, 9], ids=["same seeds", "other seeds"])
    def test_a_site_that_one_seed_of_several_shows_has_no_interval(self, first):
        both, one = [site("a"), site("b", 3.0)], [site("a")]
        found = compare(seeded(both, one, one, first=first), seeded([site("a"), site("b")], one, one))
        assert (found.differences, found.comparisons) == ((), 2)


class TestStates:
    NAN = summary(1.0, nan_count=1)
    ZERO = summary(0.0)

    @pytest.mark.parametrize(("value", "what"), [(NAN, "NaN or Inf"), (ZERO, "all zero")])
    def test_one_seed_that_goes_bad_has_moved(self, value, what):
        good = [site("a"), site("b")]
        old, new = seeded(*[good] * 4), seeded(good, [site("a"), site("b", value)], good, good)
        (move,) = compare(new, old).differences
        assert (move.site, move.direction, move.quantity) == ("b", "forward", "state")
        assert move.message == f"{what} in 1 of 4 seeds, in none before"
        # And one that is good again is what luck may do.
        assert not compare(old, new).differences

    @pytest.mark.parametrize("value", [NAN, ZERO])
    def test_what_is_bad_everywhere_on_both_sides_has_not_moved(self, value):
        bad = seeded(*[[site("a", value, value)]] * 3)
        found = compare(bad, bad)
        assert (found.differences, found.comparisons) == ((), 0)
        assert math.isnan(found.visible)
        good = seeded(*[[site("a")]] * 3)
        assert [move.message[:9] for move in compare(good, bad).differences] == ["no longer"] * 2

    def test_a_direction_that_is_no_longer_seen_is_one_move(self):
        old, new = ([[site("a", 1.0, size), site("b", 1.0, size)]] * 3 for size in (1.0, None))
        (move,) = compare(seeded(*new), seeded(*old)).differences
        assert (move.direction, move.message) == ("backward", "no longer seen at any of 2 sites")
        found = compare(seeded(*old), seeded(*new))
        assert found.differences == ()
        assert found.notes == ("the first has no backward signal, so it is not compared",)

    def test_a_gradient_lost_at_one_site_is_a_move(self):
        old, new = ([[site("a", 1.0, size), site("b")]] * 3 for size in (1.0, None))
        (move,) = compare(seeded(*new), seeded(*old)).differences
        assert (move.site, move.direction, move.message) == ("a", "backward", "no longer seen")

    def test_a_tensor_without_elements_is_not_seen(self):
        old = seeded(*[[site("a"), site("b")]] * 3)
        new = seeded(*[[site("a"), site("b", TensorSummary.empty())]] * 3)
        assert [move.message for move in compare(new, old).differences] == ["no longer seen"]

    def test_sizes_at_the_end_of_float64_compare(self):
        old, new = ([[site("a", size, 1.0)]] * 2 for size in (1e-300, 1e300))
        (move,) = compare(seeded(*new), seeded(*old)).differences
        assert (move.before, move.after, move.ratio) == (pytest.approx(1e-300), pytest.approx(1e300), math.inf)


class TestNetworks:
    def test_they_are_matched_by_their_labels_and_the_rest_is_noted(self):
        def grid(**sizes):
            return ProfileSet.of(
                profile for act, size in sizes.items() for profile in seeded(*[[site("a", size)]] * 2, act=act)
            )

        found = compare(grid(relu=1.0, tanh=3.0, gelu=1.0), grid(tanh=1.0, relu=1.0, sine=1.0))
        assert [(move.labels, move.site) for move in found.differences] == [({"act": "tanh"}, "a")]
        assert found.networks == 2
        assert found.notes == (
            "1 of 3 networks only in the second: (act gelu)",
            "1 of 3 networks only in the first: (act sine)",
        )

    def test_one_model_under_another_name_is_the_same(self):
        old, new = seeded(*[[site("a")]] * 2, model="a.py:net"), seeded(*[[site("a")]] * 2, model="b.py:net")
        assert compare(new, old).differences == ()
        with pytest.raises(InputError, match=r"no network is in both: the first has .model a.py:net"):
            compare(new + seeded([site("a")], model="c.py:net"), old)

    def test_the_order_of_labels_does_not_matter(self):
        old, new = seeded(*[[site("a")]] * 2, act="relu", depth=1), seeded(*[[site("a")]] * 2, depth=1, act="relu")
        assert compare(new, old).networks == 1

    def test_grids_that_differ_in_labels_with_one_value_each_are_matched_by_the_others(self):
        def grid(size, depths=(1, 2), **labels):
            return ProfileSet.of(
                one for depth in depths for one in seeded(*[[site("a", size * depth)]] * 2, depth=depth, **labels)
            )

        found = compare_networks(grid(1.0, act="relu", norm="batch"), grid(3.0, act="tanh"))
        assert {one.labels["depth"]: one.ratio for one in found.differences} == pytest.approx({1: 3.0, 2: 3.0})
        assert found.notes == ("other labels: (act relu, norm batch) -> (act tanh)",)
        alike = compare_networks(grid(1.0, act="relu"), grid(1.0, (2, 3), act="tanh"))
        assert (alike.same, alike.networks) == (True, 1)
        assert alike.notes[1:] == (
            "1 of 2 networks only in the second: (depth 3)",
            "1 of 2 networks only in the first: (depth 1)",
        )
        two = grid(1.0, act="tanh") + grid(1.0, act="gelu")
        with pytest.raises(InputError, match=r"no network is in both: the first has .act relu, depth 1"):
            compare_networks(grid(1.0, act="relu"), two)

    def test_other_labels_are_another_network(self):
        old, new = seeded([site("a")], act="relu"), seeded([site("a")], act="tanh")
        with pytest.raises(InputError, match=r"the first has .act relu., the second has .act tanh."):
            compare(new, old)

    def test_other_sites_are_another_network(self):
        with pytest.raises(InputError, match=r"no site is in both: the first has a, the second has b, c, d, ..."):
            compare(seeded([site(name) for name in "bcde"]), seeded([site("a")]))

    def test_long_names_of_sites_are_cut_in_an_error(self):
        with pytest.raises(InputError, match="the second has b") as caught:
            compare(seeded([site("b" * 10_000)]), seeded([site("a", kind="Conv2d")]))
        assert len(str(caught.value)) < 200

    @pytest.mark.parametrize("empty", [ProfileSet(()), seeded(())])
    def test_nothing_cannot_be_compared(self, empty):
        one = seeded([site("a")])
        with pytest.raises(InputError, match="the first holds no site"):
            compare(one, empty)
        with pytest.raises(InputError, match="the second holds no site"):
            compare(empty, one)

    @pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf])
    def test_a_tolerance_that_is_none_is_refused(self, tolerance):
        with pytest.raises(InputError, match="tolerance"):
            compare(wandering(1.0), wandering(1.0), tolerance=tolerance)

    def test_what_was_measured_otherwise_is_noted(self):
        def taken(spec, torch):
            provenance = Provenance(spec=spec, torch_version=torch)
            return ProfileSet.of(replace(profile, provenance=provenance) for profile in wandering(1.0))

        old = taken('{"shapes": ["8,4"], "seeds": 5, "target": "a", "loss": "sum"}', "2.4.0")
        new = taken('{"shapes": ["16,4"], "seeds": 3, "target": "b", "loss": "sum"}', "2.5.0")
        assert compare(new, old).notes == (
            "measured differently: shapes ['8,4'] -> ['16,4']",
            "measured differently: torch 2.4.0 -> 2.5.0",
        )
        assert compare(new, wandering(1.0)).notes == ()
        assert compare(new, taken("no JSON", "")).notes == ()
