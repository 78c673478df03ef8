"""`try_remedies`: find what helps an existing model, on copies of it; `apply_remedy`: change the model itself."""

from __future__ import annotations

import contextlib
import copy
import keyword
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from propscope.diagnosis import diagnose
from propscope.errors import InputError, PropscopeError, error_line
from propscope.measure import profile
from propscope.measure.outputs import as_batch
from propscope.records.finding import Diagnosis, Remedy, Stage
from propscope.records.numerals import number
from propscope.records.profile_set import ProfileSet
from propscope.records.remedy_trials import RemedyTrials, State, Trial
from propscope.remedies.calibration import calibrate
from propscope.remedies.centre import centre
from propscope.remedies.standardize import standardized, standardizing_lines

# Once one fault is gone, the factors of the others are measured again: at most so many rounds.
ROUNDS = 3
_THEN = "; then "
_NUMBER = re.compile(r"(?<=\[)\d+(?=\])")
_LEARNED = "the network is trained, and other weights would throw away what it has learned"


def try_remedies(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any], Tensor] | None = None,
    diagnosis: Diagnosis | None = None,
    *,
    seed: int = 0,
    stage: Stage | None = None,
) -> RemedyTrials:
    """Return what helps a model: each remedy is applied to a copy, which is then profiled and diagnosed.

    `batch`, `loss` and `seed` are as in `propscope.profile`, `stage` as in `diagnose`; `diagnosis` is that of the
    model, None to make it here. These are tried in turn, until the model is healthy: standardize the inputs that the
    findings name; multiply the weights by the factors of the first finding, then by those of all of them;
    `propscope.calibrate`; and `centre`, which comes before the factors where the diagnosis recommends it. Where one of
    the first three has done its part, the factors of what is found then are added. For a trained model only the first
    is tried.

    The model itself does not change, bit for bit. `apply_remedy(model, remedy, batch)` applies the remedy of a trial to
    it, and `propscope.remedies.standardized(batch, remedy.inputs)` that of an input. Exceptions of the model pass
    through.
    """
    before = _state(model, batch, loss, seed, stage, diagnosis)
    if before.diagnosis.verdict in ("healthy", "not measured"):
        return RemedyTrials(before, labels=before.diagnosis.labels, reason=before.diagnosis.unmeasured)
    trained = before.diagnosis.stage == "trained"
    trials: list[Trial] = []
    for remedy in _candidates(before.diagnosis):
        if trained and not remedy.inputs:
            break
        trials.append(_tried(model, remedy, before, batch, loss, seed))
        if trials[-1].healed:
            break
    reason = _LEARNED if trained and not trials else ""
    return RemedyTrials(before, tuple(trials), before.diagnosis.labels, reason)


def apply_remedy(model: nn.Module, remedy: Remedy, batch: Any) -> tuple[str, ...]:
    """Apply a remedy to a model in place, and return the names of the modules that it changed.

    A weight that several modules share is multiplied once. Raises `InputError` for a remedy that changes more than
    weights, or the input, and for factors of modules and parameters that the model does not have.
    """
    if remedy.action == "centre":
        return centre(model, batch)
    if remedy.factors and remedy.action != "calibrate":
        return _multiply(model, remedy.factors)
    if remedy.action == "calibrate":
        return tuple(layer.name for layer in calibrate(model, batch).layers if layer.factor != 1)
    if remedy.inputs:
        raise InputError(
            "the remedy changes the input, not the model", hint="propscope.remedies.standardized(batch, remedy.inputs)"
        )
    raise InputError(f'the remedy "{remedy.action}" changes more than weights: {remedy.text}')


def _multiply(model: nn.Module, factors: Mapping[str, float]) -> tuple[str, ...]:
    weights = {name: _weight(model, name) for name in factors}
    once: set[int] = set()
    with torch.no_grad():
        for name, weight in weights.items():
            if id(weight) not in once:
                once.add(id(weight))
                weight.mul_(factors[name])
    return tuple(factors)


def _weight(model: nn.Module, name: str) -> Tensor:
    """Return the weight of the module of that name, or the parameter of that name."""
    with contextlib.suppress(AttributeError):
        found = model.get_submodule(name)
        if isinstance(weight := getattr(found, "weight", None), Tensor):
            return weight
    with contextlib.suppress(AttributeError):
        return model.get_parameter(name)
    raise InputError(
        f'the model has no module "{name}" with a weight', hint="use a remedy from a diagnosis of this model"
    )


