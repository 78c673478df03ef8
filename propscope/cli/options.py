"""Options that several commands share, and the reading of lists."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, TypeVar

import typer

from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import ProfileSet, TrainingSet

N = TypeVar("N", int, float)

File = Annotated[Path, typer.Argument(help="A result file.", show_default=False)]
Act = Annotated[Optional[str], typer.Option("--act", help="Only these activations, comma-separated.")]  # noqa: UP045
Init = Annotated[Optional[str], typer.Option("--init", help="Only these initializers, comma-separated.")]  # noqa: UP045
Depth = Annotated[Optional[str], typer.Option("--depth", help="Only these depths, comma-separated.")]  # noqa: UP045
Width = Annotated[Optional[str], typer.Option("--width", help="Only these widths, comma-separated.")]  # noqa: UP045
Seed = Annotated[Optional[str], typer.Option("--seed", help="Only these seeds, comma-separated.")]  # noqa: UP045
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]


def numbers(text: str, option: str) -> list[int]:
    """Return the whole numbers of a comma-separated list; raises `InputError` naming the option."""
    return _listed(text, option, int, "whole numbers", "10,20")


def decimals(text: str, option: str) -> list[float]:
    """Return the numbers of a comma-separated list; raises `InputError` naming the option."""
    return _listed(text, option, float, "numbers", "1e-3,1e-2")


def _listed(text: str, option: str, read: Callable[[str], N], valid: str, example: str) -> list[N]:
    def number(part: str) -> N:
        try:
            return read(part)
        except ValueError:
            raise InputError(
                f"{option} has {part.strip()!r}; valid are {valid}, comma-separated", hint=f"{option} {example}"
            ) from None

    return [number(part) for part in text.split(",")]


def unused_file(stem: str) -> Path:
    """Return a path in outputs/ that does not exist yet, numbered from the second on."""
    for number in range(1, 100_000):
        path = Path("outputs") / (f"{stem}.h5" if number == 1 else f"{stem}-{number}.h5")
        if not path.exists():
            return path
    raise InputError(f"outputs/ is full of files named {stem}; name one with --output")


def short_name(spec: str) -> str:
    """Return what a file name says of a spec; an activation of the user's may be the path of a file."""
    return Path(spec.split(":")[0]).stem


def load_selected(
    file: Path, *, act: str | None, init: str | None, depth: str | None, width: str | None, seed: str | None
) -> ProfileSet | TrainingSet:
    """Return the profiles or training runs of a file that the options leave.

    Names are those in the file, since aliases need torch.
    """
    from propscope.store import load

    labels: dict[str, list[str | int]] = {}
    for name, text in (("activation", act), ("initializer", init)):
        if text is not None:
            labels[name] = [part.strip() for part in text.split(",")]
    for name, text in (("depth", depth), ("seed", seed)):
        if text is not None:
            labels[name] = list(numbers(text, f"--{name}"))
    if width is not None:
        labels["width"] = [int(part) if part.isdecimal() else part for part in map(str.strip, width.split(","))]
    return load(file, **labels)
