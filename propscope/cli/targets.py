"""The model that a target names: found, called with its arguments, given weights."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from propscope.cli.head_counts import suited_heads
from propscope.errors import InputError
from propscope.networks import initialize_, seeded_generator
from propscope.networks.spec import load_callable

_HOW = "a target is package.module:callable or path/to/file.py:callable, and returns a torch.nn.Module"
_KEYS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Built:
    """A model, and what was done to its weights, in words."""

    model: nn.Module
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """How the model is made: `name` as typed, what it names, keyword arguments and configuration, then weights."""

    name: str
    found: Callable[..., Any]
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    checkpoint: Path | None = None
    init: str | None = None

    def build(self, *, seed: int, device: torch.device, dtype: torch.dtype) -> Built:
        """Return the model with weights of this seed, as `torch.manual_seed(seed)` and the callable make it.

        Then come the checkpoint and the initializer. Raises `InputError` for arguments that the callable does not
        take, for one that fails or returns no module, and for a checkpoint or initializer that does not fit.
        """
        with _seeded(seed):
            model, notes = self._make()
        if self.checkpoint is not None:
            _load_weights(model, self.checkpoint)
            notes.append(f"weights {self.checkpoint}")
        if self.init is not None:
            done = initialize_(model, self.init, generator=seeded_generator(seed, "init", self.init))
            notes.append(f"init {self.init} ({len(done)} of {len(list(model.parameters()))} parameters set)")
        return Built(model.to(device=device, dtype=dtype), tuple(notes))

    def _make(self) -> tuple[nn.Module, list[str]]:
        if isinstance(self.found, nn.Module):
            if self.arguments or self.config:
                raise InputError(f"target {self.name!r} is a module already; it takes neither --arg nor --config")
            return self.found, []
        configured, note = self._config()
        _check_arguments(self.name, self.found, configured, self.arguments)
        try:
            model = self.found(*configured, **self.arguments)
        except Exception as error:  # A user's callable may fail in any way.
            raise InputError(
                f"target {self.name!r} failed: {one_line(error)}", hint="change --arg or --config, or mend it"
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"target {self.name!r} returned {type(model).__name__}; valid is a torch.nn.Module", hint=_HOW
            )
        return model, [note] if note else []

    def _config(self) -> tuple[tuple[Any, ...], str]:
        kind = getattr(self.found, "config_class", None)
        if not self.config and (kind is None or self.arguments):
            return (), ""
        if kind is None:
            raise InputError(
                f"target {self.name!r} has no config_class; --config is for models of transformers",
                hint="give its arguments one by one: --arg name=value",
            )
        try:
            more, note = suited_heads(kind, self.config)
            return (kind(**self.config, **more),), note
        except Exception as error:
            raise InputError(
                f"target {self.name!r}: {kind.__name__} refuses the configuration: {one_line(error)}"
            ) from error


def find_target(
    name: str,
    *,
    arguments: Sequence[str] = (),
    config: str | None = None,
    checkpoint: Path | None = None,
    init: str | None = None,
) -> Target:
    """Return the target that was typed; raises `InputError` when it cannot be found or an argument cannot be read."""
    home, _, attribute = name.rpartition(":")
    if not home or not attribute:
        raise InputError(f"target is {name!r}; it names no callable", hint=_HOW)
    if home.endswith(".py") and not Path(home).is_file():
        raise InputError(f"target {name!r}: the file {home} does not exist", hint=_HOW)
    try:
        # A module may build its models, or draw, while it is imported.
        with _seeded(0):
            found = load_callable(name, "target")
    except InputError as error:
        raise InputError(str(error), hint=_HOW) from error
    pairs = re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", config) if config else []
    return Target(name, found, _values(arguments, "--arg"), _values(pairs, "--config"), checkpoint, init)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def searched(name: str) -> Iterator[None]:
    """Let a target's imports find what stands beside its file, and in the working directory, as Python itself would."""
    home = name.rpartition(":")[0]
    places = [str(Path(home).resolve().parent)] if home.endswith(".py") else []
    places = [place for place in (*places, str(Path.cwd())) if place not in sys.path]
    sys.path[:0] = places
    try:
        yield
    finally:
        for place in places:
            if place in sys.path:
                sys.path.remove(place)


def one_line(error: BaseException) -> str:
    """Return an error's type and message on one line, cut at 300 characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, raw = (part.strip() for part in pair.partition("="))
        if not equals or not name.isidentifier():
            raise InputError(f"{option} has {pair!r}; valid is name=value", hint=f"{option} hidden=512")
        if name in values:
            raise InputError(f"{option} gives {name} twice", hint="give it once")
        values[name] = _literal(raw)
    return values


def _literal(raw: str) -> Any:
    words = {"true": True, "false": False, "none": None}
    if raw.lower() in words:
        return words[raw.lower()]
    try:
        return ast.literal_eval(raw)
    except (ValueError, SyntaxError):
        return raw


def _check_arguments(
    name: str, found: Callable[..., Any], leading: tuple[Any, ...], arguments: Mapping[str, Any]
) -> None:
    try:
        signature = inspect.signature(found)
    except (ValueError, TypeError):
        return
    try:
        signature.bind(*leading, **arguments)
    except TypeError as error:
        taken = ", ".join(
            parameter.name + ("" if parameter.default is parameter.empty else f"={parameter.default!r}")
            for parameter in list(signature.parameters.values())[len(leading) :]
            if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        )
        raise InputError(f"target {name!r}: {error}; it takes {taken or 'nothing'}", hint="--arg name=value") from None


def _load_weights(model: nn.Module, path: Path) -> None:
    state = load_tensors(path, "checkpoint")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"checkpoint {path} holds a {type(state).__name__}; valid is a state_dict of tensors")
    own = model.state_dict()
    # DataParallel and compiled wrappers save their own name in front.
    given = {re.sub(r"(^|\.)(?:module|_orig_mod)\.", r"\1", name): value for name, value in state.items()}
    given = given if given.keys() & own.keys() else dict(state)
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{len(names)} {what} ({_few(names)})" for what, names in problems.items() if names)
        raise InputError(f"checkpoint {path} does not fit the model: {said}", hint="build the model that was saved")
    model.load_state_dict(given)


def load_tensors(path: Path, what: str) -> Any:
    """Return what a torch file holds, read with weights_only; raises `InputError` when it cannot be read."""
    if not path.is_file():
        problem = "is a directory" if path.is_dir() else "does not exist"
        raise InputError(f"the {what} {path} {problem}", hint="give the path of a file saved by torch.save")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged archive raises whatever its bytes happen to spell.
        first = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"the {what} {path} is no torch file that loads with weights_only=True ({type(error).__name__}: {first})",
            hint="save tensors alone, with torch.save",
        ) from error


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_KEYS_SHOWN]) + (", ..." if len(names) > _KEYS_SHOWN else "")