def _state(
    model: nn.Module,
    batch: Any,
    loss: Callable[[Any], Tensor] | None,
    seed: int,
    stage: Stage | None,
    diagnosis: Diagnosis | None = None,
) -> State:
    seen = profile(model, batch, loss, seed=seed)
    found = diagnose(ProfileSet((seen,)), notes=False, stage=stage) if diagnosis is None else diagnosis
    return State(found, seen.factor("forward"), seen.factor("backward"))


def _candidates(diagnosis: Diagnosis) -> Iterator[Remedy]:
    if inputs := _inputs(diagnosis):
        yield inputs
    centred = Remedy("centre", "bring each unit to mean 0 and each layer to std 1: centre(model, batch)")
    worst = diagnosis.worst
    first = worst is not None and worst.remedy is not None and worst.remedy.action == "centre"
    if first:
        yield centred
    of_each = [f.remedy.factors for f in diagnosis.findings if f.severity != "note" and f.remedy and f.remedy.factors]
    # What the first finding asks for may be all that is needed: others may follow from it.
    for factors in [of_each[0], _factors(diagnosis)] if len(of_each) > 1 else of_each:
        yield _scaling(factors)
    yield Remedy("calibrate", "scale each layer to unit variance: propscope.calibrate(model, batch)")
    if not first:
        yield centred


def _inputs(diagnosis: Diagnosis) -> Remedy | None:
    """Return the remedy that standardizes every input at fault, None where none is."""
    found = [f.remedy for f in diagnosis.findings if f.severity != "note" and f.remedy is not None and f.remedy.inputs]
    if not found:
        return None
    together = {name: moments for remedy in reversed(found) for name, moments in remedy.inputs.items()}
    return replace(found[0], text="; ".join(dict.fromkeys(remedy.text for remedy in found)), inputs=together)


def _factors(diagnosis: Diagnosis) -> dict[str, float]:
    """Return the factors of all faults by module; a module that several findings name gets that of the worst."""
    found: dict[str, float] = {}
    for finding in diagnosis.findings:
        if finding.severity != "note" and finding.remedy is not None:
            found = {**finding.remedy.factors, **found}
    return found


def _scaling(factors: Mapping[str, float]) -> Remedy:
    zeros = [name for name, factor in factors.items() if factor == 0]
    scaled = {name: factor for name, factor in factors.items() if factor != 0}
    said = [f"set {_listed(zeros)} to zero"] if zeros else []
    if scaled:
        sizes = sorted(set(scaled.values()))
        by = number(sizes[0]) if len(sizes) == 1 else f"{number(sizes[0])} to {number(sizes[-1])}"
        said.insert(0, f"multiply the weight of {_listed([*scaled])} by {by}")
    return Remedy("scale", ", and ".join(said), factors=factors)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{len(names)} layers, {names[0]} to {names[-1]},"


def _tried(
    model: nn.Module,
    remedy: Remedy,
    before: State,
    batch: Any,
    loss: Callable[[Any], Tensor] | None,
    seed: int,
) -> Trial:
    try:
        changed = copy.deepcopy(model)
    except Exception as error:  # A user's model may hold anything.
        return Trial(remedy, before, None, reason=f"the model cannot be copied: {error_line(error)}")
    given = batch
    try:
        if remedy.inputs:
            given = as_batch(model, batch)
            batch = standardized(given, remedy.inputs)
        else:
            apply_remedy(changed, remedy, batch)
        trial = best = Trial(remedy, before, _state(changed, batch, loss, seed, before.diagnosis.stage))
        for _ in range(ROUNDS - 1):
            if (more := _more(trial)) is None:
                break
            _multiply(changed, more)
            after = _state(changed, batch, loss, seed, before.diagnosis.stage)
            trial = Trial(_with_factors(trial.remedy, more), before, after)
            best = trial if replace(trial, before=best.after or before).helped else best
        trial = best
    except PropscopeError as error:
        return Trial(remedy, before, None, reason=str(error))
    except Exception as error:  # The original model ran, but the changed copy may raise.
        return Trial(remedy, before, None, reason=f"the changed model stopped: {error_line(error)}")
    return replace(trial, lines=_lines(model, trial.remedy, given))


