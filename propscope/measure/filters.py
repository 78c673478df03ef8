"""`Filter`: which sites and parameters are recorded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from propscope.checks import count, shown
from propscope.errors import InputError

Pattern = str | type[nn.Module]
Patterns = Pattern | Sequence[Pattern] | None


@dataclass(frozen=True, slots=True)
class Filter:
    """Keeps a site that passes all four tests; None leaves a test out.

    Something in `include` matches it; nothing in `exclude` does; its kind is one of `kinds`; its module lies at most
    `depth` levels below the model. A pattern is a regular expression, searched in the site's name, or a module class.
    """

    include: tuple[re.Pattern[str] | type[nn.Module], ...] | None = None
    exclude: tuple[re.Pattern[str] | type[nn.Module], ...] = ()
    kinds: frozenset[str] | None = None
    depth: int | None = None

    @classmethod
    def of(cls, include: Patterns, exclude: Patterns, kinds: Iterable[str] | None, depth: int | None) -> Filter:
        """Return the filter that a user's arguments describe; raises `InputError` for an invalid pattern or depth."""
        if depth is not None:
            count("depth", depth, least=0, hint="0 keeps only the model's own output")
        return cls(
            None if include is None else _patterns(include, "include"),
            () if exclude is None else _patterns(exclude, "exclude"),
            None if kinds is None else frozenset(_kinds(kinds)),
            depth,
        )

    def keeps(self, name: str, kind: str, module: nn.Module | None) -> bool:
        """Return whether the site `name` of this kind, made by or in `module`, is recorded."""
        if self.kinds is not None and kind not in self.kinds:
            return False
        if self.depth is not None and (name.count(".") + 1 if name else 0) > self.depth:
            return False
        if self.excludes(name, module):
            return False
        return self.include is None or any(_matches(pattern, name, module) for pattern in self.include)

    def excludes(self, name: str, module: nn.Module | None) -> bool:
        """Return whether a pattern in `exclude` matches the site `name`."""
        return any(_matches(pattern, name, module) for pattern in self.exclude)

    def keeps_parameter(self, name: str) -> bool:
        """Return whether the parameter `name` is recorded; only the regular expressions are tried on it."""
        if self.excludes(name, None):
            return False
        return self.include is None or any(_matches(pattern, name, None) for pattern in self.include)


def _matches(pattern: re.Pattern[str] | type[nn.Module], name: str, module: nn.Module | None) -> bool:
    return isinstance(module, pattern) if isinstance(pattern, type) else pattern.search(name) is not None


def _kinds(given: Iterable[str]) -> list[str]:
    names = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    for name in names:
        if not isinstance(name, str):
            raise InputError(f'kinds must be names of classes or functions, such as "Linear", got {shown(name)}')
    return names


def _patterns(given: Pattern | Sequence[Pattern], what: str) -> tuple[re.Pattern[str] | type[nn.Module], ...]:
    found: list[re.Pattern[str] | type[nn.Module]] = []
    for pattern in [given] if isinstance(given, (str, type)) or not isinstance(given, Iterable) else given:
        if isinstance(pattern, str):
            try:
                found.append(re.compile(pattern))
            except re.error as error:
                raise InputError(f"{what} must be regular expressions, got {shown(pattern)}: {error}") from None
        elif isinstance(pattern, type) and issubclass(pattern, nn.Module):
            found.append(pattern)
        else:
            raise InputError(f"{what} must be regular expressions or module classes, got {shown(pattern)}")
    return tuple(found)
