import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.rnn import pack_padded_sequence

from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.remedies.calibration.parts import Call, input_of_layer, survey


def parts(model):
    return [part for own in survey(model, Filter()).parts.values() for part in own]


def called(module, *args, **kwargs):
    return Call(module, args, kwargs, module(*args, **kwargs))


def test_a_call_runs_again_after_a_change_alone():
    linear, x = nn.Linear(3, 4), torch.randn(5, 3)
    call = called(linear, x)
    first = call.output
    assert call.output is first
    with torch.no_grad():
        linear.weight.mul_(2)
    call.changed()
    assert torch.equal(call.output, linear(x))
    assert call.reruns == 1


@pytest.mark.parametrize("separate", [False, True])
def test_projections_of_attention_are_what_torch_projects(separate):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 1, kdim=3 if separate else None, vdim=5 if separate else None)
    nn.init.normal_(attention.in_proj_bias)
    sizes = (4, 3, 5) if separate else (4, 4, 4)
    query, key, value = (torch.randn(6, 2, size) for size in sizes)
    call = called(attention, query, key, value=value)
    q, k, v = (part.observe(call)[0] for part in parts(attention)[:3])
    # With one head, torch's attention weights are softmax(q k^T / sqrt(4)), and its output projects their mix of v.
    weights = torch.softmax(q.transpose(0, 1) @ k.permute(1, 2, 0) / 2, -1)
    assert torch.allclose(weights, call.output[1], atol=1e-6)
    mixed = (weights @ v.transpose(0, 1)).transpose(0, 1)
    assert torch.allclose(attention.out_proj(mixed), parts(attention)[3].observe(call)[0], atol=1e-6)


def test_gates_of_a_cell_and_of_a_layer():
    torch.manual_seed(0)
    cell, lstm = nn.GRUCell(3, 4), nn.LSTM(3, 4, 2, bidirectional=True)
    x = torch.randn(6, 3)
    assert torch.equal(parts(cell)[0].observe(called(cell, x))[0], x @ cell.weight_ih.t())
    sequence = torch.randn(7, 2, 3)
    found = {part.name: part.observe(called(lstm, sequence))[0] for part in parts(lstm)}
    assert list(found) == ["weight_ih_l0", "weight_ih_l0_reverse", "weight_ih_l1", "weight_ih_l1_reverse"]
    assert torch.equal(found["weight_ih_l0_reverse"], nn.functional.linear(sequence, lstm.weight_ih_l0_reverse))
    assert found["weight_ih_l1"].shape == (7, 2, 16)


def test_channels_are_the_units_of_an_image():
    convolution = nn.Conv2d(3, 5, 1)
    assert parts(convolution)[0].observe(called(convolution, torch.randn(2, 3, 4, 4)))[1] == 1


def test_a_view_of_a_weight_has_the_key_of_the_weight():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = nn.Parameter(model[0].weight.t())
    first, second, third = parts(model)
    assert first.key == second.key != third.key


def test_orthogonal_start_is_orthogonal_in_each_matrix():
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.MultiheadAttention(6, 2), "b": nn.LSTM(4, 4), "c": nn.Linear(3, 8)})
    for part in parts(model):
        part.orthogonalize(0)
    eye = torch.eye(6)
    for block in model["a"].in_proj_weight.detach().chunk(3):
        assert torch.allclose(block @ block.t(), eye, atol=1e-5)
    for gate in model["b"].weight_ih_l0.detach().chunk(4):
        assert torch.allclose(gate @ gate.t(), torch.eye(4), atol=1e-5)
    weight = model["c"].weight.detach().clone()
    assert torch.allclose(weight.t() @ weight, torch.eye(3), atol=1e-5)
    parts(model)[-1].orthogonalize(0)
    assert torch.equal(model["c"].weight, weight)
    parts(model)[-1].orthogonalize(1)
    assert not torch.equal(model["c"].weight, weight)


