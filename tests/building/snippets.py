"""`snippets`: the Python of a page of the docs, so that a test can run it."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def snippets(page, heading):
    """Return the blocks of Python below a heading of a page."""
    text = (DOCS / page).read_text()
    _, found, below = text.partition(f"## {heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    return re.findall(r"```python\n(.*?)```", below.partition("\n## ")[0], re.DOTALL)
