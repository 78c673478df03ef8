"""Architectures of the transformers package: tiny, with random weights, built from a config and never downloaded."""

from collections.abc import Callable
from typing import Any

from torch import nn

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def from_config(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a builder of a class of transformers, in training mode."""

    def build() -> nn.Module:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**options)).train()

    return build


gpt2 = from_config(
    "GPT2LMHeadModel",
    "GPT2Config",
    n_layer=2,
    n_embd=32,
    n_head=4,
    vocab_size=50,
    n_positions=16,
    bos_token_id=1,
    eos_token_id=2,
)
llama = from_config(
    "LlamaForCausalLM", "LlamaConfig", **_SMALL, num_key_value_heads=2, intermediate_size=48, vocab_size=50
)
vit = from_config(
    "ViTForImageClassification", "ViTConfig", **_SMALL, intermediate_size=48, image_size=16, patch_size=8, num_labels=4
)
bert = from_config("BertModel", "BertConfig", **_SMALL, intermediate_size=48, vocab_size=50, max_position_embeddings=16)
bert_masked = from_config(
    "BertForMaskedLM", "BertConfig", **_SMALL, intermediate_size=48, vocab_size=50, max_position_embeddings=16
)
whisper = from_config(
    "WhisperForConditionalGeneration",
    "WhisperConfig",
    d_model=32,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    vocab_size=50,
    num_mel_bins=8,
    max_source_positions=8,
    max_target_positions=8,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
    decoder_start_token_id=1,
    dropout=0.1,
)
mixtral = from_config(
    "MixtralForCausalLM",
    "MixtralConfig",
    **_SMALL,
    num_key_value_heads=2,
    intermediate_size=24,
    vocab_size=50,
    num_local_experts=4,
    num_experts_per_tok=2,
    output_router_logits=True,
)
mamba = from_config("MambaForCausalLM", "MambaConfig", hidden_size=16, num_hidden_layers=2, vocab_size=50, state_size=4)
