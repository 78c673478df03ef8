"""What a narrower number format would lose of a tensor, by its histogram, and the loss scale that fp16 needs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass

from propscope.errors import InputError
from propscope.records.histogram import LogHistogram
from propscope.records.network import Direction, NetworkProfile
from propscope.records.summary import TensorSummary

LOSS_SCALE_MARGIN = 4.0
LARGEST_LOSS_SCALE = 2**24
_NONZERO = math.ulp(0.0)


@dataclass(frozen=True, slots=True)
class Format:
    """A floating-point format: its largest finite value, smallest normal and smallest subnormal number, all positive.

    `overflow`: the smallest magnitude that rounds, to nearest even, beyond `largest`. It becomes Inf; in a format
    without Inf it becomes NaN, or `largest` where torch casts it.
    """

    name: str
    label: str
    largest: float
    overflow: float
    smallest_normal: float
    smallest_subnormal: float
    source: str


# fmt: off
FORMATS: tuple[Format, ...] = (
    Format("fp16", "fp16", 65504.0, 65520.0, 2.0**-14, 2.0**-24, "IEEE 754-2008, binary16"),
    Format("bf16", "bf16", 2.0**128 - 2.0**120, 2.0**128 - 2.0**119, 2.0**-126, 2.0**-133,
           "Kalamkar et al. 2019, A Study of BFLOAT16; the range of binary32"),
    Format("fp8_e4m3", "fp8 e4m3", 448.0, 464.0, 2.0**-6, 2.0**-9, "Micikevicius et al. 2022, table 1, E4M3: no Inf"),
    Format("fp8_e5m2", "fp8 e5m2", 57344.0, 61440.0, 2.0**-14, 2.0**-16, "Micikevicius et al. 2022, table 1, E5M2"),
)
# fmt: on

_INDEX = {entry.name: entry for entry in FORMATS}
_FP16 = _INDEX["fp16"]


@dataclass(frozen=True, slots=True)
class Headroom:
    """Shares of all values (0 to 1) that a format would turn into Inf (`overflow`), `subnormal` numbers, or `zero`.

    Values that are already zero, NaN or infinite count only in the denominator. All are NaN when there are no values.
    """

    overflow: float
    subnormal: float
    zero: float

    @property
    def lost(self) -> float:
        """The share that is lost altogether: overflow and zero."""
        return self.overflow + self.zero


@dataclass(frozen=True, slots=True)
class Worst:
    """The tensor that a format would hurt most: the name of its `site`, its `direction`, the `shares` lost."""

    site: str
    direction: Direction
    shares: Headroom


def number_format(name: str | Format) -> Format:
    """Return the format of a name (fp16, bf16, fp8_e4m3, fp8_e5m2); raises `InputError` for another."""
    if isinstance(name, Format):
        return name
    if name not in _INDEX:
        near = difflib.get_close_matches(str(name).lower().replace(" ", "_"), _INDEX, n=1, cutoff=0.5)
        valid = ", ".join(f'"{format_name}"' for format_name in _INDEX)
        raise InputError(
            f'format must be one of {valid}, got "{name}"',
            hint=f'did you mean "{near[0]}"?' if near else "",
        )
    return _INDEX[name]


def headroom(histogram: LogHistogram, format: str | Format, *, scale: float = 1.0) -> Headroom:
    """Return the shares of a histogram's values, times `scale`, that would overflow, become subnormal or zero.

    Values round to nearest even: half the smallest subnormal, or less, becomes zero. A limit inside a bin divides the
    bin in proportion to its width (12.5% at most). Magnitudes below 2^-129 share one bin, of which bf16 counts half as
    zero.
    """
    to = number_format(format)
    half = to.smallest_subnormal / 2
    return Headroom(
        overflow=histogram.share(to.overflow / scale, math.inf),
        subnormal=histogram.share(half / scale, (to.smallest_normal - half) / scale),
        zero=histogram.share(_NONZERO, half / scale),
    )


def summary_headroom(summary: TensorSummary | None, format: str | Format, *, scale: float = 1.0) -> Headroom | None:
    """Return the headroom of a summary; its exact extremes rule out an overflow that its histogram cannot.

    None where there is no summary, no histogram, or no value.
    """
    if summary is None or summary.histogram is None or not summary.histogram.bins.size:
        return None
    to, histogram = number_format(format), summary.histogram
    fits = largest_magnitude(summary) * scale < to.overflow
    # Most tensors lie well within the range of the format.
    if fits and not histogram.has_below((to.smallest_normal - to.smallest_subnormal / 2) / scale):
        return Headroom(0.0, 0.0, 0.0)
    shares = headroom(histogram, to, scale=scale)
    if fits:
        return Headroom(0.0, shares.subnormal, shares.zero)
    # A histogram that samples a large tensor may have missed the few values that overflow.
    return Headroom(max(shares.overflow, 1 / summary.count), shares.subnormal, shares.zero)


def largest_magnitude(summary: TensorSummary) -> float:
    """Return the largest magnitude of the finite elements, exactly; 0 where there are none."""
    return 0.0 if math.isnan(summary.max) else max(abs(summary.min), abs(summary.max))


def recommended_loss_scale(profile: NetworkProfile) -> int | None:
    """Return the largest power of two that keeps every gradient seen below fp16's largest value, with a margin of 4.

    That is the largest s = 2^k in [1, 2^24] with s * g * 4 <= 65504, where g is the largest finite magnitude of any
    gradient of a site or a parameter, from their exact extremes (Micikevicius et al. 2018). The margin allows for
    other batches. torch.amp.GradScaler, which doubles from 2^16, has met an overflow long before 2^24. The scale holds
    for the loss that was profiled. None where no gradient was seen, or all were zero.
    """
    largest = largest_gradient(profile)
    if not largest:
        return None
    exponent = math.floor(math.log2(_FP16.largest / LOSS_SCALE_MARGIN) - math.log2(largest))
    return int(2 ** min(max(exponent, 0), int(math.log2(LARGEST_LOSS_SCALE))))


def largest_gradient(profile: NetworkProfile) -> float:
    """Return the largest finite magnitude of all gradients seen, of sites and parameters; 0 where there is none."""
    return max((largest_magnitude(summary) for summary in _gradients(profile)), default=0.0)


def _gradients(profile: NetworkProfile) -> Iterable[TensorSummary]:
    for site in profile.sites:
        if site.backward is not None:
            yield site.backward
    for parameter in profile.parameters:
        if parameter.gradient is not None:
            yield parameter.gradient


def spell(shares: Headroom) -> str:
    """Return the shares in words without those that are zero: "over 3% zero 12%"; "-" where nothing is lost."""
    parts = (("over", shares.overflow), ("zero", shares.zero), ("sub", shares.subnormal))
    return " ".join(f"{name} {_share(share)}" for name, share in parts if share > 0) or "-"


def _share(share: float) -> str:
    return "<0.1%" if share < 0.001 else f"{100 * share:.2g}%" if share < 0.995 else "100%"


def _order(shares: Headroom) -> tuple[float, float, float]:
    return shares.overflow, shares.zero, shares.subnormal


def worst_in(profile: NetworkProfile, format: str | Format, *, loss_scale: float = 1.0) -> Worst | None:
    """Return the tensor that a format would hurt most; None where it hurts none. Gradients count times `loss_scale`.

    Overflow is worse than zeros, and zeros are worse than subnormal numbers.
    """
    found = [
        Worst(site.name or "(model)", way, shares)
        for site in profile.without_inputs.sites
        for way, scale in _directions(loss_scale)
        if (shares := summary_headroom(getattr(site, way), format, scale=scale)) is not None
    ]
    worst = max(found, key=lambda entry: _order(entry.shares), default=None)
    return worst if worst is not None and any(_order(worst.shares)) else None


def _directions(loss_scale: float) -> tuple[tuple[Direction, float], ...]:
    return ("forward", 1.0), ("backward", loss_scale)
