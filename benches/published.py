"""Published architectures with random weights: how each is built, and an input that is as its users prepare it.

The libraries are extras of the bench: `pip install -e '.[architectures]'` and torchvision without its dependencies. An
architecture keeps its depth and the scheme of its initializer; only widths, classes and inputs are small.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Build = Callable[[], tuple[nn.Module, Any]]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model that others published: the `library` that defines it, and a function that returns it with a batch."""

    name: str
    library: str
    build: Build


def images(*shape: int) -> Tensor:
    """Return normalized images: smooth noise of mean 0 and std 1, since neighbouring pixels are alike."""
    *batch, height, width = shape
    coarse = torch.randn(*batch, max(height // 4, 1), max(width // 4, 1))
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bilinear") + 0.3 * torch.randn(*shape)
    return smooth / smooth.std()


def timm(size: int = 64, *, name: str, **options: Any) -> tuple[nn.Module, Any]:
    model = importlib.import_module("timm").create_model(name, num_classes=10, **options)
    return model, images(8, 3, size, size)


def torchvision(size: int = 64, *, name: str, **options: Any) -> tuple[nn.Module, Any]:
    model = getattr(importlib.import_module("torchvision.models"), name)(weights=None, num_classes=10, **options)
    return model, images(8, 3, size, size)


def _declare_operators() -> None:
    """Declare the compiled operators of torchvision that its import asks for, where its binary does not fit torch."""
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _DECLARED.append(library)


_DECLARED: list[Any] = []
_declare_operators()

TEXT = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128, "vocab_size": 200}


def tokens(*shape: int) -> Tensor:
    return torch.randint(5, 190, shape)


def transformer(kind: str, task: str, inputs: Callable[[], Mapping[str, Any]], **sizes: Any) -> tuple[nn.Module, Any]:
    """Return a model of transformers by its config's `kind`, for a `task` such as "ForCausalLM"."""
    library = importlib.import_module("transformers")
    library.logging.set_verbosity_error()
    config = library.AutoConfig.for_model(kind, **sizes)
    config._attn_implementation = "eager"
    return getattr(library, f"AutoModel{task}").from_config(config), inputs()


def text(*, name: str, task: str, **sizes: Any) -> tuple[nn.Module, Any]:
    given = {key: size for key, size in {"num_hidden_layers": 6, **TEXT, **sizes}.items() if size is not None}
    return transformer(name, task, lambda: {"input_ids": tokens(8, 24)}, **given)


SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}


def translation(*, name: str, **sizes: Any) -> tuple[nn.Module, Any]:
    def inputs() -> Mapping[str, Any]:
        return {"input_ids": tokens(8, 24), "decoder_input_ids": tokens(8, 16)}

    return transformer(name, "ForSeq2SeqLM", inputs, vocab_size=200, **SPECIAL, **sizes)


BART = {
    "d_model": 64,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128,
}


def vision(*, name: str, **sizes: Any) -> tuple[nn.Module, Any]:
    return transformer(name, "ForImageClassification", lambda: {"pixel_values": images(8, 3, 64, 64)}, **sizes)


