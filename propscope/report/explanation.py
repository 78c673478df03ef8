"""A diagnosis in words that need no other page: what was seen, since which layer, why, what to change, how sure."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from propscope.diagnosis.rules import RULES
from propscope.records.finding import Diagnosis, Finding
from propscope.records.network import Label
from propscope.records.numerals import number, percent
from propscope.report.table import Table
from propscope.report.verdict import faults

WIDTH = 116
GROUPS = 6
_NAMED = 6
_DIRECTED = ("exploding", "vanishing", "non-finite")
_ORDER = ("broken", "strained", "healthy")
# From three seeds of three on; from one of one on.
_SURE = ((0.8, "very likely"), (0.6, "likely"), (0.0, "uncertain, more seeds would tell"))


def explained(diagnosis: Diagnosis) -> str:
    """Return the whole report: of one network every finding, of several a table and the worst, grouped by fault."""
    if diagnosis.networks:
        return _of_several(diagnosis.networks)
    return "\n".join([first_line(diagnosis), *_of_one(diagnosis)])


def first_line(diagnosis: Diagnosis) -> str:
    """Return the verdict, the fault and its place: "broken: collapse, layer 5 to layer 20: ..."."""
    wrong = faults(diagnosis)
    if not wrong:
        return f"healthy: {_checked()}"
    worst = wrong[0]
    where = "" if worst.kind in _DIRECTED or worst.first in worst.message else _where(worst)
    return _filled(f"{diagnosis.verdict}: {fault(worst)}{where}: {_placed(worst.message, worst)}", "  ")


def fault(finding: Finding) -> str:
    """Return what is wrong in two words: "vanishing backward", "collapse"."""
    if finding.direction is None or finding.kind not in _DIRECTED:
        return finding.kind
    return f"{finding.kind} {finding.direction}"


def explanation(finding: Finding) -> list[str]:
    """Return what was seen, where, why, what to change and how sure that is, each a paragraph with its heading."""
    parts = {
        "seen": "; ".join(filter(None, [_placed(finding.message, finding), _numbers(finding)])),
        "where": _where(finding, short=False),
        "why": _placed(finding.cause, finding),
        "change": _placed(finding.remedy.text, finding) if finding.remedy is not None else "",
        "sure": confidence(finding.confidence),
    }
    return [_filled(f"  {name:7} {text}", " " * 10) for name, text in parts.items() if text]


def confidence(probability: float) -> str:
    """Return in a word how sure a finding is, with the probability that one more seed shows it."""
    word = next((word for least, word in _SURE if probability >= least), _SURE[-1][1])
    return f"{word}: one more seed would show it too with probability {number(probability, 2)}"


def name_of(labels: Mapping[str, Label], among: Sequence[Mapping[str, Label]] = ()) -> str:
    """Return a network's labels in words, of several networks those that tell it from the others."""
    pair = [str(labels[name]) for name in ("activation", "initializer") if name in labels]
    rest = [name for name in labels if name not in ("activation", "initializer", "seed")]
    if among:
        rest = [name for name in rest if len({str(other.get(name)) for other in among}) > 1]
    return ", ".join(filter(None, [" + ".join(pair), *(f"{name} {labels[name]}" for name in rest)])) or "the model"


def _of_one(diagnosis: Diagnosis) -> list[str]:
    lines = [_filled(name_of(diagnosis.labels), "  ")] if diagnosis.labels else []
    wrong = faults(diagnosis)
    for place, finding in enumerate(wrong, start=1):
        head = f"{place}. {fault(finding)} ({finding.severity})" if len(wrong) > 1 else ""
        lines += ["", *filter(None, [head]), *explanation(finding)]
    return [*lines, *_notes(diagnosis)]


def _notes(diagnosis: Diagnosis) -> list[str]:
    notes = [finding for finding in diagnosis.findings if finding.severity == "note"]
    lines = [
        _filled(_placed(f"note: {note.message}" + (f"; {note.remedy.text}" if note.remedy else ""), note), "  ")
        for note in notes
    ]
    return ["", *lines] if lines else []


def _of_several(networks: Sequence[Diagnosis]) -> str:
    ranked = sorted(networks, key=lambda network: _ORDER.index(network.verdict))
    among = [network.labels for network in networks]
    counts = {verdict: sum(network.verdict == verdict for network in networks) for verdict in _ORDER}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    title = f"{len(networks)} networks: {said}"
    blocks = [_verdicts(title, ranked, among).to_text()]
    groups = _grouped(ranked)
    blocks += ["\n".join(_of_group(members, among)) for members in groups[:GROUPS]]
    if len(groups) > GROUPS:
        blocks.append(f"{len(groups) - GROUPS} more faults; --act, --init, --depth and --width leave fewer networks")
    if sound := [network for network in ranked if network.verdict == "healthy"]:
        blocks.append(_filled(f"healthy: {_listed(sound, among)}: {_checked()}", "  "))
    return "\n\n".join(blocks)


