"""Tensors like the last one take a short way: it must tell the same, and notice when one is another."""

import math
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from propscope.measure import kernel, track
from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.geometry import gram
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options, SiteAccumulator
from propscope.records.histogram import LogHistogram
from propscope.records.summary import TensorSummary

pytestmark = pytest.mark.skipif(not kernel.BUILT, reason="the extension was not built")
GENERATOR = torch.Generator()


@pytest.fixture(autouse=True)
def _on():
    GENERATOR.manual_seed(0)
    with mock.patch.object(kernel, "AVAILABLE", True):
        yield


@pytest.fixture
def threads():
    """Set how many threads torch has, for this test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "channels last": lambda tensor: tensor.contiguous(memory_format=torch.channels_last),
    "sliced": lambda tensor: torch.cat([tensor, tensor], dim=3)[..., : tensor.shape[3]],
    "transposed": lambda tensor: tensor.transpose(0, 3).contiguous().transpose(0, 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tensors_of_each_layout_count_alike_on_each_way(dtype, layout):
    tensors = [torch.randn(9, 5, 6, 7, generator=GENERATOR).to(dtype) for _ in range(3)]
    seen = CpuAccumulator(limit=0)
    for tensor in tensors[:2]:
        assert seen.add_same_shape(LAYOUTS[layout](tensor)) is None
        seen.add(LAYOUTS[layout](tensor))
    assert seen.add_same_shape(LAYOUTS[layout](tensors[2])) is not None
    expected = TensorSummary.of(torch.stack(tensors).float().numpy())
    found = seen.summary()
    assert (found.count, found.min, found.max) == (expected.count, expected.min, expected.max)
    assert found.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-7 * expected.std)
    assert found.std == pytest.approx(expected.std, rel=1e-6)
    assert found.histogram == expected.histogram


@pytest.mark.parametrize(
    "other",
    [
        torch.ones(4, 7),
        torch.ones(6, 4).t(),
        torch.ones(4, 6, dtype=torch.float64),
        torch.ones(4, 6, dtype=torch.bfloat16),
        torch.ones(4, 6).to_sparse(),
        torch.complex(torch.ones(4, 6), torch.ones(4, 6)).conj().imag,
        torch.ones(4, 6, device="meta"),
    ],
    ids=["shape", "strides", "float64", "bfloat16", "sparse", "negated", "meta"],
)
def test_what_is_another_tensor(other):
    seen = CpuAccumulator(limit=0)
    for _ in range(2):
        assert seen.add_same_shape(torch.ones(4, 6)) is None
        seen.add(torch.ones(4, 6))
    if other.is_neg():
        # The strides of an imaginary part are twice as long; those of the first must be the same for this to test.
        seen.add(torch.complex(torch.ones(4, 6), torch.ones(4, 6)).imag)
    before = seen.count
    assert seen.add_same_shape(other) is None
    assert seen.count == before


def test_a_table_that_could_overflow_is_emptied_on_the_short_way_too(monkeypatch):
    monkeypatch.setattr("propscope.measure.cpu_accumulator._FULL", 74)
    seen = CpuAccumulator(limit=0)
    values = torch.arange(24.0)
    seen.add(values)
    seen.add(values)
    assert seen.add_same_shape(values) is not None
    assert seen.add_same_shape(values) is None
    seen.add(values)
    assert seen.summary().histogram == LogHistogram.of(np.tile(values.numpy(), 4))
    assert seen.count == 96


def site(value, *, axis=-1):
    made = SiteAccumulator(
        value, name="x", kind="Linear", role="other", unit_axis=axis, has_units=True, options=Options(histogram_limit=0)
    )
    # The short way is open from the third value on.
    for _ in range(2):
        assert not made.record_same_shape(value)
        made.see_forward(value)
    return made


def test_the_geometry_is_that_of_the_last_batch():
    first, second = torch.randn(2, 40, 30, generator=GENERATOR)
    made = site(first)
    assert made.record_same_shape(second)
    assert np.allclose(made._gram, gram(second, -1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_products_that_leave_the_range_go_the_long_way_and_back(scale):
    first, second, third = torch.randn(3, 8, 30, generator=GENERATOR)
    made = site(first)
    for value in (second * scale, third, first):
        made.see_forward(value)
        alone = site(value).record()
        assert made.record().mean_cosine == pytest.approx(alone.mean_cosine, abs=1e-5)
        assert made.record().effective_rank == pytest.approx(alone.effective_rank, rel=1e-4)


def test_a_tensor_whose_samples_lie_apart_takes_the_short_way_with_its_geometry():
    values = [torch.randn(8, 5, 6, generator=GENERATOR).transpose(0, 2) for _ in range(4)]
    seen = SiteAccumulator(
        values[0], name="x", kind="", role="other", unit_axis=-1, has_units=False, options=Options(histogram_limit=0)
    )
    for value in values[:3]:
        seen.see_forward(value)
    with mock.patch.object(CpuAccumulator, "add", side_effect=AssertionError):
        seen.see_forward(values[3])
    found, expected = seen.products, gram(values[3], -1)
    assert np.allclose(found, expected.numpy(), rtol=1e-12)
    assert seen.record().forward.count == 4 * values[0].numel()


def test_units_that_are_equal_still_are_compared():
    values = torch.randn(8, 3, generator=GENERATOR)
    same = values[:, [0, 0, 1]]
    made = site(same)
    assert not made.record_same_shape(values), "equal units need the values of the next batch"
    made.see_forward(values)
    assert made.record().symmetric_units == 0
    assert made.record_same_shape(same), "units that differed once differ"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((300, 512), -1),
        ((70_001,), None),
        ((9, 40, 15, 15), 1),
        ((3, 2, 150, 151), 1),
        ((4, 9000, 2), 1),
        ((40_000, 3), 1),
    ],
)
def test_threads_share_one_tensor(threads, shape, axis, dtype):
    values = torch.randn(shape, generator=GENERATOR).to(dtype)
    values[values < -1] = 0
    for odd in (None, math.inf, math.nan):
        if odd is not None:
            values.view(-1)[-3] = odd
        units = values.shape[axis] if axis is not None else 0
        found = []
        for number in (1, 2, 3):
            threads(number)
            extremes = torch.empty(2, max(units, 1))
            state = kernel.State(bins=True)
            plan = kernel.Plan(values, state, 3, unit_axis=axis, extremes=extremes.numpy() if units else None)
            plan.run(values)
            plan.run(values)
            assert not state.cells[len(state.bins) :].any()
            found.append((state.moments, state.histogram, extremes if units else torch.zeros(1)))
        for moments, histogram, extremes in found[1:]:
            assert moments == pytest.approx(found[0][0], rel=1e-7, abs=1e-7, nan_ok=True)
            assert histogram == found[0][1]
            assert torch.equal(extremes.nan_to_num(7e7), found[0][2].nan_to_num(7e7))


@pytest.mark.parametrize("shape", [(256, 512), (64, 3, 40, 40), (2, 100, 3000)])
def test_threads_share_inner_products(threads, shape):
    values = torch.randn(shape, generator=GENERATOR)
    axis = 1 if len(shape) == 4 else -1
    found = []
    for number in (1, 2, 5):
        threads(number)
        found.append(CpuAccumulator(limit=0).add(values, None, axis, products=True))
    assert np.allclose(found[0], gram(values, axis), rtol=1e-4, atol=1e-3)
    for products in found[1:]:
        assert np.array_equal(products, found[0])


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh())

    def forward(self, x):
        return self.layers(self.layers(x))


def recorded(model, batches, **options):
    recorder = Recorder(model, **options)
    with recorder:
        for x in batches:
            model(x).sum().backward()
    return recorder.profile()


@pytest.mark.parametrize("make", [lambda: Twice().layers, Twice], ids=["leaves at once", "watched from the inside"])
def test_many_passes_are_the_passes_together(make):
    torch.manual_seed(0)
    model = make()
    batches = list(torch.randn(4, 5, 4, generator=GENERATOR))
    together = recorded(model, batches)
    alone = [recorded(model, [x]) for x in batches]
    assert [site.name for site in together.without_inputs.sites] == [
        site.name for site in alone[0].without_inputs.sites
    ]
    for index, site in enumerate(together.without_inputs.sites):
        parts = [profile.without_inputs.sites[index] for profile in alone]
        for direction in ("forward", "backward"):
            whole = getattr(site, direction)
            histogram = sum(
                (getattr(part, direction).histogram for part in parts[1:]), getattr(parts[0], direction).histogram
            )
            assert whole.histogram == histogram
            square = np.mean([getattr(part, direction).rms ** 2 for part in parts])
            assert whole.rms == pytest.approx(math.sqrt(square), rel=1e-6)
        assert site.samples == 20
        assert site.role == parts[0].role
        assert site.mean_cosine == pytest.approx(parts[-1].mean_cosine, abs=1e-5)


def test_leaves_called_by_themselves_begin_a_pass_each():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with track(model) as recorder:
        for _ in range(3):
            model[1](model[0](torch.ones(2, 3)))
    profile = recorder.profile()
    assert [site.name for site in profile.without_inputs.sites] == ["0", "1.input", "1"]
    assert profile.provenance.batches == 6
    assert [site.samples for site in profile.without_inputs.sites] == [6, 6, 6]


def test_a_leaf_called_with_keywords_shows_its_input():
    class Keywords(nn.Sequential):
        def forward(self, x):
            return self[1](input=self[0](input=x))

    model = nn.Sequential(Keywords(nn.Linear(3, 3), nn.ReLU()))
    with mock.patch("propscope.measure.recorder._SILENT", (nn.Sequential, Keywords)), track(model) as recorder:
        model(torch.ones(2, 3))
    assert next((site.name, site.role) for site in recorder.profile().without_inputs.sites) == ("0.0", "pre-activation")