def test_weight_norm_keeps_its_directions():
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    (part,) = parts(linear)
    before = linear.weight.detach().clone()
    part.orthogonalize(0)
    assert torch.equal(linear.weight, before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_outputs_that_are_no_dense_floats_are_not_observed():
    class Own(nn.Linear):
        def forward(self, x):
            return self.made(super().forward(x))

    own = Own(3, 4)
    nested = torch.nested.nested_tensor
    for made in (
        lambda y: nested([y, y[1:]]),
        lambda y: (y, y),
        lambda y: y > 0,
        lambda y: y.to_sparse(),
        lambda y: y.sum(),
    ):
        own.made = made
        assert parts(own)[0].observe(called(own, torch.randn(5, 3))) is None


def surveyed(model, include=None, exclude=None):
    found = survey(model, Filter.of(include, exclude, None, None))
    names = [part.name for own in found.parts.values() for part in own]
    return names, {entry.name: entry.reason for entry in found.skipped}


def test_layers_are_found_and_norms_and_vectors_are_not():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 4),
            "bilinear": nn.Bilinear(3, 4, 5),
            "conv": nn.Conv3d(2, 2, 1),
            "up": nn.ConvTranspose2d(2, 2, 1),
            "norm": nn.LayerNorm((4, 4)),
            "batch": nn.BatchNorm1d(4),
            "prelu": nn.PReLU(4),
        }
    )
    assert surveyed(model) == (["linear", "bilinear", "conv", "up"], {})


def test_attention_recurrence_and_embeddings():
    model = nn.ModuleDict(
        {
            "same": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            "lstm": nn.LSTM(3, 4, 2, proj_size=2),
            "cell": nn.GRUCell(3, 4),
            "embed": nn.Embedding(5, 4),
        }
    )
    names, left = surveyed(model)
    short = ["q_proj", "k_proj", "v_proj", "out_proj"]
    expected = [f"{which}.{name}" for which in ("same", "cross") for name in short]
    assert names == [*expected, "lstm.weight_ih_l0", "lstm.weight_ih_l1", "cell.weight_ih"]
    recurrent = {"lstm.weight_hh_l0", "lstm.weight_hr_l0", "lstm.weight_hh_l1", "lstm.weight_hr_l1", "cell.weight_hh"}
    assert {name for name, reason in left.items() if reason.startswith("recurrent")} == recurrent
    assert left["embed"].startswith("an embedding")
    attention = survey(model, Filter()).parts[model["same"]]
    assert [part.weight.shape for part in attention] == [(4, 4)] * 4
    assert torch.equal(attention[1].weight, model["same"].in_proj_weight[4:8])


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_cannot_be_scaled_is_left_with_its_reason():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.gain = nn.Parameter(torch.randn(2, 3)), nn.Parameter(torch.randn(3))

    model = nn.ModuleDict(
        {
            "kept": nn.Linear(3, 3),
            "frozen": nn.Linear(3, 3).requires_grad_(False),
            "gain": parametrizations.weight_norm(nn.Linear(3, 3)),
            "spectral": parametrizations.spectral_norm(nn.Linear(3, 3)),
            "old": nn.utils.weight_norm(nn.Linear(3, 3)),
            "pruned": prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5),
            "recurrent": parametrizations.weight_norm(nn.GRU(3, 3), "weight_ih_l0"),
            "own": Own(),
            "complex": nn.Linear(3, 3, dtype=torch.complex64),
            "empty": nn.Linear(3, 3),
            "scripted": torch.jit.script(nn.Linear(3, 3)),
            "attention": parametrizations.weight_norm(nn.MultiheadAttention(4, 2), "in_proj_weight"),
        }
    )
    model["empty"].weight = nn.Parameter(torch.empty(0, 3))
    with torch.inference_mode():
        model["inference"] = nn.Linear(3, 3)
    names, left = surveyed(model, exclude="never")
    assert names == ["kept", "gain", "attention.out_proj"]
    assert not [name for name in left if "parametrizations" in name]
    assert left["frozen"] == "frozen: requires_grad is False"
    assert left["spectral"] == "its weight is computed (SpectralNorm)"
    assert left["old"] == left["pruned"] == "its weight is computed by a hook of torch.nn.utils"
    assert left["recurrent"] == left["attention.k_proj"] == "its weight is computed"
    assert left["own"] == "propscope has no rule for its tokens"
    assert left["complex"] == "its weight is complex64, strided"
    assert left["empty"] == "it is empty"
    assert left["scripted"].startswith("scripted")
    assert left["inference"].startswith("made in inference mode")
    part = next(part for own in survey(model, Filter()).parts.values() for part in own if part.name == "gain")
    assert part.parameter is model["gain"].parametrizations.weight.original0


