"""What lets propscope's own work run inside the user's program: a guard around it, and hooks that do not travel."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.fx import _symbolic_trace

from propscope.records.network import CoverageNote

_FAKE, _PROXY, _FUNCTIONAL = (getattr(torch._C._TorchDispatchModeKey, name) for name in ("FAKE", "PROXY", "FUNCTIONAL"))
# Looked up once, as each call of a module and each gradient asks.
_tracing_state = torch._C._get_tracing_state
_functorch_level = torch._C._functorch.maybe_current_level
_dispatch_modes = torch._C._len_torch_dispatch_stack
_mode = torch._C._get_dispatch_mode
_current_task = torch._C._current_graph_task_id
_PlainFunctions = torch._C.DisableTorchFunction
# From torch 2.14 on there is no flag for all threads any more; older versions lack the function.
_fx_tracing = getattr(_symbolic_trace, "is_fx_symbolic_tracing", lambda: _symbolic_trace._is_fx_tracing_flag)


class NotRecordableError(Exception):
    """Raised inside a guard for a tensor that cannot be read; the message is the reason."""


class Guard:
    """Runs propscope's own work; what it raises becomes a coverage note, and the user's program goes on.

    What the user's own operations raise never passes through here. `KeyboardInterrupt` and its like pass.
    """

    def __init__(self) -> None:
        self.notes: dict[tuple[str, str], CoverageNote] = {}

    def __call__(
        self,
        name: str,
        what: Literal["module", "output", "operation", "parameter"],
        subject: str,
        work: Callable[..., Any],
        *arguments: Any,
    ) -> Any:
        """Return what `work` returns, None where it raises; no torch function of the user sees what it does."""
        try:
            with _PlainFunctions():
                return work(*arguments)
        except Exception as error:
            self._note(name, what, subject, error)
            return None

    def _note(self, name: str, what: Any, subject: str, error: Exception) -> None:
        try:
            text = next(iter(str(error).strip().splitlines()), "")
        except Exception:
            text = ""
        kind = "" if isinstance(error, NotRecordableError) else f"{type(error).__name__}: "
        self.add(name, what, f"{subject} could not be recorded: {kind}{text}", key=subject)

    def add(self, name: str, what: Any, reason: str, *, key: str = "") -> None:
        """Note the first reason under a name and a key."""
        self.notes.setdefault((name, key), CoverageNote(name, what, reason))


def inert() -> Callable[..., None]:
    """Return a function that takes anything and does nothing, and that can be unpickled without propscope."""
    return nullcontext().__exit__


class Hook(partial[None]):
    """Calls a function with bound arguments first; copied or pickled, it becomes `inert()`."""

    # A call takes no Python frame of its own.
    __slots__ = ()
    # torch warns of hooks without this mark when it saves the tensor.
    __torch_unserializable__ = True

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return inert()

    # What remains is no partial, so that none of its state is there to restore.
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, str]]:
        return getattr, (nullcontext(), "__exit__")


def in_backward() -> bool:
    """Return whether a backward pass is running, which is when checkpoints run their forward again."""
    return _current_task() != -1


def transformation(*, functorch: bool = True) -> str:
    """Return what turns the present run into something else than values, "" where nothing does.

    Whatever is done to the tensors then would become part of a graph, or of a transformed function. `functorch`:
    whether a transform of torch.func counts.
    """
    if _tracing_state() is not None:
        return "torch.jit.trace"
    if functorch and _functorch_level() is not None:
        return "a transform of torch.func"
    if _fx_tracing():
        return "torch.fx.symbolic_trace"
    if _dispatch_modes() and (_mode(_FAKE) is not None or _mode(_PROXY) is not None or _mode(_FUNCTIONAL) is not None):
        return "a mode of fake tensors or of tracing"
    return ""


def require_storage(tensor: Tensor) -> None:
    """Raise `NotRecordableError` where a strided tensor's storage ends before its elements, as after `resize_(0)`."""
    if not has_storage(tensor):
        available, needed = _bytes(tensor)
        raise NotRecordableError(f"its storage was freed or shrunk: it holds {available} bytes of {needed}")


def has_storage(tensor: Tensor) -> bool:
    """Return whether a tensor's storage holds all its elements; True for what has no strided one."""
    if tensor.layout is not torch.strided or not tensor.numel() or tensor.is_nested:
        return True
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return True
    available, needed = _bytes(tensor)
    return available >= needed


def _bytes(tensor: Tensor) -> tuple[int, int]:
    needed = int(tensor.storage_offset() + extent(tensor)) * tensor.element_size()
    return tensor.untyped_storage().nbytes(), needed


def extent(tensor: Tensor) -> int:
    """Return how many elements lie from a strided tensor's first to its last in memory, both included."""
    if tensor.is_contiguous():
        return tensor.numel()
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