VIT = {"hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4, "intermediate_size": 128, "image_size": 64}


def sound(*, name: str) -> tuple[nn.Module, Any]:
    sizes = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    return transformer(name, "ForAudioClassification", lambda: {"input_values": torch.randn(4, 4000)}, **sizes)


def whisper() -> tuple[nn.Module, Any]:
    def inputs() -> Mapping[str, Any]:
        return {"input_features": torch.randn(4, 80, 128), "decoder_input_ids": tokens(4, 16)}

    return transformer(
        "whisper", "ForSpeechSeq2Seq", inputs, **BART, **SPECIAL, vocab_size=200, max_source_positions=64
    )


def clip() -> tuple[nn.Module, Any]:
    library = importlib.import_module("transformers")
    small = {"hidden_size": 64, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 128}
    config = library.CLIPConfig(
        text_config={**small, "vocab_size": 200, "eos_token_id": 199},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    )
    return library.CLIPModel(config), {"input_ids": tokens(8, 16), "pixel_values": images(8, 3, 32, 32)}


def diffusion(*, name: str, inputs: Mapping[str, Any], **sizes: Any) -> tuple[nn.Module, Any]:
    """Return a model of diffusers and its inputs: a tensor, or the shape of one that is drawn."""
    model = getattr(importlib.import_module("diffusers"), name)(**sizes)
    return model, {key: torch.randn(*given) if isinstance(given, tuple) else given for key, given in inputs.items()}


STEPS, CLASSES = torch.arange(4) * 200, torch.arange(4)


def noised(*shape: int, **others: Any) -> dict[str, Any]:
    return {"sample": shape, "timestep": STEPS, **others}


UNET = {"sample_size": 32, "layers_per_block": 2, "block_out_channels": (32, 64, 64), "norm_num_groups": 8}
ATTENDING = {
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CROSS = {
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
HEADS = {"num_attention_heads": 4, "attention_head_dim": 16}
CODER = {
    "block_out_channels": (32, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 8,
}


class Stacked(nn.Module):
    """A stack of graph convolutions as the tutorials of torch_geometric write it: `make(width, width)` a layer."""

    def __init__(self, make: Callable[[int, int], nn.Module], *, depth: int, width: int = 64) -> None:
        super().__init__()
        self.convs = nn.ModuleList(make(width if at else 16, width) for at in range(depth))
        self.head = nn.Linear(width, 7)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the logits of each node."""
        for conv in self.convs:
            x = conv(x, edges).relu()
        logits: Tensor = self.head(x)
        return logits


class GCNII(nn.Module):
    """GCNII (Chen et al. 2020): each of many layers adds a share of the first features."""

    def __init__(self, *, depth: int, width: int = 64) -> None:
        super().__init__()
        layer = importlib.import_module("torch_geometric.nn").GCN2Conv
        self.first, self.head = nn.Linear(16, width), nn.Linear(width, 7)
        self.convs = nn.ModuleList(layer(width, alpha=0.1, theta=0.5, layer=at + 1) for at in range(depth))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Return the logits of each node."""
        x = start = self.first(x).relu()
        for conv in self.convs:
            x = conv(x, start, edges).relu()
        logits: Tensor = self.head(x)
        return logits


def graph() -> tuple[Tensor, Tensor]:
    """Return the features of 128 nodes and 512 edges, each in both directions."""
    edges = torch.randint(128, (2, 256))
    return torch.randn(128, 16), torch.cat([edges, edges.flip(0)], dim=1)


def geometric(name: str, *, depth: int = 3, **options: Any) -> tuple[nn.Module, Any]:
    model = getattr(importlib.import_module("torch_geometric.nn"), name)(16, 64, depth, 7, **options)
    return model, graph()


def stacked(name: str, depth: int, **options: Any) -> tuple[nn.Module, Any]:
    layer = getattr(importlib.import_module("torch_geometric.nn"), name)
    return Stacked(lambda wide, narrow: layer(wide, narrow, **options), depth=depth), graph()


def deep_gcn(depth: int) -> tuple[nn.Module, Any]:
    library = importlib.import_module("torch_geometric.nn")

    class DeepGCN(nn.Module):
        """DeeperGCN (Li et al. 2020), as torch_geometric's example writes it."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = nn.Linear(16, 64), nn.Linear(64, 7)
            self.layers = nn.ModuleList(
                library.DeepGCNLayer(
                    library.GENConv(64, 64, aggr="softmax", learn_t=True, num_layers=2),
                    library.LayerNorm(64),
                    nn.ReLU(),
                    block="res+",
                )
                for _ in range(depth)
            )

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            x = self.encoder(x)
            for layer in self.layers:
                x = layer(x, edges)
            first: Any = self.layers[0]
            logits: Tensor = self.head(first.act(first.norm(x)))
            return logits

    return DeepGCN(), graph()


def gcnii(depth: int) -> tuple[nn.Module, Any]:
    return GCNII(depth=depth), graph()


def _named(library: str, make: Callable[..., tuple[nn.Module, Any]], names: tuple[str, ...]) -> list[Architecture]:
    return [Architecture(name, library, partial(make, name=name)) for name in names]


def _each(
    library: str, make: Callable[..., tuple[nn.Module, Any]], sizes: Mapping[str, Mapping[str, Any]]
) -> list[Architecture]:
    return [Architecture(name, library, partial(make, name=name, **given)) for name, given in sizes.items()]


# fmt: off
ARCHITECTURES: tuple[Architecture, ...] = (
    *_named("timm", timm, (
        "resnet18", "resnet26d", "resnext50_32x4d", "legacy_seresnet18", "mobilenetv2_050", "mobilenetv3_small_050",
        "mobilenetv3_large_075", "efficientnet_b0", "efficientnet_lite0", "efficientnetv2_rw_t", "fbnetc_100",
        "fbnetv3_b", "mnasnet_small", "regnetx_002", "regnety_002", "ghostnet_050", "tinynet_e", "semnasnet_075",
        "spnasnet_100", "hardcorenas_a", "densenet121", "convmixer_768_32", "convnext_atto", "convnextv2_atto",
        "repvgg_a0", "nf_regnet_b0", "nfnet_l0", "dla34", "cspdarknet53", "hrnet_w18_small", "lcnet_050",
        "mobileone_s0", "edgenext_xx_small", "poolformer_s12", "mobilevit_xxs", "selecsls42", "vgg11", "vgg11_bn",
        "res2net50_26w_4s", "ese_vovnet19b_dw", "rexnet_100", "resnest14d", "pvt_v2_b0")),
    *_named("timm", partial(timm, img_size=64), (
        "mixer_s16_224", "gmlp_ti16_224", "resmlp_12_224", "cait_xxs24_224", "xcit_nano_12_p8_224",
        "twins_pcpvt_small")),
    *_named("timm", partial(timm, img_size=64, patch_size=8), ("vit_tiny_patch16_224", "deit_tiny_patch16_224")),
    *_named("timm", partial(timm, img_size=64, embed_dim=96, num_heads=4), ("beit_base_patch16_224",)),
    *_named("timm", partial(timm, 56, img_size=56, embed_dim=48), ("swin_tiny_patch4_window7_224",)),
    *_named("timm", partial(timm, 224, img_size=224), ("levit_128s",)),
    *_named("torchvision", torchvision, (
        "resnet34", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b1", "regnet_y_400mf", "shufflenet_v2_x0_5",
        "squeezenet1_1", "mnasnet0_5", "densenet121", "vgg13", "convnext_tiny")),
    *_named("torchvision", partial(torchvision, 96), ("alexnet",)),
    *_named("torchvision", partial(torchvision, init_weights=True, aux_logits=False), ("googlenet",)),
    *_each("transformers", partial(text, task="ForCausalLM", use_cache=False), {
        "gpt2": {"n_embd": 64, "n_head": 4, "n_layer": 6, "n_positions": 64},
        "gpt_neo": {"num_layers": 6, "num_heads": 4, "attention_types": [[["global", "local"], 3]]},
        "gpt_neox": {}, "gptj": {"n_embd": 64, "n_head": 4, "n_layer": 6, "n_positions": 64, "rotary_dim": 8},
        "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64}, "bloom": {"n_layer": 6, "n_head": 4},
        "llama": {"num_key_value_heads": 2}, "mistral": {"num_key_value_heads": 2},
        "gemma": {"head_dim": 16, "num_key_value_heads": 2}, "gemma2": {"head_dim": 16, "num_key_value_heads": 2},
        "qwen2": {"num_key_value_heads": 2}, "phi": {}, "phi3": {"pad_token_id": 0},
        "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4}, "olmo": {},
        "stablelm": {"num_key_value_heads": 4}, "falcon": {}, "mamba": {"state_size": 8},
        "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16},
        "rwkv": {"attention_hidden_size": 64}}),
    *_each("transformers", partial(text, task="ForSequenceClassification"), {
        "bert": {}, "roberta": {}, "distilbert": {"dim": 64, "hidden_dim": 128, "n_heads": 4, "n_layers": 6},
        "albert": {"embedding_size": 32}, "electra": {"embedding_size": 32}, "deberta": {}, "deberta-v2": {},
        "roformer": {}, "convbert": {}, "mpnet": {}, "squeezebert": {"embedding_size": 64}, "nystromformer": {},
        "funnel": {"num_hidden_layers": None, "block_sizes": [2, 2, 2], "d_model": 64, "n_head": 4, "d_head": 16,
                   "d_inner": 128}}),
    *_each("transformers", translation, {
        "t5": {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 6},
        "bart": BART, "marian": BART, "pegasus": BART, "mbart": BART}),
    *_each("transformers", vision, {
        "vit": VIT, "beit": VIT, "dinov2": VIT,
        "swin": {"embed_dim": 24, "depths": [2, 2, 6], "num_heads": [2, 4, 8], "window_size": 4, "image_size": 64},
        "convnext": {"hidden_sizes": [24, 48, 96, 192], "depths": [2, 2, 6, 2]},
        "convnextv2": {"hidden_sizes": [24, 48, 96, 192], "depths": [2, 2, 6, 2]},
        "resnet": {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 2, 2, 2], "embedding_size": 16},
        "regnet": {"hidden_sizes": [32, 64, 128, 256], "depths": [2, 3, 4, 1], "embedding_size": 16,
                   "groups_width": 16},
        "mobilevit": {"image_size": 64}, "mobilenet_v1": {}, "mobilenet_v2": {"depth_multiplier": 0.5},
        "efficientnet": {"width_coefficient": 0.5, "hidden_dim": 640, "image_size": 64}, "poolformer": {},
        "pvt": {"image_size": 64}, "focalnet": {"embed_dim": 24, "image_size": 64},
        "segformer": {"hidden_sizes": [16, 32, 64, 128]}, "cvt": {}}),
    *_each("transformers", sound, {"wav2vec2": {}, "hubert": {}, "wavlm": {}}),
    Architecture("whisper", "transformers", whisper),
    Architecture("clip", "transformers", clip),
    *_each("diffusers", diffusion, {
        "UNet2DModel": {"inputs": noised(4, 3, 32, 32), **UNET, **ATTENDING},
        "UNet2DConditionModel": {"inputs": noised(4, 4, 32, 32, encoder_hidden_states=(4, 7, 32)), **UNET, **CROSS,
                                 "cross_attention_dim": 32, "attention_head_dim": 8},
        "DiTTransformer2DModel": {"inputs": {"hidden_states": (4, 4, 16, 16), "timestep": STEPS,
                                             "class_labels": CLASSES},
                                  **HEADS, "in_channels": 4, "out_channels": 8, "num_layers": 6, "sample_size": 16,
                                  "num_embeds_ada_norm": 1000, "norm_num_groups": 8},
        "Transformer2DModel": {"inputs": {"hidden_states": (4, 32, 8, 8), "encoder_hidden_states": (4, 7, 32)}, **HEADS,
                               "in_channels": 32, "num_layers": 4, "cross_attention_dim": 32, "norm_num_groups": 8},
        "AutoencoderKL": {"inputs": {"sample": (4, 3, 32, 32)}, **CODER, "latent_channels": 4, "layers_per_block": 2},
        "VQModel": {"inputs": {"sample": (4, 3, 32, 32)}, **CODER, "latent_channels": 3},
        "ControlNetModel": {"inputs": noised(4, 4, 16, 16, encoder_hidden_states=(4, 7, 32),
                                             controlnet_cond=(4, 3, 128, 128)),
                            "layers_per_block": 2, "block_out_channels": (32, 64, 64), "norm_num_groups": 8,
                            "down_block_types": CROSS["down_block_types"], "cross_attention_dim": 32,
                            "attention_head_dim": 8},
        "PriorTransformer": {"inputs": {"hidden_states": (4, 32), "timestep": STEPS, "proj_embedding": (4, 32),
                                        "encoder_hidden_states": (4, 7, 32)},
                             **HEADS, "num_layers": 4, "embedding_dim": 32, "num_embeddings": 7,
                             "additional_embeddings": 4}}),
    *_named("torch_geometric", geometric, ("GCN", "GAT", "GIN", "GraphSAGE", "EdgeCNN")),
    Architecture("GCN x8, batch norm", "torch_geometric", partial(geometric, "GCN", depth=8, norm="batch", jk="cat")),
    *(Architecture(f"{name} x{depth}", "torch_geometric", partial(stacked, name, depth, **options))
      for name, depth, options in (
        ("GCNConv", 2, {}), ("GATv2Conv", 3, {}), ("SAGEConv", 6, {}), ("GraphConv", 3, {}),
        ("TransformerConv", 3, {}), ("TAGConv", 3, {}), ("ChebConv", 3, {"K": 3}))),
    Architecture("GCNII x32", "torch_geometric", partial(gcnii, 32)),
    Architecture("DeepGCN x14", "torch_geometric", partial(deep_gcn, 14)),
)
# fmt: on
