"""A page for each example: what it shows, its command, its pictures and its source."""

import ast
from pathlib import Path

from propscope.cli.example import example_files, examples_folder, title_of
from site_pages.commands import plain

OUTPUTS = Path(__file__).parents[2] / "outputs"


def pages() -> dict[str, str]:
    """Return the Markdown of each page by its name; `index` lists them."""
    files = [path for path in example_files(examples_folder()) if title_of(path)]
    rows = "".join(f"| [{path.stem}]({path.stem}.md) | {plain(title_of(path))} |\n" for path in files)
    names = "\n".join(path.stem for path in files)
    index = (
        "# Examples\n\nEach runs by `propscope example NAME`, prints what it measures, draws pictures into `outputs/`, "
        "and fails where its conclusion does not hold; [classic experiments](../classic-experiments.md) have results."
        f"\n\n| example | what it shows |\n|---|---|\n{rows}\n```{{toctree}}\n:hidden:\n\n{names}\n```\n"
    )
    return {"index": index} | {path.stem: _page(path) for path in files}


def _page(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    # The page begins with the docstring; the source follows behind it.
    below = tree.body[0].end_lineno + 1
    pictures = "".join(
        f"![What {path.stem} draws](../../outputs/{picture.name})\n\n"
        for picture in sorted(OUTPUTS.glob(f"docs-example-{path.stem.replace('_', '-')}*.png"))
    )
    return (
        f"# {path.stem}\n\n{plain(ast.get_docstring(tree))}\n\n```\npropscope example {path.stem}\n```\n\n{pictures}"
        f"```{{literalinclude}} ../../examples/{path.name}\n:language: python\n:lines: {below}-\n```\n"
    )
