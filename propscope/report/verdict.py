"""A diagnosis in few words: in the cell of a table, on the first lines of a report, in the margin beside its sites."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from propscope.diagnosis.rules import RULES
from propscope.records.finding import Diagnosis, Finding
from propscope.records.network import Label, NetworkProfile

_LISTED = 3
# Kinds that say little without the direction of the signal.
_DIRECTED = ("exploding", "vanishing", "non-finite")

GRID_NOTE = (
    "verdict: strained from a factor of e^3 = 20 over the depth on, or where units do nothing; broken beyond what",
    "training mends (the condition number of learning exceeds 1/eps of float32). Why, and what to change: propscope",
    "show with --act and --init, or propscope.diagnose.",
)


def verdict_word(diagnosis: Diagnosis) -> str:
    """Return the verdict with what the worst finding found: "healthy", "broken: vanishing backward"."""
    wrong = faults(diagnosis)
    return f"{diagnosis.verdict}: {_fault(wrong[0])}" if wrong else diagnosis.verdict


def faults(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """Return the findings of what is wrong, worst first: all but the notes."""
    return tuple(finding for finding in diagnosis.findings if finding.severity != "note")


def by_labels(diagnosis: Diagnosis) -> Mapping[frozenset[tuple[str, Label]], Diagnosis]:
    """Return the diagnosis of each network, keyed by its labels but the seed."""
    return {frozenset(network.labels.items()): network for network in diagnosis.networks or (diagnosis,)}


def verdict_lines(profile: NetworkProfile, diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return what to read first: the verdict with the worst finding, its cause and remedy, and what else is wrong."""
    wrong = faults(diagnosis)
    if not profile.sites:
        return ("no verdict: no site was seen",)
    if not wrong:
        count = len(profile.sites)
        alone = ", forward alone" if all(site.backward is None for site in profile.sites) else ""
        return (f"healthy: no problem seen at {count} site{'s' * (count != 1)}{alone}",)
    worst, *others = wrong
    lines = [f"{diagnosis.verdict}: {_message(worst)}", f"cause: {worst.cause}"]
    if worst.remedy is not None:
        lines.append(f"remedy: {worst.remedy.text}")
    if others:
        lines.append(f"{len(others)} more finding{'s' * (len(others) != 1)}: {'; '.join(_together(others))}")
    return tuple(lines)


def note_lines(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Return what is not wrong, or cannot be told, a line each; the precision apart, which has a line of its own."""
    return tuple(
        f"note: {finding.message}" + (f"; {finding.remedy.text}" if finding.remedy is not None else "")
        for finding in diagnosis.findings
        if finding.severity == "note" and finding.kind != "precision"
    )


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


def mark_rules(words: Iterable[str]) -> tuple[str, ...]:
    """Return the lines that explain these words, with the limits of the rules that gave them."""
    given = tuple(words)
    legends = dict.fromkeys(legend for rule in RULES for legend in rule.marks)
    return tuple(line for pattern, line in legends if any(re.search(pattern, word) for word in given))


def _fault(finding: Finding) -> str:
    directed = finding.direction is not None and finding.kind in _DIRECTED
    return f"{finding.kind} {finding.direction}" if directed else finding.kind


def _together(findings: Iterable[Finding]) -> Iterator[str]:
    """Yield severity and fault with the places where it starts, one text for those of one kind."""
    places: dict[str, list[str]] = {}
    for finding in findings:
        alike = places.setdefault(f"{finding.severity}: {_fault(finding)}", [])
        if finding.sites:
            alike.append(f"{'from' if len(finding.sites) > 1 else 'at'} {finding.first or '(model)'}")
    for fault, found in places.items():
        yield " ".join([fault, ", ".join(found[:_LISTED])]).strip() + ", ..." * (len(found) > _LISTED)


def _message(finding: Finding) -> str:
    """Return the message, with the first site where it names another one."""
    named = (finding.direction is not None and finding.kind in _DIRECTED) or finding.first in finding.message
    if named:
        return finding.message
    count = len(finding.sites)
    return f"{finding.message} ({f'{count} sites, the first' if count > 1 else 'at'} {finding.first})"
