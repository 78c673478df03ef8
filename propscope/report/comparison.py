"""How a comparison reads: the first place where two signals part in its first line, then the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from propscope.records.comparison import Comparison, Difference
from propscope.records.monitored import Alarm
from propscope.records.network import DIRECTIONS, Label
from propscope.records.numerals import counted, listed, number
from propscope.report.table import Block, Table, filled

_SHOWN = 20
_WIDTH = 79


def comparison_blocks(comparison: Comparison, *, width: int | None = None) -> list[Block]:
    """Return the verdict with where the two part first, how they began, and what differs, site by site."""
    room = min(width or _WIDTH, _WIDTH)
    blocks: list[Block] = ["\n".join(filled(line, room) for line in head_lines(comparison))]
    if comparison.differences:
        blocks.append(_differences(comparison))
    if comparison.parameters and not comparison.same_weights and not comparison.same and comparison.networks == 1:
        blocks.append(_parameters(comparison))
    if comparison.only_first or comparison.only_second:
        blocks.append("\n".join(filled(line, room) for line in _alarms(comparison)))
    return blocks


def head_lines(comparison: Comparison) -> list[str]:
    """Return the verdict, what the two are, how they began, how they were compared, and what was not."""
    which = zip(("first", "second"), comparison.names, strict=True)
    lines = [verdict(comparison), *(f"{place}: {name}" for place, name in which if name)]
    lines += [*comparison.inputs, _how(comparison), *_renamed(comparison)]
    return [*lines, *(f"note: {note}" for note in comparison.notes)]


def verdict(comparison: Comparison) -> str:
    """Return in one sentence whether the two are the same, else where they part first, forward and backward."""
    if comparison.same:
        steps = [counted(comparison.steps, "step")] if comparison.steps else []
        sites = [counted(comparison.sites, "site")] if comparison.sites else []
        agree = "agrees" if comparison.steps + comparison.sites == 1 else "agree"
        signals = " and ".join(_compared(comparison))
        return f"the same: {', '.join([*steps, *sites])} {agree}{', ' * bool(signals)}{signals}"
    ends = [comparison.first(direction) for direction in DIRECTIONS]
    said = [_place(one) for one in ends if one is not None]
    if ends[0] is not None and ends[0] == ends[1]:
        said = [f"first at {_of(comparison, ends[0])}{said[0]}"]
    else:
        said = [
            f"first {direction} at {_of(comparison, one)}{_place(one)}"
            for direction, one in zip(DIRECTIONS, ends, strict=True)
            if one is not None
        ]
    curves = [one for one in comparison.differences if one.of_whole_step]
    if curves:
        first = min(curves, key=lambda one: one.step or 0)
        said.insert(0, f"first at step {first.step}: {first.quantity} {first.message}")
    alarms = len(comparison.only_first) + len(comparison.only_second)
    said += [f"{counted(alarms, 'alarm')} of one alone"] if alarms else []
    return f"different: {'; '.join(said)}"


def _compared(comparison: Comparison) -> Iterator[str]:
    """Yield the directions whose signal both have at any site."""
    for direction in DIRECTIONS:
        if any(not any(map(math.isnan, getattr(each, direction))) for each in comparison.sizes):
            yield direction


def _of(comparison: Comparison, difference: Difference) -> str:
    return of_network(difference.labels or {}, comparison.axes)


def _place(difference: Difference) -> str:
    """Return where a difference is and what it is: "fc2 (rms x1.05, from 1.00 to 1.05)"."""
    quantity = "" if difference.quantity in ("state", "structure") else f"{difference.quantity} "
    when = "" if difference.step is None else f" at step {difference.step}"
    return f"{_name(difference)}{when}: {quantity}{difference.message}"


def _name(difference: Difference) -> str:
    was = f" (was {difference.renamed})" if difference.renamed else ""
    return f"{difference.site or '(model)'}{was}"


def _how(comparison: Comparison) -> str:
    share = f"tolerance {number(100 * comparison.tolerance, 2)}% ({comparison.tolerance_of})"
    visible = ""
    if comparison.same and comparison.visible > 1.001 * (1 + comparison.tolerance):
        visible = f"; half of the comparisons would show a change of x{number(comparison.visible)}"
    many = f"{counted(comparison.comparisons, 'comparison')}, " if comparison.comparisons else ""
    return f"{many}{comparison.method}, {share}{visible}"


def _renamed(comparison: Comparison) -> Iterator[str]:
    if pairs := comparison.renamed:
        said = listed([f"{old} -> {new}" for old, new in pairs], 5)
        yield f"matched by place in the graph, as their names differ ({len(pairs)}): {said}"


_LEGEND = (
    "x: the rms of the second over that of the first; gain: the same of the step from the site before (backward: "
    "after), so that a gain alone says where the change is made. Empty: no difference. --json has all numbers."
)
_RUN_LEGEND = "x: the second over the first, at the first step where they part. --json has all numbers."


def _differences(comparison: Comparison) -> Table:
    """Return a row for each site that differs, network by network in execution order, and for each curve of steps."""
    places: dict[str, dict[tuple[int, str], dict[str, str]]] = {}
    for one in comparison.differences:
        own = places.setdefault(of_network(one.labels or {}, comparison.axes), {})
        place = (-1, one.quantity) if one.of_whole_step else (one.place, _name(one))
        column = "whole step" if one.of_whole_step else one.direction or "forward"
        own.setdefault(place, {})[f"{column} gain" if one.quantity == "gain" else column] = difference_cell(one)
    used = {column for own in places.values() for cells in own.values() for column in cells}
    columns = [column for column in _CELLS if column in used]
    rows = tuple(
        (f"{network}{name}", *(cells.get(column, "") for column in columns))
        for network, own in places.items()
        for (_, name), cells in sorted(own.items())
    )
    title = f"{counted(len(rows), 'place')} that {'differs' if len(rows) == 1 else 'differ'}"
    heads = ("where", *columns)
    return Table(
        title,
        heads,
        rows[:_SHOWN],
        left=frozenset(heads),
        notes=_more(len(rows)),
        legend=(_RUN_LEGEND if comparison.steps else _LEGEND,),
        dotted="where",
    )


_CELLS = ("whole step", "forward", "forward gain", "backward", "backward gain")


def difference_cell(one: Difference) -> str:
    """Return a difference in a few words: the ratio, else the message, and the step."""
    when = "" if one.step is None else f" at step {one.step}"
    if not math.isnan(one.ratio):
        return f"x{number(one.ratio)}{when}"
    sizes = one.quantity not in ("state", "structure", "error")
    return (f"{_known(one.before)} -> {_known(one.after)}" if sizes else one.message) + when


def _known(value: float) -> str:
    return "NaN" if math.isnan(value) else number(value)


def _more(count: int) -> tuple[str, ...]:
    return (f"and {count - _SHOWN} more; --json lists all",) if count > _SHOWN else ()


def difference_rows(differences: Sequence[Difference], axes: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield where each difference is, and what it is; sites that say the same share a row."""
    alike: dict[tuple[Any, ...], list[Difference]] = {}
    for one in differences:
        network = of_network(one.labels or {}, axes)
        alike.setdefault((one.direction, one.quantity, one.message, one.step, network), []).append(one)
    for (direction, quantity, said, step, network), same in alike.items():
        signal = "" if direction is None else f"{direction} "
        places = "" if same[0].of_whole_step else f" at {_name(same[0])}"
        if len(same) > 1:
            places += f" to {_name(same[-1])} ({len(same)} sites)"
        when = "" if step is None else f", from step {step} on"
        yield f"{network}{signal}{quantity}{places}{when}", said


