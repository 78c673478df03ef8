"""`propscope show`: the table of a result file, or one of its networks layer by layer."""

from __future__ import annotations

from contextlib import ExitStack

from propscope.cli.options import Act, Depth, File, Init, Json, Seed, Width, chosen_labels, warnings_as_lines


def show(
    file: File,
    act: Act = None,
    init: Init = None,
    depth: Depth = None,
    width: Width = None,
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Print the table of a result file, one row per network.

    When the options select a single network, it is shown layer by layer, its seeds pooled. A LIST is separated by
    commas; names must be written as in the file.
    """
    from propscope.diagnosis import diagnose
    from propscope.records import TrainingSet
    from propscope.records.pooling import pooled_seeds
    from propscope.report.alarms import alarm_table
    from propscope.report.documents import diagnosis_document, grid_document, profile_document, training_document
    from propscope.report.profile_tables import profile_table
    from propscope.report.terminal import print_blocks, print_grid, print_json, print_training
    from propscope.report.time_courses import time_table
    from propscope.store import load_run, open_networks

    chosen = chosen_labels(act=act, init=init, depth=depth, width=width, seed=seed)
    with ExitStack() as stack:
        with warnings_as_lines():
            networks = stack.enter_context(open_networks(file, **chosen))
        if isinstance(networks, TrainingSet):
            print_json(training_document(networks)) if json else print_training(networks)
        elif len(networks) == 1 and (chosen or networks.profiles == 1):
            (profiles,) = networks
            one, found = pooled_seeds(profiles), diagnose(profiles, notes=False)
            if json:
                print_json(diagnosis_document(found) | profile_document(one))
            else:
                print_blocks(filter(None, (profile_table(one, found), time_table(one))))
        else:
            if json:
                print_json(grid_document(networks))
                return
            print_grid(networks)
            if alarms := load_run(file)[1]:
                print_blocks([alarm_table(alarms)])
