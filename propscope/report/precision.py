"""What a narrower number format would lose, as a table and in words."""

from __future__ import annotations

from propscope.records.network import NetworkProfile
from propscope.records.numerals import number
from propscope.records.precision import (
    FORMATS,
    LOSS_SCALE_MARGIN,
    largest_gradient,
    largest_magnitude,
    recommended_loss_scale,
    spell,
    summary_headroom,
    worst_in,
)
from propscope.records.summary import TensorSummary
from propscope.report.table import Table


def precision_table(profile: NetworkProfile) -> Table:
    """Return a table with one row a site: its largest values, and what each format would lose, forward and backward.

    Sites without a histogram show their extremes.
    """
    names = tuple(entry.label.replace(" ", "\n") for entry in FORMATS)
    columns = ("site", *(f"{way}\n{name}" for way in ("forward", "backward") for name in ("largest", *names)))
    notes = (
        "Shares of all values that a format would lose. over: overflows; zero: rounds to zero; sub: becomes subnormal, "
        "with fewer digits; -: loses nothing. Gradients are without a loss scale, fp8 is without a scale per tensor.",
    )
    rows = tuple(
        (site.name or "(model)", *_cells(site.forward), *_cells(site.backward)) for site in profile.without_inputs.sites
    )
    return Table("Precision headroom", columns, rows, frozenset(columns[:1]), notes)


def precision_sentence(profile: NetworkProfile) -> str:
    """Return the loss scale that fp16 needs and the worst site in fp16 and bf16; "" where nothing can be told."""
    parts = []
    scale = recommended_loss_scale(profile)
    if scale is not None:
        largest = number(largest_gradient(profile), 2)
        parts.append(
            f"fp16 loss scale {scale} = 2^{scale.bit_length() - 1} for this loss (largest gradient {largest}, "
            f"safety margin x{LOSS_SCALE_MARGIN:g})"
        )
    for name, after in (("fp16", scale or 1), ("bf16", 1)):
        worst = worst_in(profile, name, loss_scale=after)
        scaled = " with this loss scale" if name == "fp16" and scale is not None else ""
        if worst is not None:
            parts.append(f"worst in {name}{scaled}: {worst.site} {worst.direction}, {spell(worst.shares)}")
        elif any(site.forward is not None and site.forward.histogram is not None for site in profile.sites):
            parts.append(f"{name}{scaled} loses nothing")
    return f"precision: {'; '.join(parts)}" if parts else ""


def _cells(summary: TensorSummary | None) -> tuple[str, ...]:
    if summary is None:
        return ("",) * (len(FORMATS) + 1)
    shares = (summary_headroom(summary, entry) for entry in FORMATS)
    return (number(largest_magnitude(summary)), *("" if part is None else spell(part) for part in shares))
