"""What `calibrate` did, as a table with what was left alone in its notes."""

from __future__ import annotations

from propscope.records.calibration import ALIKE, Calibration
from propscope.records.numerals import number, percent
from propscope.report.table import Table

_NAMES = 4


def calibration_table(calibration: Calibration) -> Table:
    """Return the layers as a table, with what was left in its notes."""
    columns = ("layer", "kind", "std before", "std after", "factor", "steps", "samples")
    rows = tuple(
        (
            layer.name or "(model)",
            layer.kind,
            number(layer.std_before),
            number(layer.std_after),
            number(layer.factor),
            str(layer.steps),
            percent(layer.sample_fraction),
        )
        for layer in calibration.layers
    )
    title = (
        f"Calibration: {len(rows)} weights, {calibration.passes} forward pass{'es' if calibration.passes > 1 else ''}"
    )
    return Table(title, columns, rows, frozenset(columns[:2]), _notes(calibration))


def _notes(calibration: Calibration) -> tuple[str, ...]:
    notes = ["samples: share of the variance that lies between samples and positions, not between units"]
    alike = [layer.name for layer in calibration.layers if layer.sample_fraction < ALIKE]
    if alike:
        notes.append(
            f"hardly different between samples, whatever the scale: {_listed(alike)}; "
            "a centred activation, or a norm, keeps samples apart"
        )
    several = [layer.name for layer in calibration.layers if layer.calls > 1]
    if several:
        notes.append(f"run several times in a pass, calibrated on the first: {_listed(several)}")
    reasons: dict[str, list[str]] = {}
    for entry in calibration.left:
        reasons.setdefault(entry.reason, []).append(entry.name or "(model)")
    notes += [f"left alone, {reason}: {_listed(names)}" for reason, names in reasons.items()]
    return tuple(notes)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return ", ".join(names[:_NAMES]) + more
