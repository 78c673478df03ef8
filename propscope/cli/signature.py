"""What a command takes: a parameter that is a record, such as `Selection`, becomes the options that its fields are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Any, get_type_hints

from propscope.cli.completion import NAMES, completing


def spread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function with a parameter for each field of the records that it takes; a shell completes their names.

    Where the function has a parameter with the name of a field, it declares the option, and the record gets its value.
    """
    hints = get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters
    records = {name: hints[name] for name in given if is_dataclass(hints[name])}
    parameters: dict[str, Parameter] = {}
    for name, parameter in given.items():
        if name not in records:
            parameters[name] = parameter.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            continue
        own = get_type_hints(records[name], include_extras=True)
        for field in fields(records[name]):
            if field.name not in given:
                default = Parameter.empty if field.default is MISSING else field.default
                parameters[field.name] = Parameter(
                    field.name, Parameter.KEYWORD_ONLY, default=default, annotation=own[field.name]
                )

    @wraps(function)
    def run(**values: Any) -> Any:
        made = {
            name: kind(**{field.name: values[field.name] for field in fields(kind)}) for name, kind in records.items()
        }
        return function(**{name: values[name] for name in given if name not in records}, **made)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    for name in NAMES.keys() & parameters.keys():
        for declared in getattr(parameters[name].annotation, "__metadata__", ()):
            declared.autocompletion = completing(NAMES[name])
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    return run
