"""The compiled pass against numpy, element by element: every length, alignment, layout and kind of number."""

import copy
import itertools
import math
import pickle
import runpy
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from propscope.measure import kernel
from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.geometry import gram
from propscope.measure.moments import NO_MOMENTS
from propscope.measure.saturation import FlatRegion
from propscope.measure.units import CpuUnits, DeviceUnits, unit_columns
from propscope.records.histogram import LogHistogram
from propscope.records.summary import TensorSummary

pytestmark = pytest.mark.skipif(not kernel.BUILT, reason="the extension was not built")

BITS = st.integers(0, 2**32 - 1)
LARGEST = float(np.finfo(np.float32).max)
CORNERS = [0.0, -0.0, math.nan, math.inf, -math.inf, 1e-45, -1e-45, 1e-40, 1.2e-38, LARGEST, -LARGEST, 1.0]


@pytest.fixture(autouse=True)
def _on():
    with mock.patch.object(kernel, "AVAILABLE", True):
        yield


def see(tensor, *, stride=1, unit_axis=None):
    """Return moments, histogram and, with a unit axis, each unit's extremes; the table must be left as it should be."""
    state = kernel.State(bins=True)
    if unit_axis is None:
        kernel.Plan(tensor, state, stride).run(tensor)
        extremes = None
    else:
        extremes = torch.empty(2, tensor.shape[unit_axis])
        kernel.Plan(tensor, state, stride, unit_axis=unit_axis, extremes=extremes.numpy()).run(tensor)
    assert not state.cells[len(state.bins) :].any()
    histogram = LogHistogram.from_dense(state.bins)
    assert state.histogram == histogram
    return state.moments, histogram, extremes


# A sum of eight squares is rounded four times: two numbers that make up all of the deviation can be off by this.
WORST = 3e-7


def assert_moments(found, values, tolerance=1e-7):
    expected = TensorSummary.of(values)
    assert (found.finite, found.nan, found.posinf, found.neginf) == (
        expected.finite_count,
        expected.nan_count,
        expected.posinf_count,
        expected.neginf_count,
    )
    assert found.zeros == int((values == 0).sum())
    if not expected.finite_count:
        assert all(math.isnan(figure) for figure in found[1:5])
        return
    assert (found.low, found.high) == (expected.min, expected.max)
    assert found.mean == pytest.approx(expected.mean, rel=tolerance, abs=tolerance * expected.std + 1e-300)
    assert found.std == pytest.approx(expected.std, rel=tolerance, abs=1e-11 * abs(expected.mean))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("offset", [0, 1, 3])
