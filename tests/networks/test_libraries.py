"""Targets of model libraries: names that they have and lack, small and huge models, libraries that are missing."""

import importlib
import sys

import pytest
import torch
from torch import nn

import propscope
from propscope.errors import InputError, MissingDependencyError
from propscope.networks import libraries
from propscope.networks.libraries import built_model, library_model, refuse_huge, tiny_values

TIMM = """
from torch import nn

def list_models():
    return ["tiny_net", "other_net"]

def is_model(name):
    return name in list_models()

def create_model(name, pretrained, classes=3):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(classes) if pretrained else nn.Linear(4, 4))
    model.default_cfg = {"input_size": (3, 3, 3)}
    return model
"""
TORCHVISION = """
from torch import nn

BUILDERS = {}

def builder(function):
    BUILDERS[function.__name__] = function
    return function

@builder
def plain_net(*, weights="DOWNLOADED", classes=3):
    model = nn.Linear(4, classes)
    model.weights = weights
    return model

@builder
def detector(*, weights=None, weights_backbone="DOWNLOADED"):
    return plain_net(weights=weights_backbone)

def list_models():
    return list(BUILDERS)

def get_model_builder(name):
    return BUILDERS[name]
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package of these modules, whatever this Python has."""

    def install(name, **modules):
        for loaded in [each for each in sys.modules if each.partition(".")[0] == name]:
            monkeypatch.delitem(sys.modules, loaded)
        (tmp_path / name).mkdir()
        for module, text in {"__init__": "", **modules}.items():
            (tmp_path / name / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()

    yield install
    for loaded in [each for each in sys.modules if each.partition(".")[0] in ("timm", "torchvision")]:
        if str(tmp_path) in str(getattr(sys.modules[loaded], "__file__", "")):
            del sys.modules[loaded]


def test_timm(installed):
    installed("timm", __init__=TIMM)
    assert library_model("timm:tiny_net")(classes=5)[2].out_features == 4
    # What the package has beside its models is a callable as any other.
    assert library_model("timm:create_model")("tiny_net", pretrained=False).default_cfg["input_size"] == (3, 3, 3)
    with pytest.raises(InputError, match='target "timm:tiny_nit": timm has no model "tiny_nit"') as raised:
        library_model("timm:tiny_nit")
    assert raised.value.hint == "did you mean timm:tiny_net?"
    with pytest.raises(InputError) as raised:
        library_model("timm:qqqqqq")
    assert raised.value.hint == "for example timm:resnet18"


def test_python_takes_names_too(installed):
    installed("timm", __init__=TIMM)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two, other = (built_model("timm:tiny_net", seed=seed)[0].weight for seed in (0, 0, 1))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert torch.equal(one, nn.Conv2d(3, 4, 3).weight)
    # The shapes of timm's own default_cfg: 16 images of 3 x 3 through 3 x 4 x 9 and 4 x 4.
    assert propscope.costs("timm:tiny_net").multiply_adds == 16 * (108 + 16)
    assert len(propscope.profile("timm:tiny_net").without_inputs.sites) == 3


def test_torchvision_gets_no_weights(installed):
    installed("torchvision", models=TORCHVISION)
    assert library_model("torchvision:plain_net")(classes=7).out_features == 7
    assert library_model("torchvision:plain_net")().weights is None
    assert library_model("torchvision:detector")().weights is None
    with pytest.raises(InputError, match="has no model") as raised:
        library_model("torchvision:plain")
    assert raised.value.hint == "did you mean torchvision:plain_net?"


def test_a_library_that_is_missing_or_broken(installed, monkeypatch):
    installed("timm", __init__="raise RuntimeError('operator torchvision::nms does not exist')")
    with pytest.raises(InputError, match=r"timm cannot be imported \(RuntimeError: operator") as raised:
        library_model("timm:resnet18")
    assert raised.value.hint == f"install the timm that fits torch {torch.__version__}"
    monkeypatch.setattr(libraries.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match='the target "timm:resnet18" needs timm') as raised:
        library_model("timm:resnet18")
    assert raised.value.hint == "pip install 'propscope[timm]'"


@pytest.mark.parametrize(
    "target", ["net.py:build", "package.module:build", "timm", "timm:", "torchvision.models:resnet18"]
)
def test_other_targets_are_none_of_a_library(target):
    assert library_model(target) is None


def test_transformers():
    transformers = pytest.importorskip("transformers")
    assert library_model("transformers:BertModel") is transformers.BertModel
    with pytest.raises(InputError, match="chooses a class by the weights that it loads"):
        library_model("transformers:AutoModel")
    with pytest.raises(InputError, match='has no model "BertModell"') as raised:
        library_model("transformers:BertModell")
    assert "transformers:BertModel" in raised.value.hint


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "Bert",
        "GPT2",
        "Llama",
        "T5",
        "Bart",
        "ViT",
        "Swin",
        "Wav2Vec2",
        "Whisper",
        "CLIP",
        "Mixtral",
        "Detr",
        "Clap",
        "Llava",
    ],
)
def test_small_models_are_small_and_fit_together(name):
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, f"{name}Config")
    values = tiny_values(kind)
    config = kind(**values)
    # A model of stages, whose widths depend on each other, stays as it is.
    assert (values == {}) is (name == "Swin")
    if name == "CLIP":
        assert config.text_config.hidden_size == config.vision_config.hidden_size == 64
    config = getattr(config, "text_config", config)
    if name != "Swin":
        assert config.hidden_size == 64


def test_what_does_not_fit_in_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr("propscope.checks.machine_memory", lambda: 1e4)
    built = []

    def make():
        built.append(nn.Linear(100, 100))
        return built[-1]

    with pytest.raises(
        InputError, match=r'target "transformers:X" of 10,100 parameters, with gradients, needs'
    ) as raised:
        refuse_huge("transformers:X", make)
    assert built[0].weight.is_meta
    assert "--config tiny" in raised.value.hint
    refuse_huge("transformers:X", lambda: nn.Linear(4, 4))
    refuse_huge("transformers:X", lambda: nn.Linear(-1, 4))
