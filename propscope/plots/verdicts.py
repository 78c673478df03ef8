"""The mark that a picture gives a network for its verdict."""

from __future__ import annotations

from collections.abc import Iterable

from propscope.diagnosis import diagnose
from propscope.records import ProfileSet

MARKS = {"healthy": "", "strained": "!", "broken": "✗"}


def mark_of(profiles: ProfileSet) -> str:
    """Return the mark of networks' verdict, the worst of them: "" for healthy ones and for none."""
    return MARKS[diagnose(profiles, notes=False).verdict] if len(profiles) else ""


def key_of(marks: Iterable[str]) -> str:
    """Return what the marks say, as a sentence to add to a reading; "" where there are none."""
    seen = set(marks)
    parts = [f"{mark}:\N{NO-BREAK SPACE}{verdict}" for verdict, mark in MARKS.items() if mark and mark in seen]
    return f" Verdict: {', '.join(parts[::-1])}; unmarked: healthy." if parts else ""
