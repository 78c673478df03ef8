"""The table of contents, from the lists of links of docs/index.md, and pictures that open at full size."""

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.util.osutil import relative_uri

from site_pages import commands, examples, reference

# The folders of generated pages, which a code host does not have, and what makes each: they are in no list of
# docs/index.md.
GENERATED = {"commands": commands, "examples": examples, "reference": reference}
# The heading that each gets a link below, and the link's title.
LISTED = {"Reference": {"Commands": "commands", "Python": "reference"}, "Understand": {"Examples": "examples"}}
LINK = re.compile(r"^- \[([^\]]*)\]\(([^)#]+)\.md\)", re.MULTILINE)


def toctrees(index: str) -> str:
    """Return a hidden toctree for each heading of `index`, of the pages that the list below it links to."""
    parts = re.split(r"^## (.+)\n", index, flags=re.MULTILINE)[1:]
    trees = []
    for heading, below in zip(parts[::2], parts[1::2], strict=True):
        lines = "\n".join(f"{title} <{page}>" for title, page in LINK.findall(below))
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {heading}\n:maxdepth: 1\n\n{lines}\n```\n")
    return "\n".join(trees)


def add_toctrees(app: Any, page: str, source: list[str]) -> None:
    """Append the toctrees to the front page, and name the generated pages in its lists."""
    if page != app.config.root_doc:
        return
    text = source[0]
    for heading, folders in LISTED.items():
        links = "".join(f"- [{title}]({folder}/index.md)\n" for title, folder in folders.items())
        text = text.replace(f"## {heading}\n\n", f"## {heading}\n\n{links}")
    source[0] = f"{text}\n{toctrees(text)}"


def write_redirect(app: Any, error: Exception | None) -> None:
    """Let the folder of the site open at its front page."""
    if error is None and app.builder.name == "html":
        target = f"{app.config.root_doc}.html"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={target}"><a href="{target}">propscope</a>\n'
        (Path(app.outdir) / "index.html").write_text(page, encoding="utf-8")


def open_pictures(app: Any, tree: nodes.document, page: str) -> None:
    """Let a click on a picture open it at full size: a telephone shows a page's width of it."""
    if app.builder.format != "html":
        return
    for image in list(tree.findall(nodes.image)):
        _, name = app.env.images.get(image["uri"], (None, None))
        if name is not None and not isinstance(image.parent, nodes.reference):
            target = relative_uri(app.builder.get_target_uri(page), f"_images/{name}")
            image.replace_self(nodes.reference("", "", image.deepcopy(), refuri=target, internal=True))
