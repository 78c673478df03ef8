"""`propscope diagnose`: what is wrong with the networks of a result file, where, why, and what to change."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from propscope.cli.options import Act, Depth, File, Init, Json, Seed, Width, load_selected
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import Diagnosis, ProfileSet


def diagnose(
    file: File,
    act: Act = None,
    init: Init = None,
    depth: Depth = None,
    width: Width = None,
    seed: Seed = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Build each unhealthy network again with each remedy, until one helps.")
    ] = False,
    json: Json = False,
) -> None:
    """Explain what is wrong with the networks of a result file, worst first: where, why, and what to change.

    A LIST is separated by commas; names must be written as in the file.
    """
    from propscope.diagnosis import diagnose as judge
    from propscope.records import TrainingSet
    from propscope.report.diagnosis import diagnosis_text
    from propscope.report.documents import network_documents, trials_document
    from propscope.report.terminal import print_json, write

    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed)
    if isinstance(profiles, TrainingSet):
        raise InputError(f"{file} holds training runs, not profiles", hint=f"propscope show {file} prints them")
    if not len(profiles):
        raise InputError(f"{file} holds no profiles", hint="propscope profile --output FILE writes profiles")
    diagnosis = judge(profiles)
    if not json:
        write(diagnosis_text(diagnosis))
        if verify:
            _verify(profiles, diagnosis)
        return
    documents = network_documents(diagnosis)
    if verify:
        from propscope.remedies import verify as verified

        tried = {frozenset(trials.labels.items()): trials for trials in verified(profiles)}
        for network, document in zip(diagnosis.networks or (diagnosis,), documents, strict=True):
            found = tried.get(frozenset(network.labels.items()))
            document["mending"] = None if found is None else trials_document(found)
    print_json(documents)


def _verify(profiles: ProfileSet, diagnosis: Diagnosis) -> None:
    """Print what was tried for each network as soon as it is known."""
    from propscope.remedies.rebuild import verified
    from propscope.report.remedies import trials_text
    from propscope.report.terminal import write

    print("\nverified: each network was made again with its remedy, the same seeds and input, and judged", flush=True)
    among = [network.labels for network in diagnosis.networks]
    helped = count = 0
    for trials in verified(profiles):
        write(f"\n{trials_text(trials, among)}")
        sys.stdout.flush()
        count += 1
        helped += trials.trial is not None
    print(f"\n{helped} of {count} networks improved" if count else "\nnothing to fix: all networks are healthy")