def test_every_length_and_alignment(dtype, offset):
    memory = (torch.randn(1300, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
    for length in [*range(1, 201), 1023, 1024, 1025, 1032, 1151]:
        part = memory[offset : offset + length]
        moments, histogram, _ = see(part)
        assert_moments(moments, part.float().numpy())
        assert histogram == LogHistogram.of(part.float().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("corner", CORNERS)
def test_one_odd_number_at_every_place(corner):
    for length in (1, 7, 8, 63, 130):
        for place in range(length):
            values = torch.linspace(1, 2, length)
            values[place] = corner
            moments, histogram, _ = see(values)
            assert_moments(moments, values.numpy())
            assert histogram == LogHistogram.of(values.numpy())


@settings(max_examples=300, deadline=None)
@given(st.lists(BITS, min_size=1, max_size=300))
@example([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0x7F800000, 0xFF800000, 0x80000000, 0, 1, 0x80000001, 0x000FFFFF])
def test_any_bits(bits):
    values = np.array(bits, np.uint32).view(np.float32)
    moments, histogram, _ = see(torch.from_numpy(values))
    assert_moments(moments, values, WORST)
    assert histogram == LogHistogram.of(values)


@settings(max_examples=100, deadline=None)
@given(st.lists(BITS, min_size=1, max_size=200), st.integers(0, 2**16 - 1))
def test_any_bfloat16_bits(bits, first):
    tensor = torch.from_numpy(np.array([first, *bits], np.uint32).astype(np.uint16).view(np.int16)).view(torch.bfloat16)
    moments, histogram, _ = see(tensor)
    assert_moments(moments, tensor.float().numpy(), WORST)
    assert histogram == LogHistogram.of(tensor.float().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [300, 60_000, 1_000_000])
@pytest.mark.parametrize(
    ("mean", "std"),
    [(0, 1), (1e4, 1), (-1e4, 0.01), (3, 1e-3), (1e30, 1e29), (1e-30, 1e-30), (0, 1e-42), (0, 1e37), (5e-10, 1e-17)],
)
def test_accuracy(mean, std, count, dtype):
    generator = torch.Generator().manual_seed(count)
    tensor = (torch.randn(count, generator=generator, dtype=torch.float64) * std + mean).to(dtype)
    moments, _, _ = see(tensor)
    assert_moments(moments, tensor.double().numpy())


def test_few_distinct_values_do_not_bias_the_sum_of_squares():
    for step in (0.1, 1 / 3, 1.7):
        values = torch.where(torch.arange(100_000) % 3 == 0, step, -step)
        assert_moments(see(values)[0], values.numpy(), 1.5e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("mean", "std"), [(1e4, 1), (0, 1e-22), (0, 1e-25), (0, 1e25), (1e-25, 1e-27), (1e30, 1e28)])
@pytest.mark.parametrize("shown", [0.0, 1.0, -1e4])
def test_probes_that_mislead(mean, std, shown):
    # The elements that scale and mean are guessed from, as the kernel picks them.
    count = 1_000_000
    probed = np.arange(32, dtype=np.uint64) * 2654435769 % 2**32 * count >> 32
    values = (torch.randn(count, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * std + mean).float()
    values[probed.astype(np.int64)] = shown
    assert_moments(see(values)[0], values.numpy())


def test_magnitudes_far_apart():
    sparse = torch.zeros(100_000)
    sparse[777] = 1.0
    assert_moments(see(sparse)[0], sparse.numpy())
    for outlier in (1e30, 3e38, 1e-30):
        values = torch.full((100_000,), 1e-25)
        values[12_345] = outlier
        assert_moments(see(values)[0], values.numpy())
    two = torch.cat([torch.full((90_000,), 1e8), torch.full((10_000,), 1e8 + 8)])
    assert_moments(see(two)[0], two.numpy())


def test_a_constant_has_no_deviation():
    for value in (0.1, -3e38, 1e-45, 7.0):
        moments, _, _ = see(torch.full((5000,), value))
        assert moments.std == 0.0
        assert moments.mean == moments.low == moments.high


@pytest.mark.parametrize("shape", [(5, 1), (200, 3), (31, 10), (9, 100), (16, 256), (3, 700), (40, 257), (1, 5000)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_units_in_columns(shape, dtype):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    moments, histogram, (low, high) = see(tensor, unit_axis=-1)
    assert_moments(moments, tensor.float().numpy())
    assert histogram == LogHistogram.of(tensor.float().numpy())
    assert torch.equal(low, tensor.float().amin(0))
    assert torch.equal(high, tensor.float().amax(0))


MAPS = [(3, 4, 5, 1), (2, 3, 1, 2), (20, 3, 2, 2), (5, 64, 4, 4), (4, 7, 7, 7), (2, 5, 65, 65), (1, 2, 130, 1)]


@pytest.mark.parametrize("shape", MAPS)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("odd", [None, math.nan, math.inf])
@pytest.mark.parametrize("channels_last", [False, True])
def test_units_on_any_axis(shape, axis, odd, channels_last):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    if odd is not None:
        tensor.view(-1)[[0, tensor.numel() // 2]] = odd
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    for part in (tensor, tensor.bfloat16()):
        moments, histogram, extremes = see(part, unit_axis=axis)
        wide = part.float()
        assert_moments(moments, wide.numpy())
        assert histogram == LogHistogram.of(wide.contiguous().numpy())
        columns = unit_columns(wide, axis)
        assert torch.equal(extremes[0].nan_to_num(9e9), columns.amin(0).nan_to_num(9e9))
        assert torch.equal(extremes[1].nan_to_num(-9e9), columns.amax(0).nan_to_num(-9e9))


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6000), st.integers(1, 300), st.integers(1, 40), st.booleans())
def test_every_stride_takes_the_elements_it_should(count, units, stride, half):
    tensor = torch.randn(count, generator=torch.Generator().manual_seed(count))
    tensor = tensor.relu().bfloat16() if half else tensor
    expected = LogHistogram.of(tensor[::stride].float().numpy())
    assert see(tensor, stride=stride)[1] == expected
    rows = tensor[: count // units * units].view(-1, units)
    if len(rows):
        expected = LogHistogram.of(rows.reshape(-1)[::stride].float().numpy())
        assert see(rows, stride=stride, unit_axis=1)[1] == expected
        assert see(rows, stride=stride, unit_axis=0)[1] == expected


def test_tensors_add_up():
    state = kernel.State(bins=True)
    parts = [torch.tensor([math.nan]), torch.tensor(CORNERS), torch.randn(100), torch.tensor(CORNERS[::-1])]
    parts += [torch.zeros(9), torch.tensor([math.inf])]
    for part in parts:
        kernel.Plan(part, state).run(part)
    whole = torch.cat(parts).numpy()
    assert state.histogram == LogHistogram.of(whole)
    assert_moments(state.moments, whole)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(BITS, min_size=1, max_size=20), min_size=1, max_size=6))
def test_the_merge_is_that_of_moments(parts):
    state, expected = kernel.State(bins=False), NO_MOMENTS
    for part in parts:
        tensor = torch.from_numpy(np.array(part, np.uint32).view(np.float32))
        kernel.Plan(tensor, state).run(tensor)
        expected = expected + see(tensor)[0]
    assert state.moments == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_has_memory_of_its_own(duplicate):
    original, units = CpuAccumulator(limit=0), CpuUnits(3)
    values = torch.tensor([[1.0, 2.0, 3.0], [4.0, 2.0, 0.0]])
    original.add(values, units, -1)
    # What the first tensor leaves is never written to; the second one gets memory.
    first = duplicate(original._state)
    original.add(values, units, -1)
    assert (first.count, first.histogram.total) == (6, 6)
    state = duplicate(original._state)
    kernel.Plan(values, state).run(values)
    assert (original._state.moments.finite, state.moments.finite) == (12, 18)
    assert (original._state.histogram.total, state.histogram.total) == (12, 18)
    twin = copy.deepcopy(units)
    twin.see(values + 5, -1)
    assert units._low.tolist() == [1.0, 2.0, 0.0]
    assert twin._low.tolist() == [6.0, 7.0, 5.0]


ROWS = kernel.Rows(4, 6, 1, 6, 6)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(-12.0, 12.0).reshape(4, 6),
        torch.arange(24.0).reshape(6, 4).T,
        torch.tensor([CORNERS, CORNERS[::-1]]).reshape(4, 6),
        torch.arange(24.0).reshape(4, 6).bfloat16(),
        torch.arange(24.0).reshape(4, 6).half(),
        torch.zeros(4, 6),
    ],
)
@pytest.mark.parametrize("stride", [1, 5])
@pytest.mark.parametrize("bins", [True, False])
@pytest.mark.parametrize("more", [{}, {"unit_axis": 1}, {"rows": ROWS}, {"unit_axis": -2, "rows": ROWS}])
def test_a_first_tensor_is_seen_as_by_a_state_of_its_own(tensor, stride, bins, more):
    def extremes():
        return {"extremes": np.empty((2, tensor.shape[more["unit_axis"]]), np.float32)} if "unit_axis" in more else {}

    for _ in range(2):
        state, own, found = kernel.State(bins=bins), extremes(), extremes()
        plan = kernel.Plan(tensor, state, stride, **more, **own)
        last = plan.run(tensor)
        seen = kernel.see_first(tensor, stride, bins=bins, **more, **found)
        assert np.array_equal(seen.last_product, last, equal_nan=True)
        assert seen.held.figures == state.figures.tobytes()
        again = seen.held.state(bins=bins)
        assert np.array_equal(again.cells, state.cells)
        assert np.array_equal(again.figures, state.figures, equal_nan=True)
        assert repr((seen.held.moments, seen.held.count)) == repr((state.moments, state.count))
        if bins:
            assert seen.held.histogram == state.histogram
        if plan.products is not None:
            assert np.array_equal(seen.products, plan.products, equal_nan=True)
        if own:
            assert np.array_equal(found["extremes"], own["extremes"], equal_nan=True)


def test_the_products_of_a_first_tensor_are_its_own():
    one, other = (kernel.see_first(torch.full((4, 6), by), 1, bins=True, rows=ROWS).products for by in (1.0, 2.0))
    assert one[0, 0] == 6
    assert other[0, 0] == 24


@pytest.mark.parametrize("where", [(kernel.Plan, "run"), (kernel._kernel, "occupied")])
def test_an_interrupt_in_a_first_tensor_leaves_nothing_for_the_next(where):
    done = getattr(*where)

    def interrupted(*arguments):
        done(*arguments)
        raise KeyboardInterrupt

    with mock.patch.object(*where, interrupted), pytest.raises(KeyboardInterrupt):
        kernel.see_first(torch.full((3,), 7.0), 1, bins=True)
    held = kernel.see_first(torch.ones(2), 1, bins=True).held
    assert (held.count, held.moments.mean, held.histogram.total) == (2, 1.0, 2)


def test_plans_of_first_tensors_are_kept_for_a_few_shapes():
    for length in range(1, 3 * kernel._SHAPES):
        assert kernel.see_first(torch.ones(length), 1, bins=True).held.count == length
        assert len(kernel._first.plans) <= kernel._SHAPES


def test_a_first_tensor_is_seen_in_each_thread_alone():
    def see_many(number):
        return [kernel.see_first(torch.full((50,), float(number)), 1, bins=True).held.moments for _ in range(200)]

    with ThreadPoolExecutor(4) as threads:
        for number, found in enumerate(threads.map(see_many, range(8))):
            assert {(one.finite, one.mean, one.low) for one in found} == {(50, number, number)}


def test_the_order_in_memory_is_that_in_which_torch_finds_it_dense():
    base = torch.arange(2 * 3 * 1 * 4).reshape(2, 3, 1, 4)
    for axes in itertools.permutations(range(4)):
        for tensor in (base.permute(axes), base.permute(axes)[:1], base[..., ::2].permute(axes)):
            order = kernel.memory_order(tensor)
            dense = any(tensor.permute(one).is_contiguous() for one in itertools.permutations(range(4)))
            assert (order is not None) == dense
            assert order is None or tensor.permute(order).is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_mean_square_of_a_tensor(dtype):
    values = (3 + torch.randn(40, 50, generator=torch.Generator().manual_seed(0))).to(dtype)
    assert kernel.mean_square(values) == pytest.approx(float(values.double().square().mean()), rel=1e-6)
    assert kernel.mean_square(1e30 * torch.ones(9)) == pytest.approx(1e60, rel=1e-6)
    for odd, expected in (([-math.inf, 1.0], math.inf), ([math.nan, math.inf], math.nan)):
        assert np.array_equal(kernel.mean_square(torch.tensor(odd, dtype=dtype)), expected, equal_nan=True)


def test_memory_that_is_not_contiguous_is_copied():
    tensor = torch.arange(60.0)
    assert_moments(see(tensor[::7])[0], tensor[::7].numpy())
    assert_moments(see(torch.ones(1).expand(50))[0], np.ones(50, np.float32))


def test_what_the_kernel_leaves_to_torch():
    assert kernel.can_read(torch.ones(3))
    assert not kernel.can_read(torch.ones(3, dtype=torch.float64))
    assert not kernel.can_read(torch.ones(0))
    assert not kernel.can_read(torch.ones(3, device="meta"))


FIGURES, CELLS, BYTES = np.zeros(9), np.zeros(4100, np.int32), np.zeros(9, np.uint8)
NO_ROWS = (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"elements": (1, 0, 0)}, "no elements"),
        ({"elements": (0, 0, 5)}, "no elements"),
        ({"elements": (-1, 0, 5)}, "2\\^30"),
        ({"elements": (2**20, 0, 2**20)}, "2\\^30"),
        ({"elements": (2**30, 2**30, 2**30)}, "2\\^30"),
        ({"stride": 0}, "stride 0"),
        ({"stride": -1}, "2\\^30"),
        ({"figures": None}, "figures.* None"),
        ({"figures": np.zeros(8)}, "figures must be 72 .* got 64"),
        ({"figures": BYTES}, "figures must be 72 .* got 9"),
        ({"figures": np.zeros(10)[:9].view(np.uint8)[4:-4]}, "figures"),
        ({"bins": CELLS[:4096]}, "bins must be 16400 .* got 16384"),
        ({"elements": (1, 5, 1)}, "extremes.* None"),
        ({"elements": (1, 5, 1), "extremes": np.zeros((2, 4), np.float32)}, "extremes must be 40 .* got 32"),
        ({"rows": (2, 2, 1, 2, 2)}, "products.* None"),
        ({"rows": (2, 2, 1, 2, 2), "products": np.zeros(3, np.float32)}, "products must be 16 .* got 12"),
        ({"rows": (2, 4, 1, 2, 2)}, "do not lie within"),
        ({"rows": (2, 2, 1, 2, 4)}, "do not lie within"),
        ({"rows": (1, 2, 3, 2, 2)}, "do not lie within"),
        ({"rows": (2, 2, 1, 2, 0)}, "do not lie within"),
        ({"rows": (2**40, 2**40, 1, 2, 2)}, "do not lie within"),
    ],
    ids=str,
)
def test_plans_that_would_reach_beyond_their_memory_are_refused(changed, error):
    fine = {"half": False, "elements": (1, 0, 5), "stride": 1, "figures": FIGURES, "bins": None, "extremes": None}
    arguments = {**fine, "rows": NO_ROWS, "products": None, **changed}
    with pytest.raises(ValueError, match=error):
        kernel._kernel.plan(*arguments.values())


