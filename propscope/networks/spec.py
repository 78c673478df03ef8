"""Spec strings, the same on the command line and in Python: `name:parameter=value:parameter=value`, lists by comma.

A callable of the user's own is `package.module:callable` or `path/to/file.py:callable`, also with parameters behind
it. In Python the callable itself may stand for the string.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from propscope.checks import shown
from propscope.errors import InputError, error_line, unknown_name
from propscope.records.spec_parameter import SpecParameter

Value = int | float | str | bool

_OWN_CALLABLE = "A function of your own is written package.module:callable"
_OWN = "write a parameter as name=value, a function of your own as package.module:callable or path/to/file.py:callable"


@dataclass(frozen=True, slots=True)
class ParsedSpec:
    """The parts of a spec: `name` (of a table, or module:callable of the user's) and the parameters as written."""

    name: str
    parameters: Mapping[str, str]

    @property
    def custom(self) -> bool:
        """Whether `name` is the user's own callable instead of a name of a table."""
        return ":" in self.name


class Entry(Protocol):
    """The part of a table's entry that activations, initializers, inputs, data and optimizers share."""

    @property
    def name(self) -> str:
        """The name that a spec starts with."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """The other names of the same entry."""

    @property
    def parameters(self) -> tuple[SpecParameter, ...]:
        """The parameters that a spec may set."""


E = TypeVar("E", bound=Entry)
C = TypeVar("C", bound="Chosen")


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen entry of a table: its name, every parameter's value, and `label`, its canonical spec.

    The label has the table's name instead of an alias, and only the parameters that differ from their defaults.
    """

    name: str
    parameters: Mapping[str, Any] = field(hash=False)
    label: str

    def __str__(self) -> str:
        return self.label

    @classmethod
    def look_up(
        cls: type[C], index: Mapping[str, Entry], spec: ParsedSpec, what: str, *, also: str = "", hint: str = ""
    ) -> C:
        """Return the entry that a spec chooses from a table, with the value of each parameter, given or default.

        An entry such as ".npy" stands for files that end so, and no spec names it. Raises `InputError` for an unknown
        name, where `also` and `hint` are those of `unknown_name`, for an unknown parameter and for a value that is not
        valid.
        """
        names = [name for name in index if not name.startswith(".")]
        if spec.name not in names:
            raise unknown_name(what, spec.name, names, also=also, hint=hint)
        entry = index[spec.name]
        owner = f"{what} {entry.name}"
        valid = {parameter.name: parameter for parameter in entry.parameters}
        for name in spec.parameters:
            if name not in valid:
                has = f"it has {', '.join(valid)}" if valid else "it has none"
                raise InputError(f'{owner} has no parameter "{name}"; {has}', hint="see propscope list")
        given = {name: read_parameter(valid[name], raw, owner) for name, raw in spec.parameters.items()}
        values = {name: given.get(name, parameter.default) for name, parameter in valid.items()}
        return cls(entry.name, values, label(entry.name, values, entry.parameters))


class StoredEntry(Entry, Protocol):
    """The part of a table's entry that inputs and data share: it may be read from files."""

    @property
    def takes_path(self) -> bool:
        """Whether the one parameter is `path`."""


@dataclass(frozen=True, slots=True)
class ChosenSource(Chosen):
    """A chosen source of rows: drawn, shipped by a package, or read from the user's files at `parameters["path"]`."""

    @classmethod
    def of_source(cls: type[S], index: Mapping[str, StoredEntry], spec: str, what: str, *, also: str, hint: str) -> S:
        """Return what `digits`, `moons:noise=0.1`, `mnist:path=DIR` or a file that ends as an entry does names.

        Raises `InputError` as `look_up` does, and where a path is missing or not asked for.
        """
        if isinstance(spec, str) and (suffix := Path(spec).suffix.lower()) in index:
            return cls(index[suffix].name, {"path": Path(spec)}, spec)
        # A path may hold whatever a spec gives a meaning to.
        head, colon, path = spec.partition(":path=") if isinstance(spec, str) else (spec, "", "")
        found = cls.look_up(index, parse_spec(head, what), what, also=also, hint=hint)
        takes_path = index[found.name].takes_path
        if takes_path != bool(colon and path):
            wants = "needs the folder of its files" if takes_path else 'has no parameter "path"'
            raise InputError(f"{what} {found.name} {wants}", hint=f"{found.name}{':path=DIR' * takes_path}")
        return cls(found.name, {"path": Path(path)}, f"{found}:path={path}") if path else found


S = TypeVar("S", bound=ChosenSource)


@dataclass(frozen=True, slots=True)
class ChosenCallable(Chosen):
    """A chosen entry of a table, or a callable of the user's own, whose name is `module:callable`.

    `target` is a callable that was passed as such; None for one that a spec names. Two that have equal labels are
    equal, except where a callable was passed.
    """

    target: Callable[..., Any] | None = field(default=None, hash=False, repr=False)

    @property
    def custom(self) -> bool:
        """Whether this is the user's own callable instead of an entry of the table."""
        return ":" in self.name

    @classmethod
    def parse(cls: type[D], index: Mapping[str, Entry], spec: ParsedSpec, what: str) -> D:
        """Return what a spec names: an entry of the table, or a callable of the user's own, which is not loaded yet."""
        if not spec.custom:
            return cls.look_up(index, spec, what, hint=_OWN_CALLABLE)
        own = own_parameters(spec)
        return cls(spec.name, own, label(spec.name, own))

    @classmethod
    def of_callable(cls: type[D], target: Callable[..., Any], what: str) -> D:
        """Return what a Python callable is; raises `InputError` as `name_callable` does."""
        name, arguments, called = name_callable(target, what)
        # An object is called without its settings, which only tell it from others of its class.
        return cls(name, arguments, label(name, arguments or _settings(called)), called)


D = TypeVar("D", bound=ChosenCallable)


def index_names(entries: Iterable[E]) -> dict[str, E]:
    """Return the table by name and alias; raises `ValueError` for a name that is taken."""
    index: dict[str, E] = {}
    for entry in entries:
        for name in (entry.name, *entry.aliases):
            if name in index:
                raise ValueError(f'the name "{name}" of {entry.name} is already taken by {index[name].name}')
            index[name] = entry
    return index


def split_list(text: str) -> list[str]:
    """Return the specs of a comma-separated list; raises `InputError` for an empty one."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise InputError(f'the list "{text}" has an empty entry', hint="separate the entries by one comma each")
    return parts


def parse_spec(text: str, what: str) -> ParsedSpec:
    """Return the name and the parameters of a spec; `what` is the noun for errors ("activation").

    In the name of a table's entry upper and lower case are the same, and so are `-` and `_`. Raises `InputError` for an
    empty name and for a parameter without a name, without a value, or given twice.
    """
    if not isinstance(text, str):
        raise InputError(f"{what} must be a string such as name or name:parameter=value, got {shown(text)}")
    head, *rest = (part.strip() for part in text.split(":"))
    if not head:
        raise InputError(f'the {what} "{text}" has no name', hint="write name or name:parameter=value")
    if rest and "=" not in rest[0] and all(piece.isidentifier() for piece in rest[0].split(".")):
        name = f"{head}:{rest.pop(0)}"
    else:
        name = head.lower().replace("-", "_")
    parameters: dict[str, str] = {}
    for part in rest:
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not (key and equals and value):
            raise InputError(f'"{part}" in the {what} "{text}" is not a parameter=value', hint=_OWN)
        if key in parameters:
            raise InputError(f'{key} is given twice in the {what} "{text}"', hint="give it once")
        parameters[key] = value
    return ParsedSpec(name, parameters)


def read_parameter(parameter: SpecParameter, raw: str, owner: str) -> float | str:
    """Return the value that `raw` spells; raises `InputError` naming `owner` ("initializer normal")."""
    if parameter.choices:
        if raw.lower() in parameter.choices:
            return raw.lower()
    elif isinstance(parameter.default, str) and raw.lower() == parameter.default:
        return parameter.default
    elif (number := _number(raw)) is not None and math.isfinite(number):
        above = parameter.low < number if parameter.above else parameter.low <= number
        if above and number <= parameter.high:
            return float(number)
    raise InputError(
        f"{parameter.name} of {owner} must be {parameter.valid}, got {shown(raw)}",
        hint=f"for example {parameter.name}={written(parameter.default)}",
    )


def label(name: str, values: Mapping[str, Value], defaults: Iterable[SpecParameter] = ()) -> str:
    """Return the canonical spec: the name and the parameters that differ from their defaults."""
    usual = {parameter.name: parameter.default for parameter in defaults}
    return ":".join([name, *(f"{key}={written(value)}" for key, value in values.items() if usual.get(key) != value)])


def written(value: Value) -> str:
    """Return a value as a spec writes it, so that parsing gives the same value."""
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def own_parameters(spec: ParsedSpec) -> dict[str, Value]:
    """Return the keyword arguments for a user's callable; text that reads as int, float or bool becomes one."""
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


def name_callable(target: Callable[..., Any], what: str) -> tuple[str, dict[str, Any], Callable[..., Any]]:
    """Return the name `module:callable` of a Python callable, its arguments, and the callable itself.

    The arguments are those of a `functools.partial`; of any other callable there are none. Raises `InputError` for
    what cannot be called, and for arguments of a partial that its callable does not take.
    """
    if not callable(target):
        raise InputError(
            f"{what} must be a name or a callable, got {shown(target)}", hint=f"propscope list shows every {what}"
        )
    arguments: dict[str, Any] = {}
    if isinstance(target, functools.partial):
        arguments, target = _named_arguments(target, what), target.func
    named: Any = target if hasattr(target, "__qualname__") else type(target)
    home = named.__module__ or "builtins"
    # A function of C has the name of a private class before its own.
    plain = getattr(sys.modules.get(home), named.__name__, None) is target
    return f"{home}:{named.__name__ if plain else named.__qualname__}", arguments, target


def _settings(target: object) -> dict[str, Value]:
    """Return the public attributes of an object of a user's class that are numbers or words; none of a function."""
    if hasattr(target, "__qualname__"):
        return {}
    names = [field.name for field in fields(target)] if is_dataclass(target) else getattr(target, "__dict__", ())
    found = {name: getattr(target, name) for name in names if not name.startswith("_")}
    return {name: value for name, value in found.items() if isinstance(value, (int, float)) or _is_word(value)}


def _is_word(value: object) -> bool:
    return isinstance(value, str) and value.isidentifier()


def _named_arguments(target: functools.partial[Any], what: str) -> dict[str, Any]:
    if not target.args:
        return dict(target.keywords)
    try:
        return dict(inspect.signature(target.func).bind_partial(*target.args, **target.keywords).arguments)
    except (TypeError, ValueError) as error:
        raise InputError(f'{what} "{target}": {error}', hint="give functools.partial its arguments by name") from error


def load_callable(name: str, what: str) -> Callable[..., Any]:
    """Return the callable that `package.module:callable` or `path/to/file.py:callable` names.

    Modules are searched on Python's path, then in the working directory. Raises `InputError` when the module cannot be
    imported or has no such attribute, or when the attribute cannot be called.
    """
    home, _, path = name.rpartition(":")
    try:
        found: Any = _module_of_file(Path(home)) if home.endswith(".py") else _module(home)
    except (Exception, SystemExit) as error:  # A user's module may fail in any way.
        raise InputError(f'{what} "{name}": cannot import "{home}" ({error_line(error)})', hint=_OWN) from error
    for piece in path.split("."):
        if not hasattr(found, piece):
            raise InputError(f'{what} "{name}": "{home}" has no attribute "{path}"', hint=_OWN)
        found = getattr(found, piece)
    if not callable(found):
        raise InputError(f'{what} "{name}" must be a callable, got a {type(found).__name__}', hint=_OWN)
    return found  # type: ignore[no-any-return]


def _module(name: str) -> ModuleType:
    # The console script, unlike `python -m`, does not search the working directory, where users keep their modules.
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
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(found)
    # Dataclasses and pickle look a class's module up while it is being made.
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
