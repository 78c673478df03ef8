"""A number of attention heads that suits a width: a small model of a configuration made for a large one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def suited_heads(kind: type, asked: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return what to ask of a configuration class of transformers beyond `asked`, and a note on it; nothing as a rule.

    Where a width is asked for that the default number of heads does not divide, and no number of heads, the heads
    keep their default width if that divides it, else there are as many as divide both.
    """
    names: Mapping[str, str] = getattr(kind, "attribute_map", {})
    width, heads = names.get("hidden_size", "hidden_size"), names.get("num_attention_heads", "num_attention_heads")
    default = kind()
    wanted = _positive(asked.get(width))
    usual, count = (_positive(getattr(default, name, 0)) for name in (width, heads))
    shared = getattr(default, "num_key_value_heads", None)
    if not (wanted and usual and count) or heads in asked or shared or wanted % count == 0:
        return {}, ""
    each = usual // count
    fitting = wanted // each if wanted % each == 0 else max(n for n in range(1, count + 1) if wanted % n == 0)
    return {heads: fitting}, f"{heads} {fitting} ({wanted} is not divisible by the configuration's {count})"


def _positive(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
