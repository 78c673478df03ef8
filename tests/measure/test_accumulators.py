"""CpuAccumulator and DeviceAccumulator against the float64 reference, and against themselves over splits."""

import math
from itertools import pairwise
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.measure import device_accumulator, kernel
from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.moments import moments_of
from propscope.records.histogram import LogHistogram
from propscope.records.summary import TensorSummary


class WithoutKernel(CpuAccumulator):
    """As where the extension was not built."""

    def add(self, *arguments):
        with mock.patch.object(kernel, "AVAILABLE", False):
            return super().add(*arguments)

    def summary(self):
        with mock.patch.object(kernel, "AVAILABLE", False):
            return super().summary()


class WithKernel(CpuAccumulator):
    """As where it was, whatever the environment says."""

    def add(self, *arguments):
        with mock.patch.object(kernel, "AVAILABLE", kernel.BUILT):
            return super().add(*arguments)

    def summary(self):
        with mock.patch.object(kernel, "AVAILABLE", kernel.BUILT):
            return super().summary()


NO_KERNEL = pytest.mark.skipif(not kernel.BUILT, reason="the extension was not built")
KINDS = [pytest.param(WithKernel, marks=NO_KERNEL), WithoutKernel, DeviceAccumulator]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def reference(tensor):
    return TensorSummary.of(tensor.double().numpy() if tensor.dtype == torch.float64 else tensor.float().numpy())


def summarize(kind, *tensors, limit=0, histogram=True):
    accumulator = kind(limit=limit, histogram=histogram)
    for tensor in tensors:
        accumulator.add(tensor)
    return accumulator.summary()


def assert_same(found, expected, tolerance=1e-6):
    assert found.count == expected.count
    for name in ("nan_count", "posinf_count", "neginf_count"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.histogram == expected.histogram
    if not expected.finite_count:
        assert math.isnan(found.mean)
        assert math.isnan(found.std)
        return
    assert found.min == pytest.approx(expected.min, rel=1e-7, abs=0)
    assert found.max == pytest.approx(expected.max, rel=1e-7, abs=0)
    assert found.mean == pytest.approx(expected.mean, rel=tolerance, abs=tolerance * expected.rms)
    # float32 cannot hold the deviation of nearly equal numbers better than this.
    assert found.std == pytest.approx(expected.std, rel=tolerance, abs=1e-9 * abs(expected.mean))
    assert found.zero_fraction == pytest.approx(expected.zero_fraction, abs=1e-12)


def special(name):
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(64, 96, generator=generator)
    mixed = normal.clone()
    mixed[0, :5] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
    mixed[1, :3] = torch.tensor([1e-40, -1e-45, 3.4e38])
    return {
        "normal": normal,
        "relu": normal.relu(),
        "mean 1e4, std 1": normal + 1e4,
        "mean -1e4, std 0.01": normal * 0.01 - 1e4,
        "tiny": normal * 1e-30,
        "subnormal": normal * 1e-41,
        "huge": normal * 1e30,
        "zeros": torch.zeros(7, 3),
        "negative zeros": -torch.zeros(7, 3),
        "constant": torch.full((50, 3), 0.1),
        "all NaN": torch.full((5, 5), math.nan),
        "all Inf": torch.full((5,), -math.inf),
        "mixed": mixed,
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(3.5),
        "one": torch.tensor([2.0]),
    }[name]


NAMES = "normal,relu,mean 1e4; std 1,mean -1e4; std 0.01,tiny,subnormal,huge,zeros,negative zeros,constant,all NaN,all Inf,mixed,empty,scalar,one"  # noqa: E501


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [name.replace(";", ",") for name in NAMES.split(",")])
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_reference(kind, name, dtype):
    tensor = special(name).to(dtype)
    assert_same(summarize(kind, tensor), reference(tensor))


@pytest.mark.parametrize("kind", KINDS)
def test_float64_beyond_float32(kind):
    values = torch.tensor([1e300, -1e300, 1e-300, 5.0], dtype=torch.float64)
    found = summarize(kind, values)
    assert found.max == 1e300
    assert found.std == pytest.approx(TensorSummary.of(values.numpy()).std, rel=1e-12)
    assert found.posinf_count == found.histogram.posinf_count == 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats(width=32),
            st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-40, 1.0, -1.0]),
        ),
        max_size=80,
    ),
    st.lists(st.integers(0, 80), max_size=4),
    st.randoms(use_true_random=False),
)
def test_any_split_in_any_order_gives_the_same(kind, dtype, values, cuts, random):
    whole = torch.tensor(values, dtype=torch.float32).to(dtype)
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    parts = [whole[a:b] for a, b in pairwise(edges)]
    random.shuffle(parts)
    expected = reference(whole)
    assert_same(summarize(kind, *parts), expected)
    merged = TensorSummary.empty()
    for part in parts:
        merged = merged + summarize(kind, part)
    assert_same(merged, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1e4, 1.0), (3.0, 1e-3)])
