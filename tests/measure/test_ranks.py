"""Records of several ranks put together equal the record of one process on all samples."""

import math

import numpy as np
import pytest
import torch
from building.simulated_ranks import on_threads, simulated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from propscope.errors import InputError
from propscope.measure.parts import joint, marks_of_classes, pieces, summarized
from propscope.measure.rank_places import Places
from propscope.measure.ranks import RanksApartError, Share, together
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options
from propscope.records.summary import TensorSummary

FLOATS = st.floats(width=32, allow_subnormal=True)
ARRAYS = st.lists(st.lists(FLOATS, max_size=12), min_size=1, max_size=5)


def put_together(shares_of_ranks, **keywords):
    """What each of several ranks gets that bring these shares."""
    ranks = simulated(len(shares_of_ranks))
    works = zip(shares_of_ranks, ranks, strict=True)
    return on_threads(*(lambda s=s, r=r: together(s, r, **keywords) for s, r in works)), ranks


def of_all(parts):
    found, _ = put_together([{"it": Share((), part)} for part in parts])
    assert all(repr(one.found) == repr(found[0].found) for one in found)
    return found[0].found["it"]


def is_same(found, expected):
    assert found.count == expected.count
    assert (found.nan_count, found.posinf_count) == (expected.nan_count, expected.posinf_count)
    assert (found.min, found.max) == pytest.approx((expected.min, expected.max), rel=0, abs=0, nan_ok=True)
    assert found.zero_fraction == pytest.approx(expected.zero_fraction, rel=1e-15, nan_ok=True)
    assert found.histogram == expected.histogram
    size = 1e-9 * (0 if math.isnan(expected.rms) else expected.rms)
    assert found.mean == pytest.approx(expected.mean, rel=1e-9, abs=size, nan_ok=True)
    assert found.std == pytest.approx(expected.std, rel=1e-7, abs=size, nan_ok=True)


@settings(deadline=None)
@given(ARRAYS)
def test_a_summary_of_all_ranks_is_that_of_all_their_elements(arrays):
    arrays = [np.array(one, np.float32) for one in arrays]
    found, _ = of_all([summarized(TensorSummary.of(one), bins=True) for one in arrays])
    is_same(found, TensorSummary.of(np.concatenate(arrays)))


def test_a_spread_that_is_small_against_the_mean_is_kept():
    arrays = [1e6 + np.random.default_rng(seed).normal(size=500) for seed in range(3)]
    found, _ = of_all([summarized(TensorSummary.of(one), bins=False) for one in arrays])
    assert found.std == pytest.approx(np.std(np.concatenate(arrays)), rel=1e-9)
    assert found.histogram is None


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_that_leave_the_range_are_no_harm(scale):
    arrays = [scale * np.random.default_rng(seed).normal(size=500) for seed in range(3)]
    found, _ = of_all([summarized(TensorSummary.of(one), bins=False) for one in arrays])
    assert found.std == pytest.approx(np.std(np.concatenate(arrays) / scale) * scale, rel=1e-9)


def test_what_no_rank_saw_is_not_there_and_what_one_saw_is():
    assert of_all([summarized(None, bins=True) for _ in range(2)]) == (None, 0)
    one = TensorSummary.of(np.arange(5.0))
    found, _ = of_all([summarized(None, bins=True), summarized(one, bins=True)])
    is_same(found, one)


@pytest.mark.parametrize(
    ("other", "alike"),
    [([1.0, 2.0, 4.0], 2), ([1.0, 2.0, 5.0], 0), ([1.0, 2.0, 4.0, 4.0], 0)],
)
def test_ranks_that_hold_the_same_are_told(other, alike):
    parts = [summarized(TensorSummary.of(np.array(one)), bins=True) for one in ([1.0, 2.0, 4.0], other)]
    assert of_all(parts)[1] == alike


@given(st.lists(st.lists(st.integers(0, 2), min_size=6, max_size=6), min_size=1, max_size=4))
def test_units_are_equal_where_they_are_on_all_ranks(classes):
    marks = sum(marks_of_classes(np.array(one), rank=rank, ranks=len(classes)) for rank, one in enumerate(classes))
    columns = list(zip(*classes, strict=True))
    for a, one in enumerate(columns):
        for b, other in enumerate(columns):
            assert (marks[a] == marks[b]) == (one == other)


def test_the_marks_of_very_many_ranks_add_up_exactly():
    units, ranks = 50, 100_000
    marks = marks_of_classes(np.arange(units), rank=ranks - 1, ranks=ranks)
    assert (marks == np.rint(marks)).all()
    assert marks.max() * ranks < 2**53
    assert len(np.unique(marks)) == units


