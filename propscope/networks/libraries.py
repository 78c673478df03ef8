"""Models by their name in a library: `timm:resnet18`, `torchvision:resnet18`, `transformers:BertModel`.

A model gets random weights; nothing is downloaded. The libraries are optional: each is imported where it is named.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from propscope.checks import fits_memory
from propscope.errors import InputError, MissingDependencyError, PropscopeError, error_line

Make = Callable[..., nn.Module]
# Weights, their gradients, and what a pass keeps beside them.
_COPIES = 3


@dataclass(frozen=True, slots=True)
class Library:
    """A package that builds models: `find` returns what builds the one of a name, None where it has none."""

    name: str
    find: Callable[[str], Make | None]
    names: Callable[[], Iterable[str]]
    example: str


def library_of(target: str) -> Library | None:
    """Return the library whose model a target names; None for a target of another form."""
    home, _, name = target.partition(":")
    return next((library for library in LIBRARIES if library.name == home and name), None)


def library_model(target: str) -> Make | None:
    """Return what builds the model that `library:name` names; None for a target of another form.

    Raises `MissingDependencyError` where the library is not installed, and `InputError` where it cannot be imported and
    for a name that it lacks.
    """
    if (library := library_of(target)) is None:
        return None
    home, _, name = target.partition(":")
    if importlib.util.find_spec(home) is None:
        raise MissingDependencyError(home, extra=home, purpose=f'the target "{target}"')
    try:
        make = library.find(name)
    except PropscopeError:
        raise
    except Exception as error:  # A library that does not fit this torch may fail in any way.
        raise InputError(
            f'target "{target}": {home} cannot be imported ({error_line(error)})',
            hint=f"install the {home} that fits torch {torch.__version__}",
        ) from error
    if make is not None:
        return make
    names = list(library.names())
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    near += [each for each in names if each.lower().startswith(name.lower()) and each not in near][: 3 - len(near)]
    listed = ", ".join(f"{home}:{each}" for each in near)
    raise InputError(
        f'target "{target}": {home} has no model "{name}"',
        hint=f"did you mean {listed}?" if near else f"for example {library.example}",
    )


def built_model(target: str, *, seed: int) -> nn.Module:
    """Return the model that `library:name` names, with the weights that the library draws after `torch.manual_seed`.

    A class of transformers gets its default configuration. Raises `InputError` for other targets, and for a model that
    would not fit in memory.
    """
    if (make := library_model(target)) is None:
        raise InputError(
            f'model must be a torch.nn.Module or the name of one in a library, got "{target}"',
            hint="for example timm:resnet18, torchvision:resnet18 or transformers:BertModel",
        )
    kind = getattr(make, "config_class", None)
    given = () if kind is None else (kind(),)
    refuse_huge(target, lambda: make(*given))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make(*given)


# timm


def _timm_names() -> list[str]:
    names: list[str] = importlib.import_module("timm").list_models()
    return names


def _timm(name: str) -> Make | None:
    timm = importlib.import_module("timm")
    if not timm.is_model(name):
        return _attribute(timm, name)

    def make(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, **{"pretrained": False, **arguments})
        return model

    return make


# torchvision


def _torchvision_names() -> list[str]:
    names: list[str] = importlib.import_module("torchvision.models").list_models()
    return names


def _torchvision(name: str) -> Make | None:
    models = importlib.import_module("torchvision.models")
    if name not in models.list_models():
        return _attribute(importlib.import_module("torchvision"), name)
    builder = models.get_model_builder(name)
    taken = inspect.signature(builder).parameters
    # A detector would download the weights of its backbone; init_weights is left to a warning.
    quiet = {"weights": None, "weights_backbone": None, "init_weights": True}

    def make(**arguments: Any) -> nn.Module:
        model: nn.Module = builder(**{name: value for name, value in quiet.items() if name in taken}, **arguments)
        return model

    return make


# transformers


def _transformers_names() -> list[str]:
    library = importlib.import_module("transformers")
    return [name for name in dir(library) if name[:1].isupper() and not name.startswith("TF")]


def _transformers(name: str) -> Make | None:
    found = _attribute(importlib.import_module("transformers"), name)
    if isinstance(found, type) and not issubclass(found, nn.Module) and hasattr(found, "from_config"):
        raise InputError(
            f'target "transformers:{name}" chooses a class by the weights that it loads, and none are loaded here',
            hint="name the class itself, such as transformers:BertModel or transformers:GPT2LMHeadModel",
        )
    return found


def _attribute(package: Any, name: str) -> Make | None:
    found = getattr(package, name, None)
    return found if callable(found) else None


LIBRARIES = (
    Library("timm", _timm, _timm_names, "timm:resnet18"),
    Library("torchvision", _torchvision, _torchvision_names, "torchvision:resnet18"),
    Library("transformers", _transformers, _transformers_names, "transformers:BertModel"),
)

# The sizes of a small model, by the names that transformers gives them.
_TINY = {
    "hidden_size": 64,
    "d_model": 64,
    "dim": 64,
    "n_embd": 64,
    "num_hidden_layers": 2,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "n_layer": 2,
    "n_layers": 2,
    "num_attention_heads": 4,
    "num_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "num_key_value_heads": 2,
    "n_head": 4,
    "n_heads": 4,
    "head_dim": 16,
    "d_kv": 16,
    "intermediate_size": 128,
    "d_ff": 128,
    "hidden_dim": 128,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
    "ffn_dim": 128,
    "embedding_size": 64,
    "word_embed_proj_dim": 64,
    "moe_intermediate_size": 64,
    "num_local_experts": 4,
    "num_experts": 4,
    "projection_dim": 32,
}

_STAGES = ("depths", "hidden_sizes", "num_attention_heads", "num_heads")


def tiny_values(kind: type) -> dict[str, Any]:
    """Return values that make a small model of a configuration class, which has them under other names or not at all.

    A configuration made of several, as of text and images, gets small ones in each.
    """
    usual = kind()
    own = usual.to_dict()
    # The widths of stages, each in a list of its own, depend on each other.
    staged = any(isinstance(own.get(name), (list, tuple)) for name in _STAGES)
    sizes = {} if staged else {name: value for name, value in _TINY.items() if type(own.get(name)) is int}
    inside = {}
    for name in getattr(kind, "sub_configs", {}):
        part = getattr(usual, name, None)
        if part is not None and (values := tiny_values(type(part))):
            # Where the part may be of any class, its name says of which one.
            inside[name] = {"model_type": part.model_type, **values}
    return {**sizes, **inside}


def refuse_huge(target: str, make: Callable[[], nn.Module]) -> None:
    """Raise `InputError` where the model that `make` builds would not fit in this machine's memory.

    It is built without memory first; a model that cannot be built so is let through.
    """
    try:
        with torch.device("meta"):
            model = make()
    except Exception:  # What is wrong is said when it is built in earnest.
        return
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    fits_memory(
        f'target "{target}" of {sum(p.numel() for p in model.parameters()):,} parameters, with gradients,',
        _COPIES * size,
        hint="make it small: --config tiny, or --config num_hidden_layers=2,hidden_size=64,...",
    )