def test_memory_that_is_not_to_be_written_to_is_refused():
    figures = np.zeros(9)
    figures.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        kernel._kernel.plan(False, (1, 0, 5), 1, figures, None, None, NO_ROWS, None)


def test_a_plan_keeps_its_memory():
    figures = np.zeros(9)
    plan = kernel._kernel.plan(False, (1, 0, 5), 1, figures, None, None, NO_ROWS, None)
    alive = weakref.ref(figures)
    del figures
    assert alive() is not None
    del plan
    assert alive() is None


def test_wrong_arguments_are_refused():
    plan = kernel._kernel.plan(False, (1, 0, 5), 1, FIGURES, None, None, NO_ROWS, None)
    with pytest.raises(ValueError, match="null address"):
        kernel._kernel.run(plan, 0)
    for arguments in ((plan,), (plan, "x"), (plan, 64, 0), (plan, None)):
        with pytest.raises(TypeError):
            kernel._kernel.run(*arguments)
    with pytest.raises((ValueError, TypeError)):
        kernel._kernel.run(None, 64)
    for function in (kernel._kernel.all_differ, kernel._kernel.occupied):
        for value in (0, None):
            with pytest.raises(TypeError):
                function(value)
    with pytest.raises(ValueError, match="4096"):
        kernel._kernel.occupied(CELLS)


