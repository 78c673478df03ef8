"""Spec strings, the same on the command line and in Python: `name:parameter=value:parameter=value`, lists by comma.

A callable of the user's own is `package.module:callable` or `path/to/file.py:callable`, and may be followed by
parameters too. Told apart from a parameter by having no `=`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from propscope.errors import InputError, unknown_name

Value = int | float | str | bool

_OWN = "a parameter is written name=value, a function of your own package.module:callable or path/to/file.py:callable"


@dataclass(frozen=True, slots=True)
class ParsedSpec:
    """A spec taken apart: `name` (of a table, or module:callable of the user's) and its parameters as written."""

    name: str
    parameters: Mapping[str, str]

    @property
    def custom(self) -> bool:
        """Whether `name` is a callable of the user's and not a name of a table."""
        return ":" in self.name


@dataclass(frozen=True, slots=True)
class SpecParameter:
    """What a spec may set: a number within [low, high], or one of `choices`; `above` leaves `low` itself out.

    A number whose `default` is a word, such as "auto", may be that word too.
    """

    name: str
    default: float | str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    choices: tuple[str, ...] = ()

    @property
    def valid(self) -> str:
        """What is valid, in words."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        lower = f"{'above' if self.above else 'at least'} {self.low:g}" if math.isfinite(self.low) else ""
        upper = f"at most {self.high:g}" if math.isfinite(self.high) else ""
        number = " ".join(("a finite number", " and ".join(filter(None, (lower, upper))))).strip()
        return f"{number}, or {self.default}" if isinstance(self.default, str) else number

    def read(self, raw: str, owner: str) -> float | str:
        """Return the value that `raw` spells; raises `InputError` naming `owner` ("initializer normal")."""
        if self.choices:
            if raw.lower() in self.choices:
                return raw.lower()
        elif isinstance(self.default, str) and raw.lower() == self.default:
            return self.default
        else:
            number = _number(raw)
            if number is not None and self._inside(number):
                return float(number)
        raise InputError(
            f"{self.name} of {owner} is {raw!r}; valid is {self.valid}",
            hint=f"for example {self.name}={written(self.default)}",
        )

    def _inside(self, number: float) -> bool:
        above = self.low < number if self.above else self.low <= number
        return math.isfinite(number) and above and number <= self.high


class Entry(Protocol):
    """A row of a table: what activations, initializers and inputs have in common."""

    @property
    def name(self) -> str:
        """The name that a spec starts with."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names for the same."""

    @property
    def parameters(self) -> tuple[SpecParameter, ...]:
        """What a spec may set."""


E = TypeVar("E", bound=Entry)


def index_names(entries: Iterable[E]) -> dict[str, E]:
    """Return the table by name and alias; raises `ValueError` for a name that is taken."""
    index: dict[str, E] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            if name in index:
                raise ValueError(f"the name {name!r} of {entry.name} is already taken by {index[name].name}")
            index[name] = entry
    return index


def split_list(text: str) -> list[str]:
    """Return the specs of a comma-separated list; raises `InputError` for an empty one."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f"the list {text!r} has an empty entry", hint="separate the entries by one comma each")
    return parts


def parse_spec(text: str, what: str) -> ParsedSpec:
    """Return a spec's name and parameters; `what` is the noun for errors ("activation").

    Names of a table are case-insensitive, and `-` reads as `_`. Raises `InputError` for an empty name and for a
    parameter without a name, without a value, or given twice.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} is {text!r}; valid is a string such as name or name:parameter=value")
    head, *rest = (part.strip() for part in text.split(":"))
    if not head:
        raise InputError(f"the {what} {text!r} has no name", hint="write name or name:parameter=value")
    if rest and "=" not in rest[0] and all(piece.isidentifier() for piece in rest[0].split(".")):
        name = f"{head}:{rest.pop(0)}"
    else:
        name = head.lower().replace("-", "_")
    parameters: dict[str, str] = {}
    for part in rest:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputError(f"{part!r} in the {what} {text!r} is no parameter=value", hint=_OWN)
        if key in parameters:
            raise InputError(f"{key} is given twice in the {what} {text!r}", hint="give it once")
        parameters[key] = value
    return ParsedSpec(name, parameters)


def look_up(index: Mapping[str, E], spec: ParsedSpec, what: str) -> tuple[E, dict[str, float | str]]:
    """Return the table's entry for a spec, and every parameter's value, defaults included.

    Raises `InputError` for an unknown name, an unknown parameter and a value that is not valid.
    """
    if spec.name not in index:
        raise unknown_name(what, spec.name, index)
    entry = index[spec.name]
    owner = f"{what} {entry.name}"
    valid = {parameter.name: parameter for parameter in entry.parameters}
    for name in spec.parameters:
        if name not in valid:
            has = f"it has {', '.join(valid)}" if valid else "it has none"
            raise InputError(f"{owner} has no parameter {name!r}; {has}", hint="propscope list shows them all")
    given = {name: valid[name].read(raw, owner) for name, raw in spec.parameters.items()}
    return entry, {name: given.get(name, parameter.default) for name, parameter in valid.items()}


def label(name: str, values: Mapping[str, Value], defaults: Iterable[SpecParameter] = ()) -> str:
    """Return the canonical spec: the name and the parameters that differ from their defaults."""
    usual = {parameter.name: parameter.default for parameter in defaults}
    return ":".join([name, *(f"{key}={written(value)}" for key, value in values.items() if usual.get(key) != value)])


def written(value: Value) -> str:
    """Return a value as a spec writes it; reading it back gives the same value."""
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)


def own_parameters(spec: ParsedSpec) -> dict[str, Value]:
    """Return the keyword arguments for a user's callable: int, float, True and False where they read as such."""
    words: dict[str, Value] = {"true": True, "false": False}
    values: dict[str, Value] = {}
    for name, raw in spec.parameters.items():
        number = _number(raw)
        values[name] = words.get(raw.lower(), raw) if number is None else number
    return values


def _number(raw: str) -> int | float | None:
    try:
        number = float(raw)
    except ValueError:
        return None
    return int(raw) if raw.lstrip("+-").isdecimal() else number


def load_callable(name: str, what: str) -> Callable[..., Any]:
    """Return the callable that `package.module:callable` or `path/to/file.py:callable` names.

    Modules are found where Python finds them, and in the working directory. Raises `InputError` when the module does
    not import, or has no such attribute, or when that cannot be called.
    """
    home, _, path = name.rpartition(":")
    try:
        found: Any = _module_of_file(Path(home)) if home.endswith(".py") else _module(home)
    except Exception as error:  # A user's module may fail in any way.
        problem = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise InputError(f"{what} {name!r}: cannot import {home!r} ({problem})", hint=_OWN) from error
    for piece in path.split("."):
        if not hasattr(found, piece):
            raise InputError(f"{what} {name!r}: {home!r} has no attribute {path!r}", hint=_OWN)
        found = getattr(found, piece)
    if not callable(found):
        raise InputError(f"{what} {name!r} is a {type(found).__name__}, which cannot be called", hint=_OWN)
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    # The console script, unlike `python -m`, does not search the working directory, where a user's module often is.
    here = str(Path.cwd())
    if here in sys.path:
        return importlib.import_module(name)
    sys.path.append(here)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(here)


def _module_of_file(path: Path) -> ModuleType:
    whole = path.resolve()
    name = f"propscope_file_{abs(hash((str(whole), whole.stat().st_mtime_ns))):x}"
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.spec_from_file_location(name, whole)
    if found is None or found.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickle look a class's module up while it is being made.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
