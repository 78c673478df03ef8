"""How a finding reads: what is wrong, where, by which numbers, what to change. Every text about a finding calls these.

A network of the grid numbers its layers, the first being 1; an existing model names its modules. With `numbered` a text
says "layer 5" for `layers.4.linear`; tables that show the names of sites leave it out.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from propscope.diagnosis.rules import RULES
from propscope.records.finding import Diagnosis, Expected, Finding, Kind, Optimizer
from propscope.records.network import Label, NetworkProfile
from propscope.records.numerals import counted, listed, number, percent

_LISTED = 3
_EFFECTS = 2
# Kinds that say little without the direction of the signal.
DIRECTED = ("exploding", "vanishing", "non-finite")
# Kinds that say nothing is wrong yet.
_NOTES = ("precision", "insufficient evidence")


def faults(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """Return the findings of what is wrong, worst first: all but the notes."""
    return tuple(finding for finding in diagnosis.findings if finding.severity != "note")


def fault(finding: Finding) -> str:
    """Return what is wrong in a word or two: "vanishing backward", "collapse"."""
    if finding.direction is None or finding.kind not in DIRECTED:
        return finding.kind
    return f"{finding.kind} {finding.direction}"


def place(finding: Finding, *, numbered: bool = False) -> str:
    """Return where it is: "layers 1 to 20", "fc1 to fc3 (3 sites)", "head"; "" for a finding without a site."""
    if not finding.sites:
        return ""
    first, last = (name or "(model)" for name in (finding.first, finding.last))
    count = len(finding.sites)
    if numbered:
        first, last = (with_layer_numbers(name, finding) for name in (first, last))
        ends = [re.fullmatch(r"layer (\d+)", name) for name in (first, last)]
        if count > 1 and ends[0] and ends[1] and first != last:
            low, high = int(ends[0][1]), int(ends[1][1])
            gaps = "" if abs(high - low) + 1 == count else f" ({count} sites)"
            return f"layers {low} to {high}{gaps}"
    return first if count == 1 or first == last else f"{first} to {last} ({count} sites)"


def message(finding: Finding, *, numbered: bool = False) -> str:
    """Return fault, place and what was seen: "vanishing backward: the gradient shrinks ... from fc9 to fc1".

    The place is left out where the message names the first site, and where it follows the signal over the depth.
    """
    said = finding.message
    leading = f"{finding.first or '(model)'}: "
    if said.startswith(leading):
        said = said.removeprefix(leading)
        # An input's finding goes on with the layers that take it.
        where = place(finding, numbered=numbered) if finding.kind != "input" else finding.first
        where = "" if where == fault(finding) else where
    else:
        over_depth = finding.direction is not None and finding.kind in DIRECTED
        where = "" if over_depth or _names(said, finding.first) else place(finding, numbered=numbered)
    text = f"{fault(finding)}{f' at {where}' if where else ''}: {said}"
    return with_layer_numbers(text, finding) if numbered else text


def numbers(finding: Finding) -> str:
    """Return the numbers that decided and that the message does not say: the interval, and the limit."""
    evidence = finding.evidence
    low, high = evidence.get("factor_low", math.nan), evidence.get("factor_high", math.nan)
    said = []
    if evidence.get("factor", 0.0) > 0 and math.isfinite(low) and math.isfinite(high):
        said.append(f"95% interval {number(low, 2)} to {number(high, 2)}")
    limit = evidence.get("limit", math.nan)
    if not math.isnan(limit) and finding.severity != "note":
        share = finding.kind in ("saturated", "inactive")
        side = "below" if limit < 1 and not share else "above"
        said.append(f"{finding.severity} {side} {percent(limit) if share else number(limit, 2)}")
    return ", ".join(said)


def remedy(finding: Finding, *, numbered: bool = False) -> str:
    """Return what to change; "" where nothing is known that helps."""
    text = "" if finding.remedy is None else finding.remedy.text
    return with_layer_numbers(text, finding) if numbered else text


def effects(finding: Finding) -> str:
    """Return what the finding explains, the first two effects in full; "" where it explains no other finding."""
    rest = len(finding.effects) - _EFFECTS
    more = (f"and {rest} more",) if rest > 0 else ()
    placed = (re.sub(r"^(\S+): ", r"at \1 ", effect) for effect in finding.effects[:_EFFECTS])
    return with_layer_numbers("; ".join((*placed, *more)), finding)


def confidence(finding: Finding) -> str:
    """Return the finding's confidence, and what the number means; "" for an alarm."""
    if math.isnan(finding.confidence):
        return ""
    return f"{number(finding.confidence, 2)}: how likely one more seed shows the same"


