"""The phase diagrams of a sweep over weights or biases: measured depth scales over the colours of theory.

Here, since it is theory that the plots need not import: reading and drawing a file need no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from propscope.errors import InputError
from propscope.plots.table import Plot

if TYPE_CHECKING:
    from propscope.plots.gallery import Picture
    from propscope.records import NetworkProfile, ProfileSet, TrainingSet
    from propscope.records.phase import MeasuredDepth, PhaseChart

PHASE = Plot("phase", "phase.prepare_phase", "phase.draw_phase", main=True)
_VARIANCES = ("gain", "weight_variance", "bias_variance")
# No diagram reaches further, and a file from elsewhere may hold any number.
_LARGEST = 1e4
# Theory's diagram is of the plain network.
_OTHERS = ("norm", "residual", "dropout", "alpha_dropout")


def draw_all_with_phase(
    profiles: ProfileSet | TrainingSet,
    directory: Path,
    *,
    stem: str,
    formats: Sequence[str] = ("png",),
    only: Sequence[str] | None = None,
    sites: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Do what `plots.draw_all` does, and draw the phase diagrams of a grid, or those where `only` names `phase`."""
    from propscope.plots.gallery import NothingToDrawError, pictures, write_pictures
    from propscope.records import MonitoredRun, ProfileSet

    made: list[Picture] = []
    others = only
    # A monitored run is one network.
    grid = None if isinstance(profiles, MonitoredRun) else profiles
    if isinstance(grid, ProfileSet) and (only is None or PHASE.name in only):
        made += phase_pictures(grid, directory, stem=stem, formats=formats)
        others = None if only is None else [name for name in only if name != PHASE.name]
        if others == [] and not made:
            raise NothingToDrawError(
                "nothing to draw for phase: no gain, weight variance or bias variance has three values or more",
                hint="measure several, as with --weight-variance 1..3:9",
            )
    if others is None or others != []:
        made = [*pictures(profiles, directory, stem=stem, formats=formats, only=others, sites=sites), *made]
    return write_pictures(made, directory, overwrite=overwrite)


def phase_pictures(
    profiles: ProfileSet, directory: Path, *, stem: str, formats: Sequence[str] = ("png",)
) -> Iterator[Picture]:
    """Yield a phase diagram for each activation, depth, ... of a grid that sweeps gain or variances over three values.

    Networks with norms, residual connections or dropout have none, nor have activations that theory does not know.
    """
    from propscope.plots.gallery import Picture
    from propscope.plots.pages import facts, pages, swept

    if not set(_VARIANCES) & set(swept(profiles)):
        return
    plain = profiles.of(p for p in profiles if all(p.labels.get(n, 0) in ("none", "False", 0) for n in _OTHERS))
    for page in pages(plain, within=(), across=_VARIANCES, lines_at_most=1, columns_at_most=1):
        activation = str(page.profiles[0].labels.get("activation", ""))
        measured = _measured(page.profiles)
        chart = _chart(activation, measured) if len(measured) > 2 else None
        if chart is not None:
            if _scale_free(activation):
                measured = [p if p.bias_variance else replace(p, correlation_depth=math.nan) for p in measured]
            from propscope.plots.phase import prepare_phase

            name = "-".join(filter(None, (stem, PHASE.name, page.suffix)))
            prepared = prepare_phase(chart, note=f"dots: {facts(page.profiles)}", measured=measured)
            yield Picture(PHASE, prepared, tuple(directory / f"{name}.{ending}" for ending in formats))


def _measured(profiles: ProfileSet) -> list[MeasuredDepth]:
    from propscope.records.depth_scale import correlation_depth
    from propscope.records.phase import MeasuredDepth

    found = []
    for members in profiles.groups("seed").values():
        pairs = [_variances(profile) for profile in members]
        weight, bias = (math.fsum(each) / len(pairs) for each in zip(*pairs, strict=True))
        if 0 < weight < _LARGEST and 0 <= bias < _LARGEST:
            found.append(MeasuredDepth(weight, bias, correlation_depth(members)))
    return found


def _variances(profile: NetworkProfile) -> tuple[float, float]:
    """Return sigma_w^2 and sigma_b^2 as the weights and biases of the hidden layers behind the first have them."""
    hidden = [p for p in profile.parameters if p.name.startswith("layers.") and not p.name.startswith("layers.0.")]
    weights = [p.shape[1] * p.value.rms**2 for p in hidden if p.name.endswith("linear.weight")]
    biases = [p.value.rms**2 for p in hidden if p.name.endswith("linear.bias")]
    if not weights or not biases:
        return math.nan, math.nan
    return math.fsum(weights) / len(weights), math.fsum(biases) / len(biases)


def _scale_free(activation: str) -> bool:
    """Return whether phi(a x) = a phi(x) for a > 0, as of ReLU.

    Without biases, weights of any size then give the same cosines. These settle as a power of the depth, with no scale,
    while the colours are the limit of small biases.
    """
    from propscope.theory.elementwise import Elementwise

    return Elementwise.of(activation).slopes is not None


def _chart(activation: str, measured: Sequence[MeasuredDepth]) -> PhaseChart | None:
    """Return the chart that shows all points; None for an activation of the user's own, which a file may only name."""
    from propscope.networks import parse_spec
    from propscope.theory.phase import phase_chart

    try:
        if parse_spec(activation, "activation").custom:
            return None
        chart = phase_chart(activation)
        # As wide as the points need, and a part of the line stays in sight.
        weight = max(1.1 * max(point.weight_variance for point in measured), chart.weight_limits[1] / 2)
        bias = max(2 * max(point.bias_variance for point in measured), chart.bias_limits[1] / 5)
        return phase_chart(
            activation, weight_variance=(0, float(f"{weight:.2g}")), bias_variance=(0, float(f"{bias:.2g}"))
        )
    except InputError:
        return None
