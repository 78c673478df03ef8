"""Do the alarms of a monitor find what is planted into a training, before the loss does, and are they silent else?

    python benches/alarms.py [--seeds 0,1,2] [--held no|yes|all] [--only NAME,...] [--file FILE]

Each fault is planted between two steps of each training that it fits, with each seed, twice: without propscope, to
see whether it does harm and when the loss shows it, and with a monitor. Healthy runs take 1,000 steps. Each result is a
line of the file, and what is there already is not run again. A fault that does no harm is listed and not counted.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import logging
import random
import statistics
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from timing import OUTPUTS
from training_faults import FAULTS, Fault
from trainings import HEALTHY, TRAININGS, Run, Training

import propscope

EVERY = 10
# A fault is planted at a step from here on, and the run then goes on for so long.
FIRST, AFTER = 120, 100
HEALTHY_STEPS = 1000
# The loss shows a fault from the second step in a row on which it is so many robust deviations above its median.
BEFORE, DEVIATIONS = 50, 5.0
# A fault does harm where it loses this share of what was gained so far, in the loss of its first steps or on sound data
# at the end; where less than a third is learned of what is learned without it, if that is so much of what was gained;
# and where what is made has only that share of its spread, or an attention of its entropy.
LOST, SOON, STUCK, LEARNED, COLLAPSE = 0.1, 20, 1 / 3, 0.05, 0.3


@dataclass(frozen=True, slots=True)
class Trial:
    """A fault in a training: what it did, and what was said.

    `at`: the step before which it was planted. `harm`: what it did without propscope, "" for nothing. `shown`: the
    step at which the loss shows it, None for never. `alarms`: [step, since, kind, place, rightly placed] of each.
    """

    training: str
    fault: str
    place: str
    seed: int
    at: int
    harm: str
    shown: int | None
    alarms: list[list[Any]]

    @property
    def held(self) -> bool:
        """Whether rules were developed without it."""
        return FAULTS[self.fault].held or next(t.held for t in TRAININGS if t.name == self.training)

    @property
    def found(self) -> int | None:
        """The step of the first alarm that names the right place."""
        return next((alarm[0] for alarm in self.alarms if alarm[0] >= self.at and alarm[4]), None)

    @property
    def in_time(self) -> bool:
        """Whether that was at or before the step at which the loss shows it."""
        return self.found is not None and (self.shown is None or self.found <= self.shown)

    @property
    def verdict(self) -> str:
        """How it went, in a word."""
        if self.in_time:
            return "in time"
        if self.found is not None:
            return "late"
        return "elsewhere" if any(alarm[0] >= self.at for alarm in self.alarms) else "missed"


def planted_at(training: Training, seed: int) -> int:
    return FIRST + zlib.crc32(f"{training.name} {seed}".encode()) % 50


def place_of(run: Run, name: str, seed: int) -> str | None:
    """Return one of the places where a fault can be planted."""
    places = list(FAULTS[name].places(run))
    return random.Random(f"{run.training.name} {name} {seed}").choice(places) if places else None


@dataclass(slots=True)
class Bare:
    """A run without a monitor up to the fault; its losses, and those of a sound run from there; how that one ends.

    `gained`: how much better it does on sound data than at the beginning. `learned`: how much better from the fault on.
    """

    before: Run
    losses: list[float]
    then: list[float]
    sound: dict[str, float]
    gained: float
    learned: float

    @classmethod
    def of(cls, training: Training, seed: int) -> Bare:
        """Run a training up to its fault, and a copy of it to the end."""
        run = Run(training, seed)
        begun = run.clean()["training"]
        losses = [float(run.step(number)) for number in range(planted_at(training, seed))]
        then, sound = _ended(copy.deepcopy(run), len(losses))
        now = run.clean()["training"]
        return cls(run, losses, then, sound, abs(begun - sound["training"]), now - sound["training"])

    def harm(self, fault: Fault, place: str) -> tuple[str, int | None]:
        """Return what a fault does, and the step at which the loss shows it."""
        run = copy.deepcopy(self.before)
        fault.plant(run, place)
        losses, now = _ended(run, len(self.losses))
        shares = ("spread", "entropy")
        worse = {name: value - self.sound[name] for name, value in now.items() if name not in shares}
        worse["soon"] = statistics.fmean(losses[:SOON]) - statistics.fmean(self.then[:SOON])
        found = [name for name, by in worse.items() if not by <= LOST * self.gained]
        found += [name for name in shares if name in now and not now[name] >= COLLAPSE * self.sound[name]]
        missing = now["training"] - self.sound["training"]
        if self.learned > LEARNED * self.gained and not missing <= (1 - STUCK) * self.learned:
            found.append("stuck")
        seen = shown([*self.losses, *losses], len(self.losses))
        return ", ".join(["loss"] * (seen is not None) + found), seen


def _ended(run: Run, at: int) -> tuple[list[float], dict[str, float]]:
    torch.manual_seed(run.seed)
    return [float(run.step(number)) for number in range(at, at + AFTER)], run.clean()


def shown(losses: Sequence[float], at: int) -> int | None:
    """Return the second of the first two steps whose loss is far above what it was before the fault."""
    before = losses[at - BEFORE : at]
    middle = statistics.median(before)
    deviation = statistics.median(abs(one - middle) for one in before) / 0.6745
    high = [not one <= middle + DEVIATIONS * deviation for one in losses]
    return next((number for number in range(at + 1, len(losses)) if high[number] and high[number - 1]), None)


def matches(place: str, right: Iterable[str]) -> bool:
    return any(place == one or place.startswith((f"{one}.", f"{one}#", f"{one}[")) for one in right)


def monitored(
    training: Training, seed: int, count: int, *, fault: Fault | None = None, place: str = "", at: int = -1
) -> list[list[Any]]:
    """Return the alarms of a run, each with whether its place is right."""
    run = Run(training, seed)
    right = None if fault is None or fault.right is None else fault.right(run, place)
    # Without a budget, since what is sampled must not depend on the load of the machine.
    watching = propscope.monitor(run.model, run.optimizer, every=EVERY, budget=None, loss_scale=run.scaler)
    with redirect_stderr(io.StringIO()), watching as monitor:
        for number in range(count):
            if fault is not None and number == at:
                fault.plant(run, place)
            with monitor.step(number) as step:
                step.loss(run.step(number))
    named = [(one, one.site or one.parameter) for one in monitor.alarms]
    return [[one.step, one.since, one.kind, at, right is None or matches(at, right)] for one, at in named]


class Results:
    """The lines of a file, by the names of what they are about."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self._found: dict[str, Any] = {entry["about"]: entry["found"] for entry in map(json.loads, lines)}

    def get(self, about: str, make: Callable[[], Any]) -> Any:
        """Return what is known, or make it and write it."""
        if about not in self._found:
            self._found[about] = found = make()
            with self._path.open("a") as file:
                file.write(json.dumps({"about": about, "found": found}) + "\n")
        return self._found[about]


