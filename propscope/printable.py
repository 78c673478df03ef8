"""Text that a terminal or a picture may show: names come from files and models of strangers, and may hold anything."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, TypeVar

Record = TypeVar("Record")

# Control characters (C0, DEL, C1), line separators, lone surrogates, and what reorders or hides the text around it
# (marks and overrides of direction, zero width, tags). Joiners (U+200C, U+200D) belong to scripts and stay.
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f"
)
_UNSHOWN, _UNSHOWN_IN_LINES = re.compile(f"[{_HIDDEN}]"), re.compile(f"(?!\n)[{_HIDDEN}]")

# Fields of records whose values hold no text, by their annotation; most fields are numbers.
_NUMBERS = re.compile(
    r"(int|float|bool|None|Floats|TensorSummary|Expected|LogHistogram|tuple\[(int|float), \.\.\.\]|NDArray\[.*\]| \| )+"
)
# The fewest characters that are left of a part of a name.
_LEAST_PART = 3
# JSON, which holds no control characters and is parsed again.
_PARSED = ("spec",)


def printable(text: str, *, lines: bool = False) -> str:
    """Return the text with each control character written as its escape, such as `\\x1b`.

    So no text moves a cursor, sets a title or a colour, rings, or reads in another order than it is stored. `lines`
    keeps line feeds.
    """
    if text.isprintable():
        return text
    return (_UNSHOWN_IN_LINES if lines else _UNSHOWN).sub(lambda found: ascii(found[0])[1:-1], text)


def shortened(name: str, most: int) -> str:
    """Return the name of a site or parameter in at most `most` characters; its longest parts lose their ends.

    So names that differ in the number of a block, or of a call, still differ: `blocks.0.attention.scaled_d…#1`. Where
    that is not enough, the first modules go, up to one that has a number: `….0.att….self.query`. A name that is still
    too long loses its middle.
    """
    text = printable(name)
    modules, mark, call = text.partition("#")
    parts = modules.split(".")
    first = next((at for at, part in enumerate(parts) if part.isdecimal()), 0)
    for gone in range(first + 1):
        fitting = _fitting(["…"] * (gone > 0) + parts[gone:], most - len(mark + call))
        if fitting is not None:
            return fitting + mark + call
    head = (most - 1) // 2
    return f"{text[:head]}…{text[head + 1 - most :]}" if most > 1 else "…"[:most]


def _fitting(parts: list[str], most: int) -> str | None:
    """Return parts of a name with dots between them in at most `most` characters, None where they do not fit."""
    while (over := len(".".join(parts)) - most) > 0:
        longest = max(range(len(parts)), key=lambda at: len(parts[at].rstrip("…")))
        part = parts[longest].rstrip("…")
        if len(part) <= _LEAST_PART:
            return None
        parts[longest] = part[: max(_LEAST_PART, len(part) - over - (parts[longest] == part))] + "…"
    return ".".join(parts)


def shown(record: Record, as_text: Callable[[str], str] = printable) -> Record:
    """Return a record with `as_text` of every text in it, also in its keys; the record itself where nothing changes."""
    found: Any = record
    if isinstance(record, str):
        return as_text(record)  # type: ignore[return-value]
    if isinstance(record, (tuple, list)):
        parts = [shown(part, as_text) for part in record]
        changed = any(new is not old for new, old in zip(parts, record, strict=True))
        return type(record)(parts) if changed else record
    if isinstance(record, Mapping):
        items = {shown(name, as_text): shown(value, as_text) for name, value in record.items()}
        same = all(new is old and items[new] is record[old] for new, old in zip(items, record, strict=False))
        return record if same and len(items) == len(record) else items  # type: ignore[return-value]
    if is_dataclass(record) and not isinstance(record, type):
        values = {name: getattr(record, name) for name in _with_text(type(record))}
        new = {name: shown(value, as_text) for name, value in values.items()}
        differing = {name: value for name, value in new.items() if value is not values[name]}
        return replace(found, **differing) if differing else record
    return record


@cache
def _with_text(record: type) -> tuple[str, ...]:
    return tuple(
        field.name
        for field in fields(record)
        if field.init and field.name not in _PARSED and not _NUMBERS.fullmatch(str(field.type))
    )
