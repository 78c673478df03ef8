"""Nothing that propscope does inside the user's loop raises there; what cannot be recorded is noted with its type."""

import gc
import io
import traceback
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import propscope
from propscope.measure import kernel
from propscope.measure.cpu_accumulator import CpuAccumulator
from propscope.measure.function_mode import FunctionWatch
from propscope.measure.hooks import Guard, NotRecordableError, require_storage
from propscope.measure.observer import Observer
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.recorder import Recorder
from propscope.measure.saturation import FlatRegions
from propscope.measure.sites import SiteAccumulator
from propscope.measure.tensor_identity import TensorIdentity


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)

    def forward(self, x):
        x = x + torch.relu(self.act(self.first(x)))
        x = torch.softmax(x.exp(), -1)
        return nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])[0] + self.head(x)


def step(model, x):
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    return [output.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


def twice(model, x):
    step(model, x), step(model, x)


ENTRIES = [
    (Observer, "begin"),
    (Observer, "output_alike"),
    (Observer, "module_output"),
    (Observer, "activation_input"),
    (Observer, "observe"),
    (Observer, "note_input"),
    (Observer, "path_of_call"),
    (Observer, "path_of_function"),
    (FlatRegions, "of_module"),
    (FlatRegions, "of_function"),
    (FunctionWatch, "_before"),
    (FunctionWatch, "_after"),
    (Observer, "note_unrecorded"),
    (Observer, "_show"),
    (FunctionWatch, "_summands"),
    (SiteAccumulator, "__init__"),
    (SiteAccumulator, "see_forward"),
    (SiteAccumulator, "record_same_shape"),
    (SiteAccumulator, "see_backward"),
    (SiteAccumulator, "mark_preactivation"),
    (SiteAccumulator, "see_attention"),
    (SiteAccumulator, "see_summands"),
    (ParameterAccumulator, "see_gradient"),
    (CpuAccumulator, "add"),
    (CpuAccumulator, "add_same_shape"),
    (TensorIdentity, "find"),
    (TensorIdentity, "remember"),
    (TensorIdentity, "mark_entered"),
]
if kernel.AVAILABLE:
    ENTRIES.append((kernel.Plan, "run"))


class Unforeseen(Exception):
    def __str__(self):
        raise ValueError("not even its text")


@pytest.mark.slow
@pytest.mark.parametrize("error", [ValueError("injected"), MemoryError(), KeyError("injected"), Unforeseen()])
@pytest.mark.parametrize(("owner", "name"), ENTRIES, ids=[f"{owner.__name__}.{name}" for owner, name in ENTRIES])
@pytest.mark.parametrize("build", [Net, lambda: nn.Sequential(*list(Net().children()))], ids=["mixed", "leaves"])
def test_an_error_of_propscope_is_a_note_and_the_step_is_the_same(monkeypatch, owner, name, error, build):
    x, called = torch.randn(3, 4), []
    expected = step(build(), x)
    model = build()

    def fail(*arguments, **keywords):
        called.append(name)
        raise error

    with propscope.track(model) as recorder:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            found = [step(model, x) for _ in range(2)]
        profile = recorder.profile()
    assert all(torch.equal(a, b) for one in found for a, b in zip(one, expected, strict=True))
    if called:
        assert any(type(error).__name__ in note.reason for note in profile.coverage)
    else:
        assert type(model) is nn.Sequential
    assert all(torch.equal(a, b) for a, b in zip(step(model, x), expected, strict=True))


@pytest.mark.parametrize(("owner", "name"), ENTRIES, ids=[f"{owner.__name__}.{name}" for owner, name in ENTRIES])
def test_an_interrupt_passes(monkeypatch, owner, name):
    model = Net()

    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    recorder = propscope.track(model)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt), recorder:
            twice(model, torch.randn(3, 4))
    assert propscope.profile(model, torch.randn(3, 4))["first"].forward.count == 12


def test_what_the_users_operation_raises_passes_with_its_own_type_and_place():
    class Own(Exception):
        pass

    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise Own("in backward")

    model, x = Net(), torch.randn(3, 4)
    with propscope.track(model):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            model(torch.randn(3, 5))
        with pytest.raises(TypeError):
            model(x, x)
        with pytest.raises(Own, match="in backward"):
            Fails.apply(model(x)).sum().backward()
        model.head.register_forward_hook(lambda *_: (_ for _ in ()).throw(Own("in a hook")))
        with pytest.raises(Own, match="in a hook") as caught:
            model(x)
    assert "<genexpr>" in traceback.format_tb(caught.value.__traceback__)[-1]


def freed(x):
    x.untyped_storage().resize_(0)
    return x


def shrunk(x):
    x.untyped_storage().resize_(x.element_size())
    return x


def freed_behind_its_start(x):
    y = torch.cat([x, x])[len(x) :]
    y.untyped_storage().resize_(0)
    return y


class Loses(nn.Module):
    def __init__(self, lose):
        super().__init__()
        self.lose = lose

    def forward(self, x):
        return self.lose(x.detach().clone())


