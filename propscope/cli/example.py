"""`propscope example`: runs one of the examples, which are in the source and in an installed package."""

from __future__ import annotations

import ast
import os
import runpy
import sys
import traceback
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from propscope.cli.loudness import quiet
from propscope.errors import InputError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = "PROPSCOPE_QUICK"


def example(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Name of the example; without it, all examples are listed.", show_default=False
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGUMENT",
            help="Arguments of the example, such as mnist:path=DIR for ten_layers.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Run a small version: less training, fewer seeds, plots in outputs/quick."),
    ] = False,
) -> None:
    """Run a classic experiment on initialization; exit code 1 if its conclusion does not hold here.

    Plots are written to outputs/.
    """
    folder = examples_folder()
    if name is None:
        from propscope.report.table import filled
        from propscope.report.terminal import terminal_width

        titles = {path.stem: title for path in example_files(folder) if (title := title_of(path))}
        longest = max(map(len, titles))
        for stem, title in titles.items():
            line = f"{stem:{longest}}  {title}"
            print(line if (width := terminal_width()) is None else filled(line, width, indent=longest + 2))
        return
    path = find_example(folder, name)
    with _setting(path, arguments or [], quick=quick), ExitStack() as stack:
        if quiet():
            stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        try:
            runpy.run_path(str(path), run_name="__main__")
        except AssertionError as error:
            failed = traceback.extract_tb(error.__traceback__)[-1]
            said = str(error) or failed.line
            print(f"{Path(failed.filename).name}:{failed.lineno}: conclusion does not hold: {said}", file=sys.stderr)
            raise typer.Exit(1) from error


def examples_folder() -> Path:
    """Return the folder of the examples: inside an installed package, or beside it in the source.

    Raises `InputError` if neither exists.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / "quickstart.py").is_file():
            return folder
    raise InputError(
        f"found no examples in {package / 'examples'} or {package.parent / 'examples'}",
        hint="run propscope example in a clone of the source",
    )


def example_files(folder: Path) -> list[Path]:
    """Return the examples of a folder by name, without files that only define things for others to import."""
    return sorted(path for path in folder.glob("*.py") if title_of(path))


def title_of(path: Path) -> str:
    """Return the first line of an example's docstring; "" for a file that has none or only defines things."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    runs = any(isinstance(statement, (ast.Expr, ast.Assert, ast.For, ast.With)) for statement in tree.body[1:])
    return (ast.get_docstring(tree) or "").split("\n")[0] if runs else ""


def find_example(folder: Path, name: str) -> Path:
    """Return the file of an example, `-` read as `_`; raises `InputError` that lists the choices."""
    files = {path.stem: path for path in example_files(folder)}
    wanted = name.lower().replace("-", "_").removesuffix(".py")
    if wanted not in files:
        raise unknown_name("example", name, files)
    return files[wanted]


@contextmanager
def _setting(path: Path, arguments: list[str], *, quick: bool) -> Iterator[None]:
    """Let an example import the files beside it, and pass it its arguments and the quick setting; then undo it."""
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
