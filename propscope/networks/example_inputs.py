"""What a model says of its own input: the configuration of timm, torchvision and transformers, Lightning's example."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from propscope.networks.random_batch import RandomTensor, image, normal

# Dead units and collapse are judged from 16 samples on; fewer of large ones, of which so many elements are enough.
_ROWS, _ELEMENTS = 16, 8 * 3 * 224 * 224
_TOKENS, _IMAGE = 32, 224


@dataclass(frozen=True, slots=True)
class ExampleInput:
    """The arguments of a model, with a `RandomTensor` for each tensor to draw, and in words where they are from."""

    arguments: Any
    said: str


def example_input(model: nn.Module) -> ExampleInput | None:
    """Return an input that fits the model, by what it says of itself; None where it says nothing."""
    for guess in (_own_example, _timm, _transformers, _torchvision):
        if (found := guess(model)) is not None:
            return found
    return None


def _batch(*sample: int) -> tuple[int, ...]:
    """Return the shape of a batch of samples of this shape."""
    return min(max(_ELEMENTS // math.prod(sample), 2), _ROWS), *sample


def _own_example(model: nn.Module) -> ExampleInput | None:
    """Return Lightning's `example_input_array`."""
    example = getattr(model, "example_input_array", None)
    return ExampleInput(example, "its example_input_array") if isinstance(example, (Tensor, tuple, dict)) else None


# timm


def _timm(model: nn.Module) -> ExampleInput | None:
    given = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = given.get("input_size") if isinstance(given, Mapping) else None
    if not isinstance(size, (tuple, list)) or len(size) != 3:
        return None
    channels, *sides = size
    # What the model was made with goes before what was published.
    if (first := next(_convolutions(model), None)) is not None and first.groups == 1:
        channels = channels if first.in_channels % channels == 0 else first.in_channels
    own = getattr(getattr(model, "patch_embed", None), "img_size", None)
    sides = list(own) if isinstance(own, (tuple, list)) and len(own) == 2 else sides
    return ExampleInput(RandomTensor(_batch(channels, *sides), image), "its default_cfg")


def _convolutions(model: nn.Module) -> Iterator[nn.Conv2d]:
    return (module for module in model.modules() if isinstance(module, nn.Conv2d))


# torchvision


def _torchvision(model: nn.Module) -> ExampleInput | None:
    home, _, family = type(model).__module__.partition("torchvision.models.")
    if home or not family:
        return None
    group = family.partition(".")[0]
    if group == "detection":
        return ExampleInput(_detection(), "random images, each with one box, as torchvision's detectors take them")
    if group == "video":
        frames, side = (16, 224) if type(model).__name__ in ("MViT", "SwinTransformer3d") else (16, 112)
        return ExampleInput(RandomTensor(_batch(3, frames, side, side), normal), "clips of torchvision's video models")
    if group == "optical_flow":
        frame = RandomTensor((2, 3, 128, 128), image)
        return ExampleInput((frame, frame), "two frames, as torchvision's optical flow takes them")
    own: Any = getattr(model, "image_size", None)
    side = own if isinstance(own, int) else 299 if type(model).__name__ == "Inception3" else _IMAGE
    channels = next((first.in_channels for first in _convolutions(model)), 3)
    return ExampleInput(RandomTensor(_batch(channels, side, side), image), "the size of torchvision's own weights")


def _detection() -> tuple[list[Any], list[Any]]:
    """Return two images with a target each, without which a detector cannot be trained."""
    rows = range(2)
    boxes = partial(_constant, values=[[16.0, 16.0, 112.0, 96.0]])
    labels = partial(_constant, values=[1])
    photo = RandomTensor((3, 224, 224), _one_image)
    target = {"boxes": RandomTensor((1, 4), boxes), "labels": RandomTensor((1,), labels)}
    return [photo for _ in rows], [dict(target) for _ in rows]


