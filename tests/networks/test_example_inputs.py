"""The input that a model says fits: images of timm and torchvision, whatever a configuration of transformers states."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from propscope.networks import seeded_generator
from propscope.networks.example_inputs import example_input
from propscope.networks.random_batch import drawn


def shapes(value):
    if isinstance(value, torch.Tensor):
        return tuple(value.shape)
    if isinstance(value, dict):
        return {name: shapes(part) for name, part in value.items()}
    return [shapes(part) for part in value]


def batch(model):
    generator = seeded_generator(0, "test")
    arguments = example_input(model).arguments
    return drawn(arguments, model, generator, dtype=torch.float64, device=torch.device("cpu"))


def convolution(channels=3, **attributes):
    model = nn.Sequential(nn.Conv2d(channels, 4, 3))
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def test_nothing_is_said_by_a_plain_model():
    assert example_input(convolution()) is None
    assert example_input(convolution(config={"a": 1})) is None


def test_timm():
    given = {"input_size": (3, 32, 40)}
    assert shapes(batch(convolution(default_cfg=given))) == (16, 3, 32, 40)
    assert shapes(batch(convolution(1, pretrained_cfg=given))) == (16, 1, 32, 40)
    patches = nn.Module()
    patches.img_size = (16, 16)
    assert shapes(batch(convolution(default_cfg=given, patch_embed=patches))) == (16, 3, 16, 16)
    # Fewer of large images.
    assert shapes(batch(convolution(default_cfg={"input_size": (3, 512, 512)})))[0] == 2
    made = batch(convolution(default_cfg=given))
    assert made.dtype is torch.float64
    assert made.std().item() == pytest.approx(1.0, rel=1e-3)


def test_an_example_of_the_users_own():
    assert batch(convolution(example_input_array=torch.ones(2, 3))).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("home", "name", "expected"),
    [
        ("resnet", "ResNet", (8, 3, 224, 224)),
        ("inception", "Inception3", (4, 3, 299, 299)),
        ("video.resnet", "VideoResNet", (2, 3, 16, 112, 112)),
        ("optical_flow.raft", "RAFT", [(2, 3, 128, 128)] * 2),
        (
            "detection.faster_rcnn",
            "FasterRCNN",
            [[(3, 224, 224)] * 2, [{"boxes": (1, 4), "labels": (1,)}] * 2],
        ),
    ],
)
def test_torchvision(home, name, expected):
    kind = type(name, (nn.Sequential,), {"__module__": f"torchvision.models.{home}"})
    assert shapes(batch(kind(nn.Conv2d(3, 4, 3)))) == expected


class Pretrained(nn.Module):
    """A model with a configuration, as transformers has it."""

    main_input_name = "input_ids"

    def __init__(self, **config):
        super().__init__()
        self.config = SimpleNamespace(to_dict=dict, **config)

    def forward(self, input_ids=None, labels=None):
        return input_ids


class Translator(Pretrained):
    def forward(self, input_ids=None, decoder_input_ids=None):
        return input_ids


class Seeing(Pretrained):
    main_input_name = "pixel_values"

    def forward(self, pixel_values, input_ids=None):
        return pixel_values


class Hearing(Pretrained):
    main_input_name = "input_values"

    def forward(self, input_values, **kwargs):
        return input_values


class Transcribing(Pretrained):
    main_input_name = "input_features"

    def forward(self, input_features, decoder_input_ids=None):
        return input_features


class Asking(Pretrained):
    def forward(self, input_ids, prompt):
        return input_ids


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Pretrained(vocab_size=50), {"input_ids": (16, 32)}),
        (Pretrained(vocab_size=50, max_position_embeddings=8), {"input_ids": (16, 8)}),
        (Translator(vocab_size=50), {"input_ids": (16, 32)}),
        (
            Translator(vocab_size=50, is_encoder_decoder=True),
            {"input_ids": (16, 32), "decoder_input_ids": (16, 32)},
        ),
        (Seeing(image_size=32, num_channels=1), {"pixel_values": (16, 1, 32, 32)}),
        (Seeing(image_size=(16, 24)), {"pixel_values": (16, 3, 16, 24)}),
        (Seeing(image_size={"height": 8, "width": 12}), {"pixel_values": (16, 3, 8, 12)}),
        (Seeing(hidden_sizes=[4]), {"pixel_values": (8, 3, 224, 224)}),
        (Seeing(image_size=32, num_frames=4), {"pixel_values": (16, 4, 3, 32, 32)}),
        (
            Seeing(text_config=SimpleNamespace(vocab_size=50), vision_config=SimpleNamespace(image_size=224)),
            {"pixel_values": (8, 3, 224, 224), "input_ids": (8, 32)},
        ),
        (Hearing(), {"input_values": (16, 16000)}),
        (Hearing(sampling_rate=8000, audio_channels=1), {"input_values": (16, 1, 8000)}),
        (Hearing(num_mel_bins=16, max_length=64, frequency_stride=10), {"input_values": (16, 64, 16)}),
        (
            Transcribing(num_mel_bins=8, max_source_positions=20, vocab_size=50, is_encoder_decoder=True),
            {"input_features": (16, 8, 40), "decoder_input_ids": (16, 32)},
        ),
        (Transcribing(feature_projection_input_dim=12), {"input_features": (16, 128, 12)}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_transformers(model, expected):
    assert shapes(batch(model)) == expected


def test_an_argument_that_nothing_is_known_of():
    assert example_input(Asking(vocab_size=50)) is None


def test_texts_hold_no_special_tokens_and_end_as_texts_do():
    ids = batch(Pretrained(vocab_size=6, pad_token_id=0, bos_token_id=1, eos_token_id=2, mask_token_id=9))["input_ids"]
    assert ids[:, -1].tolist() == [2] * 16
    assert set(ids[:, :-1].unique().tolist()) == {3, 4, 5}
