"""What a forward pass costs: multiply-adds by hand, parameters, what is kept for the backward pass; and no trace."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import checkpoint

import propscope
from propscope import costs
from propscope.errors import InputError
from propscope.measure.multiply_adds import multiply_adds

aten = torch.ops.aten


class Through(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def attend(x):
    return F.scaled_dot_product_attention(x, x, x)


def attend_by_hand(x):
    return (x @ x.transpose(-1, -2)).softmax(-1) @ x


X = torch.randn(3, 2, 5, 4)
ATTENTION = 2 * (3 * 2) * 5 * 5 * 4
SEQUENCE = torch.randn(3, 5, 8)
# Query, key, value and output of width 8, two products of 5 x 5 positions.
SELF_ATTENTION = 3 * 5 * 4 * 8 * 8 + 2 * 3 * 5 * 5 * 8


@pytest.mark.parametrize(
    ("model", "batch", "by_hand"),
    [
        (nn.Linear(4, 5), torch.randn(3, 4), 3 * 4 * 5),
        (nn.Linear(4, 5, bias=False), torch.randn(3, 7, 4), 3 * 7 * 4 * 5),
        (nn.Conv2d(4, 6, 3, padding=1), torch.randn(2, 4, 8, 8), 2 * 8 * 8 * 6 * 4 * 9),
        (nn.Conv2d(4, 6, 3, stride=2, groups=2, padding=1), torch.randn(2, 4, 8, 8), 2 * 4 * 4 * 6 * 2 * 9),
        (nn.Conv2d(4, 4, (1, 3), groups=4, dilation=2), torch.randn(2, 4, 8, 8), 2 * 8 * 4 * 4 * 1 * 3),
        (nn.Conv1d(4, 6, 3), torch.randn(2, 4, 8), 2 * 6 * 6 * 4 * 3),
        (nn.Conv3d(2, 3, 2), torch.randn(1, 2, 4, 4, 4), 3**3 * 3 * 2 * 8),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), torch.randn(2, 4, 8, 8), 2 * 8 * 8 * 4 * 3 * 9),
        (nn.Bilinear(3, 4, 5), (torch.randn(7, 3), torch.randn(7, 4)), 7 * 3 * 4 * 5),
        (nn.RNN(4, 5), torch.randn(7, 3, 4), 7 * 3 * 5 * (4 + 5)),
        (nn.GRU(4, 5), torch.randn(7, 3, 4), 7 * 3 * 3 * 5 * (4 + 5)),
        (nn.LSTM(4, 5), torch.randn(7, 3, 4), 7 * 3 * 4 * 5 * (4 + 5)),
        (
            nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True),
            torch.randn(3, 7, 4),
            7 * 3 * 2 * 4 * 5 * ((4 + 5) + (10 + 5)),
        ),
        (nn.LSTM(4, 5, proj_size=2), torch.randn(7, 3, 4), 7 * 3 * (4 * 5 * (4 + 2) + 2 * 5)),
        (nn.LSTMCell(4, 5), torch.randn(3, 4), 3 * 4 * 5 * (4 + 5)),
        (Through(attend), X, ATTENTION),
        (Through(attend_by_hand), X, ATTENTION),
        (nn.MultiheadAttention(8, 2, batch_first=True), (SEQUENCE, SEQUENCE, SEQUENCE), SELF_ATTENTION),
        (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
            SEQUENCE,
            SELF_ATTENTION + 3 * 5 * 2 * 8 * 16,
        ),
        (Through(torch.mv), (torch.randn(3, 4), torch.randn(4)), 12),
        (Through(torch.dot), (torch.randn(4), torch.randn(4)), 4),
        (Through(torch.addmv), (torch.randn(3), torch.randn(3, 4), torch.randn(4)), 12),
        (Through(torch.addbmm), (torch.randn(3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)), 2 * 3 * 4 * 5),
        (Through(torch.baddbmm), (torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)), 2 * 3 * 4 * 5),
        (Through(torch.conv_tbc), (torch.randn(9, 2, 4), torch.randn(3, 4, 5), torch.randn(5)), 7 * 2 * 5 * 3 * 4),
        (Through(lambda x: torch.einsum("bhqd,bhkd->bhqk", x, x)), X, ATTENTION // 2),
        (nn.Embedding(5, 4), torch.tensor([[1, 2]]), 0),
        (nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Softmax(-1)), torch.randn(3, 4), 0),
    ],
)  # fmt: skip
# torch says that it takes a slower way.
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_multiply_adds_by_hand(model, batch, by_hand, mode):
    with mode():
        found = costs(model, batch)
    assert (found.multiply_adds, found.uncounted, found.stopped) == (by_hand, (), "")


def test_grouped_heads_and_packed_sequences():
    few = torch.randn(3, 1, 7, 4)
    found = costs(Through(lambda q, k: F.scaled_dot_product_attention(q, k, k, enable_gqa=True)), (X, few))
    assert found.multiply_adds == 2 * 3 * 2 * 5 * 7 * 4
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(7, 2, 4), [7, 3])
    assert costs(nn.LSTM(4, 5), [packed]).multiply_adds == (7 + 3) * 4 * 5 * (4 + 5)


def test_formulas_of_other_devices():
    """Operators that no CPU has, on tensors without values."""
    meta = {"device": "meta"}
    x, w, u, b = (torch.empty(shape, **meta) for shape in ((7, 3, 4), (20, 4), (20, 5), (20,)))
    assert multiply_adds(aten._cudnn_rnn.default, (x, [w, u, b, b]), {}, None) == 7 * 3 * 20 * 9
    assert multiply_adds(aten._cudnn_rnn.default, (x[0], [w, u, b, b]), {}, None) == 3 * 20 * 9
    a, groups = torch.empty(6, 4, **meta), torch.empty(2, 4, 5, **meta)
    assert multiply_adds(aten._grouped_mm.default, (a, groups), {}, torch.empty(6, 5, **meta)) == 6 * 4 * 5
    sums = (torch.empty(3, 6, **meta), torch.empty(6, 5, **meta))
    assert multiply_adds(aten._grouped_mm.default, sums, {}, torch.empty(2, 3, 5, **meta)) == 3 * 6 * 5
    x = torch.empty(X.shape, **meta)
    for name in ("_scaled_dot_product_attention_math_for_mps", "_scaled_dot_product_flash_attention_for_cpu"):
        assert multiply_adds(getattr(aten, name).default, (x, x, x), {}, None) == ATTENTION


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.fft.fft, "aten._fft_r2c"),
        (lambda x: torch.linalg.solve(x[:4], x[:4]), "aten._linalg_solve_ex"),
        (
            lambda x: F.grid_sample(x[None, None], x.view(1, 2, 4, 2)[:, :1], align_corners=False),
            "aten.grid_sampler_2d",
        ),
    ],
)
def test_what_has_no_formula_is_named_and_never_0_in_silence(function, name):
    found = costs(Through(function), torch.randn(4, 4))
    assert name in [operation for operation, _ in found.uncounted]
    assert f"without those of {name} (1x)" in str(found)


def test_an_operator_of_the_users_own_is_named():
    library = torch.library.Library("propscope_test_costs", "DEF")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: x + x, "CompositeExplicitAutograd")
    found = costs(Through(lambda x: torch.ops.propscope_test_costs.twice(x)), torch.randn(4))
    assert found.uncounted == (("propscope_test_costs.twice", 1),)
    library._destroy()


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.once, self.twice = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.twice.weight
        self.idle = nn.Linear(4, 2)
        self.once.bias.requires_grad_(False)

    def forward(self, x):
        return self.tied(self.twice(self.twice(self.once(x)))) @ self.once.weight


def test_each_line_counts_what_is_in_it_and_what_is_shared_counts_once():
    found = costs(Shared(), torch.randn(3, 4))
    lines = {module.name: module for module in found.modules}
    assert list(lines) == ["", "once", "twice", "tied", "idle"]
    assert {name: line.multiply_adds for name, line in lines.items()} == {
        "": 5 * 48, "once": 48, "twice": 2 * 48, "tied": 48, "idle": 0
    }  # fmt: skip
    assert [lines[name].calls for name in lines] == [1, 1, 2, 1, 0]
    assert lines["twice"].parameters == lines["tied"].parameters == 16
    assert (found.parameters, found.frozen_parameters, found.trainable_parameters) == (20 + 16 + 10, 4, 42)
    assert found.weight_bytes == 4 * 46
    assert (found["once"].shape, found["idle"].shape, found.samples) == ((3, 4), None, 3)
    with pytest.raises(KeyError, match="twise"):
        found["twise"]


def test_what_is_kept_is_what_autograd_holds_after_the_forward_pass():
    model = nn.Sequential(nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2))
    found = costs(model, torch.randn(3, 4))
    # The output of the sigmoid, saved by it and by the layer behind; the batch and the weights are there anyway.
    assert (found.kept_bytes, found["1"].kept_bytes, found["2"].kept_bytes) == (96, 96, 0)
    assert (found.input_bytes, found.layer_bytes) == (48, 4 * 3 * (8 + 8 + 2))
    with torch.no_grad():
        assert costs(model, torch.randn(3, 4)).kept_bytes is None


def test_a_checkpointed_part_keeps_its_input_alone():
    part = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))
    first = nn.Linear(4, 8)
    plain, saving = (
        costs(nn.Sequential(first, Through(function)), torch.randn(16, 4)).kept_bytes
        for function in (part, lambda x: checkpoint.checkpoint(part, x, use_reentrant=False))
    )
    assert plain > 16 * 64 * 4
    assert saving == 16 * 8 * 4


def test_outputs_of_layers_leave_out_what_changes_in_place():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Flatten(), nn.Dropout(0.0))
    assert costs(model, torch.randn(3, 4)).layer_bytes <= 2 * 3 * 8 * 4


def test_a_transform_inside_the_model_is_counted_without_what_is_kept():
    layer = nn.Linear(4, 4)
    found = costs(Through(torch.func.vmap(layer)), torch.randn(3, 4))
    assert (found.multiply_adds > 0, found.stopped) == (True, "")


class Noisy(nn.Module):
    """Draws from three generators, counts its calls, and writes to buffers, caches and its input."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.layer = nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(()))
        self.cache = [torch.zeros(3, 4)]

    def forward(self, x):
        self.calls += 1
        x.mul_(2.0)
        self.cache[0] = self.drop(self.norm(x)) * random.random() * float(np.random.rand())  # noqa: NPY002
        return self.layer(self.cache[0])


