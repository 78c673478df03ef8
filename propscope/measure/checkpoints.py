"""Parts that torch's reentrant checkpoint runs again in the backward pass.

The first time they run without a graph, and the gradient passes what they compute again. Then they run outside of any
module: whoever watches is handed the parts, so as to know them again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

from torch.utils.checkpoint import CheckpointFunction

Part = Callable[..., Any]


class Watcher(Protocol):
    """What is handed each part before it runs for the first time."""

    def checkpointed(self, part: Part) -> Part:
        """Return what is run in its place, at first and again."""


_lock = threading.RLock()
_watchers: tuple[Watcher, ...] = ()
_original: Part = CheckpointFunction.forward


def _forward(ctx: Any, run_function: Part, *args: Any) -> Any:
    for watcher in _watchers:
        run_function = watcher.checkpointed(run_function)
    return _original(ctx, run_function, *args)


def watch(watcher: Watcher) -> None:
    """Hand the parts of checkpoints to `watcher`, until `unwatch`."""
    global _original, _watchers
    with _lock:
        if not _watchers and CheckpointFunction.forward is not _forward:
            _original = CheckpointFunction.forward
            CheckpointFunction.forward = staticmethod(_forward)  # type: ignore[method-assign]
        _watchers = (*_watchers, watcher)


def unwatch(watcher: Watcher) -> None:
    """Stop handing parts to `watcher`."""
    global _watchers
    with _lock:
        _watchers = tuple(other for other in _watchers if other is not watcher)
        # Whoever replaced it meanwhile calls it: with nobody watching, it calls the original.
        if not _watchers and CheckpointFunction.forward is _forward:
            CheckpointFunction.forward = staticmethod(_original)  # type: ignore[method-assign]
