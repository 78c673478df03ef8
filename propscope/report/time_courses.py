"""How recurrent modules over time read: a table of one line each, and a sentence each."""

from __future__ import annotations

import math

from propscope.printable import shown
from propscope.records.network import NetworkProfile
from propscope.records.numerals import counted, number, percent
from propscope.records.time_course import GainFit, GateCourse, TimeCourse
from propscope.report.table import Table

_NOTE = (
    "a step: the factor exp(b) of the fitted line ln rms = a + b step, ± the standard deviation of ln rms about it; of "
    "the cell state of an LSTM, else of the hidden state. one step: the mean factor by which a single step changes the "
    "gradient that passes through it; it does not depend on where the loss reads. gates: mean over the steps, and the "
    "share that is flat. W_ih, W_hh: Frobenius norm over the square root of the number of rows, gate by gate. radius: "
    "the spectral radius of the recurrent part."
)
_SENTENCES = 6


def time_table(profile: NetworkProfile) -> Table | None:
    """Return the table with one row for each recurrent layer and direction; None where there are none."""
    courses = shown(profile.time_courses)
    if not courses:
        return None
    columns = (
        "module",
        "kind",
        "steps",
        "state rms\nfirst..last",
        "forward\na step",
        "gradient rms\nfirst..last",
        "backward\na step",
        "one\nstep",
        "gates",
        "W_ih",
        "W_hh",
        "radius",
    )
    rows = tuple(
        (
            course.label,
            course.kind,
            str(course.length or ""),
            _ends(None if course.state is None else course.state.forward),
            _fit(course.forward_gain),
            _ends(None if course.state is None else course.state.backward),
            _fit(course.backward_gain),
            "" if math.isnan(course.step_gain) else number(course.step_gain, 2),
            ", ".join(map(_gate, course.gates)),
            ", ".join(f"{gate.name} {number(gate.input_gain, 2)}" for gate in course.weights),
            ", ".join(f"{gate.name} {number(gate.recurrent_gain, 2)}" for gate in course.weights),
            "".join(number(gate.radius, 2) for gate in course.weights if gate.radius is not None),
        )
        for course in courses
    )
    filled = [at for at in range(len(columns)) if any(row[at] for row in rows)]
    reasons = dict.fromkeys(course.reason for course in courses if course.reason)
    return Table(
        f"{counted(len(rows), 'recurrent layer')} over time",
        tuple(columns[at] for at in filled),
        tuple(tuple(row[at] for at in filled) for row in rows),
        frozenset(("module", "kind", "gates", "W_ih", "W_hh")),
        (_NOTE, *reasons),
    )


def time_sentences(profile: NetworkProfile) -> list[str]:
    """Return a sentence on each of the first six recurrent layers and directions, and one that counts the others."""
    recorded = [course for course in profile.time_courses if course.state is not None]
    said = [_sentence(course) for course in recorded[:_SENTENCES]]
    return said + [f"over time: and {len(recorded) - _SENTENCES} more"] * (len(recorded) > _SENTENCES)


def _sentence(course: TimeCourse) -> str:
    state = course.state
    assert state is not None
    what = "hidden state" if course.cell is None else "cell state"
    parts = [f"{what} rms {_ends(state.forward)}{_a_step(course.forward_gain)}"]
    if state.backward is not None:
        parts.append(f"its gradient {_ends(state.backward)}{_a_step(course.backward_gain, ' back')}")
    elif course.reason:
        parts.append(course.reason)
    if not math.isnan(course.step_gain):
        parts.append(f"one step passes on x{number(course.step_gain, 2)} of it")
    if course.gates:
        parts.append(f"gates {', '.join(map(_gate, course.gates))}")
    if course.weights:
        gains = ", ".join(f"{gate.name} {number(gate.recurrent_gain, 2)}" for gate in course.weights)
        parts.append(f"weight_hh {gains}")
    return f"over time: {course.label}, {course.kind}, {course.length} steps: {'; '.join(parts)}"


def _ends(series: tuple[float, ...] | None) -> str:
    # The state of a last step that nothing reads has no gradient.
    seen = [value for value in series or () if not math.isnan(value)]
    return "..".join(map(number, seen if len(seen) < 2 else (seen[0], seen[-1])))


def _fit(fit: GainFit) -> str:
    return "" if math.isnan(fit.gain) else f"{number(fit.gain)} ±{fit.residual:.2f}"


def _a_step(fit: GainFit, back: str = "") -> str:
    return "" if math.isnan(fit.gain) else f" (x{_fit(fit)} a step{back})"


def _gate(gate: GateCourse) -> str:
    if not gate.mean:
        return gate.name
    flat = sum(gate.flat) / len(gate.flat)
    return f"{gate.name} {number(sum(gate.mean) / len(gate.mean), 2)}" + (f" ({percent(flat)} flat)" if flat else "")
