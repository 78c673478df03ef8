"""What `propscope diagnose` and `print(diagnosis)` say: what was seen, where, why, what to change, how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from propscope.printable import shown
from propscope.records.finding import Diagnosis, Finding
from propscope.records.network import Label
from propscope.records.numerals import counted, number
from propscope.report.findings import (
    checked,
    confidence,
    effects,
    expects_sentence,
    fault,
    faults,
    network_name,
    note,
    numbers,
    place,
    remedy,
    stage_sentence,
    verdict_line,
    with_layer_numbers,
)
from propscope.report.table import Block, Table, blocks_text, filled, paragraph

WIDTH = 116
# In a narrower terminal, lines are left to wrap.
_NARROWEST = 40
GROUPS = 6
# The first alarms of a run, of which the later ones are rarely the cause.
ALARMS = 6
_NAMED = 6
_ORDER = ("broken", "strained", "not measured", "healthy")


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Return all findings on one network, or a table of several networks and the worst finding of each fault."""
    return blocks_text(diagnosis_blocks(diagnosis))


def diagnosis_blocks(diagnosis: Diagnosis, *, width: int | None = None) -> list[Block]:
    """Return what `diagnosis_text` joins: tables, and paragraphs for a terminal of `width` (None: there is none)."""
    diagnosis, width = shown(diagnosis), line_width(width)
    return _of_several(diagnosis.networks, width) if diagnosis.networks else _of_one(diagnosis, width)


def line_width(terminal: int | None) -> int:
    """Return how long the lines of a paragraph are, in a terminal of a width (None: there is none)."""
    return WIDTH if terminal is None else min(max(terminal, _NARROWEST), WIDTH)


def finding_text(finding: Finding) -> str:
    """Return one finding in full: its severity and fault, then what `explanation` says; a note as one line."""
    finding = shown(finding)
    if finding.severity == "note":
        return filled(note(finding, numbered=True), WIDTH)
    return "\n".join([f"{finding.severity}: {fault(finding)}", *explanation(finding)])


def explanation(finding: Finding, *, width: int = WIDTH) -> list[str]:
    """Return what was seen, the place, the cause, the change, the effects and the confidence, each a paragraph."""
    return [paragraph(name, text, width) for name, text in parts_of(finding).items()]


def parts_of(finding: Finding) -> dict[str, str]:
    """Return the same by its heading: "seen", "where", "why", "change", "explains", "confidence", as far as known."""
    parts = {
        "seen": "; ".join(filter(None, [with_layer_numbers(finding.message, finding), numbers(finding)])),
        "where": place(finding, numbered=True),
        "why": with_layer_numbers(finding.cause, finding),
        "change": remedy(finding, numbered=True),
        "explains": effects(finding),
        "confidence": confidence(finding),
    }
    return {name: text for name, text in parts.items() if text}


def _of_one(diagnosis: Diagnosis, width: int) -> list[Block]:
    head = [filled(verdict_line(diagnosis), width)]
    if diagnosis.labels:
        head.append(filled(network_name(diagnosis.labels), width))
    head += [filled(said, width) for said in (expects_sentence(diagnosis), stage_sentence(diagnosis)) if said]
    blocks: list[Block] = ["\n".join(head)]
    wrong = faults(diagnosis)
    shown = wrong[:ALARMS] if diagnosis.stage == "training" else wrong
    for count, finding in enumerate(shown, start=1):
        heading = [f"{count}. {fault(finding)} ({finding.severity})"] if len(wrong) > 1 else []
        blocks.append("\n".join([*heading, *explanation(finding, width=width)]))
    if len(shown) < len(wrong):
        blocks.append(f"{counted(len(wrong) - len(shown), 'later alarm')}; --json lists all")
    notes = [filled(note(each, numbered=True), width) for each in diagnosis.findings if each.severity == "note"]
    return [*blocks, "\n".join(notes)] if notes else blocks


