"""`Table`: rows of text with headings, for a terminal and for a notebook."""

from __future__ import annotations

import html
import io
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """`columns` head the `rows`, all text; `left` names the columns of words; `notes` explain what stands above."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def to_text(self, *, width: int | None = None) -> str:
        """Return the table as plain text of `width` characters; None: as wide as its cells need."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text

        drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        # As text: a string would be searched for markup and for names of emoji between colons.
        for column in self.columns:
            drawn.add_column(Text(column), justify="left" if column in self.left else "right", no_wrap=width is None)
        for row in self.rows:
            drawn.add_row(*map(Text, row))
        buffer = io.StringIO()
        # In a notebook a console shows what it is given, whatever the file.
        Console(file=buffer, width=width or 10_000, color_system=None, force_jupyter=False).print(drawn)
        body = "\n".join(line.rstrip() for line in buffer.getvalue().rstrip().splitlines())
        return "\n".join([self.title, body, *(("", *self.notes) if self.notes else ())])

    def to_html(self) -> str:
        """Return the table as an HTML element."""

        def cells(row: tuple[str, ...], tag: str) -> str:
            aligned = zip(self.columns, row, strict=True)
            return "".join(
                f'<{tag} style="text-align:{"left" if name in self.left else "right"}">{html.escape(cell)}</{tag}>'
                for name, cell in aligned
            )

        body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in self.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        caption = html.escape(self.title).replace("\n", "<br>")
        head = f"<thead><tr>{cells(self.columns, 'th')}</tr></thead>"
        return f"<table><caption>{caption}</caption>{head}<tbody>{body}</tbody></table>{notes}"


def number(value: float | int | None, digits: int = 3) -> str:
    """Return a number to `digits` significant digits: plain from 0.001 to 10^5, else with an exponent; None is -."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int) or value == 0 or math.isinf(value):
        return str(value) if isinstance(value, int) else ("0" if value == 0 else ("inf" if value > 0 else "-inf"))
    if 1e-3 <= abs(value) < 1e5:
        rounded = float(f"{value:.{digits - 1}e}")
        places = max(digits - 1 - math.floor(math.log10(abs(rounded))), 0)
        return f"{value:.{places}f}"
    mantissa, exponent = f"{value:.{digits - 2}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def percent(share: float | None) -> str:
    """Return a share (0 to 1) in percent; - where there is none."""
    if share is None or math.isnan(share):
        return "-"
    if 0 < share < 0.01 or 0.99 < share < 1:
        return "<1%" if share < 0.5 else ">99%"
    return f"{100 * share:.0f}%"
