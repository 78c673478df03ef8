"""`Table`, and blocks of tables and paragraphs: what a terminal shows, and a notebook."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from propscope.printable import printable, shortened
from propscope.records.numerals import counted

_LINE = 118
# A shortened name keeps this many characters.
_LEAST_NAME = 16


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below the headings `columns`, a `title` above, paragraphs of `notes` below.

    `left`: the columns aligned left. `legend`: paragraphs that explain the columns; `brief`: the same in two lines of
    at most 80 characters. `spare`: the columns that a narrow place goes without, the first one first. `dotted`: the
    column of names of modules, which a narrow place shortens. `narrow`: the table for a place that is narrower.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    brief: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    dotted: str = ""
    narrow: Table | None = None

    def to_text(self, *, width: int | None = None, explain: bool = False) -> str:
        """Return the table as plain text of at most `width` characters (None: as wide as its cells need).

        `explain`: whether the whole legend stands below it. A table too wide without its spare columns wraps its cells.
        """
        if self.narrow is not None and width is not None and self.width > width:
            return self.narrow.to_text(width=width, explain=explain)
        table = self if width is None else self._narrowed(width)
        widths = table._widths()
        body = table._wrapped(width) if width is not None and _total(widths) > width else table._lines(widths)
        paragraphs = [*table.notes, *(table.legend if explain or not table.brief else ())]
        lines = [line for each in paragraphs for line in textwrap.wrap(each, min(width or _LINE, _LINE)) or [""]]
        lines += () if explain else table.brief
        title = table.title
        if width is not None:
            title = "\n".join(filled(line, width) for line in title.split("\n"))
        return printable("\n".join([title, body, *(("", *lines) if lines else ())]), lines=True)

    @property
    def width(self) -> int:
        """How many characters wide the rows are when nothing is left out."""
        return _total(self._widths())

    def _widths(self) -> list[int]:
        heads = [max(map(cells, printable(name, lines=True).split("\n"))) for name in self.columns]
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(heads)
        return [
            max([head, *(cells(printable(cell)) for cell in column)])
            for head, column in zip(heads, columns, strict=True)
        ]

    def _narrowed(self, width: int) -> Table:
        """Return the table without the spare columns for which `width` has no room, then with shortened names."""
        widths = dict(enumerate(self._widths()))
        gone = 0
        # From the right: a label of the user's may have the name of a figure.
        last = {name: at for at, name in enumerate(self.columns)}
        for name in self.spare:
            if _total(widths.values()) > width and name in last:
                del widths[last[name]]
                gone += 1
        rows = [{at: row[at] for at in widths} for row in self.rows]
        over = _total(widths.values()) - width
        if over > 0 and self.dotted:
            at = self.columns.index(self.dotted)
            short = {row[at]: shortened(row[at], max(widths[at] - over, _LEAST_NAME)) for row in rows}
            # Names that would read the same are wrapped as they are.
            if len(set(short.values())) == len(short):
                for row in rows:
                    row[at] = short[row[at]]
        return replace(
            self,
            columns=tuple(self.columns[at] for at in widths),
            rows=tuple(tuple(row.values()) for row in rows),
            notes=(*self.notes, f"{counted(gone, 'more column')} with --wide") if gone else self.notes,
        )

    def _lines(self, widths: Sequence[int]) -> str:
        heads = [printable(column, lines=True).split("\n") for column in self.columns]
        tall = max(map(len, heads), default=0)
        lines = [
            *zip(*([*[""] * (tall - len(head)), *head] for head in heads), strict=True),
            *(tuple(map(printable, row)) for row in self.rows),
        ]
        pads = [(column in self.left, wide) for column, wide in zip(self.columns, widths, strict=True)]
        printed = [
            "  ".join(_padded(cell, *pad) for cell, pad in zip(line, pads, strict=True)).rstrip() for line in lines
        ]
        rule = "─" * (_total(widths) - 1)
        return "\n".join(["", *(f" {line}".rstrip() for line in [*printed[:tall], rule, *printed[tall:]])]).rstrip()

    def _wrapped(self, width: int | None) -> str:
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        rendered = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        # As text: a string would be searched for markup and for names of emoji between colons.
        for column in self.columns:
            rendered.add_column(Text(column), justify="left" if column in self.left else "right")
        for row in self.rows:
            rendered.add_row(*(Text(printable(cell)) for cell in row))
        buffer = io.StringIO()
        # In a notebook a console shows what it is given, whatever the file.
        Console(file=buffer, width=width, color_system=None, force_jupyter=False).print(rendered)
        return "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())


def _total(widths: Collection[int]) -> int:
    """Return how wide rows are whose columns are so wide, with the space before and those between them."""
    return sum(widths) + 2 * max(len(widths) - 1, 0) + 1


def cells(text: str) -> int:
    """Return the number of a terminal's cells that a line takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def filled(text: str, width: int, indent: int = 2) -> str:
    """Return a paragraph in lines of at most `width` characters, whole words; all but the first line are indented."""
    return textwrap.fill(text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def paragraph(heading: str, text: str, width: int) -> str:
    """Return a paragraph whose heading stands in a column of its own."""
    return filled(f"  {heading:10} {text}", width, indent=13)


def _padded(cell: str, left: bool, wide: int) -> str:
    room = " " * (wide - cells(cell))
    return cell + room if left else room + cell


Block = Table | str


def blocks_text(blocks: Iterable[Block], *, width: int | None = None) -> str:
    """Return tables and paragraphs as plain text, with an empty line between them; tables in at most `width`."""
    return "\n\n".join(
        printable(block, lines=True) if isinstance(block, str) else block.to_text(width=width) for block in blocks
    )
