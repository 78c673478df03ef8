"""The table of the alarms of a monitored run."""

from __future__ import annotations

from collections.abc import Sequence

from propscope.records.monitored import Alarm
from propscope.records.numerals import counted, number
from propscope.report.table import Table

_COLUMNS = ("step", "since", "alarm", "where", "value", "baseline", "severity")


def alarm_table(alarms: Sequence[Alarm]) -> Table:
    """Return the table with one row for each alarm, and what each says below it."""
    return Table(
        counted(len(alarms), "alarm"),
        _COLUMNS,
        tuple(
            (
                str(alarm.step),
                str(alarm.since),
                alarm.kind,
                alarm.site or alarm.parameter,
                number(alarm.value),
                number(alarm.baseline),
                alarm.severity,
            )
            for alarm in alarms
        ),
        left=frozenset(("alarm", "where", "severity")),
        notes=tuple(f"step {alarm.step}: {alarm.message}" for alarm in alarms),
    )
