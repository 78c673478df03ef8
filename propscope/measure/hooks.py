"""Hooks that do not travel: a model that is copied or saved while it is watched takes none of them along."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch


def inert() -> Callable[..., None]:
    """Return a function that takes anything and does nothing, and that can be unpickled without propscope."""
    return nullcontext().__exit__


class Hook(partial[None]):
    """Calls a function with bound arguments first; copied or pickled, it becomes `inert()`."""

    # A call takes no Python frame of its own.
    __slots__ = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert()

    # What remains is no partial, so that none of its state is there to restore.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (nullcontext(), "__exit__")


def in_backward() -> bool:
    """Return whether a backward pass is running, which is when checkpoints run their forward again."""
    return torch._C._current_graph_task_id() != -1