def _of_several(networks: Sequence[Diagnosis], width: int) -> list[Block]:
    ranked = _ranked(networks)
    among = [network.labels for network in networks]
    counts = {verdict: sum(network.verdict == verdict for network in networks) for verdict in _ORDER}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    blocks: list[Block] = [_verdicts(f"{len(networks)} networks: {said}", ranked, among)]
    groups = fault_groups(ranked)
    blocks += ["\n".join(_of_group(members, among, width)) for members in groups[:GROUPS]]
    if len(groups) > GROUPS:
        rest = len(groups) - GROUPS
        blocks.append(f"{counted(rest, 'more fault')}; select fewer networks with --act, --init, --depth, --width")
    if unseen := [network for network in ranked if network.verdict == "not measured"]:
        blocks.append(filled(f"not measured: {_listed(unseen, among)}: {unseen[0].unmeasured}", width))
    if sound := [network for network in ranked if network.verdict == "healthy"]:
        blocks.append(filled(f"healthy: {_listed(sound, among)}: {checked()}", width))
    return blocks


def _ranked(networks: Iterable[Diagnosis]) -> list[Diagnosis]:
    return sorted(networks, key=lambda network: _ORDER.index(network.verdict))


def _verdicts(title: str, ranked: Iterable[Diagnosis], among: Sequence[Mapping[str, Label]]) -> Table:
    columns = ("network", "verdict", "adam", "sgd", "fault", "where", "confidence")
    rows = []
    for network in ranked:
        wrong = faults(network)
        cells = (
            (fault(wrong[0]), place(wrong[0], numbered=True), number(wrong[0].confidence, 2)) if wrong else ("", "", "")
        )
        expects = (network.expects.get("adam", ""), network.expects.get("sgd", ""))
        rows.append((network_name(network.labels, among), network.verdict, *expects, *cells))
    return Table(title, columns, tuple(rows), frozenset(columns[:6]), spare=("confidence", "sgd", "adam"))


def fault_groups(networks: Iterable[Diagnosis]) -> list[list[Diagnosis]]:
    """Return the networks that are not healthy, those with the same worst fault together, the worst verdict first."""
    found: dict[tuple[str, str], list[Diagnosis]] = {}
    for network in _ranked(networks):
        if wrong := faults(network):
            found.setdefault((network.verdict, fault(wrong[0])), []).append(network)
    return list(found.values())


def _of_group(members: Sequence[Diagnosis], among: Sequence[Mapping[str, Label]], width: int) -> list[str]:
    head, parts = group_explained(members, among)
    return [*(filled(line, width) for line in head), *(paragraph(name, text, width) for name, text in parts)]


def group_explained(
    members: Sequence[Diagnosis], among: Sequence[Mapping[str, Label]]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return what heads the networks that share a fault, and what is to be said of the worst of them, by heading."""
    shown = max(members, key=_size)
    worst = faults(shown)[0]
    head = [f"{shown.verdict}: {fault(worst)}: {_listed(members, among)}"]
    parts = list(parts_of(worst).items())
    if len(members) > 1:
        head.append(f"the worst of these is {network_name(shown.labels, among)}:")
        parts += [("" if count else "change", text) for count, text in enumerate(_changes(members, worst))]
    return head, parts


def _changes(members: Sequence[Diagnosis], shown: Finding) -> list[str]:
    """Return what the others of a group should change, by activation, where it is not the same."""
    texts: dict[str, str] = {}
    for member in members:
        first = faults(member)[0]
        activation = str(member.labels.get("activation", ""))
        if activation and activation != shown.labels.get("activation") and first.remedy is not None:
            texts.setdefault(activation, f"with {activation}: {remedy(first, numbered=True).split('; or ')[0]}")
    return list(texts.values())


def _size(diagnosis: Diagnosis) -> float:
    factor = faults(diagnosis)[0].evidence.get("factor", 1.0)
    return abs(math.log(factor)) if 0 < factor < math.inf else math.inf


def _listed(networks: Sequence[Diagnosis], among: Sequence[Mapping[str, Label]]) -> str:
    names = [network_name(network.labels, among) for network in networks]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more
