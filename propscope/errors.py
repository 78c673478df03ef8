"""One exception tree: whatever propscope raises on purpose is a `PropscopeError`.

The command line prints such an error as one line and a hint, and exits with 2; anything else is a defect.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from propscope.printable import printable


class PropscopeError(Exception):
    """A failure that the caller can repair; `hint` says how, and may be empty. Both show control characters escaped."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(printable(message))
        self.hint = printable(hint)

    def __reduce__(self) -> tuple[Any, ...]:
        # Some kinds are made from other arguments than their message, which is what a copy has.
        return _copied, (type(self), self.args, self.hint)


def _copied(kind: type[PropscopeError], arguments: tuple[Any, ...], hint: str) -> PropscopeError:
    error = kind.__new__(kind, *arguments)
    error.args, error.hint = arguments, hint
    return error


class InputError(PropscopeError, ValueError):
    """A value that the caller passed is not valid; the message names the parameter, what is valid, and what it got."""


class OutOfMemoryError(InputError, MemoryError):
    """A network that should fit in memory did not, perhaps for what else runs on the machine; others may fit."""


class UnknownArgumentError(InputError, TypeError):
    """A function has no argument of that name; the message lists those that it has, the hint the nearest one."""


class UnknownSiteError(InputError, KeyError):
    """A profile has no site of that name; the message lists the nearest names that it has."""

    # KeyError.__str__ quotes the message.
    __str__ = Exception.__str__


class StoreError(PropscopeError, OSError):
    """A result file cannot be read or written; an earlier file under that name is untouched."""

    # OSError.__str__ formats errno pairs; a message of one line is all that is wanted here.
    def __str__(self) -> str:
        return str(self.args[0])


class MissingDependencyError(PropscopeError, ImportError):
    """An optional package is not installed; the hint quotes the pip command."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed",
            hint=f"pip install 'propscope[{extra}]'",
        )


def error_line(error: BaseException) -> str:
    """Return an error's type and message on one line, cut at 300 characters."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:299] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def unknown_name(what: str, name: str, choices: Iterable[str], *, also: str = "", hint: str = "") -> InputError:
    """Return the error for a name that no table holds, with the nearest name and `hint` as its hint.

    `what` is the noun ("activation"), `name` is the unknown name, `choices` are the valid ones, and `also` says in
    words what else is valid (", and a file that ends in .npy").
    """
    valid = list(choices)
    guess = guessed(name, valid)
    return InputError(f'unknown {what} "{name}"; valid are {", ".join(valid)}{also}', hint=f"{guess} {hint}".strip())


def guessed(name: str, valid: Sequence[str]) -> str:
    """Return the question for what an unknown name means of the valid ones; "" where none is near."""
    near = " or ".join(f'"{each}"' for each in _meant(name, valid))
    return f"did you mean {near}?" if near else ""


# What the field calls things that the tables have under another name, or of which they have several.
_HE, _XAVIER = ("he_normal", "he_uniform"), ("xavier_normal", "xavier_uniform")
_FIELD = {
    "he": _HE,
    "kaiming": _HE,
    "msra": _HE,
    "delving": _HE,
    "glorot": _XAVIER,
    "xavier": _XAVIER,
    "lecun": ("lecun_normal", "lecun_uniform"),
    "randn": ("normal",),
    "random_normal": ("normal",),
    "random_uniform": ("uniform",),
    "truncated": ("trunc_normal",),
    "ortho": ("orthogonal",),
    "eoc": ("critical",),
    "edge_of_chaos": ("critical",),
    "none": ("identity",),
    "leaky": ("leaky_relu",),
    "lrelu": ("leaky_relu",),
    "rectifier": ("relu",),
    "siren": ("sin",),
    "htanh": ("hardtanh",),
    "hard_tanh": ("hardtanh",),
    "hard_sigmoid": ("hardsigmoid",),
    "hard_swish": ("hardswish",),
    "log_sigmoid": ("logsigmoid",),
    "fmnist": ("fashion_mnist",),
    "two_moons": ("moons",),
    "regression": ("linear", "one_hidden"),
    "nesterov": ("momentum",),
    "histogram": ("activations", "gradients", "histograms"),
    "loss": ("learning", "final-loss", "steps"),
    "grad": ("gradients", "backward"),
    "std": ("forward_std",),
    "mean": ("forward_mean",),
    "rms": ("forward_rms", "backward_rms"),
    "activation_std": ("forward_std",),
    "activation_rms": ("forward_rms",),
    "gradient_rms": ("backward_rms",),
    "grad_rms": ("backward_rms",),
    "gradient_std": ("backward_std",),
    "saturated": ("flat_fraction",),
    "dead": ("dead_fraction", "dead-units"),
}


def _meant(name: str, valid: Sequence[str]) -> list[str]:
    """Return the valid names that an unknown one may mean: in the field's words, as a part of them, or by a slip."""
    typed = name.split(":")[0].strip().lower().replace("-", "_")
    if field := [each for each in _FIELD.get(typed, ()) if each in valid]:
        return field
    if parts := [each for each in valid if typed in each.replace("-", "_").split("_")]:
        return parts[:3]
    return difflib.get_close_matches(typed, valid, n=1, cutoff=0.5)


def unknown_site(name: object, sites: Sequence[str]) -> UnknownSiteError:
    """Return the error for a name that none of a profile's `sites` has, with the nearest names."""
    if not isinstance(name, str):
        return UnknownSiteError(
            f"site must be the name of one of the {len(sites)} sites of the profile, got {name!r}",
            hint=f"profile.sites[{name}] is a site by its number" if isinstance(name, int) else "give its name as text",
        )
    near = difflib.get_close_matches(name, sites, n=3, cutoff=0.4) or sites[:3]
    listed = ", ".join(f'"{site}"' for site in near) or "none"
    return UnknownSiteError(
        f'site must be the name of one of the {len(sites)} sites of the profile, such as {listed}, got "{name}"',
        hint="[site.name for site in profile.sites] lists them all",
    )
