"""The model's inputs in words, which every report starts with."""

from __future__ import annotations

from propscope.records.network import NetworkProfile, Site
from propscope.records.numerals import counted, number, percent

_SHOWN = 6


def input_lines(profile: NetworkProfile) -> tuple[str, ...]:
    """Return a line for each input: shape and type, rms, mean, std, range, zeros, how its features differ, NaN.

    The rms is left out where it is the std, by the digits shown. Whole numbers show only their range and their zeros.
    Of many inputs the first six are shown.
    """
    lines = [_line(site) for site in profile.inputs]
    rest = len(lines) - _SHOWN
    return (*lines[:_SHOWN], *(f"and {counted(rest, 'more input')}",) * (rest > 0))


def _line(site: Site) -> str:
    parts = [f"{','.join(map(str, site.shape))} {site.dtype}".strip()]
    summary = site.forward
    if summary is None or not summary.count:
        return f"{site.name}: {parts[0]}, empty"
    if site.dtype.startswith(("float", "bfloat", "complex")):
        rms, std = number(summary.rms), number(summary.std)
        parts += [*[f"rms {rms}"] * (rms != std), f"mean {number(summary.mean)}", f"std {std}"]
        parts.append(f"from {number(summary.min)} to {number(summary.max)}")
    else:
        parts.append(f"from {summary.min:.0f} to {summary.max:.0f}")
    if summary.zero_fraction:
        parts.append(f"{percent(summary.zero_fraction)} zeros")
    if site.feature_spread is not None:
        parts.append(f"largest feature x{number(site.feature_spread)} the median")
    counts = (("NaN", summary.nan_count), ("Inf", summary.posinf_count + summary.neginf_count))
    parts += [f"{count:,} {what}" for what, count in counts if count]
    return f"{site.name}: {', '.join(parts)}"