def note(finding: Finding, *, numbered: bool = False) -> str:
    """Return a note and its remedy in one line, without the cause."""
    said = "; ".join(filter(None, [finding.message, remedy(finding)]))
    return f"note: {with_layer_numbers(said, finding) if numbered else said}"


def with_layer_numbers(text: str, finding: Finding) -> str:
    """Return a text with "layer 1" for `layers.0.linear` where the finding is of a network of the grid."""
    if "depth" not in finding.labels:
        return text

    def layer(match: re.Match[str]) -> str:
        return f"layer {int(match[1]) + 1}" + ("" if match[2] in (None, "linear") else f" ({match[2]})")

    return re.sub(r"\blayers\.(\d+)(?:\.(\w+))?\b", layer, text)


def network_name(labels: Mapping[str, Label], among: Sequence[Mapping[str, Label]] = ()) -> str:
    """Return a network's labels in words; of several networks, `among`, only the labels that differ."""
    pair = [str(labels[name]) for name in ("activation", "initializer") if name in labels]
    rest = [name for name in labels if name not in ("activation", "initializer", "seed")]
    if among:
        rest = [name for name in rest if len({str(other.get(name)) for other in among}) > 1]
    return ", ".join(filter(None, [" + ".join(pair), *(f"{name} {labels[name]}" for name in rest)])) or "the model"


def verdict_word(diagnosis: Diagnosis) -> str:
    """Return the verdict with the fault of the worst finding: "healthy", "broken: vanishing backward"."""
    wrong = faults(diagnosis)
    return f"{diagnosis.verdict}: {fault(wrong[0])}" if wrong else diagnosis.verdict


def verdict_line(diagnosis: Diagnosis, *, numbered: bool = True) -> str:
    """Return the verdict and what the first finding says: "broken: vanishing backward: the gradient shrinks ..."."""
    wrong = faults(diagnosis)
    nothing = "no alarm was raised" if diagnosis.stage == "training" else checked()
    said = message(wrong[0], numbered=numbered) if wrong else diagnosis.unmeasured or nothing
    return f"{diagnosis.verdict}: {said}"


def checked() -> str:
    """Return what a healthy network was checked for."""
    return f"no problem found (checked for {', '.join(kind for kind in get_args(Kind) if kind not in _NOTES)})"


def stage_sentence(diagnosis: Diagnosis) -> str:
    """Return whether the network was judged as an initialization or as a trained one, and what to do otherwise."""
    if diagnosis.stage == "initialized":
        return 'judged as an initialization; if it is trained, say so: stage "trained"'
    if diagnosis.stage == "training":
        order = "; each alarm is a finding, in the order of their steps" if diagnosis.findings else ""
        return f"judged by the rules of training{order}"
    if diagnosis.stage == "trained":
        return 'judged as a trained network; if it is not, say so: stage "initialized"'
    return (
        "the weights do not show whether they are trained, so what holds for an initialization alone is a note; "
        'say which: stage "initialized" or "trained"'
    )


_OPTIMIZERS: Mapping[Optimizer, str] = {"adam": "Adam", "sgd": "SGD with momentum"}
_EXPECTED: Mapping[Expected, str] = {"trains": "trains it", "slow": "is slow", "fails": "fails"}


