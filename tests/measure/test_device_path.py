"""What the device path asks of an accelerator, counted on the CPU: launches, reads, temporaries, waits."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from building.device_calls import DeviceCalls
from building.device_reads import DeviceReads
from torch import nn

import propscope
from propscope.measure import Options, Recorder, device_accumulator, input_sites, kernel, sites, units
from propscope.measure.device_accumulator import DeviceAccumulator
from propscope.measure.device_memory import DeviceMemory
from propscope.measure.geometry import gram
from propscope.measure.input_sites import InputAccumulator
from propscope.measure.saturation import FlatRegion
from propscope.measure.units import DeviceUnits

HALF_AND_SINGLE = [torch.float32, torch.bfloat16, torch.float16]
RELU, TANH = FlatRegion(np.array([0.0]), True), FlatRegion(np.array([-2.0, 2.0]), True)


def tensor(*shape, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def counted(run):
    """Return the calls of a second run, when all memory is there."""
    run()
    with DeviceCalls() as calls:
        run()
    return calls


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
@pytest.mark.parametrize("histogram", [True, False])
def test_what_a_tensor_costs(dtype, histogram):
    value = tensor(2048, 512, dtype=dtype)
    seen = DeviceAccumulator(limit=8192, histogram=histogram)
    calls = counted(lambda: seen.add(value))
    full = [call for call in calls.calls if call.elements >= value.numel()]
    assert len(calls.calls) == 9 + 3 * histogram
    assert len(full) == 8
    # In float32, where the truth values of the five counts are five bytes, read twice, to four bytes an element.
    assert calls.reads(value) <= (8.4 if dtype is torch.float32 else 9.8)
    assert calls.writes(value) <= (3.4 if dtype is torch.float32 else 4.8)
    assert calls.largest_new(value) <= 5
    assert calls.wide_copies(value) == []
    # Those of torch's own: a sum in float64 is the sum of a copy in float64.
    assert calls.conversions(value) == ["sum", "linalg_vector_norm"]


@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64], ids=str)
def test_a_large_tensor_is_seen_in_parts_that_bound_the_temporaries(dtype):
    value = tensor(13, 523, dtype=dtype)
    value[3, :4] = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0])
    expected, seen = DeviceAccumulator(limit=8), DeviceAccumulator(limit=8)
    with mock.patch.object(device_accumulator, "PART", 190):
        # 36 parts, of which not all have a row.
        calls = counted(lambda: seen.add(value))
    for _ in range(2):
        expected.add(value)
    # 5 bytes for each element of a part, or 8 in float64; 33 rows of 9 numbers are merged in float64.
    assert max(call.allocated for call in calls.calls) <= 33 * 9 * 8
    found, right = seen.summary(), expected.summary()
    assert found == replace(right, **{name: pytest.approx(getattr(right, name)) for name in ("mean", "std")})


@pytest.mark.parametrize("shape", [(4, 8, 6, 10), (30, 64), (7,)])
@pytest.mark.parametrize("turn", [lambda t: t, lambda t: t.transpose(0, -1), lambda t: t[..., ::2]])
def test_the_number_of_launches_does_not_depend_on_the_shape(shape, turn):
    seen = DeviceAccumulator(limit=8192)
    calls = counted(lambda: seen.add(turn(tensor(*shape))))
    names = [call.name for call in calls.calls if call.name not in ("randn", "clone", "_to_copy")]
    assert len(names) == 11


def test_many_tensors_launch_little_more_than_one_each():
    seen, value = DeviceAccumulator(limit=8192), tensor(64, 64)
    one = len(counted(lambda: seen.add(value)).calls)
    many = counted(lambda: [seen.add(value) for _ in range(200)])
    assert len(many.calls) <= 200 * (one + 2)
    assert seen.summary().count == 402 * value.numel()


def test_nothing_is_kept_of_a_tensor_and_memory_does_not_grow_with_the_passes():
    memory = DeviceMemory()
    seen = DeviceAccumulator(limit=8192, memory=memory)
    for _ in range(100):
        seen.add(tensor(16, 16))
    (piece,) = memory._pieces.values()
    used = piece.used
    for _ in range(100):
        seen.add(tensor(16, 16))
    assert memory._pieces == {torch.device("cpu"): piece}
    assert piece.used == used


@pytest.mark.parametrize("dtype", HALF_AND_SINGLE, ids=str)
def test_what_units_cost(dtype):
    value, seen = tensor(512, 512, dtype=dtype), DeviceUnits(512)
    calls = counted(lambda: seen.see(value, -1))
    assert len(calls.calls) <= 5
    assert calls.wide_copies(value) == calls.conversions(value) == []


@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64], ids=str)
@pytest.mark.parametrize("axis", [1, -1])
def test_units_of_a_large_tensor_are_told_apart_in_parts(dtype, axis):
    value = tensor(40, 7, 7, dtype=dtype)
    value.movedim(axis, 0)[3] = value.movedim(axis, 0)[5]
    whole, parts = DeviceUnits(7), DeviceUnits(7)
    with mock.patch.object(units, "PART", 70):
        calls = counted(lambda: parts.see(value, axis))
    for _ in range(2):
        whole.see(value, axis)
    assert (parts.classes == whole.classes).all()
    assert parts.symmetric == 2
    # The products of a part in 64 bits; a tensor whose units are not last is put in that order as a whole.
    assert max(call.allocated for call in calls.calls if call.name != "clone") <= 8 * 70
    # A unit that differs in the last part only is another one.
    value.movedim(axis, 0)[3][-1, -1] += 1
    with mock.patch.object(units, "PART", 70):
        parts.see(value, axis)
    assert parts.symmetric == 0


@pytest.mark.parametrize(("region", "launches", "temporaries"), [(RELU, 3, 1), (TANH, 5, 2)])
def test_what_dead_units_cost(region, launches, temporaries):
    value, seen = tensor(512, 512), DeviceUnits(512)
    calls = counted(lambda: seen.mark_preactivation(value, -1, region))
    assert len(calls.calls) == launches
    assert sum(call.allocated for call in calls.calls) <= temporaries * value.numel() + 512


def test_geometry_reads_a_few_rows():
    value = tensor(512, 512)
    calls = counted(lambda: gram(value, -1))
    assert calls.reads(value) + calls.writes(value) < 0.2


def net():
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())])


def block():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)


@pytest.mark.parametrize(("make", "shape"), [(net, (50, 64)), (block, (6, 11, 32))])
def test_what_a_pass_costs_with_gradients_and_parameters(make, shape):
    model, x = make(), tensor(*shape)

    def step():
        model.zero_grad(set_to_none=True)
        model(x).square().mean().backward()

    bare = counted(step)
    with Recorder(model, options=Options(look=False)) as recorder:
        step()
        with DeviceCalls() as calls:
            step()
    profile = recorder.profile()
    sides = [side for site in profile.sites for side in (site.forward, site.backward) if side is not None]
    tensors = len(sides) + sum(parameter.gradient is not None for parameter in profile.parameters)
    # Of each tensor: 12, and what units, geometry and attention add where there are any.
    assert len(calls.calls) - len(bare.calls) <= 15 * tensors


def test_all_sites_and_parameters_are_read_back_at_once():
    model, x = net(), tensor(50, 64)
    with Recorder(model, options=Options(look=False)) as recorder:
        model(x).sum().backward()
    copies = []

    def to(one, *arguments, **keywords):
        if arguments[:1] == ("cpu",):
            copies.append(one)
        return plain(one, *arguments, **keywords)

    plain = torch.Tensor.to
    with mock.patch.object(torch.Tensor, "to", to), mock.patch.object(torch.Tensor, "cpu", side_effect=AssertionError):
        profile = recorder.profile()
    assert len(copies) == 1
    assert [parameter.symmetric_units for parameter in profile.parameters] == [0, None] * 4
    assert profile["0"].mean_cosine is not None
    assert profile["0"].dead_units == 0


class Mixed(nn.Module):
    """Attention, residual sums, an LSTM, and the steps of a cell."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(block() for _ in range(2))
        self.lstm = nn.LSTM(32, 16, num_layers=2, batch_first=True)
        self.cell = nn.LSTMCell(16, 16)

    def forward(self, x):
        for each in self.blocks:
            x = each(x)
            x = x + x.softmax(-1)
        x, _ = self.lstm(x)
        h, c = self.cell(x[:, 0])
        for step in range(1, x.shape[1]):
            h, c = self.cell(x[:, step], (h, c))
        return h


