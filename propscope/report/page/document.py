"""What a page draws, as one JSON document; docs/report.md states it.

A page of a whole result file must open from an attachment, so that a document has a size: what does not fit is thinned,
and `thinned` says what.
"""

from __future__ import annotations

from typing import Any

from propscope._version import __version__
from propscope.errors import InputError
from propscope.records.comparison import Comparison
from propscope.records.figures import PARAMETER_FIELDS, SITE_FIELDS
from propscope.records.labelled import LabelledSet
from propscope.records.monitored import MonitoredRun
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingRun, TrainingSet
from propscope.report.documents import plain
from propscope.report.page.against import against_part
from propscope.report.page.networks import grid_parts
from propscope.report.page.runs import run_parts
from propscope.report.page.trainings import training_parts

FORMAT, VERSION = "propscope-report", 1


def page_document(
    record: NetworkProfile | TrainingRun | LabelledSet[Any], *, title: str = "", against: Comparison | None = None
) -> dict[str, Any]:
    """Return what the page of a profile, of a set of profiles or trainings, or of a monitored run draws.

    `against`: a comparison whose second side the record is.

    NaN, which stands for what is not known, is None; infinities are "inf" and "-inf". Raises `InputError` for a set
    that holds nothing.
    """
    kind, parts = _parts(record)
    head: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "propscope_version": __version__,
        "title": title,
        "kind": kind,
    }
    if against is not None:
        head["against"], said = against_part(against)
        parts["thinned"] = [*parts["thinned"], *said]
    head["figures"] = {each.name: each.label for each in (*PARAMETER_FIELDS, *SITE_FIELDS)}
    document: dict[str, Any] = plain(head | parts)
    return document


def _parts(record: NetworkProfile | TrainingRun | LabelledSet[Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(record, MonitoredRun) and len(record.steps):
        return "run", run_parts(record)
    if isinstance(record, TrainingRun):
        record = TrainingSet((record,))
    if isinstance(record, NetworkProfile):
        record = ProfileSet((record,))
    if not len(record):
        raise InputError("the set holds nothing to report", hint="propscope.profile and propscope.monitor record")
    if isinstance(record, TrainingSet):
        return "trainings", training_parts(record)
    # The samples of a run that are chosen one by one are networks.
    parts = grid_parts(list(ProfileSet(tuple(record)).groups("seed").values()))
    return "network" if len(parts["networks"]) == 1 else "grid", parts
