"""The batch that a model runs on: the caller's own, one drawn by sizes, or one that the model says fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from propscope.checks import seed_number
from propscope.errors import InputError
from propscope.measure.outputs import as_batch
from propscope.networks import seeded_generator
from propscope.networks.example_inputs import example_input
from propscope.networks.libraries import built_model
from propscope.networks.random_batch import drawn, sized

_HOW = "give a batch, or input_size=(8, 3, 32, 32) to draw one"


def batch_of(model: nn.Module, batch: Any, *, input_size: Any = None, dtypes: Any = None, seed: int = 0) -> Any:
    """Return the batch to run `model` on, as tensors on its device, in the dtype of its parameters where they float.

    `batch` as `profile` takes it; None: one drawn with `seed` by `input_size` and `dtypes`, as
    `propscope.networks.random_batch.sized` reads them; without these, one that fits what timm, torchvision,
    transformers or Lightning's `example_input_array` say of the model. Raises `InputError` where nothing says so.
    """
    seed = seed_number(seed)
    if batch is not None:
        if input_size is not None or dtypes is not None:
            name = "input_size" if input_size is not None else "dtypes"
            raise InputError(
                f"batch and {name} are both given", hint="give a batch of your own, or draw one by its size"
            )
        return as_batch(model, batch)
    if input_size is not None:
        arguments = sized(input_size, dtypes)
    elif dtypes is not None:
        raise InputError("dtypes are those of a batch that is drawn, which needs input_size", hint=_HOW)
    elif (found := example_input(model)) is not None:
        arguments = found.arguments
    else:
        raise InputError("the model needs a batch, and says nothing of one that fits", hint=_HOW)
    floating = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    like = next(floating, torch.empty(0))
    generator = seeded_generator(seed, "batch")
    return as_batch(model, drawn(arguments, model, generator, dtype=like.dtype, device=like.device))


def model_of(model: nn.Module | str, *, seed: int) -> nn.Module:
    """Return the model itself, or the one of a library that text such as timm:resnet18 names, drawn with `seed`."""
    return built_model(model, seed=seed_number(seed)) if isinstance(model, str) else model


def call_model(model: nn.Module, batch: Any) -> Any:
    """Return the output of a model for a batch: a tensor, a tuple or list of arguments, or a dict of named ones."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(*batch)
    if isinstance(batch, Tensor):
        return model(batch)
    raise InputError(f"batch must be a tensor, or a tuple, list or dict of arguments, got a {type(batch).__name__}")
