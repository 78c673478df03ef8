"""What a target names and what it is run on: the model and its weights, its input, the loss at its output."""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from propscope import checks
from propscope.errors import InputError, error_line
from propscope.experiments.losses import LOSSES
from propscope.measure.module_info import refuse_lazy
from propscope.measure.outputs import tensors_in
from propscope.networks import initialize_, seeded_generator
from propscope.networks.example_inputs import ExampleInput, example_input
from propscope.networks.libraries import library_model, library_of, refuse_huge, tiny_values
from propscope.networks.random_batch import KINDS, RandomTensor, drawn, kind_of
from propscope.networks.spec import load_callable
from propscope.networks.tensor_files import check_structure, read_array, read_arrays, read_tensors, usable
from propscope.records.numerals import listed

_HOW = "a target is package.module:callable or path/to/file.py:callable, which returns a torch.nn.Module"
_TINY = "tiny"
_KEYS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class BuiltModel:
    """A model and, in words, how its weights were set."""

    model: nn.Module
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Target:
    """How a model is built: what `name`, as typed, refers to is called with arguments, then weights are set."""

    name: str
    callable: Callable[..., Any]
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    checkpoint: Path | None = None
    init: str | None = None

    def build(self, *, seed: int, device: torch.device, dtype: torch.dtype) -> BuiltModel:
        """Return the model as the callable makes it after `torch.manual_seed(seed)`.

        Then the checkpoint is loaded and the initializer applied. Raises `InputError` if the callable does not take
        the arguments, fails or returns no module, and if the checkpoint or the initializer does not fit.
        """
        with _seeded(seed):
            model, notes = self._make()
        if library_of(self.name) and self.checkpoint is None and not {"pretrained", "weights"} & self.arguments.keys():
            notes.append("random weights")
        if self.checkpoint is not None:
            _load_weights(model, self.checkpoint)
            # In the dtype that it runs in, where large numbers may be infinite.
            model = model.to(device=device, dtype=dtype)
            notes.append(f"weights {self.checkpoint}{_nonfinite(model)}")
        if self.init is not None:
            done = initialize_(model, self.init, generator=seeded_generator(seed, "init", self.init))
            notes.append(f"init {self.init} ({len(done)} of {len(list(model.parameters()))} parameters set)")
        return BuiltModel(model.to(device=device, dtype=dtype), tuple(notes))

    def _make(self) -> tuple[nn.Module, list[str]]:
        if isinstance(self.callable, nn.Module):
            if self.arguments or self.config:
                raise InputError(
                    f'target "{self.name}" is a module already, so it takes neither --arg nor --config',
                    hint="leave them out, or name a callable that returns a module",
                )
            return self.callable, []
        configured, note = self._config()
        _check_arguments(self.name, self.callable, configured, self.arguments)
        if configured and library_of(self.name):
            refuse_huge(self.name, lambda: self.callable(*configured, **self.arguments))
        try:
            model = self.callable(*configured, **self.arguments)
        except Exception as error:  # A user's callable may fail in any way.
            given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
            raise InputError(
                f'target "{self.name}" failed{f" with {given}" if given else ""}: {error_line(error)}',
                hint="change what it is given, or fix the callable",
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(f'target "{self.name}" must return a torch.nn.Module, got {_kind(model)}', hint=_HOW)
        return model, [note] if note else []

    def _config(self) -> tuple[tuple[Any, ...], str]:
        kind = getattr(self.callable, "config_class", None)
        if not self.config and (kind is None or self.arguments):
            return (), ""
        if kind is None:
            raise InputError(
                f'--config needs a model class of transformers, but target "{self.name}" has no config_class',
                hint="give arguments one by one: --arg name=value",
            )
        try:
            more, note = fitting_heads(kind, self.config)
            return (kind(**self.config, **more),), note
        except Exception as error:
            raise InputError(
                f'target "{self.name}": {kind.__name__} does not accept this configuration: {error_line(error)}',
                hint="change --config",
            ) from error


def load_target(
    name: str,
    *,
    arguments: Sequence[str] = (),
    config: str | None = None,
    checkpoint: Path | None = None,
    init: str | None = None,
) -> Target:
    """Return the target that was typed; raises `InputError` if it cannot be imported or an argument cannot be read."""
    home, _, attribute = name.rpartition(":")
    if not home or not attribute:
        raise InputError(f'target must name a callable, got "{name}"', hint=_HOW)
    if home.endswith(".py") and not Path(home).is_file():
        raise InputError(f'target "{name}": there is no file {home}', hint=_HOW)
    # A module may build its models, or draw, while it is imported.
    with _seeded(0):
        found = library_model(name) or _loaded(name)
    pairs = re.split(r",(?=\s*[A-Za-z_]\w*\s*=)", config) if config is not None else []
    return Target(name, found, _values(arguments, "--arg"), _configuration(pairs, found), checkpoint, init)


def _loaded(name: str) -> Callable[..., Any]:
    try:
        return load_callable(name, "target")
    except InputError as error:
        raise InputError(str(error), hint=_HOW) from error


def _configuration(pairs: Sequence[str], found: Callable[..., Any]) -> dict[str, Any]:
    """Return the values of --config: pairs, after the word tiny those of a small model."""
    kind = getattr(found, "config_class", None)
    if not pairs or pairs[0].strip() != _TINY or kind is None:
        return _values(pairs, "--config")
    return {**tiny_values(kind), **_values(pairs[1:], "--config")}


def fitting_heads(kind: type, asked: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return a number of attention heads to add to the configuration values `asked`, and a note; usually neither.

    A number is added if `asked` sets a width that the default number of heads does not divide, and no number of heads.
    It keeps the default width per head if that divides the new width; otherwise it is the largest number, at most the
    default, that divides the new width.
    """
    names: Mapping[str, str] = getattr(kind, "attribute_map", {})
    width, heads = names.get("hidden_size", "hidden_size"), names.get("num_attention_heads", "num_attention_heads")
    default = kind()
    wanted = _whole(asked.get(width))
    usual, count = (_whole(getattr(default, name, 0)) for name in (width, heads))
    shared = getattr(default, "num_key_value_heads", None)
    if not (wanted and usual and count) or heads in asked or shared or wanted % count == 0:
        return {}, ""
    each = usual // count
    fitting = wanted // each if wanted % each == 0 else max(n for n in range(1, count + 1) if wanted % n == 0)
    return {heads: fitting}, f"{heads} {fitting} ({wanted} is not divisible by the configuration's {count})"


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def on_import_path(name: str) -> Iterator[None]:
    """Let a target import modules beside its file and in the working directory, as Python itself would."""
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


def _values(pairs: Sequence[str], option: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, raw = (part.strip() for part in pair.partition("="))
        if not equals or not name.isidentifier():
            raise InputError(f'{option} must be name=value, got "{pair}"', hint=f"for example {option} hidden=512")
        if name in values:
            raise InputError(f"{option} sets {name} twice", hint="set it once")
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
        raise InputError(
            f'target "{name}": {error}; it takes {taken or "nothing"}', hint="give arguments as --arg name=value"
        ) from None


def _load_weights(model: nn.Module, path: Path) -> None:
    state = read_tensors(path, what="checkpoint")
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise _no_state(path, _kind(state))
    for name, value in state.items():
        if not isinstance(name, str):
            raise _no_state(path, f"the name {name!r}, {_kind(name)}")
        if not isinstance(value, torch.Tensor):
            raise _no_state(path, f"{_kind(value)} for {name}")
    refuse_lazy(model)
    own = model.state_dict()
    # DataParallel and compiled wrappers save their own name in front.
    given = {re.sub(r"(^|\.)(?:module|_orig_mod)\.", r"\1", name): value for name, value in state.items()}
    given = given if given.keys() & own.keys() else dict(state)
    given = {name: usable(f"{name} of checkpoint {path}", value) for name, value in given.items()}
    problems = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "with another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
        "complex for real numbers": [
            name for name in own if name in given and given[name].is_complex() and not own[name].is_complex()
        ],
    }
    if any(problems.values()):
        said = "; ".join(
            f"{len(names)} {what} ({listed(names, _KEYS_SHOWN)})" for what, names in problems.items() if names
        )
        raise InputError(
            f"checkpoint {path} does not fit the model: {said}",
            hint="set --arg or --config as for the model that was saved",
        )
    model.load_state_dict(given)


def _no_state(path: Path, got: str) -> InputError:
    return InputError(
        f"checkpoint {path} must hold a state_dict, tensors by name, got {got}",
        hint="save it with torch.save(model.state_dict(), path)",
    )


def _nonfinite(model: nn.Module) -> str:
    """Return in words how many weights are NaN or infinite, and where; "" where all are finite."""
    names, nan, infinite = [], 0, 0
    for name, value in model.state_dict().items():
        if isinstance(value, Tensor) and value.is_floating_point() and not bool(value.isfinite().all()):
            names.append(name)
            nan, infinite = nan + int(value.isnan().sum()), infinite + int(value.isinf().sum())
    return f", which has {nan} NaN and {infinite} infinite values in {listed(names, _KEYS_SHOWN)}" if names else ""


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"


# The input


@dataclass(frozen=True, slots=True)
class RandomInput:
    """Random input: a `RandomTensor` for each argument; None: what the model says of itself."""

    arguments: Any

    def batch(self, model: nn.Module, *, seed: int, number: int, dtype: torch.dtype, device: torch.device) -> Any:
        """Return the arguments; raises `InputError` for tokens if the size of the model's vocabulary is not known."""
        generator = seeded_generator(seed, "inspect", str(number))
        arguments = self.arguments if self.arguments is not None else _example(model).arguments
        return drawn(arguments, model, generator, dtype=dtype, device=device)

    def said(self, model: nn.Module) -> str:
        """Return where the shapes are from; "" where they were typed."""
        return f" (guessed from {_example(model).said})" if self.arguments is None else ""


def _example(model: nn.Module) -> ExampleInput:
    if (found := example_input(model)) is None:
        raise InputError(
            "the model needs an input", hint="--input-shape 8,3,32,32 draws a random one, --input FILE reads one"
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class FileInput:
    """Input from a file: a tensor, a tuple of positional arguments, or a dict of keyword arguments."""

    value: Any

    def batch(self, model: nn.Module, *, seed: int, number: int, dtype: torch.dtype, device: torch.device) -> Any:
        """Return the input, the same for every seed and number."""
        return drawn(self.value, model, torch.Generator(), dtype=dtype, device=device)

    def said(self, model: nn.Module) -> str:
        """Return "": where it is from was typed."""
        return ""


def parse_input(shapes: Sequence[str], kinds: str | None, file: Path | None) -> RandomInput | FileInput:
    """Return the input that was typed, or one that the model will have to say; raises `InputError`.

    A shape may be that of a keyword argument, as in input_ids=4,32. `kinds`: None for what the names say.
    """
    if file is not None:
        if shapes:
            raise InputError("--input and --input-shape are both given", hint="give one of them")
        return FileInput(_read(file))
    if not shapes:
        if kinds is not None:
            raise InputError("--input-kind says what to draw, which needs a shape", hint="add --input-shape 8,3,32,32")
        return RandomInput(None)
    names = [name.strip() if equals else "" for name, equals, _ in (text.partition("=") for text in shapes)]
    if any(names) and (len(set(names)) < len(names) or not all(map(str.isidentifier, names))):
        raise InputError(
            "--input-shape must name all arguments, each once, or none, got "
            + " and ".join(f'"{one}"' for one in shapes),
            hint="for example --input-shape input_ids=4,32 --input-shape pixel_values=4,3,224,224",
        )
    named = [kind.strip() for kind in (kinds or "").split(",") if kinds is not None]
    for kind in named:
        checks.one_of("--input-kind", kind, KINDS)
    if len(named) not in (0, 1, len(shapes)):
        raise InputError(
            f"--input-kind names {len(named)} kinds, but there are {len(shapes)} --input-shape",
            hint="name one kind for all, or one per --input-shape",
        )
    draws = [KINDS[kind] for kind in (named if len(named) == len(shapes) else named * len(shapes))]
    tensors = [
        RandomTensor(_shape(text.rpartition("=")[2]), draw)
        for text, draw in zip(shapes, draws or map(kind_of, names), strict=True)
    ]
    if any(names):
        return RandomInput(dict(zip(names, tensors, strict=True)))
    return RandomInput(tensors[0] if len(tensors) == 1 else tuple(tensors))


def _shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    # Python refuses to read thousands of digits.
    if not all(part.isdecimal() and len(part) < 100 and int(part) for part in parts):
        raise InputError(
            f'--input-shape must be whole numbers of at least 1, separated by commas, got "{text}"',
            hint="for example --input-shape 8,3,32,32, a batch of 8 images",
        )
    shape = tuple(map(int, parts))
    # It is drawn in float32 and then converted; tokens have 8 bytes.
    checks.fits_memory(f"--input-shape {text}", 8 * math.prod(shape), hint="choose a smaller batch or size")
    return shape


def _read(path: Path) -> Any:
    name = f"the input {path}"
    if path.suffix == ".npy":
        content: Any = torch.from_numpy(read_array(path, what="input"))
    elif path.suffix == ".npz":
        arrays = {key: torch.from_numpy(array) for key, array in read_arrays(path, what="input").items()}
        # As numpy.savez names arrays that it is given without a name.
        content = tuple(arrays.values()) if list(arrays) == [f"arr_{at}" for at in range(len(arrays))] else arrays
    else:
        content = read_tensors(path, what="input")
        check_structure(name, content)
    if isinstance(content, list):
        content = tuple(content)
    if not any(True for _ in tensors_in(content)) or not isinstance(content, (Tensor, tuple, dict)):
        raise InputError(
            f"{name} must hold a tensor, or a tuple or dict of tensors, got {_kind(content)}",
            hint="save the model's arguments with torch.save",
        )
    if isinstance(content, dict) and (wrong := [key for key in content if not isinstance(key, str)]):
        raise InputError(
            f"{name} must name the model's arguments by text, got the key {wrong[0]!r}, {_kind(wrong[0])}",
            hint='save {"name of the argument": tensor, ...}',
        )
    content = _usable(name, content)
    tensors = list(tensors_in(content))
    if not any(tensor.numel() for _, tensor in tensors):
        raise InputError(
            f"{name} must have at least one element, got shape {tuple(tensors[0][1].shape)}",
            hint="nothing can be measured on an empty batch: save at least one row",
        )
    for suffix, tensor in tensors:
        if (tensor.is_floating_point() or tensor.is_complex()) and not (finite := tensor.isfinite()).all():
            first = tuple((~finite).nonzero()[0].tolist())
            raise InputError(
                f"{name}{suffix} has {int(tensor.isnan().sum())} NaN and {int(tensor.isinf().sum())} "
                f"infinite values, the first at {first}",
                hint="drop or replace them: everything computed from them would be NaN",
            )
    return content


def _usable(name: str, value: Any) -> Any:
    """Return the input with each of its tensors made usable."""
    if isinstance(value, Tensor):
        return usable(name, value)
    if isinstance(value, dict):
        return {key: _usable(f"{name}[{key}]", part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(_usable(f"{name}[{number}]", part) for number, part in enumerate(value))
    return value


def make_loss(name: str, *, seed: int) -> Callable[[Any], Tensor] | None:
    """Return a loss of `propscope.experiments.losses` by its name; None for "cotangent".

    Raises `InputError` for another name.
    """
    checks.one_of("--loss", name, LOSSES)
    return None if name == "cotangent" else LOSSES[name](seed)