def test_vectors_are_cut_where_they_were_joined():
    assert [list(one) for one in pieces(np.arange(3.0), [1, 0, 2])] == [[0], [], [1, 2]]
    assert not pieces(np.empty(0), [])


class Net(nn.Module):
    """Layers with units, an embedding of positions, a residual sum, attention, an unused unit, equal units."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inside, self.place = nn.Linear(6, 8), nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.hidden, self.relu, self.out = nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3)
        with torch.no_grad():
            self.hidden.weight[1] = self.hidden.weight[0]
            self.hidden.bias[:3] = torch.tensor([0.1, 0.1, -9.0])

    def forward(self, x):
        x = self.inside(x) + self.place(torch.arange(x.shape[1]))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out(self.relu(self.hidden(x)))


def batch_of(samples):
    return torch.randn(samples, 5, 6, generator=torch.Generator().manual_seed(1))


def place_of(ranks):
    return Places(ranks, data=ranks.rank, data_size=ranks.size, losses=ranks.size)


def recorded(batches, *, places=None, weight=1.0, scale=None, **options):
    model = Net()
    recorder = Recorder(model, options=Options(places=places, **{"histogram_limit": 0} | options), loss_scale=scale)
    with recorder:
        for x in batches:
            (model(x).square().mean() * weight * (scale or 1.0)).backward()
            model.zero_grad()
    return recorder


def profiles_of(parts, **keywords):
    """The profile of each rank, of which each runs one part of the batches."""
    ranks = simulated(len(parts))
    recorders = [recorded(part, places=place_of(one), **keywords) for part, one in zip(parts, ranks, strict=True)]
    return on_threads(*(one.profile for one in recorders)), ranks


# One process takes the products of its rows in float32.
TOLERANCES = {"effective_rank": 1e-5}


def figure(site, name):
    value = getattr(site, name)
    return math.inf if value is None else value


def assert_same_sites(found, expected, *, rel=1e-6, leave=()):
    assert [site.name for site in found.sites] == [site.name for site in expected.sites]
    for one, other in zip(found.sites, expected.sites, strict=True):
        for name in ("shape", "samples", "units", "dead_units", "symmetric_units", "features", "parents"):
            assert getattr(one, name) == getattr(other, name), (one.name, name)
        for name in ("flat_fraction", "mean_cosine", "effective_rank", "branch_share", "feature_spread", "masked_rows"):
            if (one.name, name) not in leave:
                assert figure(one, name) == pytest.approx(
                    figure(other, name), rel=TOLERANCES.get(name, rel), abs=1e-7
                ), (one.name, name)
        for name in ("forward", "backward"):
            if (one.name, name) in leave:
                continue
            a, b = getattr(one, name), getattr(other, name)
            if other.role == "input" and name == "backward":
                assert a is b is None
                continue
            assert (a.count, a.nan_count, a.zero_fraction) == (b.count, b.nan_count, b.zero_fraction)
            assert (a.mean, a.rms, a.min, a.max) == pytest.approx(
                (b.mean, b.rms, b.min, b.max), rel=rel, abs=rel * b.rms
            )
            # A gradient is computed in another order, so that a few numbers move to the next bin.
            moved = np.abs(a.histogram.dense() - b.histogram.dense()).sum()
            assert moved == 0 if name == "forward" else moved <= 0.01 * a.count


# What has no samples: its gradient adds up over the ranks, and its rows are not those of the samples.
PLACE = [("place", "backward"), ("place", "mean_cosine"), ("place", "effective_rank")]
# Of many rows some are looked at: one process takes them in the order of memory, where attention has the samples last.
SOME_ROWS = [*PLACE, ("attention[0]", "mean_cosine"), ("attention[0]", "effective_rank")]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_profile_of_all_ranks_is_that_of_one_process(size):
    x = batch_of(12)
    found, ranks = profiles_of([[part] for part in x.chunk(size)])
    expected = recorded([x]).profile()
    for one in found:
        assert_same_sites(one, expected, leave=SOME_ROWS)
        assert (one.provenance.samples, one.provenance.batches) == (12, 1)
    assert found[0].sites == found[1].sites
    assert ranks[0].calls == ["maximum", "maximum", "total"]
    assert found[0]["hidden"].dead_units == 1
    assert found[0]["hidden"].symmetric_units == 2


@pytest.mark.parametrize("look", [None, False], ids=["read at once", "left on the device"])
def test_a_group_of_one_rank_sees_what_one_process_sees(look):
    batches = [batch_of(4), batch_of(6) * 2]
    (found,), _ = profiles_of([batches], look=look)
    expected = recorded(batches, look=look).profile()
    assert_same_sites(found, expected)
    for one, other in zip(found.parameters, expected.parameters, strict=True):
        assert one.gradient.count == other.gradient.count, one.name
        assert one.gradient.rms == pytest.approx(other.gradient.rms, rel=1e-9), one.name
        assert one.gradient.histogram == other.gradient.histogram
        assert (one.value, one.symmetric_units) == (other.value, other.symmetric_units)


def test_gradients_that_are_added_up_count_once_with_all_that_was_added():
    model, batches = Net(), [batch_of(4), batch_of(6) * 2]
    with Recorder(model, options=Options(places=place_of(simulated(1)[0]), histogram_limit=0)) as recorder:
        for x in batches:
            model(x).square().mean().backward()
    weight = recorder.profile().parameters[0]
    assert weight.gradient.count == model.inside.weight.numel()
    assert weight.gradient_norm == pytest.approx(float(model.inside.weight.grad.norm()), rel=1e-6)


def test_what_is_left_on_the_devices_of_several_ranks_is_put_together():
    x = batch_of(12)
    found, _ = profiles_of([[part] for part in x.chunk(3)], look=False)
    assert_same_sites(found[1], recorded([x], look=False).profile(), leave=SOME_ROWS)


@pytest.mark.parametrize("look", [None, False], ids=["read at once", "left on the device"])
def test_where_values_that_are_not_finite_came_up_first(look):
    good, bad = batch_of(4), batch_of(4)
    bad[0, 0, 0] = math.inf
    ranks, passes = simulated(3), ([good, good, bad], [good, bad, bad], [good, good, good])
    recorders = [recorded(part, places=place_of(one), look=look) for part, one in zip(passes, ranks, strict=True)]
    on_threads(*(one.profile for one in recorders))
    for one in recorders:
        assert one.origins["inside"] == (1, 1)
        assert str(one.origins["inside"]) == "on rank 1, in micro-batch 2"
        assert "place" not in one.origins


def test_all_rows_of_few_samples_are_gathered():
    x = batch_of(6)
    found, _ = profiles_of([[part] for part in x.chunk(3)])
    assert_same_sites(found[2], recorded([x]).profile(), leave=PLACE)


def test_several_batches_and_a_scaled_loss():
    x, y = batch_of(12), batch_of(8) * 2
    found, _ = profiles_of([[a, b] for a, b in zip(x.chunk(2), y.chunk(2), strict=True)], scale=1024.0)
    assert_same_sites(found[1], recorded([x, y]).profile(), leave=SOME_ROWS)


def test_an_unequal_batch_is_that_of_the_mean_of_the_means():
    x, sizes = batch_of(12), (7, 5)
    found, _ = profiles_of([[part] for part in x.split(sizes)])
    model = Net()
    recorder = Recorder(model, options=Options(histogram_limit=0))
    with recorder:
        a, b = model(x).split(sizes)
        ((a.square().mean() + b.square().mean()) / 2).backward()
    expected = recorder.profile()
    # Which rows are looked at follows from the number of samples that each rank has.
    rows = [(site.name, kind) for site in expected.sites for kind in ("mean_cosine", "effective_rank")]
    assert_same_sites(found[0], expected, leave=[*PLACE, *rows])


def test_a_unit_that_responds_on_one_rank_is_alive_and_units_that_differ_there_differ():
    x = torch.full((4, 5, 6), -1.0)
    y = batch_of(4) + 3.0
    alone = [recorded([one]).profile()["hidden"] for one in (x, y)]
    (found, _), _ = profiles_of([[x], [y]])
    expected = recorded([torch.cat([x, y])]).profile()["hidden"]
    assert found["hidden"].dead_units == expected.dead_units < min(one.dead_units for one in alone) + 1
    assert found["hidden"].symmetric_units == expected.symmetric_units


def test_an_embedding_of_positions_counts_once_and_says_so():
    (found, _), _ = profiles_of([[part] for part in batch_of(8).chunk(2)])
    assert found["place"].shape == (5, 8)
    assert found["place"].forward.count == 40
    assert found["place"].backward is None
    assert [note.name for note in found.coverage if "counts once" in note.reason] == ["place"]


def test_ranks_that_are_given_the_same_samples_are_told_so():
    x = batch_of(4)
    (found, _), _ = profiles_of([[x], [x]])
    assert "DistributedSampler" in "".join(note.reason for note in found.coverage)
    assert found["hidden"].forward.count == 2 * recorded([x]).profile()["hidden"].forward.count


def test_moments_alone_are_put_together_without_histograms():
    x = batch_of(8)
    (found, _), _ = profiles_of([[part] for part in x.chunk(2)], stats="moments")
    expected = recorded([x], stats="moments").profile()
    assert found["hidden"].forward.histogram is None
    assert found["hidden"].units is None
    assert found["hidden"].forward.rms == pytest.approx(expected["hidden"].forward.rms, rel=1e-7)


def test_more_ranks_than_rows_that_geometry_looks_at():
    x = batch_of(40)
    found, _ = profiles_of([[part] for part in x.chunk(40)])
    assert found[0]["hidden"].forward.count == 40 * 5 * 12
    assert 1 < found[0]["hidden"].effective_rank < 12


def test_gradients_that_nobody_reduced_are_told():
    (found, _), _ = profiles_of([[part] for part in batch_of(8).chunk(2)])
    told = {note.name for note in found.coverage if note.reason.startswith("its gradient is not the same")}
    assert "hidden.weight" in told


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.one, self.other = nn.Linear(6, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, branch):
        x = self.first(x)
        return self.one(x) if branch else self.other(x)


def test_ranks_that_took_other_branches_merge_what_is_common():
    ranks, x, models = simulated(3), torch.randn(12, 6), [Branches() for _ in range(3)]
    recorders = [
        Recorder(model, options=Options(places=place_of(one))) for model, one in zip(models, ranks, strict=True)
    ]
    for at, (recorder, model) in enumerate(zip(recorders, models, strict=True)):
        with recorder:
            model(x[4 * at : 4 * at + 4], at != 1).sum().backward()
    found = on_threads(*(one.profile for one in recorders))
    assert [one["first"].forward.count for one in found] == [48] * 3
    assert found[0]["one"].forward.count == found[2]["one"].forward.count == 32
    assert found[1]["other"].forward.count == 16
    for one in found:
        told = {note.name: note.reason for note in one.coverage if note.what == "output"}
        assert told == {"one": "seen on ranks 0, 2 of 3 only", "other": "seen on rank 1 of 3 only"}
    assert ranks[0].calls == ["maximum", "exchange", "maximum", "exchange", "total"]


def test_a_rank_without_a_batch():
    ranks, model = simulated(2), Net()
    idle = Recorder(Net(), options=Options(places=place_of(ranks[1])))
    busy = Recorder(model, options=Options(places=place_of(ranks[0])))
    with idle, busy:
        model(batch_of(4)).sum().backward()
    found, other = on_threads(busy.profile, idle.profile)
    assert found["hidden"].forward.count == 4 * 5 * 12
    assert other.sites == ()
    assert other.provenance.samples == 4


def test_things_that_differ_are_left_out_and_told():
    def share(layout):
        return Share(layout, summarized(TensorSummary.of(np.arange(3.0)), bins=False))

    (found, other), _ = put_together([{"a": share((1,)), "b": share((2,))}, {"a": share((1,)), "b": share((3,))}])
    assert found.found["a"][0].count == 6
    assert "b" not in found.found
    assert found.differences == other.differences
    assert found.differences["b"].startswith("it is not the same on all ranks")


def test_ranks_at_different_steps_say_so():
    ranks = simulated(2)
    works = [lambda r=r, m=m: together({}, r, moment=m) for r, m in zip(ranks, (3, 4), strict=True)]
    with pytest.raises(RanksApartError, match="at different steps: 3 on rank 0; 4 on rank 1"):
        on_threads(*works)


def test_models_with_other_parameters_are_refused_on_all_ranks():
    models = [nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2, bias=False)]
    ranks = simulated(3)
    works = [lambda m=m, r=r: refusal(m, r) for m, r in zip(models, ranks, strict=True)]
    assert (
        on_threads(*works)
        == ["model must have the same parameters on all ranks of the group, got others on rank 2 than on rank 0: bias"]
        * 3
    )


def refusal(model, ranks):
    with pytest.raises(InputError) as told:
        Places.of(model, ranks)
    return str(told.value)


def test_parts_run_as_one():
    whole = joint([summarized(TensorSummary.of(np.ones(2)), bins=False), summarized(None, bins=False)])
    first = next(whole)
    assert len(first) == 16
    assert len(whole.send(first)) == 18