@contextmanager
def on_device():
    """The path that an accelerator takes, for all that is on the CPU."""
    with (
        mock.patch.object(kernel, "AVAILABLE", False),
        mock.patch.object(Options, "may_sync", return_value=False),
    ):
        yield


def mean_square(output):
    return output.square().mean()


def test_what_a_whole_profile_reads_back():
    model, x = Mixed(), tensor(6, 11, 32)
    with on_device(), DeviceReads([*model.parameters(), x]) as device:
        propscope.profile(model, x, mean_square)
    readers = Counter(read.partition(" < ")[0] for read in device.reads)
    # Beside all figures: whether the loss is finite, whether the batch was changed, and of the LSTM whether its second
    # run is the first one. Of each recurrent module, its weights, whose eigenvalues are computed on the CPU.
    assert readers == {"copy": 1, "_fault": 1, "_same": 1, "courses": 1, "gate_weights": 2}


@pytest.mark.parametrize(("make", "shape"), [(net, (50, 64)), (block, (6, 11, 32)), (Mixed, (6, 5, 32))])
def test_a_later_step_is_the_same_whatever_the_values_are(make, shape):
    model, x = make(), tensor(*shape)
    with on_device(), Recorder(model, options=Options()), DeviceReads([*model.parameters(), x]) as device:

        def on_the_device(work):
            # On the CPU numpy computes it.
            def run(*given):
                made = work(*given)
                device.put([made])
                return made

            return run

        def step():
            device.calls.clear()
            model.zero_grad(set_to_none=True)
            mean_square(model(x)).backward()
            return list(device.calls)

        with (
            mock.patch.object(sites, "gram", on_the_device(gram)),
            mock.patch.object(input_sites, "_squares", on_the_device(input_sites._squares)),
        ):
            # The first ones trace the graph, make what is compared with, and take memory.
            step(), step()
            device.reads.clear()
            device.copies.clear()
            usual = step()
            x[0], x[1], x[2, 1:3] = 0.0, 7.0, float("nan")
            unusual = step()
            x[:] = float("inf")
            assert usual == unusual == step()
    assert device.reads == device.copies == []


