"""Hooks that do not travel: a model that is copied or saved while it is watched takes none of them along."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any


def inert() -> Callable[..., None]:
    """Return a function that takes anything and does nothing, and that can be unpickled without propscope."""
    return nullcontext().__exit__


class Hook:
    """Calls `function` with `bound` arguments first; copied or pickled, it becomes `inert()`."""

    __slots__ = ("_call",)

    def __init__(self, function: Callable[..., None], *bound: Any) -> None:
        self._call = partial(function, *bound)

    def __call__(self, *arguments: Any) -> None:
        """Pass the arguments on, behind the bound ones."""
        self._call(*arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (nullcontext(), "__exit__")