def test_ties_to_what_is_left_alone_are_left_alone():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    model[3].weight = nn.Parameter(model[1].weight.t())  # a view: the memory is shared
    names, left = surveyed(model)
    assert names == ["1", "3"]
    assert left["2"] == "it shares its weight with 0, which is left alone"


def test_a_tie_to_an_excluded_layer_is_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = nn.Parameter(model[0].weight.t())
    assert surveyed(model, exclude="^0$") == (
        ["1"],
        {"0": "not selected by include and exclude", "2": "it shares its weight with 0, which is left alone"},
    )


def test_wrappers_are_not_in_the_names():
    model = nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
    assert surveyed(model)[0] == ["0"]


class Quantized(nn.Linear):
    __module__ = "torch.ao.nn.quantized.modules.linear"


class DTensor(nn.Parameter):
    """Stands for torch's, which needs a process group."""


def sharded():
    model = nn.Linear(2, 2)
    model.weight = DTensor(torch.ones(2, 2))
    return model


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: "model", "model must be a torch.nn.Module, got a str"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "lazy modules"),
        (lambda: nn.Linear(3, 3, device="meta"), "meta device"),
        (lambda: nn.Sequential(Quantized(3, 3)), "0 is a quantized Quantized"),
        (sharded, "sharded over processes"),
        (nn.ReLU, "no layer to calibrate .none has a weight of two"),
        (lambda: nn.Linear(3, 3).requires_grad_(False), "the model: frozen: requires_grad is False"),
    ],
)
def test_refuses(build, message):
    with pytest.raises(InputError, match=message) as caught:
        survey(build(), Filter())
    assert caught.value.hint or isinstance(build(), str)


def test_refuses_replicas(monkeypatch):
    class DistributedDataParallel(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.Linear(2, 2)

    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(InputError, match="has 2 replicas"):
        survey(DistributedDataParallel(), Filter())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    assert surveyed(DistributedDataParallel())[0] == [""]


def stack(kind, **options):
    torch.manual_seed(0)
    return kind(4, 5, num_layers=3, **options)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_what_enters_a_layer_is_what_the_lower_ones_return(kind, bidirectional):
    whole = stack(kind, bidirectional=bidirectional)
    below = kind(4, 5, num_layers=2, bidirectional=bidirectional)
    below.load_state_dict({k: v for k, v in whole.state_dict().items() if "l2" not in k})
    x = torch.randn(7, 3, 4)
    assert input_of_layer(whole, x, None, 0) is not None
    assert torch.equal(input_of_layer(whole, x, None, 0), x)
    assert torch.equal(input_of_layer(whole, x, None, 2), below(x)[0])
    state = torch.randn(6 if bidirectional else 3, 3, 5)
    half = state[: len(state) * 2 // 3]
    given, expected = ((state, state), (half, half)) if kind is nn.LSTM else (state, half)
    assert torch.equal(input_of_layer(whole, x, given, 2), below(x, expected)[0])
    assert whole.num_layers == 3
    assert len(whole._flat_weights) == len(list(whole.parameters()))


def test_packed_and_unbatched():
    whole = stack(nn.LSTM, batch_first=True)
    x = torch.randn(3, 7, 4)
    packed = pack_padded_sequence(x, torch.tensor([7, 4, 2]), batch_first=True)
    assert torch.equal(input_of_layer(whole, packed, None, 0), packed.data)
    assert input_of_layer(whole, packed, None, 1).shape == (13, 5)
    assert input_of_layer(whole, x[0], None, 1).shape == (7, 5)


def test_dropout_between_layers_counts_in_training():
    whole = stack(nn.GRU, dropout=0.5)
    x = torch.randn(7, 3, 4)
    assert (input_of_layer(whole, x, None, 1) == 0).any()
    assert (input_of_layer(whole, x, None, 0) != 0).all()
    assert (input_of_layer(whole.eval(), x, None, 1) != 0).all()
