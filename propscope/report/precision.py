"""What a narrower number format would lose, as a table and in words."""

from __future__ import annotations

from propscope.records.network import NetworkProfile
from propscope.records.numerals import number
from propscope.records.precision import FORMATS, fp16_severity, largest_magnitude, spell, summary_headroom
from propscope.records.summary import TensorSummary
from propscope.report.table import Table


def precision_table(profile: NetworkProfile, *, worst_first: bool = False) -> Table:
    """Return a table with one row a site: its largest values, and what each format would lose, forward and backward.

    `worst_first`: by the share lost in fp16, to overflow before zero. Sites without a histogram show their extremes.
    """
    sites = list(profile.sites)
    if worst_first:
        sites.sort(key=fp16_severity, reverse=True)
    names = tuple(entry.label.replace(" ", "\n") for entry in FORMATS)
    columns = ("site", *(f"{way}\n{name}" for way in ("forward", "backward") for name in ("largest", *names)))
    notes = (
        "over: overflows; zero: rounds to zero; sub: keeps fewer digits, as a subnormal. Shares of all values, - for",
        "none. Backward is unscaled: a loss scale moves it up. Cast per tensor, without a scale of its own (fp8).",
    )
    rows = tuple((site.name or "(model)", *_cells(site.forward), *_cells(site.backward)) for site in sites)
    return Table("Precision headroom", columns, rows, frozenset(columns[:1]), notes)


def _cells(summary: TensorSummary | None) -> tuple[str, ...]:
    if summary is None:
        return ("",) * (len(FORMATS) + 1)
    shares = (summary_headroom(summary, entry) for entry in FORMATS)
    return (number(largest_magnitude(summary)), *("" if part is None else spell(part) for part in shares))
