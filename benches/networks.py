"""The networks whose cost of recording is measured: small, with random weights, nothing downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Tensor]


def mlp(width: int, batch: int) -> Built:
    """Return 20 layers with ReLU."""
    layers = [layer for _ in range(20) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(batch, width)


def resnet() -> Built:
    """Return the examples' residual network, in-place ReLU and batch norm, on 3 x 32 x 32 images, batch 8."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import models  # type: ignore[import-not-found]

    return models.resnet(width=32, blocks=2), torch.randn(8, 3, 32, 32)


class DenseLayer(nn.Module):
    """Norm, 1 x 1 and 3 x 3 convolution, whose output is joined to the input (Huang et al. 2017)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value with the new channels behind it."""
        new = self.conv1(self.relu(self.norm1(value)))
        return torch.cat([value, self.conv2(self.relu(self.norm2(new)))], dim=1)


def densenet() -> Built:
    """Return three dense blocks of 6, 8 and 6 layers, on 3 x 32 x 32 images, batch 8."""
    channels = 32
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1, bias=False)]
    for count in (6, 8, 6):
        for _ in range(count):
            layers.append(DenseLayer(channels, 16))
            channels += 16
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)]
        channels //= 2
    return _with_head(layers, channels), torch.randn(8, 3, 32, 32)


class Gate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool, self.relu, self.gate = nn.AdaptiveAvgPool2d(1), nn.ReLU(), nn.Hardsigmoid()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value, each channel times its gate."""
        gate: Tensor = self.gate(self.up(self.relu(self.down(self.pool(value)))))
        return value * gate


class Inverted(nn.Module):
    """A block of MobileNetV3 (Howard et al. 2019): wide inside, by channel, gated."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.block = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(inplace=True),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.Hardswish(inplace=True),
            Gate(wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.adds = stride == 1 and channels == out

    def forward(self, value: Tensor) -> Tensor:
        """Return what the block makes, beside the stream where their shapes are the same."""
        made: Tensor = self.block(value)
        return value + made if self.adds else made


def mobilenet() -> Built:
    """Return 11 inverted blocks, on 3 x 96 x 96 images, batch 8."""
    channels = 16
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.Hardswish()]
    for out, stride, count in ((24, 2, 2), (40, 2, 3), (80, 2, 3), (96, 1, 3)):
        for number in range(count):
            layers.append(Inverted(channels, out, stride if number == 0 else 1))
            channels = out
    return _with_head(layers, channels), torch.randn(8, 3, 96, 96)


def _with_head(layers: list[nn.Module], channels: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


class UNet(nn.Module):
    """Down by pooling, up by transposed convolution, with skips (Ronneberger et al. 2015)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.down = nn.ModuleList(map(self._twice, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * wide, wide, 2, stride=2) for wide in widths[-2::-1])
        self.merge = nn.ModuleList(self._twice(2 * wide, wide) for wide in widths[-2::-1])
        self.pool, self.head = nn.MaxPool2d(2), nn.Conv2d(width, 3, 1)

    @staticmethod
    def _twice(channels: int, out: int) -> nn.Module:
        parts = [(nn.Conv2d(one, out, 3, padding=1), nn.GroupNorm(8, out), nn.SiLU()) for one in (channels, out)]
        return nn.Sequential(*(layer for part in parts for layer in part))

    def forward(self, value: Tensor) -> Tensor:
        """Return an image of the input's size."""
        skips: list[Tensor] = []
        for level in self.down:
            value = level(self.pool(value) if skips else value)
            skips.append(value)
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            value = merge(torch.cat([up(value), skip], dim=1))
        output: Tensor = self.head(value)
        return output


def unet() -> Built:
    """Return three levels from 32 channels on, on 3 x 48 x 48 images, batch 4."""
    return UNet(32), torch.randn(4, 3, 48, 48)


def gpt2() -> Built:
    """Return a GPT-2 of width 256, 6 layers, on 4 sequences of 64 tokens."""
    return _language_model("GPT2", n_embd=256, n_layer=6, n_head=4, n_positions=64), torch.randint(1000, (4, 64))


def llama() -> Built:
    """Return a Llama of width 256, 6 layers, on 4 sequences of 64 tokens."""
    sizes = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 688}
    return _language_model("Llama", num_key_value_heads=2, **sizes), torch.randint(1000, (4, 64))


def mamba() -> Built:
    """Return a Mamba of width 128, 4 layers, whose scan runs step by step, on 4 sequences of 32 tokens."""
    sizes = {"hidden_size": 128, "num_hidden_layers": 4, "state_size": 8}
    return _language_model("Mamba", **sizes), torch.randint(1000, (4, 32))


def _language_model(kind: str, **sizes: Any) -> nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    config = getattr(transformers, f"{kind}Config")(vocab_size=1000, use_cache=False, **sizes)
    config.bos_token_id = config.eos_token_id = 0
    model: nn.Module = getattr(transformers, f"{kind}{'LMHeadModel' if kind == 'GPT2' else 'ForCausalLM'}")(config)
    return model.train()


def conformer() -> Built:
    """Return the encoder of a Conformer of width 144, 4 layers, on 4 sequences of 64 frames."""
    import transformers
    from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as conformers

    transformers.logging.set_verbosity_error()
    sizes = {"hidden_size": 144, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 576}
    config = transformers.Wav2Vec2ConformerConfig(conv_depthwise_kernel_size=15, layerdrop=0.0, **sizes)
    model: nn.Module = conformers.Wav2Vec2ConformerEncoder(config)
    return model.train(), torch.randn(4, 64, 144)


NETWORKS: dict[str, Callable[[], Built]] = {
    "MLP 20x512, batch 256": partial(mlp, 512, 256),
    "MLP 20x256, batch 200": partial(mlp, 256, 200),
    "ResNet": resnet,
    "DenseNet": densenet,
    "MobileNet": mobilenet,
    "UNet": unet,
    "GPT-2": gpt2,
    "Llama": llama,
    "Mamba": mamba,
    "Conformer": conformer,
}
