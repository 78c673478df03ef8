"""`propscope show`: the table of a result file, or one of its networks layer by layer."""

from __future__ import annotations

from contextlib import ExitStack
from warnings import catch_warnings, simplefilter

from propscope.cli.loudness import detail
from propscope.cli.options import File, Json, Selection, warnings_as_lines
from propscope.cli.view import View


def show(
    file: File,
    *,
    selection: Selection,
    view: View,
    json: Json = False,
) -> None:
    """Print the table of a result file, one row per network, or what a monitored run shows at first sight.

    When the options select a single network, it is shown layer by layer, its seeds pooled. A LIST is separated by
    commas.
    """
    from propscope.diagnosis import diagnose
    from propscope.records import MonitoredRun, TrainingSet
    from propscope.records.pooling import pooled_seeds
    from propscope.report.documents import (
        diagnosis_document,
        grid_document,
        profile_document,
        run_document,
        training_document,
    )
    from propscope.report.monitored import run_blocks
    from propscope.report.profile_tables import judged_table, profile_table
    from propscope.report.terminal import print_json
    from propscope.report.time_courses import time_table
    from propscope.report.training_tables import training_table
    from propscope.store import load, open_networks

    chosen = selection.labels()
    with ExitStack() as stack:
        with warnings_as_lines():
            networks = stack.enter_context(open_networks(file, **chosen))
        detail(f"opened {file} with {chosen or 'any label'}")
        if isinstance(networks, TrainingSet):
            print_json(training_document(networks)) if json else view.print([training_table(networks)])
        elif networks.monitored and not chosen:
            with catch_warnings():
                simplefilter("ignore")  # That it is unfinished was said.
                run = load(file)
            assert isinstance(run, MonitoredRun)
            print_json(run_document(run)) if json else view.print(run_blocks(run))
        elif len(networks) == 1 and (chosen or networks.profiles == 1):
            (profiles,) = networks
            one, found = pooled_seeds(profiles), diagnose(profiles, notes=False)
            if json:
                print_json(diagnosis_document(found) | profile_document(one))
            else:
                view.print(filter(None, (profile_table(one, found), time_table(one))))
        else:
            print_json(grid_document(networks)) if json else view.print([judged_table(networks)])
