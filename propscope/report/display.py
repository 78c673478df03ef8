"""How each record reads when it is printed: one table from its type to what shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TextIO

from propscope.diagnosis.diagnose import diagnose
from propscope.records.calibration import Calibration
from propscope.records.comparison import Comparison
from propscope.records.finding import Diagnosis, Finding
from propscope.records.model_costs import ModelCosts
from propscope.records.monitored import MonitoredRun
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials
from propscope.records.training import TrainingRun, TrainingSet
from propscope.records.width_check import WidthCheck
from propscope.report.comparison import comparison_blocks
from propscope.report.costs import costs_table as table_of_costs
from propscope.report.diagnosis import diagnosis_blocks, finding_text
from propscope.report.elements import blocks_html
from propscope.report.inspection import inspection
from propscope.report.monitored import run_blocks
from propscope.report.notebook import NOTEBOOK
from propscope.report.profile_tables import judged_table, profile_table
from propscope.report.remedies import calibration_table, trials_text
from propscope.report.table import Block, Table, blocks_text
from propscope.report.terminal import terminal_width, write
from propscope.report.time_courses import time_table
from propscope.report.training_tables import run_table, training_table
from propscope.report.width_check import width_blocks


def _profile(profile: NetworkProfile) -> list[Table]:
    return list(filter(None, (profile_table(profile, diagnose(profile, notes=False)), time_table(profile))))


def _profiles(profiles: ProfileSet) -> Table:
    return judged_table(profiles.groups("seed").values())


_SHOWN: dict[type, Callable[[Any], Block | Sequence[Block]]] = {
    NetworkProfile: _profile,
    ProfileSet: _profiles,
    MonitoredRun: run_blocks,
    TrainingRun: run_table,
    TrainingSet: training_table,
    Finding: finding_text,
    Diagnosis: diagnosis_blocks,
    RemedyTrials: trials_text,
    Calibration: calibration_table,
    WidthCheck: width_blocks,
    Comparison: comparison_blocks,
    ModelCosts: table_of_costs,
}


def text_of(record: Any) -> str:
    """Return a record as text, as wide as the terminal where stdout is one."""
    return blocks_text(_blocks(record), width=terminal_width())


def html_of(record: Any) -> str:
    """Return a record as an HTML element."""
    in_notebook = NOTEBOOK.get(type(record))
    return blocks_html(_blocks(record)) if in_notebook is None else in_notebook(record)


def _blocks(record: Any) -> Sequence[Block]:
    shown = _SHOWN[type(record)](record)
    return (shown,) if isinstance(shown, (str, Table)) else shown


def print_inspection(
    profile: NetworkProfile,
    costs: ModelCosts | None = None,
    *,
    title: str,
    sort: str | None,
    top: int | None,
    depth: int | None,
    costs_table: bool = False,
    file: TextIO | None,
) -> None:
    """Print the verdict and the tree of a profile's sites to `file` (None: stdout), as wide as its terminal.

    `costs_table`: whether the table of costs stands below, down to the same `depth`.
    """
    width = terminal_width(file)
    found = diagnose(profile)
    write(inspection(profile, found, costs, title=title, sort=sort, top=top, depth=depth, width=width), file)
    if costs_table and costs is not None:
        write("\n" + table_of_costs(costs, depth=depth, totals=False).to_text(width=width), file)