def _one_image(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    return image((1, *shape), model, generator)[0]


def _constant(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator, *, values: list[Any]) -> Tensor:
    return torch.tensor(values)


# transformers


def _transformers(model: nn.Module) -> ExampleInput | None:
    config = getattr(model, "config", None)
    if not hasattr(model, "main_input_name") or config is None or not hasattr(config, "to_dict"):
        return None
    taken = inspect.signature(model.forward).parameters
    found = {
        name: argument
        for name, make in _ARGUMENTS.items()
        if name in taken and (argument := make(config)) is not None and _is_wanted(name, model, taken)
    }
    needed = {
        name
        for name, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    }
    if not found or needed - found.keys():
        return None
    rows = min(argument.shape[0] for argument in found.values())
    same = {name: replace(argument, shape=(rows, *argument.shape[1:])) for name, argument in found.items()}
    return ExampleInput(same, "its config")


def _is_wanted(name: str, model: nn.Module, taken: Mapping[str, Any]) -> bool:
    """Return whether a model needs an argument that it takes: its main input, and those that stand beside it."""
    main = model.main_input_name
    parameter = taken[name]
    if name == main or parameter.default is parameter.empty:
        return True
    if name == "decoder_input_ids":
        return bool(getattr(model.config, "is_encoder_decoder", False) or _has(model.config, "decoder"))
    # Models of two kinds of input, such as images and their captions, have a configuration of each.
    return _has(model.config, _PARTS.get(name, ""))


_PARTS = {"input_ids": "text_config", "pixel_values": "vision_config", "input_features": "audio_config"}


def _has(config: Any, part: str) -> bool:
    return getattr(config, part, None) is not None


def _known(config: Any, *names: str, default: Any = None) -> Any:
    """Return the first of these values that a configuration, or one of its parts, has."""
    parts = ("text_config", "vision_config", "audio_config", "encoder", "decoder", "backbone_config", "text_encoder")
    for place in (config, *(getattr(config, part, None) for part in parts)):
        for name in names:
            value = place.get(name) if isinstance(place, Mapping) else getattr(place, name, None)
            if value is not None:
                return value
    return default


def _text(config: Any) -> RandomTensor | None:
    vocabulary = _known(config, "vocab_size")
    if not isinstance(vocabulary, int):
        return None
    longest = _known(config, "max_position_embeddings", "n_positions", default=_TOKENS)
    length = min(_TOKENS, longest) if isinstance(longest, int) and longest > 0 else _TOKENS
    return RandomTensor((_ROWS, length), partial(_words, config=config, vocabulary=vocabulary))


def _words(
    shape: tuple[int, ...], model: nn.Module, generator: torch.Generator, *, config: Any, vocabulary: int
) -> Tensor:
    """Draw ordinary tokens, and at the end the one that ends a text, where there is one."""
    numbers = (_known(config, f"{name}_token_id") for name in ("pad", "bos", "eos", "decoder_start", "image", "mask"))
    special = {number for number in numbers if isinstance(number, int) and 0 <= number < vocabulary}
    ordinary = torch.ones(vocabulary)
    ordinary[sorted(special)] = 0
    found = torch.multinomial(ordinary, shape[0] * shape[1], replacement=True, generator=generator).view(shape)
    end = _known(config, "eos_token_id")
    if isinstance(end, int) and 0 <= end < vocabulary:
        found[:, -1] = end
    return found


def _pixels(config: Any) -> RandomTensor:
    side = _known(config, "image_size", default=_IMAGE)
    if isinstance(side, Mapping):
        side = (side.get("height", _IMAGE), side.get("width", _IMAGE))
    sides = tuple(side) if isinstance(side, (tuple, list)) else (side, side)
    channels = _known(config, "num_channels", "in_channels", "in_chans", default=3)
    frames = _known(config, "num_frames")
    if isinstance(frames, int):
        return RandomTensor(_batch(frames, channels, *sides), normal)
    return RandomTensor(_batch(channels, *sides), image)


def _waves(config: Any) -> RandomTensor:
    bins, frames = _known(config, "num_mel_bins"), _known(config, "max_length")
    if isinstance(bins, int) and isinstance(frames, int) and _has(config, "frequency_stride"):
        return RandomTensor(_batch(frames, bins), normal)
    # One second.
    rate = _known(config, "sampling_rate", default=16_000)
    return RandomTensor(_batch(1, rate) if _has(config, "audio_channels") else _batch(rate), normal)


def _features(config: Any) -> RandomTensor:
    bins = _known(config, "num_mel_bins", "feature_projection_input_dim", "input_feat_per_channel", default=80)
    if _has(config, "max_source_positions") and _has(config, "num_mel_bins"):
        return RandomTensor(_batch(bins, 2 * config.max_source_positions), normal)
    if (side := _known(config, "spec_size")) is not None:
        # Mel spectrograms as images, time first.
        return RandomTensor(_batch(1, 4 * side, _known(config, "num_mel_bins", default=64)), normal)
    return RandomTensor(_batch(128, bins), normal)


def _boxes(config: Any) -> RandomTensor | None:
    text = _text(config)
    return text and RandomTensor((*text.shape, 4), _box)


def _box(shape: tuple[int, ...], model: nn.Module, generator: torch.Generator) -> Tensor:
    corner = torch.randint(500, (*shape[:-1], 2), generator=generator)
    return torch.cat([corner, corner + 100], -1)


_ARGUMENTS: dict[str, Callable[[Any], RandomTensor | None]] = {
    "input_ids": _text,
    "decoder_input_ids": _text,
    "pixel_values": _pixels,
    "pixel_values_videos": _pixels,
    "input_values": _waves,
    "input_features": _features,
    "bbox": _boxes,
}