@pytest.mark.parametrize(("low", "high", "differ"), [
    ([1, 2, 3], [4, 4, 4], True),
    ([1, 1, 3], [4, 5, 4], True),
    ([1, 1, 3], [4, 4, 4], False),
    ([0.0, -0.0], [1, 1], False),
    ([-1, -1], [-0.0, 0.0], False),
    ([math.nan, math.nan], [1, 1], True),
    ([-math.inf, -math.inf], [1, 1], False),
    ([1], [1], True),
])  # fmt: skip
def test_units_that_differ(low, high, differ):
    pair = torch.tensor([low, high], dtype=torch.float32)
    assert kernel.all_differ(pair.numpy()) is differ


def test_many_units_that_differ():
    apart, same = np.arange(5000, dtype=np.float32), np.zeros(5000, np.float32)
    assert kernel.all_differ(np.stack([apart, apart]))
    assert kernel.all_differ(np.stack([same, apart]))
    assert kernel.all_differ(np.stack([apart, same]))
    apart[4999] = 17.0
    assert not kernel.all_differ(np.stack([apart, apart]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(1, 3))
def test_symmetric_and_dead_units_are_those_without_the_kernel(seed, pattern, batches):
    generator = torch.Generator().manual_seed(seed)
    regions = [
        FlatRegion(np.array([0.0]), True),
        FlatRegion(np.array([0.5]), False),
        FlatRegion(np.array([-1, 1.0]), True),
    ]
    found = []
    for available in (True, False):
        generator.manual_seed(seed)
        units = [CpuUnits(len(pattern)) for _ in regions]
        with mock.patch.object(kernel, "AVAILABLE", available):
            for _ in range(batches):
                values = torch.randint(-2, 3, (6, 4), generator=generator).float()[:, pattern]
                for unit, region in zip(units, regions, strict=True):
                    extremes = unit.see(values, -1)
                    assert extremes == (float(values.min()), float(values.max()))
                    unit.mark_preactivation(values, -1, region)
        found.append([(unit.dead, unit.symmetric) for unit in units])
    assert found[0] == found[1]


@settings(max_examples=100, deadline=None)
@example(11869, [0, 2], 0)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 5), min_size=2, max_size=12), st.sampled_from([0, 1]))
def test_symmetric_units_are_those_with_equal_columns(seed, pattern, axis):
    values = torch.randint(-1, 2, (5, 6), generator=torch.Generator().manual_seed(seed)).float()
    # Three units are one value each, two of them zero; the others share their extremes with many.
    values[:, 3:] = torch.tensor([0.0, -0.0, 1.0])
    columns = values[:, pattern]
    equal = (columns[:, :, None] == columns[:, None, :]).all(0).sum(1) > 1
    for units in (CpuUnits(len(pattern)), DeviceUnits(len(pattern))):
        units.see(columns if axis else columns.t().contiguous(), axis)
        assert units.symmetric == int(equal.sum())