def state(model, batch):
    cached = model.cache[0].clone()
    numbers = np.random.get_state()[1].tolist()  # noqa: NPY002
    tensors = [*model.state_dict().values(), cached, batch, torch.get_rng_state()]
    return [tensor.tolist() for tensor in tensors], random.getstate(), numbers


def test_nothing_of_the_pass_is_left():
    model, batch = Noisy(), torch.randn(3, 4)
    model.layer.weight.grad = gradient = torch.ones(4, 4)
    hooks = copy.copy(vars(model.layer)["_forward_hooks"])
    before = state(model, batch)
    costs(model, batch)
    assert state(model, batch) == before
    assert model.layer.weight.grad is gradient
    assert vars(model.layer)["_forward_hooks"] == hooks
    assert model.training


def test_a_leaf_of_the_batch_gets_no_hook_and_no_gradient():
    batch = torch.randn(3, 4, requires_grad=True)
    costs(nn.Linear(4, 4), batch)
    assert (batch.grad, batch._backward_hooks) == (None, None)


def test_the_profile_beside_it_is_the_same_bit_by_bit(capsys):
    torch.manual_seed(0)
    model, batch = Noisy(), torch.randn(3, 4)
    alone = propscope.profile(model, batch)
    shown = propscope.summary(model, batch)
    assert [(s.forward, s.backward) for s in shown.sites] == [(s.forward, s.backward) for s in alone.sites]
    assert "multiply-adds: 48 forward, 16 a sample" in capsys.readouterr().out


