"""HTML elements for a notebook: a verdict in colour, a table, folded notes.

No script and no style sheet: where a notebook is not trusted, Jupyter keeps plain elements, a few properties of their
`style`, and images that are written out, and drops all else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence

from propscope.printable import printable
from propscope.report.svg import COLORS, SEVERITY, SYMBOL, Panel, image
from propscope.report.table import Block, Table

# The column that says which curve belongs to a row, by its number.
CURVE = "curve"
# Words that a cell of these columns begins with, or has behind a number, and how bad each is.
_JUDGED = ("verdict", "severity", "stability")
_WORDS = {name: name for name in SEVERITY} | {
    "diverged": "broken",
    "stalled": "broken",
    "oscillating": "strained",
    "converged": "healthy",
}
# Longer cells are sentences.
_KEPT_WHOLE = 40
_WRAPPED = "white-space:pre-wrap;overflow-wrap:break-word"
_SPARK = re.compile("[▁-█ N∞]*[▁-█][▁-█ N∞]*")

Colour = Callable[[str, str], str]


def escaped(text: str) -> str:
    """Return a text as HTML; what would move or hide the text around it is written as its escape."""
    return html.escape(printable(text, lines=True))


def judged_colour(column: str, cell: str) -> str:
    """Return the colour of a cell: that of its verdict, or of its curve; "" for the text's own."""
    if column == CURVE and cell:
        return COLORS[(int(cell) - 1) % len(COLORS)]
    if column not in _JUDGED:
        return ""
    word = severity_of(cell)
    return SEVERITY[word] if word else ""


def severity_of(text: str) -> str:
    """Return how bad a text says that something is, by the worst word of a verdict that begins a part of it."""
    said = {_WORDS[word] for word in _WORDS if re.search(rf"(?:^|, )(?:\d+ )?{word}\b", text)}
    return next((severity for severity in SEVERITY if severity in said), "")


def box(severity: str, lines: Iterable[str], *more: str) -> str:
    """Return lines behind a bar in the colour of a severity, the first one bold with its sign; `more` is HTML."""
    first, *rest = lines
    color = SEVERITY.get(severity, SEVERITY["not measured"])
    sign = f"{SYMBOL[severity]} " if severity in SYMBOL else ""
    head = f'<div style="color:{color};font-weight:bold">{sign}{escaped(first)}</div>'
    others = "".join(f'<div style="{_WRAPPED}">{escaped(line)}</div>' for line in rest)
    return (
        f'<div style="border-left:5px solid {color};padding:2px 10px;margin:6px 0">{head}{others}{"".join(more)}</div>'
    )


def folded(summary: str, *inside: str) -> str:
    """Return HTML behind a line that opens it; "" where there is nothing inside."""
    body = "".join(inside)
    return f"<details><summary>{escaped(summary)}</summary>{body}</details>" if body else ""


def lines_html(text: str) -> str:
    """Return lines that stand one below the other as in a terminal."""
    return f'<div style="{_WRAPPED};font-family:monospace">{escaped(text)}</div>' if text else ""


def paragraphs(texts: Iterable[str]) -> str:
    """Return each text as a paragraph."""
    return "".join(f"<p>{escaped(text)}</p>" for text in texts)


def definitions(parts: Iterable[tuple[str, str]]) -> str:
    """Return names with their texts beside them; a text without a name goes on from the one above."""
    named = ((f"<b>{escaped(name)}:</b> " if name else "", escaped(text)) for name, text in parts)
    return "".join(f"<div>{name}{text}</div>" for name, text in named)


def pictures(panels: Sequence[Panel], says: Sequence[str] = (), *, width: int = 430) -> str:
    """Return panels side by side where there is room, with a line below that says how they are drawn."""
    if not panels:
        return ""
    drawn = " ".join(image(panel, width=width) for panel in panels)
    return f"<div>{drawn}</div>" + paragraphs(["; ".join(says)] if says else ())


def table_html(table: Table, *, colour: Colour = judged_colour) -> str:
    """Return a table that scrolls where it is large, its notes and its legend folded below it.

    `colour`: the colour of a cell by its column and text, "" for the text's own.
    """
    # A column without a cell is there for other records.
    filled = [at for at in range(len(table.columns)) if not table.rows or any(row[at] for row in table.rows)]
    heads = "".join(_cell("th", table.columns[at], table.columns[at] in table.left, "") for at in filled)
    body = "".join(
        f"<tr>{''.join(_shown(table.columns[at], row[at], table, colour) for at in filled)}</tr>" for row in table.rows
    )
    # Centred above a wide table, a caption is out of sight.
    left = "text-align:left;caption-side:top;white-space:pre-wrap"
    caption = f'<caption style="{left}">{escaped(table.title)}</caption>' if table.title else ""
    return (
        '<div style="overflow:auto;max-height:480px"><table style="text-align:right;margin:0">'
        f"{caption}<thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
        + folded("notes, and how to read it", paragraphs([*table.notes, *table.legend]))
    )


def blocks_html(blocks: Iterable[Block]) -> str:
    """Return tables and paragraphs as one HTML element; a paragraph that begins with a verdict has its colour."""
    return together(table_html(block) if isinstance(block, Table) else _said(block) for block in blocks)


def together(elements: Iterable[str]) -> str:
    """Return HTML as one element, so that a notebook shows it as a whole."""
    return f"<div>{''.join(elements)}</div>"


def _said(text: str) -> str:
    first, _, rest = text.partition("\n")
    if severity := severity_of(first):
        return box(severity, [first], lines_html(rest))
    return lines_html(text)


def _shown(column: str, cell: str, table: Table, colour: Colour) -> str:
    # A colour alone is lost in grey.
    sign = SYMBOL.get(severity_of(cell), "") if column in _JUDGED else ""
    return _cell("td", f"{sign} {cell}" if sign else cell, column in table.left, colour(column, cell))


def _cell(tag: str, text: str, left: bool, color: str) -> str:
    # What the whole table says is not said again: a cell is half of what a notebook stores.
    style = ";".join(["text-align:left"] * left + [f"color:{color};font-weight:bold"] * bool(color))
    shown = escaped(text).replace("\n", "<br>")
    if _SPARK.fullmatch(text):
        shown = f"<samp>{shown.replace(' ', '&nbsp;')}</samp>"
    # Jupyter breaks the lines of cells, of numbers too: 1e- and 5.
    elif re.search(r"\S[ [/(-]", text) and len(text) <= _KEPT_WHOLE:
        shown = f"<nobr>{shown}</nobr>"
    return f'<{tag} style="{style}">{shown}</{tag}>' if style else f"<{tag}>{shown}</{tag}>"