def expects_sentence(diagnosis: Diagnosis) -> str:
    """Return what to expect of each optimizer, and its load; "" where nothing was measured."""
    said = [
        f"{name} {_EXPECTED[diagnosis.expects[optimizer]]} (load {number(diagnosis.loads[optimizer], 2)})"
        for optimizer, name in _OPTIMIZERS.items()
        if optimizer in diagnosis.expects
    ]
    # A fault of the structure makes a network strained, whatever Adam does.
    all_the_same = "all the same, " if faults(diagnosis) and diagnosis.expects.get("adam") == "trains" else ""
    return f"expect: {all_the_same}{', '.join(said)}; a load of 1 is the limit" if said else ""


def verdict_lines(profile: NetworkProfile, diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return what to read first: the verdict with the worst finding, its cause and remedy, and what else is wrong."""
    wrong = faults(diagnosis)
    profile = profile.without_inputs
    if not wrong and diagnosis.unmeasured:
        return (verdict_line(diagnosis),)
    if not wrong:
        count = len(profile.sites)
        return (f"healthy: no problem found at {counted(count, 'site')}", *_beside(diagnosis))
    worst, *others = wrong
    lines = [verdict_line(diagnosis, numbered=False)]
    if worst.cause:
        lines.append(f"cause: {worst.cause}")
    if worst.remedy is not None:
        lines.append(f"remedy: {worst.remedy.text}")
    if worst.effects:
        lines.append(f"explains: {effects(worst)}")
    lines += _beside(diagnosis)
    if others:
        lines.append(f"{counted(len(others), 'more finding')}: {'; '.join(_together(others))}")
    return tuple(lines)


def _beside(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return what stands below the verdict: what to expect of the optimizers, and what it was judged as."""
    expects = expects_sentence(diagnosis)
    return (expects, stage_sentence(diagnosis).partition(";")[0]) if expects else ()


def note_lines(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return a line for each note; those on precision have a line of their own elsewhere."""
    return tuple(note(each) for each in diagnosis.findings if each.severity == "note" and each.kind != "precision")


def site_marks(profile: NetworkProfile, diagnosis: Diagnosis) -> dict[int, tuple[str, ...]]:
    """Return the words of what is wrong at each site that shows it, by the site's position."""
    words: dict[str, dict[str, None]] = {}
    for finding in faults(diagnosis):
        for name, word in finding.marks.items():
            words.setdefault(name, {})[word] = None
    found = {}
    for index, site in enumerate(profile.sites):
        # What is wrong with a module's parameters shows at each of its calls.
        of_module = words.get(re.split(r"[#\[]", site.name)[0], {})
        if shown := {**words.get(site.name, {}), **of_module}:
            found[index] = tuple(shown)
    return found


def mark_legend(words: Iterable[str]) -> tuple[str, ...]:
    """Return what these marks mean, with the limits that gave them, one text for each kind of mark."""
    given = tuple(words)
    legends = dict.fromkeys(legend for rule in RULES for legend in rule.marks)
    return tuple(text for pattern, text in legends if any(re.search(pattern, word) for word in given))


def _names(text: str, site: str) -> bool:
    """Return whether a text names a site; a number names one only behind a word of place, as in "from 38 to 0"."""
    behind = r"(?:^(?=\d+ is )|\b(?:at|from|in|before|after|behind|to) )" if site.isdecimal() else r"(?<![\w.])"
    return bool(site) and re.search(rf"{behind}{re.escape(site)}(?!\w|\.\w)", text) is not None


def _together(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield severity and fault with the places where it starts, one text for those of one kind."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        alike = places.setdefault(f"{finding.severity}: {fault(finding)}", [])
        if finding.sites:
            alike.append(f"{'from' if len(finding.sites) > 1 else 'at'} {finding.first or '(model)'}")
    for said, found in places.items():
        yield f"{said} {listed(found, _LISTED)}".strip()