def test_splitting_a_large_batch_keeps_the_moments(kind, mean, std):
    whole = torch.randn(300, 700, generator=torch.Generator().manual_seed(1)) * std + mean
    once, parts = summarize(kind, whole), summarize(kind, *whole.split(37))
    assert_same(parts, once)
    assert_same(once, reference(whole))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_few_distinct_values_do_not_bias_the_sum_of_squares(dtype, mean):
    # The bound that `moments` states for any processor, and what the reference errs by itself.
    tensor = (torch.randn(1024, 1024, generator=torch.Generator().manual_seed(2)) + mean).to(dtype)
    found = moments_of(tensor.view(-1))
    wide = tensor.double()
    assert found.mean == pytest.approx(float(wide.mean()), rel=1e-8, abs=1e-8)
    assert found.std == pytest.approx(float((wide - wide.mean()).square().mean().sqrt()), rel=1e-8)


def test_many_additions_fold_on_the_device_as_they_do_one_by_one():
    parts = [torch.randn(5, generator=torch.Generator().manual_seed(i)) * 10.0**i for i in range(-20, 20)] * 5
    assert_same(summarize(DeviceAccumulator, *parts), reference(torch.cat(parts)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "arrange",
    [
        lambda t: t,
        lambda t: t.transpose(0, 3),
        lambda t: t.contiguous(memory_format=torch.channels_last),
        lambda t: t[:, ::2],
        lambda t: t[:, :1].expand(-1, 6, -1, -1),
    ],
)
def test_any_memory_layout(kind, arrange):
    tensor = arrange(torch.randn(4, 6, 8, 10, generator=torch.Generator().manual_seed(3)))
    assert_same(summarize(kind, tensor), reference(tensor.contiguous()))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_exact_though_the_histogram_samples(kind):
    tensor = torch.ones(256, 512)
    tensor[3, 1] = tensor[200, 7] = 0.0
    assert summarize(kind, tensor, limit=100).zero_fraction == 2 / tensor.numel()


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_counts_a_share_and_says_so(kind):
    tensor = torch.randn(256, 512, generator=torch.Generator().manual_seed(4))
    found = summarize(kind, tensor, limit=1000)
    assert found.count == tensor.numel()
    assert 900 <= found.histogram.total <= 1000
    assert found.std == pytest.approx(float(tensor.std(correction=0)), rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_visits_every_unit(kind):
    # Unit j holds the value 2^j: the histogram tells which units were looked at.
    tensor = torch.exp2(torch.arange(64, dtype=torch.float32)).expand(512, 64)
    found = summarize(kind, tensor.contiguous(), limit=1024)
    assert found.histogram.bins.size == 64


@pytest.mark.parametrize("kind", KINDS)
def test_moments_alone(kind):
    tensor = special("relu")
    found = summarize(kind, tensor, histogram=False)
    assert found.histogram is None
    assert found.zero_fraction == pytest.approx(float((tensor == 0).double().mean()), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("histogram", [True, False])
def test_zeros_that_are_not_stored(kind, histogram):
    accumulator = kind(limit=0, histogram=histogram)
    accumulator.add(torch.tensor([3.0, -1.0]))
    accumulator.add_zeros(6)
    found = accumulator.summary()
    assert (found.count, found.zero_fraction, found.mean) == (8, 0.75, 0.25)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=50))
def test_device_bins_are_the_reference_bins(values):
    tensor = torch.tensor(values, dtype=torch.float32)
    assert summarize(DeviceAccumulator, tensor).histogram == LogHistogram.of(tensor.numpy())


class Raises:
    launches = 0

    @classmethod
    def see(cls, *arguments):
        cls.launches += 1
        raise RuntimeError("no C compiler")


def test_a_launch_that_fails_is_made_up_for_and_not_tried_again(monkeypatch):
    monkeypatch.setattr(device_accumulator, "fused_on", lambda device: Raises)
    tensor = special("mixed")
    assert_same(summarize(DeviceAccumulator, tensor), reference(tensor))
    seen = DeviceAccumulator(limit=0)
    launches = Raises.launches
    seen.add(tensor)
    seen.add(tensor)
    assert Raises.launches == launches + 1


@pytest.mark.parametrize("kind", KINDS[:2])
def test_counts_do_not_overflow_in_a_long_run(kind, monkeypatch):
    monkeypatch.setattr("propscope.measure.cpu_accumulator._FULL", 100)
    accumulator = kind(limit=0)
    # The first tensor has no table yet.
    accumulator.add(torch.ones(60))
    for _ in range(3):
        accumulator.add(torch.ones(60))
        assert accumulator._state.bins.max() <= 100
    accumulator.add(torch.ones(150))
    accumulator.add(torch.ones(60))
    assert accumulator.summary().histogram.total == 450