@pytest.mark.parametrize(
    ("work", "reads", "copies"),
    [
        (lambda t: t + torch.tensor(3.0), 0, 0),
        (lambda t: t + torch.tensor([3.0]), 0, 1),
        (lambda t: t.copy_(torch.tensor(3.0)), 0, 1),
        (lambda t: t + torch.ones(3), 0, 0),
        (lambda t: t + torch.from_numpy(np.ones(3)), 0, 1),
        (lambda t: (t + 1).sum().item(), 1, 0),
        (lambda t: t.to("cpu").tolist(), 1, 0),
        (lambda t: torch.zeros(3).copy_(t).cpu().sum().item(), 1, 0),
        (lambda t: t[t > 0], 1, 0),
    ],
)
def test_what_passes_between_cpu_and_device_is_seen(work, reads, copies):
    value = torch.ones(3)
    with DeviceReads([value]) as device:
        work(value)
    assert (len(device.reads), len(device.copies)) == (reads, copies)


def test_figures_that_are_put_together_from_several_passes():
    def passes():
        model = Mixed()
        with Recorder(model, time=True) as recorder:
            for number in range(3):
                mean_square(model(tensor(6, 11, 32) + number)).backward()
        return recorder.profile()

    with on_device():
        found = passes()
    expected = passes()
    figures = "attention_entropy", "largest_logit", "logit_spread", "masked_rows", "branch_share", "feature_spread"
    for figure in figures:
        ours, theirs = (
            {site.name: value for site in one.sites if (value := getattr(site, figure)) is not None}
            for one in (found, expected)
        )
        assert theirs, figure
        assert ours == pytest.approx(theirs, rel=1e-5), figure
    # Of the LSTM's two layers and of the cell.
    assert len(found.time_courses) == 3
    for one, other in zip(found.time_courses, expected.time_courses, strict=True):
        assert one.gates
        for gate, right in zip(one.gates, other.gates, strict=True):
            assert gate == replace(right, mean=pytest.approx(right.mean), flat=pytest.approx(right.flat))


