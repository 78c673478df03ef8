"""`propscope diagnose`: what is wrong with the networks of a result file, where, why, and what to change."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from propscope.cli.loudness import quiet
from propscope.cli.options import File, Json, JudgedStage, Selection, stage_of
from propscope.cli.view import View
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import Diagnosis, ProfileSet


def diagnose(
    file: File,
    *,
    selection: Selection,
    stage: JudgedStage = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Build each unhealthy network again with each remedy, and show what helps.")
    ] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="With --fix: import and open what the file names. Only for files of your own."),
    ] = False,
    view: View,
    json: Json = False,
) -> None:
    """Explain what is wrong with the networks of a result file, worst first: where, why, and what to change.

    A monitored run is judged by the alarms of its training, the first one first.

    A LIST is separated by commas.
    """
    from propscope.diagnosis import diagnose as judge
    from propscope.records import MonitoredRun, TrainingSet
    from propscope.report.diagnosis import diagnosis_blocks
    from propscope.report.documents import network_documents, trials_document
    from propscope.report.table import blocks_text
    from propscope.report.terminal import print_json, terminal_width, write

    wanted = stage_of(stage)
    profiles = selection.load(file)
    if isinstance(profiles, TrainingSet):
        raise InputError(f"{file} holds training runs, not profiles", hint=f"propscope show {file} prints them")
    if isinstance(profiles, MonitoredRun) and fix:
        raise InputError(
            f"{file} holds a monitored run, which cannot be built again", hint=f"propscope diagnose {file} gives advice"
        )
    if not len(profiles) and not isinstance(profiles, MonitoredRun):
        raise InputError(f"{file} holds no profiles", hint="propscope profile --output FILE writes profiles")
    if trust and not fix:
        raise InputError("--trust is for --fix only", hint="propscope diagnose FILE imports nothing")
    diagnosis = judge(profiles, stage=wanted)
    if not json:
        blocks = diagnosis_blocks(diagnosis, width=None if view.wide or quiet() else terminal_width())
        if quiet():
            write(blocks_text(blocks).splitlines()[0])
        else:
            view.print(blocks)
        if fix:
            _verify(profiles, diagnosis, trust)
        return
    documents = network_documents(diagnosis)
    if fix:
        from propscope.remedies.rebuild import verified

        _say_what_is_trusted(profiles, trust)
        tried = {frozenset(trials.labels.items()): trials for trials in verified(profiles, trust=trust)}
        for network, document in zip(diagnosis.networks or (diagnosis,), documents, strict=True):
            found = tried.get(frozenset(network.labels.items()))
            document["remedy_trials"] = None if found is None else trials_document(found)
            document["mending"] = document["remedy_trials"]  # The old name goes with the next version.
    print_json(documents)


def _say_what_is_trusted(profiles: ProfileSet, trust: bool) -> None:
    from propscope.remedies.rebuild import names_outside

    for name in names_outside(profiles) if trust else ():
        print(f"trusted: the file names {name}, which is imported or opened now", file=sys.stderr, flush=True)


def _verify(profiles: ProfileSet, diagnosis: Diagnosis, trust: bool) -> None:
    """Print what was tried for each network as soon as it is known."""
    from propscope.remedies.rebuild import verified
    from propscope.report.remedies import trials_text
    from propscope.report.terminal import terminal_width, write

    _say_what_is_trusted(profiles, trust)
    if not quiet():
        print("\nverified: each network was built again with a remedy, same seeds and input", flush=True)
    among = [network.labels for network in diagnosis.networks]
    helped = count = 0
    for trials in verified(profiles, trust=trust):
        if not quiet():
            write(f"\n{trials_text(trials, among, width=terminal_width())}")
            sys.stdout.flush()
        count += 1
        helped += trials.trial is not None
    said = f"{helped} of {count} networks improved" if count else "nothing to fix: all networks are healthy"
    print(said if quiet() else f"\n{said}")