LOST = [freed, shrunk, freed_behind_its_start]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
@pytest.mark.parametrize("lose", LOST, ids=lambda lose: lose.__name__)
@pytest.mark.parametrize("function", [False, True])
def test_a_freed_or_shrunk_storage_is_not_read(lose, dtype, function):
    x = torch.randn(64, 512).to(dtype)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loses, self.lost = Loses(lambda x: x if not self.lost else lose(x)), False

        def forward(self, x):
            return self.loses(torch.relu(x.real)) if function else self.loses(x)

    model = Model()
    with propscope.track(model) as recorder:
        for model.lost in (False, True, True):
            model(x)
    reasons = [note.reason for note in recorder.profile().coverage]
    assert any("storage was freed or shrunk" in reason for reason in reasons)


@pytest.mark.parametrize("lose", LOST[:2], ids=lambda lose: lose.__name__)
def test_a_parameter_whose_storage_is_gone_is_noted(lose):
    model = nn.Linear(512, 64)
    with propscope.track(model) as recorder:
        model(torch.randn(2, 512)).sum().backward()
        lose(model.weight.data)
        profile = recorder.profile()
    assert [parameter.name for parameter in profile.parameters] == ["bias"]
    assert any(note.name == "weight" and "storage" in note.reason for note in profile.coverage)


def test_a_view_of_part_of_a_storage_is_read():
    x = torch.randn(10, 8)
    for view in (x[2:4], x[:, 3:5], x.t()[1:], x[::3], x[9:, 7:], x[:0], x[0, 0].expand(5)):
        require_storage(view)
    with pytest.raises(NotRecordableError, match="4 bytes of 320"):
        require_storage(shrunk(torch.randn(10, 8)))


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("shape", [(7,), (64, 24), (40, 2048)])
def test_misaligned_data_are_read_as_aligned_ones_are(offset, dtype, shape):
    aligned = torch.randn(shape).to(dtype)
    data = bytearray(aligned.numel() * aligned.element_size() + offset)
    data[offset:] = aligned.reshape(-1).view(torch.uint8).numpy().tobytes()
    misaligned = torch.frombuffer(data, dtype=dtype, offset=offset).reshape(shape)
    assert misaligned.data_ptr() % 4 != 0 or dtype.itemsize == 2
    summaries = []
    for tensor in (aligned, misaligned):
        model = nn.Identity()
        with propscope.track(model) as recorder:
            model(tensor), model(tensor)
        summaries.append(recorder.profile().sites[0])
    aligned, misaligned = (site.forward for site in summaries)
    assert (aligned.histogram, aligned.min, aligned.max) == (misaligned.histogram, misaligned.min, misaligned.max)
    # What torch sums by itself, in float64, depends on the address in the last bits.
    tolerance = 1e-12 if dtype is torch.float64 else 0
    assert (aligned.mean, aligned.std) == pytest.approx((misaligned.mean, misaligned.std), rel=tolerance, abs=1e-15)
    assert summaries[0].mean_cosine == summaries[1].mean_cosine


class Opaque(torch.Tensor):
    """A subclass whose operations are none of torch's, as quantized and encrypted tensors are."""

    @staticmethod
    def __new__(cls, shape):
        return torch.Tensor._make_wrapper_subclass(cls, shape, dtype=torch.float32)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"{func} of an Opaque")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tensor_of_an_unknown_class_is_noted_by_its_class():
    class Makes(nn.Module):
        def forward(self, x):
            return Opaque(x.shape)

    model = nn.Sequential(nn.Linear(4, 4), Makes())
    with propscope.track(model) as recorder:
        for _ in range(3):
            assert type(model(torch.randn(3, 4))) is Opaque
    notes = [note.reason for note in recorder.profile().coverage if note.name == "1"]
    assert any("Opaque" in reason for reason in notes)


def test_a_saved_output_warns_of_no_hook():
    model, saved = Net(), io.BytesIO()
    with propscope.track(model), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        output = model(torch.randn(3, 4))
        torch.save(output, saved)
    assert caught == []
    assert torch.equal(torch.load(io.BytesIO(saved.getvalue())), output)


def test_the_guard_returns_what_its_work_returns_and_keeps_no_error_alive():
    guard, array = Guard(), np.zeros(3)
    assert guard("a", "output", "it", lambda x: x, array) is array

    class Held:
        pass

    def fail(held):
        raise ValueError("later")

    held = Held()
    guard("a", "output", "it", fail, held)
    assert gc.get_referrers(held) == [] or all(type(r).__name__ != "traceback" for r in gc.get_referrers(held))
    assert [note.reason for note in guard.notes.values()] == ["it could not be recorded: ValueError: later"]


def test_a_recorder_with_a_failing_sink_names_the_class_of_the_tensor():
    def sink(tensor, **keywords):
        raise ValueError("no room")

    model = nn.Linear(4, 4)
    with Recorder(model, sink=sink) as recorder:
        model(torch.randn(3, 4))
    assert [n.reason for n in recorder.profile().coverage if n.what == "output"] == [
        "a Tensor could not be recorded: ValueError: no room"
    ]
