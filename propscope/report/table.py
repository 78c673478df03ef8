"""`Table`, and blocks of tables and paragraphs: what a terminal and a notebook show."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
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
        rows = [tuple(map(printable, row)) for row in self.rows]
        heads = [printable(column, lines=True).split("\n") for column in self.columns]
        tall = max(map(len, heads), default=0)
        lines = [*zip(*([*[""] * (tall - len(head)), *head] for head in heads), strict=True), *rows]
        widths = [max(map(cells, column)) for column in zip(*lines, strict=True)]
        total = sum(widths) + 2 * (len(widths) - 1)
        if width is not None and total >= width:
            body = self._wrapped(rows, width)
        else:
            pads = [(column in self.left, wide) for column, wide in zip(self.columns, widths, strict=True)]
            printed = [
                "  ".join(_padded(cell, *pad) for cell, pad in zip(line, pads, strict=True)).rstrip() for line in lines
            ]
            body = "\n".join(
                ["", *(f" {line}".rstrip() for line in [*printed[:tall], "─" * total, *printed[tall:]])]
            ).rstrip()
        return printable("\n".join([self.title, body, *(("", *self.notes) if self.notes else ())]), lines=True)

    def _wrapped(self, rows: Sequence[tuple[str, ...]], width: int) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        # As text: a string would be searched for markup and for names of emoji between colons.
        for column in self.columns:
            rendered.add_column(Text(column), justify="left" if column in self.left else "right")
        for row in rows:
            rendered.add_row(*map(Text, row))
        buffer = io.StringIO()
        # In a notebook a console shows what it is given, whatever the file.
        Console(file=buffer, width=width, color_system=None, force_jupyter=False).print(rendered)
        return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())

    def to_html(self) -> str:
        """Return the table as an HTML element."""

        def row_html(row: tuple[str, ...], tag: str) -> str:
            aligned = zip(self.columns, row, strict=True)
            return "".join(
                f'<{tag} style="text-align:{"left" if name in self.left else "right"}">{_escaped(cell)}</{tag}>'
                for name, cell in aligned
            )

        body = "".join(f"<tr>{row_html(tuple(map(printable, row)), 'td')}</tr>" for row in self.rows)
        notes = "".join(f"<p>{_escaped(note)}</p>" for note in self.notes)
        caption = _escaped(self.title).replace("\n", "<br>")
        head = f"<thead><tr>{row_html(self.columns, 'th')}</tr></thead>"
        return f"<table><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>{notes}"


def cells(text: str) -> int:
    """Return the number of a terminal's cells that a line takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(cell: str, left: bool, wide: int) -> str:
    room = " " * (wide - cells(cell))
    return cell + room if left else room + cell


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
