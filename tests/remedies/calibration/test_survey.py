import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.remedies.calibration.parts import survey


def surveyed(model, include=None, exclude=None):
    found = survey(model, Filter.of(include, exclude, None, None))
    names = [part.name for own in found.parts.values() for part in own]
    return names, {entry.name: entry.reason for entry in found.left}


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
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
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
        (lambda: "model", "model is a str; expected a torch.nn.Module"),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "lazy modules"),
        (lambda: nn.Linear(3, 3, device="meta"), "meta device"),
        (lambda: nn.Sequential(Quantized(3, 3)), "'0' is a quantized Quantized"),
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
