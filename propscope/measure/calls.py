"""Calls of watched modules: `nn.Module._call_impl` hands them to whoever watches the module.

The modules hold nothing of propscope, so that a copy, a pickle, a script or a graph that is made meanwhile holds
nothing either. A module that nobody watches pays a third of a microsecond a call; torch's global hooks would cost it
four.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from propscope.measure.module_info import ModuleInfo

Run = Callable[..., Any]


class Watcher(Protocol):
    """What is called in the place of a module that it watches."""

    def call(self, info: ModuleInfo, run: Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return `run(module, *args, **kwargs)`."""


_lock = threading.RLock()
_watched: dict[int, tuple[tuple[Watcher, ModuleInfo], ...]] = {}
_compiled: dict[int, tuple[nn.Module, Any]] = {}
_original: Run = nn.Module._call_impl
_wrapped = False
_is_compiling = torch.compiler.is_compiling


def _call_impl(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if _is_compiling() or (watchers := _watched.get(id(self))) is None:
        return _original(self, *args, **kwargs)
    return _through(watchers, self, *args, **kwargs)


def _through(watchers: tuple[tuple[Watcher, ModuleInfo], ...], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
    watcher, info = watchers[0]
    run = partial(_through, watchers[1:]) if len(watchers) > 1 else _original
    return watcher.call(info, run, module, args, kwargs)


def watch(watcher: Watcher, modules: Iterable[ModuleInfo]) -> None:
    """Hand the calls of these modules to `watcher`, until `unwatch`."""
    global _original
    with _lock:
        if not _watched and not _wrapped and nn.Module._call_impl is not _call_impl:
            _original = nn.Module._call_impl
            nn.Module._call_impl = _call_impl  # type: ignore[method-assign]
        for info in modules:
            module = info.module
            _watched[id(module)] = (*_watched.get(id(module), ()), (watcher, info))
            # What was compiled calls past `_call_impl`; it runs eagerly while it is watched.
            if (compiled := module.__dict__.get("_compiled_call_impl")) is not None and id(module) not in _compiled:
                _compiled[id(module)] = (module, compiled)
                module._compiled_call_impl = None


def unwatch(watcher: Watcher) -> None:
    """Stop handing calls to `watcher`."""
    global _wrapped
    with _lock:
        for key, watchers in list(_watched.items()):
            others = tuple(pair for pair in watchers if pair[0] is not watcher)
            if others:
                _watched[key] = others
                continue
            del _watched[key]
            module, compiled = _compiled.pop(key, (None, None))
            if module is not None and module._compiled_call_impl is None:
                module._compiled_call_impl = compiled
        if not _watched:
            # Whoever replaced it meanwhile calls it: with nothing watched, it calls the original.
            _wrapped = nn.Module._call_impl not in (_call_impl, _original)
            if not _wrapped:
                nn.Module._call_impl = _original  # type: ignore[method-assign]