def test_features_whose_number_changes_take_no_more_memory():
    def seen(options):
        """Return what is seen of inputs of some widths, the widest one first."""
        found = InputAccumulator(
            tensor(5, 60), name="", kind="input", role="input", unit_axis=-1, has_units=False, options=options
        )
        used = set()
        for width in (60, 30, 60, 60, 7, 7):
            found.see_forward(tensor(5, width))
            used |= {piece.used for piece in options.memory._pieces.values()}
        return found.measured()["feature_spread"], used

    with on_device():
        spread, used = seen(Options())
    assert len(used) == 1
    assert spread == pytest.approx(seen(Options())[0])


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bad", [[float("nan")], [float("inf"), -float("inf")], [-float("nan"), -float("inf")]])
@pytest.mark.parametrize("dtype", [*HALF_AND_SINGLE, torch.float64], ids=str)
def test_extremes_of_one_sign_beside_what_is_not_finite(dtype, sign, bad):
    values = torch.tensor([*bad, 3.0 * sign, 2.0 * sign, 5.0 * sign]).to(dtype)
    seen = DeviceAccumulator(limit=0)
    for _ in range(40):
        seen.add(values)
    found = seen.summary()
    assert (found.min, found.max) == ((2, 5) if sign > 0 else (-5, -2))
    assert found.nan_count + found.posinf_count + found.neginf_count == 40 * len(bad)


def test_dtypes_that_change_from_pass_to_pass_add_up():
    seen, value = DeviceAccumulator(limit=0), torch.arange(-4.0, 8.0)
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.float32):
        seen.add(value.to(dtype))
    found = seen.summary()
    assert (found.count, found.mean, found.min, found.max) == (48, 1.5, -4, 7)
    assert found.std == pytest.approx(float(value.double().std(correction=0)), rel=1e-12)
    assert found.histogram.total == 48


def test_what_was_absorbed_counts():
    values = [tensor(9, 7) + number for number in range(3)]
    one, other, together = (DeviceAccumulator(limit=0) for _ in range(3))
    one.add(values[0])
    for _ in range(50):
        other.add(values[1])
    other.add(values[2])
    one.absorb(other)
    one.absorb(DeviceAccumulator(limit=0))
    for value in [values[0], *[values[1]] * 50, values[2]]:
        together.add(value)
    found, expected = one.summary(), together.summary()
    assert (found.count, found.min, found.max) == (expected.count, expected.min, expected.max)
    assert found.histogram == expected.histogram
    assert (found.mean, found.std) == pytest.approx((expected.mean, expected.std), rel=1e-12)


@pytest.mark.parametrize(
    ("run", "names"),
    [
        (lambda t: t.double().sum(), ["_to_copy"]),
        (lambda t: t.sum(dtype=torch.float64), []),
        (lambda t: torch.where(t > 0, t, 0.0).sum(), []),
    ],
)
def test_the_count_sees_a_copy_in_float64(run, names):
    value = tensor(30, 30)
    calls = counted(lambda: run(value))
    assert calls.wide_copies(value) == names
    assert calls.conversions(value) == (["sum"] if run(value).dtype is torch.float64 and not names else [])


def test_the_count_leaves_out_views_and_memory():
    calls = counted(lambda: torch.empty_like(tensor(3, 4).t()[1:].flatten(0)).view(torch.int32))
    assert [call.name for call in calls.calls] == ["randn", "clone"]


@pytest.mark.parametrize("wait", [lambda t: t[t > 0], lambda t: bool(t.sum() > 0), lambda t: t.masked_select(t > 0)])
def test_the_count_fails_at_shapes_that_depend_on_values(wait):
    with pytest.raises(AssertionError, match="wait"), DeviceCalls():
        wait(tensor(3, 4))
