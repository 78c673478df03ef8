"""`propscope show`: the table of a result file, or one of its networks layer by layer."""

from __future__ import annotations

from propscope.cli.options import Act, Depth, File, Init, Json, Seed, Width, load_selected


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
    from propscope.report.documents import diagnosis_document, grid_document, profile_document, training_document
    from propscope.report.profile_tables import profile_table
    from propscope.report.terminal import print_grid, print_json, print_table, print_training

    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed, for_table=True)
    if isinstance(profiles, TrainingSet):
        print_json(training_document(profiles)) if json else print_training(profiles)
        return
    groups = profiles.groups("seed")
    selected = any(option is not None for option in (act, init, depth, width, seed))
    if len(groups) == 1 and (selected or len(profiles) == 1):
        one, found = pooled_seeds(profiles), diagnose(profiles, notes=False)
        if json:
            print_json(diagnosis_document(found) | profile_document(one))
        else:
            print_table(profile_table(one, found))
        return
    print_json(grid_document(profiles)) if json else print_grid(profiles)
