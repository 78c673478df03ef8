"""`Table`, and blocks of tables and paragraphs: what a terminal shows, and a notebook."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise, takewhile
from operator import itemgetter

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
    `headings`: the line above each run of rows that have the same one; empty, or one a row.
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
    headings: tuple[str, ...] = ()

    def to_text(self, *, width: int | None = None, explain: bool = False) -> str:
        """Return the table as plain text of at most `width` characters (None: as wide as its cells need).

        `explain`: whether the whole legend stands below it. A table that is too wide goes without its spare columns;
        then its first columns become headings, and at last it stands in parts, one below the other. No cell is cut.
        """
        if self.narrow is not None and width is not None and self.width > width:
            return self.narrow.to_text(width=width, explain=explain)
        table = self if width is None else self._narrowed(width)
        parts = [table] if width is None or table.width <= width else table._parts(width)
        body = "\n".join(part._body() for part in parts)
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
        return _total(self._widths()) + bool(self.headings)

    def _widths(self) -> list[int]:
        heads = [max(map(cells, printable(name, lines=True).split("\n"))) for name in self.columns]
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(heads)
        return [
            max([head, *(cells(printable(cell)) for cell in column)])
            for head, column in zip(heads, columns, strict=True)
        ]

    def _narrowed(self, width: int) -> Table:
        """Return the table as it fits into `width`: without spare columns, its first ones as headings, names shortened.

        Headings are tried where leaving out all spare columns is not enough.
        """
        table, found = self, self._without_spare(width)
        while found.width > width and (grouped := table._grouped()) is not None:
            table, found = grouped, grouped._without_spare(width)
        return found._shortened(width)

    def _without_spare(self, width: int) -> Table:
        widths = dict(enumerate(self._widths()))
        room = width - bool(self.headings)
        gone = 0
        # From the right: a label of the user's may have the name of a figure.
        last = {name: at for at, name in enumerate(self.columns)}
        for name in self.spare:
            if _total(widths.values()) > room and name in last:
                del widths[last[name]]
                gone += 1
        found = self._of(tuple(widths))
        return replace(found, notes=(*self.notes, f"{counted(gone, 'more column')} with --wide")) if gone else found

    def _grouped(self) -> Table | None:
        """Return the table with its first column as headings over the rows; None where these would be many."""
        if len(self.columns) < 3 or not {*self.columns[:2]} <= self.left or self.columns[0] == self.dotted:
            return None
        runs = 1 + sum(one[0] != other[0] for one, other in pairwise(self.rows))
        if 2 * runs > len(self.rows):
            return None
        above = self.headings or ("",) * len(self.rows)
        own = (f"{self.columns[0]} {row[0]}" for row in self.rows)
        headings = tuple(", ".join(filter(None, pair)) for pair in zip(above, own, strict=True))
        return replace(self._of(tuple(range(1, len(self.columns)))), headings=headings)

    def _shortened(self, width: int) -> Table:
        over = self.width - width
        if over <= 0 or not self.dotted:
            return self
        at = self.columns.index(self.dotted)
        room = max(self._widths()[at] - over, _LEAST_NAME)
        short = {row[at]: shortened(row[at], room) for row in self.rows}
        # Names that would read the same stay as they are.
        if len(set(short.values())) < len(short):
            return self
        return replace(self, rows=tuple((*row[:at], short[row[at]], *row[at + 1 :]) for row in self.rows))

    def _of(self, places: Sequence[int]) -> Table:
        """Return the table of the columns at these places."""
        columns = tuple(self.columns[at] for at in places)
        return replace(self, columns=columns, rows=tuple(tuple(row[at] for at in places) for row in self.rows))

    def _parts(self, width: int) -> list[Table]:
        """Return the table in parts of at most `width`, one below the other, each with the first columns again."""
        widths = self._widths()
        leading = [at for at, _ in enumerate(takewhile(self.left.__contains__, self.columns))]
        keys = leading if leading and _total([widths[at] for at in leading]) <= width // 2 else [0]
        parts: list[list[int]] = [[]]
        for at in range(len(self.columns)):
            if at in keys:
                continue
            if parts[-1] and _total([widths[each] for each in (*keys, *parts[-1], at)]) > width:
                parts.append([])
            parts[-1].append(at)
        return [self._of((*keys, *part))._folded(width) for part in parts]

    def _folded(self, width: int) -> Table:
        """Return the table with the long cells of its last column over several rows, in whole words."""
        widths = self._widths()
        if _total(widths) <= width or not self.rows:
            return self
        room = max(width - _total(widths[:-1]) - 2, _LEAST_NAME)
        rows: list[tuple[str, ...]] = []
        headings: list[str] = []
        for row, heading in zip(self.rows, self.headings or ("",) * len(self.rows), strict=True):
            lines = textwrap.wrap(row[-1], room, break_long_words=False, break_on_hyphens=False) or [""]
            rows += [(*(row[:-1] if at == 0 else ("",) * (len(row) - 1)), line) for at, line in enumerate(lines)]
            headings += [heading] * len(lines)
        return replace(self, rows=tuple(rows), headings=tuple(headings) if self.headings else ())

    def _body(self) -> str:
        widths = self._widths()
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
        body = printed[tall:]
        if self.headings:
            runs = groupby(zip(self.headings, body, strict=True), key=itemgetter(0))
            body = [line for heading, rows in runs for line in (printable(heading), *(f" {row}" for _, row in rows))]
            printed = [f" {line}" for line in printed]
        rule = "─" * (_total(widths) - 1)
        return "\n".join(["", *(f" {line}".rstrip() for line in [*printed[:tall], rule, *body])]).rstrip()


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