def _verdicts(title: str, ranked: Iterable[Diagnosis], among: Sequence[Mapping[str, Label]]) -> Table:
    columns = ("network", "verdict", "fault", "where", "sure")
    rows = []
    for network in ranked:
        wrong = faults(network)
        cells = (fault(wrong[0]), _where(wrong[0])[2:], number(wrong[0].confidence, 2)) if wrong else ("", "", "")
        rows.append((name_of(network.labels, among), network.verdict, *cells))
    return Table(title, columns, tuple(rows), frozenset(columns[:4]))


def _grouped(networks: Iterable[Diagnosis]) -> list[list[Diagnosis]]:
    """Return the networks that are not healthy, those with the same worst fault together."""
    found: dict[tuple[str, str], list[Diagnosis]] = {}
    for network in networks:
        if wrong := faults(network):
            found.setdefault((network.verdict, fault(wrong[0])), []).append(network)
    return list(found.values())


def _of_group(members: Sequence[Diagnosis], among: Sequence[Mapping[str, Label]]) -> list[str]:
    shown = max(members, key=_much)
    worst = faults(shown)[0]
    lines = [_filled(f"{shown.verdict}: {fault(worst)}: {_listed(members, among)}", "  ")]
    if len(members) > 1:
        lines.append(_filled(f"the worst of these is {name_of(shown.labels, among)}:", "  "))
    lines += explanation(worst)
    if len(members) > 1 and (rest := _changes(members, worst)):
        lines += [_filled(f"  {'change' if not place else '':7} {text}", " " * 10) for place, text in enumerate(rest)]
    return lines


def _changes(members: Sequence[Diagnosis], shown: Finding) -> list[str]:
    """Return what the others of a group should change, by activation, where it is not the same."""
    texts: dict[str, str] = {}
    for member in members:
        first = faults(member)[0]
        activation = str(member.labels.get("activation", ""))
        if activation and activation != shown.labels.get("activation") and first.remedy is not None:
            texts.setdefault(activation, f"with {activation}: {_placed(first.remedy.text.split('; or ')[0], first)}")
    return list(texts.values())


def _much(diagnosis: Diagnosis) -> float:
    factor = faults(diagnosis)[0].evidence.get("factor", 1.0)
    return abs(math.log(factor)) if 0 < factor < math.inf else math.inf


def _listed(networks: Sequence[Diagnosis], among: Sequence[Mapping[str, Label]]) -> str:
    names = [name_of(network.labels, among) for network in networks]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def _where(finding: Finding, *, short: bool = True) -> str:
    if not finding.sites:
        return ""
    first, last = (_placed(name or "the model", finding) for name in (finding.first, finding.last))
    if short:
        return f", {first}" if first == last else f", {first} to {last}"
    if first == last:
        return f"at {first} alone"
    way = "back to" if finding.direction == "backward" and finding.kind in _DIRECTED else "to"
    return f"since {first}, {way} {last}: {len(finding.sites)} places"


def _numbers(finding: Finding) -> str:
    """Return the numbers that decided and that the message does not say: the interval, and the limit."""
    known = finding.evidence
    low, high = known.get("factor_low", math.nan), known.get("factor_high", math.nan)
    said = []
    if known.get("factor", 0.0) > 0 and math.isfinite(low) and math.isfinite(high):
        said.append(f"95% interval {number(low, 2)} to {number(high, 2)}")
    limit = known.get("limit", math.nan)
    if not math.isnan(limit) and finding.severity != "note":
        share = finding.kind in ("saturated", "inactive")
        side = "below" if limit < 1 and not share else "beyond"
        said.append(f"{finding.severity} {side} {percent(limit) if share else number(limit, 2)}")
    return ", ".join(said)


def _checked() -> str:
    return f"nothing wrong seen ({', '.join(rule.name for rule in RULES if not rule.notes_only)} were looked for)"


def _placed(text: str, finding: Finding) -> str:
    """Return a text with the layers of a network of the grid by their number, the first being 1."""
    if "depth" not in finding.labels:
        return text

    def layer(match: re.Match[str]) -> str:
        return f"layer {int(match[1]) + 1}" + ("" if match[2] in (None, "linear") else f" ({match[2]})")

    return re.sub(r"\blayers\.(\d+)(?:\.(\w+))?\b", layer, text)


def _filled(text: str, indent: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
