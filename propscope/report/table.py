"""`Table`, and blocks of tables and paragraphs: what a terminal and a notebook show."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable
from dataclasses import dataclass

from propscope.printable import printable


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below the headings `columns`, a `title` above, `notes` below; `left`: the columns aligned left."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def to_text(self, *, width: int | None = None) -> str:
        """Return the table as plain text of at most `width` characters (None: as wide as its cells need)."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        # As text: a string would be searched for markup and for names of emoji between colons.
        for column in self.columns:
            drawn.add_column(Text(column), justify="left" if column in self.left else "right", no_wrap=width is None)
        for row in self.rows:
            drawn.add_row(*(Text(printable(cell)) for cell in row))
        buffer = io.StringIO()
        # In a notebook a console shows what it is given, whatever the file.
        Console(file=buffer, width=width or 10_000, color_system=None, force_jupyter=False).print(drawn)
        body = "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())
        return printable("\n".join([self.title, body, *(("", *self.notes) if self.notes else ())]), lines=True)

    def to_html(self) -> str:
        """Return the table as an HTML element."""

        def cells(row: tuple[str, ...], tag: str) -> str:
            aligned = zip(self.columns, row, strict=True)
            return "".join(
                f'<{tag} style="text-align:{"left" if name in self.left else "right"}">{_escaped(cell)}</{tag}>'
                for name, cell in aligned
            )

        body = "".join(f"<tr>{cells(tuple(map(printable, row)), 'td')}</tr>" for row in self.rows)
        notes = "".join(f"<p>{_escaped(note)}</p>" for note in self.notes)
        caption = _escaped(self.title).replace("\n", "<br>")
        head = f"<thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        return f"<table><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>{notes}"


def _escaped(text: str) -> str:
    return html.escape(printable(text, lines=True))


Block = Table | str


def blocks_text(blocks: Iterable[Block]) -> str:
    """Return tables and paragraphs as plain text, with an empty line between them."""
    return "\n\n".join(printable(block, lines=True) if isinstance(block, str) else block.to_text() for block in blocks)


def blocks_html(blocks: Iterable[Block]) -> str:
    """Return tables and paragraphs as one HTML element."""
    elements = [
        f'<pre style="white-space:pre-wrap">{_escaped(block)}</pre>' if isinstance(block, str) else block.to_html()
        for block in blocks
    ]
    return elements[0] if len(elements) == 1 else f"<div>{''.join(elements)}</div>"