class Fickle(nn.Module):
    """Runs twice, and then no more."""

    runs = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        Fickle.runs += 1
        if Fickle.runs > 1:
            raise RuntimeError("enough")
        return self.layer(x)


def test_a_model_that_runs_once_is_profiled_all_the_same(capsys, monkeypatch):
    monkeypatch.setattr(Fickle, "runs", 0)
    assert len(propscope.summary(Fickle(), torch.randn(3, 4)).without_inputs.sites) == 1
    assert "multiply-adds: not counted, as the forward pass for them stopped: RuntimeError: enough" in (
        capsys.readouterr().out
    )
    with pytest.raises(RuntimeError, match="enough"):
        costs(Fickle(), torch.randn(3, 4))


def test_wrappers_of_several_devices_are_run_without_gradients_and_compiled_models_eagerly():
    layer = nn.Linear(4, 4)
    found = costs(nn.Sequential(nn.DataParallel(layer), nn.ReLU()), torch.randn(3, 4))
    assert [(m.name, m.multiply_adds, m.kept_bytes) for m in found.modules] == [
        ("", 48, None),
        ("0", 48, None),
        ("1", 0, None),
    ]
    compiled = torch.compile(nn.Sequential(layer, nn.ReLU()), backend="eager")
    found = costs(compiled, torch.randn(3, 4))
    assert [(m.name, m.multiply_adds, m.kept_bytes) for m in found.modules] == [
        ("", 48, 48),
        ("0", 48, 0),
        ("1", 0, 48),
    ]


def test_wrong_use():
    with pytest.raises(
        InputError, match=r'model must be a torch\.nn\.Module or the name of one in a library, got "model"'
    ):
        costs("model", X)
    with pytest.raises(InputError, match="model must be a"):
        costs(3, X)
    with pytest.raises(InputError, match="the model needs a batch"):
        costs(nn.Linear(4, 4))
    with pytest.raises(InputError, match="lazy"):
        costs(nn.LazyLinear(4), X)
