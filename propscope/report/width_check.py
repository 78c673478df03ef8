"""How a width check reads: its exponents as tables, what is not as expected in words, and one JSON object."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from propscope.records.interval import Interval
from propscope.records.width_check import (
    PARAMETER_QUANTITIES,
    QUANTITIES,
    SITE_QUANTITIES,
    Quantity,
    WidthCheck,
    WidthRow,
    judged_step,
)
from propscope.report.table import Block, Table

_SHOWN = 20
_MARKS = {"not as expected": "!", "unclear": "?"}
_NOTES = (
    "exponent k: the rms grows with the width n as n^k; after ±, the 95% interval over seeds. change: x_t - x_0, which "
    "is by weights, (W_t - W_0) x_0, plus by input, W_t (x_t - x_0). -: nothing changes, or the layer has no weights.",
)


def width_blocks(check: WidthCheck, *, width: int | None = None) -> list[Block]:
    """Return what ran, the exponents of sites and parameters, what is not as expected, and the conclusion.

    Where the table of sites is wider than `width` characters, it leaves the gradients out.
    """
    sites = _table(check, SITE_QUANTITIES, parameters=False)
    if width is not None and sites.width > width:
        sites = _table(check, SITE_QUANTITIES[:-1], parameters=False)
    parameters = _table(check, PARAMETER_QUANTITIES, parameters=True)
    unlike = check.fits["not as expected"]
    lines = [_unlike(check, row) for row in unlike[:_SHOWN]]
    if len(unlike) > _SHOWN:
        lines.append(f"and {len(unlike) - _SHOWN} more; --json lists all")
    return [sites, parameters, "\n".join([*lines, _conclusion(check)])]


def width_document(check: WidthCheck) -> dict[str, Any]:
    """Return the check as one object, with every exponent at every step."""
    return {
        "model": check.title,
        "widths": list(check.widths),
        "seeds": check.seeds,
        "steps": check.steps,
        "optimizer": check.optimizer,
        "lr": check.learning_rate,
        "loss": check.loss,
        "expect": check.expect or None,
        "source": check.source or None,
        "tolerance": check.tolerance,
        "passed": check.passed if check.expect else None,
        "exit_code": check.exit_code,
        "exponents": check.exponent_rows(),
    }


def _table(check: WidthCheck, quantities: Sequence[Quantity], *, parameters: bool) -> Table:
    rows: dict[str, dict[Quantity, WidthRow]] = {}
    for row in check.rows:
        if row.parameter == parameters:
            rows.setdefault(row.name, {})[row.quantity] = row
    cells = []
    for name, of in rows.items():
        first = next(iter(of.values()))
        shown = [_cell(check, of[quantity]) if quantity in of else "-" for quantity in quantities]
        cells.append((name, *(() if parameters else (first.role,)), *shown))
    heads = [f"{QUANTITIES[quantity].label}\nt = {judged_step(quantity, check.steps)}" for quantity in quantities]
    if parameters:
        return Table("parameters", ("parameter", *heads), tuple(cells), left=frozenset({"parameter"}))
    columns = ("site", "role", *heads)
    return Table(check.headline, columns, tuple(cells), left=frozenset({"site", "role"}), notes=_NOTES)


def _cell(check: WidthCheck, row: WidthRow) -> str:
    found = row.exponent()
    if math.isnan(found.center):
        return "-"
    mark = _MARKS.get(row.fit(check.tolerance), "")
    half = "" if math.isnan(found.low) else f"±{(found.high - found.low) / 2:.2f}"
    return f"{power(found.center, '+')}{half}{mark}"


def power(exponent: float, sign: str = "") -> str:
    """Return an exponent with two decimals; `sign`: "+" to show that of positive ones too."""
    return f"{round(exponent, 2) + 0.0:{sign}.2f}"


def _unlike(check: WidthCheck, row: WidthRow) -> str:
    return (
        f"! {row.name}: {QUANTITIES[row.quantity].label} at step {row.judged} grows as n^{_interval(row.exponent())}, "
        f"{check.expected_in} has n^{_range(row)}"
    )


def _interval(found: Interval) -> str:
    limits = "" if math.isnan(found.low) else f" [{power(found.low)}, {power(found.high)}]"
    return f"{power(found.center)}{limits}"


def _range(row: WidthRow) -> str:
    low, high = row.expected or (math.nan, math.nan)
    return f"{low:g}" if low == high else f"{low:g} to n^{high:g}"


def _conclusion(check: WidthCheck) -> str:
    if not check.expect:
        return "nothing expected; --expect standard, mup or ntk holds the exponents against a parametrization"
    fits = check.fits
    judged = sum(len(rows) for fit, rows in fits.items() if fit != "not judged")
    source = f"expected: {check.expected_in}, within {check.tolerance:g} ({check.source})"
    count = len(fits["unclear"])
    unclear = f"; {count} unclear (?): try more seeds, larger widths or a smaller batch" if count else ""
    if check.passed:
        return f"{source}\npassed: {len(fits['as expected'])} of {judged} exponents are as expected{unclear}"
    if not fits["not as expected"]:
        return f"{source}\nfailed: none of {judged} exponents is as expected{unclear}"
    return f"{source}\nfailed: {len(fits['not as expected'])} of {judged} exponents are not as expected{unclear}"
