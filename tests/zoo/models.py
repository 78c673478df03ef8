"""The zoo: every kind of network that propscope must see into, tiny and with random weights, nothing downloaded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from zoo import functional, outputs, pretrained, sequences, steps, vision, wrapped


@dataclass(frozen=True, slots=True)
class Entry:
    """One network and what is done with it.

    `build` and `batch` are called after the same seed each time; a batch is what `propscope.profile` takes: a tensor, a
    tuple of arguments or a dict of keywords. `step`: the user's code. `around`: the context of `propscope.profile`.
    `plain`: builder of the same network without its wrapper, whose sites are then expected here. `operations`:
    functions and roles that must be among the sites' kinds and roles. `raises_in`: the module that fails in the test of
    exceptions, "" for the model itself; None for the middle one of those that run. `needs`: package to have. `warns`:
    how the warning starts that torch itself gives for this network, watched or not.
    """

    build: Callable[[], nn.Module]
    batch: Callable[[], Any]
    step: steps.Step = steps.forward_backward()  # noqa: RUF009  a function, shared on purpose
    around: Callable[[], AbstractContextManager[Any]] = nullcontext
    plain: Callable[[], nn.Module] | None = None
    operations: tuple[str, ...] = ()
    raises_in: str | None = None
    needs: str = "torch"
    warns: str = ""


def floats(*shape: int, dtype: torch.dtype = torch.float32) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(*shape).to(dtype)


def tokens(*shape: int, vocabulary: int = 20) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(3, vocabulary, shape)


def labelled(*shape: int) -> Callable[[], dict[str, torch.Tensor]]:
    def batch() -> dict[str, torch.Tensor]:
        ids = tokens(*shape, vocabulary=50)()
        return {"input_ids": ids, "labels": ids}

    return batch


def masked_text() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    return {"input_ids": tokens(2, 6, vocabulary=50)(), "attention_mask": mask}


def speech() -> dict[str, torch.Tensor]:
    return {"input_features": torch.randn(2, 8, 16), "labels": tokens(2, 5, vocabulary=50)()}


def padded() -> dict[str, torch.Tensor]:
    mask = torch.tensor([[False] * 5, [False, False, False, True, True]])
    return {"src": torch.randn(2, 5, 16), "src_key_padding_mask": mask}


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 6, 5), torch.tensor([6, 2, 4])


def bags() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 40, (9,)), torch.tensor([0, 4, 4])


def keywords() -> dict[str, Any]:
    return {"features": torch.randn(5, 6), "scale": 2.0, "mask": torch.tensor([True, False, False, True, False])}


def image_channels_last() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)


autocast = partial(torch.autocast, "cpu", torch.bfloat16)
image = floats(2, 3, 16, 16)
plain_mlp = partial(wrapped.mlp, dropout=0.2)

ZOO: dict[str, Entry] = {
    # Layers in order
    "mlp": Entry(plain_mlp, floats(6, 8)),
    "resnet": Entry(vision.ResNet, image, operations=("add",)),
    "unet": Entry(vision.UNet, image),
    "conv1d": Entry(vision.conv1d, floats(3, 2, 16)),
    "conv3d": Entry(vision.conv3d, floats(2, 2, 4, 4, 4)),
    "channels_last": Entry(vision.channels_last, image_channels_last),
    "frozen": Entry(vision.frozen, image),
    "frozen_whole": Entry(lambda: wrapped.mlp().requires_grad_(False), floats(6, 8), step=steps.input_gradients),
    # Sequences
    "lstm_language_model": Entry(sequences.LanguageModel, tokens(3, 7)),
    "gru_packed": Entry(sequences.PackedGRU, ragged),
    "lstm_cell_stepped": Entry(sequences.Cells, floats(3, 4, 4)),
    "encoder_train": Entry(sequences.encoder, floats(2, 5, 16), operations=("relu", "residual")),
    "encoder_prenorm": Entry(
        partial(sequences.encoder, activation="gelu", norm_first=True),
        floats(2, 5, 16),
        operations=("gelu", "residual"),
    ),
    "encoder_eval": Entry(lambda: sequences.encoder().eval(), floats(2, 5, 16), operations=("relu", "residual")),
    "encoder_fast_path": Entry(
        lambda: sequences.encoder().eval(),
        floats(2, 5, 16),
        step=steps.no_grad,
        around=torch.no_grad,
        raises_in="",
    ),
    "encoder_fast_path_padded": Entry(
        lambda: sequences.encoder().eval(),
        padded,
        step=steps.no_grad,
        around=torch.no_grad,
        raises_in="",
        warns="The PyTorch API of nested tensors",
    ),
    "attention_fast_path": Entry(
        lambda: sequences.Attention().eval(),
        lambda: (torch.randn(2, 5, 12), torch.randn(2, 3, 8)),
        step=steps.no_grad,
        around=torch.no_grad,
    ),
    "transformer": Entry(
        sequences.translator,
        lambda: (torch.randn(2, 5, 16), torch.randn(2, 4, 16)),
        operations=("relu", "residual"),
    ),
    "attention_weights": Entry(sequences.Attention, lambda: (torch.randn(2, 5, 12), torch.randn(2, 3, 8))),
    # The transformers package
    "gpt2": Entry(pretrained.gpt2, labelled(2, 6), needs="transformers", operations=("residual",)),
    "llama": Entry(
        pretrained.llama,
        labelled(2, 6),
        needs="transformers",
        operations=("residual", "scaled_dot_product_attention"),
    ),
    "vit": Entry(pretrained.vit, lambda: {"pixel_values": torch.randn(2, 3, 16, 16)}, needs="transformers"),
    "bert": Entry(pretrained.bert, masked_text, needs="transformers", operations=("scaled_dot_product_attention",)),
    "bert_masked": Entry(pretrained.bert_masked, labelled(2, 6), needs="transformers"),
    "whisper": Entry(pretrained.whisper, speech, needs="transformers", operations=("gelu",)),
    "mixtral": Entry(pretrained.mixtral, labelled(2, 6), needs="transformers"),
    "mamba": Entry(pretrained.mamba, labelled(2, 6), needs="transformers"),
    # The way of the signal
    "functional": Entry(
        functional.Functional,
        floats(2, 5, 12),
        operations=(
            "relu",
            "tanh",
            "gelu",
            "silu",
            "softmax",
            "scaled_dot_product_attention",
            "layer_norm",
            "residual",
        ),
    ),
    "keywords": Entry(functional.Keywords, keywords),
    "shared": Entry(functional.Shared, floats(5, 8)),
    "child_named_module": Entry(functional.child_named_module, floats(5, 6)),
    "views_in_place": Entry(functional.Views, floats(5, 6)),
    "checkpoint_reentrant": Entry(
        partial(functional.Checkpointed, reentrant=True),
        floats(5, 6),
        plain=partial(functional.Checkpointed, reentrant=None),
    ),
    "checkpoint_nonreentrant": Entry(
        partial(functional.Checkpointed, reentrant=False),
        floats(5, 6),
        plain=partial(functional.Checkpointed, reentrant=None),
    ),
    "caught_exception": Entry(wrapped.CaughtException, floats(5, 6), operations=("relu",)),
    "own_function": Entry(wrapped.OwnFunction, floats(5, 6)),
    # Outputs that are no dense float tensor
    "mixed_outputs": Entry(outputs.MixedOutputs, floats(5, 6)),
    "cyclic_output": Entry(outputs.CyclicOutput, floats(5, 4)),
    "opaque_output": Entry(outputs.Opaque, floats(5, 4)),
    "returns_input": Entry(outputs.ReturnsInput, floats(5, 4), step=steps.input_gradients),
    "complex": Entry(outputs.Complex, floats(5, 8)),
    "sparse_gradients": Entry(outputs.SparseGradients, bags),
    "sparse_output": Entry(outputs.SparseOutput, floats(5, 6)),
    "nested_output": Entry(outputs.NestedOutput, floats(2, 3, 4)),
    "float8": Entry(outputs.Float8, floats(5, 6)),
    "tensor_subclass": Entry(outputs.Subclassed, floats(5, 6)),
    "tensor_subclass_counted": Entry(outputs.CountedCalls, floats(5, 6)),
    "zero_elements": Entry(outputs.ZeroElements, floats(6, 6)),
    "zero_batch": Entry(wrapped.mlp, floats(0, 8)),
    "nonfinite": Entry(outputs.NonFinite, floats(5, 6)),
    "expanded": Entry(outputs.Expanded, floats(5, 6)),
    # Precision
    "bfloat16": Entry(lambda: wrapped.Precision().bfloat16(), tokens(2, 6)),
    "float16": Entry(lambda: wrapped.Precision().half(), tokens(2, 6)),
    "float64": Entry(lambda: wrapped.Precision().double(), tokens(2, 6)),
    "autocast": Entry(wrapped.Precision, tokens(2, 6), step=steps.forward_backward(autocast), around=autocast),
    "grad_scaler": Entry(wrapped.mlp, floats(6, 8), step=steps.scaled),
    # Wrappers and compilers
    "data_parallel": Entry(wrapped.data_parallel, floats(6, 8), plain=plain_mlp),
    "distributed": Entry(wrapped.distributed, floats(6, 8), plain=plain_mlp),
    "compiled": Entry(
        partial(wrapped.compiled, "eager"), floats(6, 8), plain=wrapped.mlp, warns="The .grad attribute of a Tensor"
    ),
    "compiled_warm": Entry(partial(wrapped.compiled, "eager", warm=True), floats(6, 8), plain=wrapped.mlp),
    "compiled_aot": Entry(partial(wrapped.compiled, "aot_eager"), floats(6, 8), plain=wrapped.mlp),
    "compiled_child": Entry(
        partial(wrapped.compiled_inside, in_place=False),
        floats(6, 8),
        plain=wrapped.uncompiled_inside,
        warns="The .grad attribute of a Tensor",
    ),
    "compiled_method": Entry(
        partial(wrapped.compiled_inside, in_place=True),
        floats(6, 8),
        plain=wrapped.uncompiled_inside,
        warns="The .grad attribute of a Tensor",
    ),
    "scripted": Entry(wrapped.scripted, floats(6, 8), warns="`torch.jit.script` is deprecated"),
    "fx": Entry(wrapped.symbolic, floats(6, 8)),
    "parametrized": Entry(wrapped.parametrized, floats(6, 8)),
    "parametrized_loop": Entry(wrapped.parametrized, floats(6, 8), step=steps.training),
    "lazy": Entry(wrapped.lazy, floats(3, 2, 8)),
    "user_hooks": Entry(wrapped.UserHooks, floats(6, 8)),
    # The user's own loop
    "training_loop": Entry(plain_mlp, floats(6, 8), step=steps.training),
    "gradient_penalty": Entry(wrapped.mlp, floats(6, 8), step=steps.gradient_penalty),
    "two_backwards": Entry(plain_mlp, floats(6, 8), step=steps.two_backwards),
    "variable_length": Entry(wrapped.VariableLength, floats(3, 6, 4), step=steps.shorter_and_longer),
    "inference_mode": Entry(wrapped.Precision, tokens(2, 6), step=steps.inference, around=torch.inference_mode),
    "per_sample_gradients": Entry(wrapped.mlp, floats(6, 8), step=steps.per_sample_gradients),
    "forward_mode": Entry(wrapped.mlp, floats(6, 8), step=steps.directional, warns="`torch.jit.script` is deprecated"),
    "saved_tensor_hooks": Entry(wrapped.mlp, floats(6, 8), step=steps.counted_saves),
    "copied_meanwhile": Entry(wrapped.mlp, floats(6, 8), step=steps.averaged, raises_in="3"),
    "pickled_meanwhile": Entry(wrapped.mlp, floats(6, 8), step=steps.saved_whole, raises_in="3"),
}