def test_units_equal_in_one_batch_only_are_not_symmetric():
    for available in (True, False):
        with mock.patch.object(kernel, "AVAILABLE", available):
            units = CpuUnits(4)
            units.see(torch.tensor([[1.0, 1.0, 2.0, 2.0]]), -1)
            units.see(torch.tensor([[5.0, 6.0, 5.0, 5.0]]), -1)
            assert units.symmetric == 2


def test_a_unit_of_nan_is_alive_and_once_all_are_no_sample_is_looked_at():
    between = FlatRegion(np.array([-1, 1.0]), True)
    for available in (True, False):
        with mock.patch.object(kernel, "AVAILABLE", available):
            units = CpuUnits(3)
            for column, dead in ((-3.0, 1), (0.0, 0)):
                values = torch.tensor([[0.5, math.nan, column], [7.0, 7.0, 7.0]])
                units.see(values, -1)
                units.mark_preactivation(values, -1, between)
                # The third unit has values on both sides of what responds, and then one there.
                assert units.dead == dead
            region = mock.Mock(spec=FlatRegion)
            units.mark_preactivation(values, -1, region)
            assert not region.mock_calls
            assert units.dead == 0


SHAPES = [(2, 2), (3, 15), (32, 16), (200, 256), (61, 1000), (64, 1025), (33, 17), (2, 20_000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [*((shape, -1) for shape in SHAPES), ((40, 3, 8, 8), 1), ((3, 64, 9, 9), 1)]
)
def test_inner_products(shape, axis, dtype):
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    found = CpuAccumulator(limit=0).add(tensor, None, axis, products=True)
    exact = gram(tensor, axis).numpy()
    # At most 1024 features: 64 products in each of 16 lanes, and the lanes, each rounded to 2^-24. The unrolled rest
    # counts as little. The bound is by the sum of magnitudes, which is at most the product of the lengths.
    lengths = np.sqrt(np.diagonal(exact))
    assert (np.abs(found - exact) <= (64 + 1 + 16 + 15) * 2.0**-24 * np.outer(lengths, lengths)).all()


@pytest.mark.parametrize(("value", "available"), [("0", False), ("1", True), (None, True)])
def test_the_environment_switches_it_off(monkeypatch, value, available):
    monkeypatch.delenv("PROPSCOPE_KERNEL", raising=False)
    if value is not None:
        monkeypatch.setenv("PROPSCOPE_KERNEL", value)
    imported = runpy.run_path(kernel.__file__)
    assert (imported["BUILT"], imported["AVAILABLE"]) == (True, available)