def _more(trial: Trial) -> dict[str, float] | None:
    """Return the factors that are measured once a remedy has done its part, None where it has not, or nothing is left.

    It has where the verdict is better, or where another finding is the worst now.
    """
    assert trial.after is not None
    after = trial.after.diagnosis
    if after.verdict == "healthy" or trial.remedy.action not in ("scale", "standardize") or after.stage == "trained":
        return None
    worst, now = trial.before.diagnosis.worst, after.worst
    gone = worst is not None and now is not None and (worst.kind, worst.first) != (now.kind, now.first)
    return _factors(after) or None if trial.helped or gone else None


def _with_factors(remedy: Remedy, more: Mapping[str, float]) -> Remedy:
    """Return a remedy that also multiplies by these factors."""
    known = remedy.factors
    both = {name: known.get(name, 1.0) * more.get(name, 1.0) for name in {**known, **more}}
    if not remedy.inputs:
        return _scaling(both)
    standardizing = remedy.text.partition(_THEN)[0]
    return replace(remedy, text=f"{standardizing}{_THEN}{_scaling(both).text}", factors=both)


def _lines(model: nn.Module, remedy: Remedy, batch: Any) -> tuple[str, ...]:
    if remedy.action in ("scale", "standardize"):
        standardizing = standardizing_lines(remedy.inputs, batch) if remedy.inputs else ()
        return *standardizing, *scaling_lines(model, remedy.factors)
    if remedy.action == "calibrate":
        return ("propscope.calibrate(model, batch)",)
    return ("from propscope.remedies import centre", "centre(model, batch)")


def scaling_lines(model: nn.Module, factors: Mapping[str, float]) -> list[str]:
    """Return the lines that multiply weights by factors; a loop stands for layers with the same factor."""
    lines = [f"{weight_expression(model, name)}.data.mul_({number(factor)})" for name, factor in factors.items()]
    # The loop runs over the number that leaves the fewest lines: of the block, or of the layer in it.
    most = max((len(_NUMBER.findall(line)) for line in lines), default=0)
    return min((_loops(lines, at) for at in range(most)), key=len, default=lines)


def _loops(lines: Sequence[str], at: int) -> list[str]:
    """Return the lines with one loop for each three or more that differ in their `at`-th number in brackets alone."""
    alike: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        found = list(_NUMBER.finditer(line))[at : at + 1]
        head, tail = (line[: found[0].start()], line[found[0].end() :]) if found else (line, "")
        alike.setdefault((head, tail), []).extend(int(one[0]) for one in found)
    return [row for (head, tail), numbers in alike.items() for row in _looped(head, tail, numbers)]


def _looped(head: str, tail: str, numbers: list[int]) -> list[str]:
    if len(numbers) < 3:
        return [f"{head}{each}{tail}" for each in numbers] or [head]
    run = range(numbers[0], numbers[-1] + (1 if numbers[1] > numbers[0] else -1), numbers[1] - numbers[0])
    among = run if list(run) == numbers else tuple(numbers)
    return [f"for i in {among}: {head}i{tail}"]


def weight_expression(model: nn.Module, name: str) -> str:
    """Return the Python expression of the weight of a module, or of a parameter, by its dotted name."""
    parameters = {known for known, _ in model.named_parameters(remove_duplicate=False)}
    owner, _, own = name.rpartition(".") if name in parameters else (name, "", "weight")
    return f"{module_expression(model, owner)}.{own}"


def module_expression(model: nn.Module, name: str) -> str:
    """Return the Python expression of a module with a dotted name: "stage2.1.conv1" is model.stage2[1].conv1."""
    text, module = "model", model
    for part in name.split(".") if name else ():
        if part.isdecimal() and isinstance(module, (nn.Sequential, nn.ModuleList)):
            text += f"[{part}]"
        elif isinstance(module, nn.ModuleDict):
            text += f"[{part!r}]"
        elif part.isidentifier() and not keyword.iskeyword(part):
            text += f".{part}"
        else:
            return f"model.get_submodule({name!r})"
        module = module.get_submodule(part)
    return text