def trials(training: Training, names: Sequence[str], seed: int, results: Results) -> Iterator[Trial]:
    """Yield the trials of these faults that have a place in the training."""
    bare = cache(partial(Bare.of, training, seed))
    stepped = Run(training, seed)
    stepped.step(0)
    at = planted_at(training, seed)
    for name in names:
        place = place_of(stepped, name, seed)
        if place is None:
            continue
        fault, about = FAULTS[name], f"{training.name} | {name} | {seed}"

        def harmed(fault: Fault = fault, place: str = place) -> tuple[str, int | None]:
            return bare().harm(fault, place)

        harm, when = results.get(f"harm: {about}", harmed)
        alarms = []
        if harm:
            run = partial(monitored, training, seed, at + AFTER, fault=fault, place=place, at=at)
            alarms = results.get(f"alarms: {about}", run)
        yield Trial(training.name, name, place, seed, at, harm, when, alarms)


def table(trials: Sequence[Trial]) -> list[str]:
    """Return a line for each fault: how many were found, in time, elsewhere, missed."""
    lines = [
        f"{'fault':28} {'runs':>4} {'found':>5} {'in time':>7} {'elsewhere':>9} {'missed':>6} {'delay':>5} harmless"
    ]
    for name in [*FAULTS, "all"]:
        of = [each for each in trials if name in (each.fault, "all")]
        if not of:
            continue
        counted = [each for each in of if each.harm]
        delays = [each.found - each.at for each in counted if each.found is not None]
        verdicts = [each.verdict for each in counted]
        delay = f"{statistics.median(delays):.0f}" if delays else ""
        lines.append(
            f"{name:28} {len(counted):4} {len(delays):5} {verdicts.count('in time'):7} {verdicts.count('elsewhere'):9} "
            f"{verdicts.count('missed'):6} {delay:>5} {len(of) - len(counted)}"
        )
    return lines


def main() -> None:
    """Run what is not known yet, and print the tables and what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--held", default="all", choices=("no", "yes", "all"))
    parser.add_argument("--only", default="")
    parser.add_argument("--file", type=Path, default=OUTPUTS / "alarms.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("propscope").setLevel(logging.CRITICAL)
    results, only = Results(arguments.file), [one for one in arguments.only.split(",") if one]
    found: list[Trial] = []
    healthy: dict[str, list[list[Any]]] = {}

    def asked(held: bool, *names: str) -> bool:
        wanted = {"no": not held, "yes": held, "all": True}[arguments.held]
        return wanted and (not only or any(name in only for name in names))

    for seed in map(int, arguments.seeds.split(",")):
        for training in HEALTHY:
            if asked(training.held, training.name, "healthy"):
                about = f"{training.name} | {seed}"
                healthy[about] = results.get(f"healthy: {about}", partial(monitored, training, seed, HEALTHY_STEPS))
        for training in TRAININGS:
            names = [n for n, fault in FAULTS.items() if asked(fault.held or training.held, training.name, n)]
            found += trials(training, names, seed, results)
    print("\n".join(table(found)))
    print("\nnot in time:")
    for each in found:
        if each.harm and not each.in_time:
            said = "; ".join(f"{a[2]} {a[3]} {a[0] - each.at:+}" for a in each.alarms[:4])
            late = "" if each.shown is None else f"loss {each.shown - each.at:+}"
            print(
                f"  {each.training} {each.fault} {each.place} {each.seed}: {each.verdict}, {each.harm}, {late}; {said}"
            )
    false = {about: said for about, said in healthy.items() if said}
    false |= {
        f"{each.training} before {each.fault} {each.seed}": early
        for each in found
        if (early := [alarm for alarm in each.alarms if alarm[0] < each.at])
    }
    print(f"\n{len(healthy)} healthy runs, false alarms in {len(false)}:")
    for about, raised in false.items():
        print(f"  {about}: " + "; ".join(f"{a[2]} {a[3]} at {a[0]}" for a in raised[:4]))


if __name__ == "__main__":
    main()
