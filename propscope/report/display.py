"""How each record reads when it is printed, and in a notebook: one table from its type to what shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TextIO

from propscope.diagnosis.diagnose import diagnose
from propscope.records.calibration import Calibration
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingSet
from propscope.report.calibration import calibration_table
from propscope.report.inspection import inspection
from propscope.report.profile_tables import grid_table, profile_table
from propscope.report.table import Table
from propscope.report.terminal import width_of, write
from propscope.report.training_tables import training_table


def _profile(profile: NetworkProfile) -> Table:
    return profile_table(profile, diagnose(profile, notes=False))


def _profiles(profiles: ProfileSet) -> Table:
    return grid_table(profiles, diagnose(profiles, notes=False) if len(profiles) else None)


_TABLES: dict[type, Callable[[Any], Table]] = {
    NetworkProfile: _profile,
    ProfileSet: _profiles,
    TrainingSet: training_table,
    Calibration: calibration_table,
}


def text_of(record: Any) -> str:
    """Return a record as text."""
    return _TABLES[type(record)](record).to_text()


def html_of(record: Any) -> str:
    """Return a record as an HTML element."""
    return _TABLES[type(record)](record).to_html()


def print_inspection(
    profile: NetworkProfile, *, title: str, sort: str | None, top: int | None, depth: int | None, file: TextIO | None
) -> None:
    """Print the tree of a profile's sites, as wide as the terminal; the verdict of `diagnose` stands on top."""
    stream = sys.stdout if file is None else file
    width = width_of(stream)
    write(inspection(profile, diagnose(profile), title=title, sort=sort, top=top, depth=depth, width=width), stream)
