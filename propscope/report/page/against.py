"""A comparison on a page: where the record parts from another one, the sizes of both at each site, what differs."""

from __future__ import annotations

from typing import Any

from propscope.comparison import compare
from propscope.records.comparison import Comparison, Difference
from propscope.records.network import DIRECTIONS
from propscope.report.comparison import difference_cell, difference_rows, head_lines
from propscope.report.documents import fields

# Rows of the table of sites, and of differences.
ROWS = 500


def compared(record: Any, other: Any) -> Comparison | None:
    """Return the comparison of a record with another one, which is the first; None without one."""
    return None if other is None else compare(other, record)


def against_part(comparison: Comparison) -> tuple[dict[str, Any], list[str]]:
    """Return what the page draws of a comparison whose second side the page is of, and what is thinned.

    Of several networks the first that differs is drawn.
    """
    sizes = comparison.drawn
    labels = sizes[0].labels if sizes else None
    said: dict[int, list[Difference]] = {}
    for one in comparison.differences:
        if one.labels == labels and not one.of_whole_step:
            said.setdefault(one.place, []).append(one)
    rows = list(difference_rows(comparison.differences, comparison.axes))
    document = {
        "same": comparison.same,
        "lines": head_lines(comparison),
        "called": [name or which for name, which in zip(comparison.names, ("first", "second"), strict=True)],
        "network": comparison.distinct(labels),
        "sites": [fields(each, leave="labels") | _said(said.get(each.place, [])) for each in sizes[:ROWS]],
        "differences": [list(row) for row in rows[:ROWS]],
        "parameters": [fields(each) for each in comparison.parameters[:ROWS]],
    }
    thinned = [
        f"of {len(rest)} {what} of the comparison {ROWS} are here"
        for what, rest in (("sites", sizes), ("differences", rows), ("parameters", comparison.parameters))
        if len(rest) > ROWS
    ]
    return document, thinned


def _said(differences: list[Difference]) -> dict[str, Any]:
    """Return what differs at a site in words, and in which directions it does."""
    words = [
        " ".join(filter(None, (one.direction, "" if one.quantity == "state" else one.quantity, difference_cell(one))))
        for one in differences
    ]
    which = [direction for direction in DIRECTIONS if any(one.direction in (direction, None) for one in differences)]
    return {"difference": "; ".join(words), "differs": which}
