"""`mend`: what helps an existing model, found on copies of it; `carry_out`: a remedy applied to the model itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from propscope.diagnosis import diagnose
from propscope.errors import InputError, PropscopeError
from propscope.measure import profile
from propscope.records.finding import Diagnosis, Remedy
from propscope.records.numerals import number
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.calibration import calibrate
from propscope.remedies.centre import centre
from propscope.remedies.paths import spelled

# Factors that were measured beside another fault are not those that remain when it is gone.
ROUNDS = 3


def mend(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any], Tensor] | None = None,
    diagnosis: Diagnosis | None = None,
    *,
    seed: int = 0,
) -> RemedyTrials:
    """Return what helps a model: each remedy is carried out on a copy, which is profiled and judged as the model was.

    `batch`, `loss` and `seed` are as in `propscope.profile`; `diagnosis` is that of the model, made here when None.
    Tried in turn, until the model is healthy: the weights multiplied by the factors that the findings measured (again
    by what is measured then, while it helps), `propscope.calibrate`, `centre`; that first where the diagnosis says so.
    The model itself stays as it is, bit for bit; `carry_out(model, remedy, batch)` applies the remedy of a trial. What
    the model raises passes through.
    """
    before = _state(model, batch, loss, seed, diagnosis)
    if before.diagnosis.verdict == "healthy":
        return RemedyTrials(before, labels=before.diagnosis.labels)
    trials: list[Trial] = []
    for remedy in _candidates(before.diagnosis):
        trials.append(_tried(model, remedy, before, batch, loss, seed))
        if trials[-1].healed:
            break
    return RemedyTrials(before, tuple(trials), before.diagnosis.labels)


def carry_out(model: nn.Module, remedy: Remedy, batch: Any) -> tuple[str, ...]:
    """Apply a remedy to a model in place, and return the names of the modules that it changed.

    A weight that several modules share is multiplied once. Raises `InputError` for a remedy that no weights carry out,
    and for factors of modules that the model has not.
    """
    if remedy.action == "centre":
        return centre(model, batch)
    if remedy.factors and remedy.action != "calibrate":
        return _multiply(model, remedy.factors)
    if remedy.action == "calibrate":
        return tuple(layer.name for layer in calibrate(model, batch).layers if layer.factor != 1)
    raise InputError(f"the remedy {remedy.action} is not one of weights alone: {remedy.text}")


def _multiply(model: nn.Module, factors: Mapping[str, float]) -> tuple[str, ...]:
    modules = dict(model.named_modules())
    missing = [name for name in factors if not isinstance(getattr(modules.get(name), "weight", None), Tensor)]
    if missing:
        raise InputError(f"the model has no module {missing[0]!r} with a weight", hint="it is another model's remedy")
    once: set[int] = set()
    with torch.no_grad():
        for name, factor in factors.items():
            weight = modules[name].weight
            assert isinstance(weight, Tensor)
            if id(weight) not in once:
                once.add(id(weight))
                weight.mul_(factor)
    return tuple(factors)


def _state(
    model: nn.Module, batch: Any, loss: Callable[[Any], Tensor] | None, seed: int, diagnosis: Diagnosis | None = None
) -> State:
    seen = profile(model, batch, loss, seed=seed)
    found = diagnose(ProfileSet((seen,)), notes=False) if diagnosis is None else diagnosis
    return State(found, seen.factor("forward"), seen.factor("backward"))


def _candidates(diagnosis: Diagnosis) -> Iterator[Remedy]:
    centred = Remedy("centre", "bring each unit to mean 0 and each layer to deviation 1: centre(model, batch)")
    worst = diagnosis.worst
    first = worst is not None and worst.remedy is not None and worst.remedy.action == "centre"
    if first:
        yield centred
    if factors := _factors(diagnosis):
        yield _scaling(factors)
    yield Remedy("calibrate", "scale each layer to unit variance: propscope.calibrate(model, batch)")
    if not first:
        yield centred


def _factors(diagnosis: Diagnosis) -> dict[str, float]:
    """Return the factors of all that is wrong; of a module that several findings name, the worst one's."""
    found: dict[str, float] = {}
    for finding in diagnosis.findings:
        if finding.severity != "note" and finding.remedy is not None:
            found = {**finding.remedy.factors, **found}
    return found


def _scaling(factors: Mapping[str, float]) -> Remedy:
    sizes = sorted(set(factors.values()))
    by = number(sizes[0]) if len(sizes) == 1 else f"{number(sizes[0])} to {number(sizes[-1])}"
    names = list(factors)
    where = names[0] if len(names) == 1 else f"{len(names)} layers, {names[0]} to {names[-1]},"
    return Remedy("scale", f"multiply the weight of {where} by {by}", factors=factors)


def _tried(
    model: nn.Module,
    remedy: Remedy,
    before: State,
    batch: Any,
    loss: Callable[[Any], Tensor] | None,
    seed: int,
) -> Trial:
    try:
        mended = copy.deepcopy(model)
    except Exception as error:  # A user's model may hold anything.
        return Trial(remedy, before, None, reason=f"the model cannot be copied: {_line(error)}")
    try:
        carry_out(mended, remedy, batch)
        trial = Trial(remedy, before, _state(mended, batch, loss, seed))
        for _ in range(ROUNDS - 1):
            trial = _again(mended, trial, batch, loss, seed)
    except PropscopeError as error:
        return Trial(remedy, before, None, reason=str(error))
    except Exception as error:  # As is, the model ran; mended, it may raise.
        return Trial(remedy, before, None, reason=f"the model stopped then: {_line(error)}")
    return replace(trial, lines=_lines(model, trial.remedy))


def _again(mended: nn.Module, trial: Trial, batch: Any, loss: Callable[[Any], Tensor] | None, seed: int) -> Trial:
    """Return a trial with the factors that are left multiplied in, where that is better still."""
    if not trial.helped or trial.remedy.action != "scale":
        return trial
    assert trial.after is not None
    more = _factors(trial.after.diagnosis)
    if trial.after.diagnosis.verdict == "healthy" or not more:
        return trial
    known = trial.remedy.factors
    both = {name: known.get(name, 1.0) * more.get(name, 1.0) for name in {**known, **more}}
    _multiply(mended, more)
    again = Trial(_scaling(both), trial.before, _state(mended, batch, loss, seed))
    return again if replace(again, before=trial.after).helped else trial


def _lines(model: nn.Module, remedy: Remedy) -> tuple[str, ...]:
    if remedy.action == "scale":
        return tuple(
            f"{spelled(model, name)}.weight.data.mul_({number(factor)})" for name, factor in remedy.factors.items()
        )
    if remedy.action == "calibrate":
        return ("propscope.calibrate(model, batch)",)
    return ("from propscope.remedies import centre", "centre(model, batch)")


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
