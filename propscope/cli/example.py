"""`propscope example`: runs one of the examples, which come with the source and with an installed package."""

from __future__ import annotations

import ast
import os
import runpy
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from propscope.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = "PROPSCOPE_QUICK"


def example(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="Which one; without a name, all are listed.", show_default=False),
    ] = None,
    arguments: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(help="What the example takes, such as mnist:path=DIR for ten_layers.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="In a small setting: less to train, fewer seeds, pictures in outputs/quick.")
    ] = False,
) -> None:
    """Run an example: a classic experiment, with its conclusion asserted and its picture in outputs/."""
    folder = examples_folder()
    if name is None:
        titles = {path.stem: title for path in example_files(folder) if (title := title_of(path))}
        for stem, title in titles.items():
            print(f"{stem:{max(map(len, titles))}}  {title}")
        return
    path = find_example(folder, name)
    with _setting(path, arguments or [], quick=quick):
        try:
            runpy.run_path(str(path), run_name="__main__")
        except AssertionError as error:
            failed = traceback.extract_tb(error.__traceback__)[-1]
            said = str(error) or failed.line
            print(f"{Path(failed.filename).name}:{failed.lineno}: this does not hold here: {said}", file=sys.stderr)
            raise typer.Exit(1) from error


def examples_folder() -> Path:
    """Return where the examples are: inside an installed package, or beside it in the source.

    Raises `InputError` where neither is.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "quickstart.py").is_file():
            return folder
    raise InputError(
        f"no examples in {package / 'examples'} nor in {package.parent / 'examples'}",
        hint="they come with the source: run propscope example in a clone of it",
    )


def example_files(folder: Path) -> list[Path]:
    """Return the examples of a folder by name; a file that only defines things, for others to import, is none."""
    return sorted(path for path in folder.glob("*.py") if title_of(path))


def title_of(path: Path) -> str:
    """Return the first line of an example's docstring; "" for a file that runs nothing or has none."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    runs = any(isinstance(statement, (ast.Expr, ast.Assert, ast.For, ast.With)) for statement in tree.body[1:])
    return (ast.get_docstring(tree) or "").split("\n")[0] if runs else ""


def find_example(folder: Path, name: str) -> Path:
    """Return the file of the example with that name, `-` read as `_`; raises `InputError` with the choices."""
    from difflib import get_close_matches

    files = {path.stem: path for path in example_files(folder)}
    wanted = name.lower().replace("-", "_").removesuffix(".py")
    if wanted not in files:
        near = get_close_matches(wanted, files, n=1)
        raise InputError(
            f"unknown example {name!r}; valid are {', '.join(files)}",
            hint=f"did you mean {near[0]!r}?" if near else "propscope example says what each one shows",
        )
    return files[wanted]


@contextmanager
def _setting(path: Path, arguments: list[str], *, quick: bool) -> Iterator[None]:
    """Let an example import what lies beside it, and tell it its arguments and the setting; put all back."""
    before, typed = os.environ.get(QUICK), sys.argv
    sys.path.insert(0, str(path.parent))
    sys.argv = [str(path), *arguments]
    if quick:
        os.environ[QUICK] = "1"
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))
        sys.argv = typed
        if quick:
            os.environ.pop(QUICK)
            if before is not None:
                os.environ[QUICK] = before
