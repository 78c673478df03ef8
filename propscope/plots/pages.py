"""Which profiles share a picture, which form one line, and what a picture's header says about them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from propscope.diagnosis import diagnose
from propscope.records import NetworkProfile, ProfileSet, TrainingRun, TrainingSet
from propscope.records.expectations import reason_without_theory, without_theory
from propscope.records.network import Label

SEED = "seed"
LINE = "initializer"
COLUMN = "activation"
# Networks of two sizes are looked at one by one.
_SIZES = ("depth", "width")

MARKS = {"healthy": "", "not measured": "?", "strained": "!", "broken": "✗"}

Set = TypeVar("Set", ProfileSet, TrainingSet)


@dataclass(frozen=True, slots=True)
class Page(Generic[Set]):
    """The profiles (or trainings) of one picture, and the `suffix` of its file name within its plot."""

    suffix: str
    profiles: Set


def lines(profiles: Set, *, columns: Sequence[str] = (), members: Set | None = None) -> dict[str, Set]:
    """Return the profiles or trainings of each line or row, by the line's name, in order.

    The members of a line differ only in their seed and in the labels of `columns`. Its name is the initializer and
    every other label that varies among `profiles`, such as "he_normal, depth 50", or "model" if there is neither. With
    `members`, only these are returned, under the names that they have among `profiles`.
    """
    varying = _varying(profiles, but=(SEED, LINE, *columns))
    together: dict[str, list[Any]] = {}
    for profile in profiles if members is None else members:
        parts = [str(profile.labels[LINE])] if LINE in profile.labels else []
        parts += [f"{name} {profile.labels[name]}" for name in varying if name in profile.labels]
        together.setdefault(", ".join(parts) or "model", []).append(profile)
    return {name: profiles.of(members) for name, members in together.items()}


def columns(profiles: Set) -> dict[str, Set]:
    """Return the profiles or trainings of each activation ("" if unlabelled), in order of first appearance."""
    together: dict[str, list[Any]] = {}
    for profile in profiles:
        together.setdefault(str(profile.labels.get(COLUMN, "")), []).append(profile)
    return {name: profiles.of(members) for name, members in together.items()}


def axis_value(label: Label) -> float:
    """Return a label as a number on an axis, NaN for text; a residual factor of False is 0, and of True 1."""
    if isinstance(label, str):
        return {"False": 0.0, "True": 1.0}.get(label, math.nan)
    return float(label)


def swept(profiles: ProfileSet | TrainingSet) -> tuple[str, ...]:
    """Return the axes with three numbers or more, the one with the most first; seeds are no axis."""
    sizes = {
        name: len(values)
        for name, values in profiles.axes.items()
        if name != SEED
        and len(values) > 2
        and all(math.isfinite(axis_value(value)) for value in values)
        and all(name in profile.labels for profile in profiles)
    }
    return tuple(sorted(sizes, key=lambda name: -sizes[name]))


def pages(
    profiles: Set, *, within: Iterable[str], lines_at_most: int, columns_at_most: int, across: Sequence[str] = ()
) -> list[Page[Set]]:
    """Divide a set into pictures: one for each combination of the labels that are not `within` one picture.

    Other labels are within a picture too as far as their lines have room in it: axes of three numbers or more first,
    and depth and width only if they are such. The labels `across` are those of its x axis, along which a line runs.
    Seeds always share a picture. Profiles without an initializer are lines of one picture, named by their other labels.
    More than `lines_at_most` lines or `columns_at_most` activations make further pictures.
    """
    together: dict[tuple[str, ...], list[Any]] = {}
    for run in _runs(profiles):
        inside = _inside(run, {SEED, *within, *across}, lines_at_most)
        apart = _varying(profiles, but=inside)
        # Labels that only some runs have name a run, also where they share a picture.
        naming = set(apart).union(_own(profiles, run))
        named = _varying(profiles, but=profiles.axes.keys() - naming | {SEED, *within, *across})
        for profile in run:
            key = tuple(_spell(name, profile, valued=name in apart) for name in named if name in profile.labels)
            together.setdefault(key, []).append(profile)
    found = [
        Page("-".join(filter(None, key + extra)), page)
        for key, members in together.items()
        for extra, page in _portions(profiles.of(members), within, across, lines_at_most, columns_at_most)
    ]
    return _unique(found)


def _runs(profiles: Set) -> list[Set]:
    """Return the members that have the same labels; others come from another run, whose axes are its own.

    Without initializers they are models, which are lines of one picture whatever their labels are.
    """
    if LINE not in profiles.axes:
        return [profiles]
    together: dict[frozenset[str], list[Any]] = {}
    for profile in profiles:
        together.setdefault(frozenset(profile.labels.keys() - {SEED}), []).append(profile)
    return [profiles.of(members) for members in together.values()]


def _inside(run: ProfileSet | TrainingSet, inside: set[str], lines_at_most: int) -> set[str]:
    """Return the labels within one picture of a run: those `inside` in any case, and others while lines have room."""
    found = set(inside)
    count = len(run.axes.get(LINE, ("",)))
    for name in dict.fromkeys((*swept(run), *_varying(run, but=(*inside, COLUMN, *_SIZES)))):
        more = count * len(run.axes[name])
        if name not in found and more <= lines_at_most:
            found.add(name)
            count = more
    return found if LINE in run.axes else found | run.axes.keys() - {COLUMN}


def _own(profiles: ProfileSet | TrainingSet, run: ProfileSet | TrainingSet) -> list[str]:
    """Return the labels of a run that others in the set lack."""
    return [name for name in run.axes if any(name not in profile.labels for profile in profiles)]


def _varying(profiles: ProfileSet | TrainingSet, *, but: Collection[str]) -> list[str]:
    """Return the labels, `but` for some, that differ between profiles; a label that only some carry differs."""
    return [
        name
        for name in profiles.axes
        if name not in but and len({profile.labels.get(name) for profile in profiles}) > 1
    ]


def _spell(name: str, profile: NetworkProfile | TrainingRun, *, valued: bool) -> str:
    value = profile.labels[name]
    return str(value) if name == COLUMN else f"{name}{value}" if valued else name


def _portions(
    profiles: Set, within: Iterable[str], across: Sequence[str], lines_at_most: int, columns_at_most: int
) -> list[tuple[tuple[str, ...], Set]]:
    by_column = columns(profiles) if COLUMN in within else {"": profiles}
    found: list[tuple[tuple[str, ...], Set]] = []
    for chosen in _cut(list(by_column), columns_at_most):
        wanted = profiles.of(profile for name in chosen for profile in by_column[name])
        by_line = lines(wanted, columns=(COLUMN, *across))
        portions = _cut(list(by_line), lines_at_most)
        for number, names in enumerate(portions, start=1):
            extra = ("+".join(chosen) if len(chosen) < len(by_column) else "", f"{number}" if len(portions) > 1 else "")
            found.append((extra, profiles.of(profile for name in names for profile in by_line[name])))
    return found


def _cut(names: list[str], at_most: int) -> list[list[str]]:
    count = -(-len(names) // at_most)
    return [names[i * len(names) // count : (i + 1) * len(names) // count] for i in range(count)]


def _unique(pages: list[Page[Set]]) -> list[Page[Set]]:
    counts: dict[str, int] = {}
    unique = []
    for page in pages:
        suffix = re.sub(r"[^\w.=+-]+", "_", page.suffix)
        counts[suffix] = counts.get(suffix, 0) + 1
        unique.append(Page(suffix if counts[suffix] == 1 else f"{suffix}-{counts[suffix]}", page.profiles))
    return unique


def reasons(profiles: ProfileSet) -> tuple[str, ...]:
    """Return one sentence for each reason why theory has no prediction for some of the profiles."""
    sentences = without_theory((profile.labels, reason_without_theory(profile)) for profile in profiles)
    return tuple(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)


def facts(profiles: ProfileSet | TrainingSet, *, seeds: str = "") -> str:
    """Return in one line what was run: activation, shared labels, number of seeds and batch size.

    A fact that is unknown or not shared by all is left out, and so is the batch size of trainings unless it is a label.
    `seeds` is added after the number of seeds.
    """
    axes = profiles.axes
    alike = axes.keys() - _varying(profiles, but=())
    shared = {name: values[0] for name, values in axes.items() if name in alike - {SEED, LINE}}
    parts = [str(shared.pop(COLUMN))] if COLUMN in shared else []
    parts += [f"{name} {value}" for name, value in shared.items()]
    if len(axes.get(LINE, ())) == 1:
        parts.insert(0, str(axes[LINE][0]))
    count = len(axes.get(SEED, ()))
    if count:
        parts.append(f"{count} seeds{seeds}" if count > 1 else "1 seed")
    if isinstance(profiles, TrainingSet):
        return " · ".join(parts)
    batches = {p.provenance.samples // p.provenance.batches for p in profiles if p.provenance.batches}
    if len(batches) == 1 and "batch" not in axes:
        parts.append(f"batch {batches.pop()}")
    return " · ".join(parts)


def mark_of(profiles: ProfileSet) -> str:
    """Return the mark of the worst verdict among networks; "" if all are healthy or there are none."""
    return MARKS[diagnose(profiles, notes=False).verdict] if len(profiles) else ""


def key_of(marks: Iterable[str]) -> str:
    """Return a sentence that explains the marks, to be added to a header; "" if there are no marks."""
    used = set(marks)
    parts = [f"{mark}\N{NO-BREAK SPACE}{verdict}" for verdict, mark in MARKS.items() if mark and mark in used]
    return f" Verdict: {', '.join(parts[::-1])}, unmarked healthy." if parts else ""