def of_network(labels: Mapping[str, Label], axes: Sequence[str]) -> str:
    """Return the labels that tell a network from others, with a colon behind; "" where none does."""
    said = ", ".join(f"{name} {labels[name]}" for name in axes if name in labels)
    return f"{said}: " if said else ""


def _parameters(comparison: Comparison) -> Table:
    changed = comparison.parameters
    rows = tuple(
        (
            each.name + (f" (was {each.renamed})" if each.renamed else ""),
            number(each.before, 4),
            number(each.after, 4),
            f"as {each.taken_from} was" if each.taken_from else _times(each.before, each.after),
        )
        for each in changed[:_SHOWN]
    )
    title = f"{counted(len(changed), 'parameter')} with other values: rms"
    columns = ("parameter", "first", "second", "second / first")
    return Table(title, columns, rows, left=frozenset({"parameter"}), notes=_more(len(changed)), dotted="parameter")


def _times(before: float, after: float) -> str:
    ratio = after / before if before and math.isfinite(before) else math.nan
    return f"x{number(ratio, 4)}" if math.isfinite(ratio) else "-"


def _alarms(comparison: Comparison) -> Iterator[str]:
    for which, alarms in (("first", comparison.only_first), ("second", comparison.only_second)):
        yield from (f"alarm of the {which} alone, {_alarm(one)}" for one in alarms[:_SHOWN])
        yield from _more(len(alarms))


def _alarm(alarm: Alarm) -> str:
    where = f" at {alarm.place}" if alarm.place else ""
    return f"step {alarm.step}: {alarm.kind}{where} ({alarm.severity})"
