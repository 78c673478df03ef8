"""The relative difference that says nothing, by the least precise type that a signal passed through."""

from __future__ import annotations

from collections.abc import Iterable

from propscope.checks import number as checked
from propscope.records.network import NetworkProfile

# Thread counts, kernels and versions move float32 by up to 1%, which does not affect training. Rounding each value of a
# deep network to 8 bits (bfloat16) or 11 (float16) moves its rms by more; docs/compare.md has the measurement.
TOLERANCES = {"float64": 0.01, "float32": 0.01, "float16": 0.02, "bfloat16": 0.05}
TOLERANCES |= {"complex64": 0.01, "complex128": 0.01}
_OTHERS = 0.1


def tolerance_of(profiles: Iterable[NetworkProfile], given: float | None) -> tuple[float, str]:
    """Return the tolerance and what it follows from, in words: as `given`, else the largest of the sites' types.

    Raises `InputError` for one that is no finite number of at least 0.
    """
    if given is not None:
        return checked("tolerance", given), "as given"
    types = {site.dtype for profile in profiles for site in profile.without_inputs.sites}
    # Whole numbers are rounded by nothing.
    known = {name: TOLERANCES.get(name, _OTHERS) for name in types if "float" in name or "complex" in name}
    # Of types with the same tolerance the usual one is named.
    worst = max(sorted(known), key=lambda name: (known[name], name == "float32"), default="float32")
    return known.get(worst, TOLERANCES["float32"]), worst
