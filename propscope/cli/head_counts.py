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
    wanted = asked.get(width)
    default = kind()
    usual, count = getattr(default, width, None), getattr(default, heads, None)
    whole = all(isinstance(number, int) and number > 0 for number in (wanted, usual, count))
    if not whole or heads in asked or getattr(default, "num_key_value_heads", None) or wanted % count == 0:
        return {}, ""
    each = usual // count
    fitting = wanted // each if wanted % each == 0 else max(n for n in range(1, count + 1) if wanted % n == 0)
    return {heads: fitting}, f"{heads} {fitting} ({wanted} is not divisible by the configuration's {count})"
