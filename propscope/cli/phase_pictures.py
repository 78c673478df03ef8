"""The phase diagrams of a sweep over weights or biases: measured depth scales over the colours of theory.

Here, since it is theory that the plots need not import: reading and drawing a file need no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from propscope.errors import InputError
from propscope.plots.table import Plot

if TYPE_CHECKING:
    from propscope.plots.gallery import Picture
    from propscope.records import ProfileSet, TrainingSet
    from propscope.records.phase import MeasuredDepth, PhaseChart

PHASE = Plot("phase", "phase_map.prepare_phase", "phase_map.draw_phase", main=True)
_VARIANCES = ("gain", "weight_variance", "bias_variance")
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
    from propscope.plots.phase_map import depths_of, prepare_phase, resolved

    if not set(_VARIANCES) & set(swept(profiles)):
        return
    plain = profiles.of(p for p in profiles if all(p.labels.get(n, 0) in ("none", "False", 0) for n in _OTHERS))
    for page in pages(plain, within=(), across=_VARIANCES, lines_at_most=1, columns_at_most=1):
        activation = str(page.profiles[0].labels.get("activation", ""))
        measured = depths_of(page.profiles)
        chart = _chart(activation, measured) if len(measured) > 2 else None
        if chart is not None:
            measured = resolved(measured, chart)

            name = "-".join(filter(None, (stem, PHASE.name, page.suffix)))
            prepared = prepare_phase(chart, note=f"dots: {facts(page.profiles)}", measured=measured)
            yield Picture(PHASE, prepared, tuple(directory / f"{name}.{ending}" for ending in formats))


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
