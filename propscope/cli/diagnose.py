"""`propscope diagnose`: what is wrong with the networks of a result file, where, why, and what to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli.options import Act, Depth, File, Init, Json, Seed, Width, load_selected
from propscope.errors import InputError

if TYPE_CHECKING:
    from propscope.records import Diagnosis, Finding, ProfileSet
    from propscope.remedies import RemedyTrials


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
    from propscope.report.documents import print_json
    from propscope.report.explanation import explained

    profiles = load_selected(file, act=act, init=init, depth=depth, width=width, seed=seed)
    if isinstance(profiles, TrainingSet):
        raise InputError(f"{file} holds training runs, not profiles", hint=f"propscope show {file} prints them")
    if not len(profiles):
        raise InputError(f"{file} holds no profiles", hint="propscope profile --output FILE writes profiles")
    diagnosis = judge(profiles)
    if not json:
        print(explained(diagnosis))
        if verify:
            _verify(profiles, diagnosis)
        return
    documents = [network_document(network) for network in diagnosis.networks or (diagnosis,)]
    if verify:
        from propscope.remedies import verify as mended

        tried = {frozenset(mending.labels.items()): mending for mending in mended(profiles)}
        for network, document in zip(diagnosis.networks or (diagnosis,), documents, strict=True):
            found = tried.get(frozenset(network.labels.items()))
            document["mending"] = None if found is None else trials_document(found)
    print_json(documents)


def _verify(profiles: ProfileSet, diagnosis: Diagnosis) -> None:
    """Print what was tried for each network as soon as it is known."""
    from propscope.remedies.verify import verified
    from propscope.report.remedies import trials_text

    print("\nverified: each made again with the same seeds and input, and judged anew", flush=True)
    among = [network.labels for network in diagnosis.networks]
    mended = count = 0
    for mending in verified(profiles):
        print(f"\n{trials_text(mending, among)}", flush=True)
        count += 1
        mended += mending.trial is not None
    print(f"\n{mended} of {count} mended" if count else "\nnothing to mend: all are healthy")


def network_document(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the verdict on one network and its findings, worst first, as one object."""
    findings = [_finding(finding) for finding in diagnosis.findings]
    return {"labels": dict(diagnosis.labels), "verdict": diagnosis.verdict, "findings": findings}


def trials_document(mending: RemedyTrials) -> dict[str, Any]:
    """Return what was tried for one network, in order, as one object."""
    from propscope.remedies import State
    from propscope.report.documents import remedy_document

    def state(found: State | None) -> dict[str, Any] | None:
        if found is None:
            return None
        return {
            "verdict": found.diagnosis.verdict,
            "worst": _finding(found.diagnosis.worst) if found.diagnosis.worst is not None else None,
            "forward": found.forward,
            "backward": found.backward,
        }

    return {
        "reason": mending.reason,
        "before": state(mending.before),
        "trials": [
            {
                "remedy": remedy_document(trial.remedy),
                "helped": trial.helped,
                "chosen": trial is mending.trial,
                "after": state(trial.after),
                "reason": trial.reason,
                "lines": list(trial.lines),
            }
            for trial in mending.trials
        ],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    from propscope.report.documents import finding_document, remedy_document

    return finding_document(finding) | {"sites": finding.sites, "remedy": remedy_document(finding.remedy)}
