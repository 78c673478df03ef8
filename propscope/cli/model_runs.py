"""Runs the model of a target for `inspect` and `check`: every seed and batch, pooled, and the remedies that help it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from propscope.cli.targets import (
    FileInput,
    RandomInput,
    Target,
    load_target,
    make_loss,
    on_import_path,
    parse_input,
)
from propscope.errors import PropscopeError, error_line
from propscope.measure import track
from propscope.measure.cost_pass import costs_so_far
from propscope.measure.outputs import describe_shapes
from propscope.measure.profiler import Loss, profile_batches, stop_advice, stopped_in
from propscope.networks.devices import named_dtype, usable_device
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.model_costs import ModelCosts
from propscope.records.pooling import pooled_seeds

if TYPE_CHECKING:
    from propscope.records.finding import Stage
    from propscope.remedies import RemedyTrials

_HOME = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The model to run and how, as typed."""

    target: str
    arguments: tuple[str, ...]
    config: str | None
    checkpoint: Path | None
    init: str | None
    train: bool
    dtype: str
    device: str
    shapes: tuple[str, ...]
    kinds: str | None
    file: Path | None
    loss: str
    seeds: int
    batches: int
    include: str | None
    exclude: str | None

    @classmethod
    def of(cls, options: Mapping[str, Any], *, target: str, seeds: int) -> RunRequest:
        """Return the request made by the options of `inspect` or `check`, given by parameter name."""
        same = ("config", "checkpoint", "init", "train", "dtype", "device", "loss", "batches", "include", "exclude")
        return cls(
            target=target,
            arguments=tuple(options["arg"] or ()),
            shapes=tuple(options["input_shape"] or ()),
            kinds=options["input_kind"],
            file=options["input"],
            seeds=seeds,
            **{name: options[name] for name in same},
        )

    def spec(self) -> str:
        """Return the request as JSON, without options that are not set."""
        options = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({name: value for name, value in options.items() if value not in (None, ())}, default=str)


@dataclass(frozen=True, slots=True)
class ModelRun:
    """What a run measured: `profiles`, one per seed, and `shown`, the profile to show; None if nothing was measured.

    `headline` says in words what ran, `input` the shapes of a batch, `title` the model's class. `costs`: those of one
    batch, where they were asked for. `stopped` is the error that ended the run early, with a `hint`; None if there was
    none.
    """

    profiles: ProfileSet
    shown: NetworkProfile | None
    title: str
    input: str
    headline: str
    costs: ModelCosts | None = None
    stopped: str | None = None
    hint: str = ""


class _Stopped(Exception):
    def __init__(self, partial: NetworkProfile | None, message: str, hint: str) -> None:
        super().__init__(message)
        self.partial, self.hint = partial, hint


def run_model(request: RunRequest, *, costs: bool = False) -> ModelRun:
    """Build and run the model for every seed and batch; raises `InputError` for a request that is not valid.

    `costs`: whether the first model runs forward once more on its first batch, to count what that costs.
    A model that raises ends the run; what was measured until then is kept.
    """
    dtype, device = named_dtype("--dtype", request.dtype), usable_device("--device", request.device)
    make_loss(request.loss, seed=0)
    profiles: list[NetworkProfile] = []
    found: ModelCosts | None = None
    stopped: str | None = None
    hint = ""
    title, shapes, guessed = "", "", ""
    notes: tuple[str, ...] = ()
    # With --json nothing else may reach stdout, and models print.
    with on_import_path(request.target), redirect_stdout(sys.stderr):
        target, source = _target_and_input(request)
        for seed in range(request.seeds):
            built = target.build(seed=seed, device=device, dtype=dtype)
            model, notes = built.model.train(request.train), built.notes
            title = type(model).__name__
            batch = source.batch(model, seed=seed, number=0, dtype=dtype, device=device)
            shapes, guessed = describe_shapes(batch), source.said(model)
            try:
                profiles.append(_label(_profile_model(model, batch, source, request, seed), request, seed))
            except _Stopped as error:
                stopped = str(error)
                hint = (
                    f"the input was guessed: give --input-shape, or --input FILE; {error.hint}"
                    if guessed
                    else error.hint
                )
                if error.partial is not None and error.partial.without_inputs.sites:
                    profiles.append(_label(error.partial, request, seed))
                break
            if costs and found is None:
                found = costs_so_far(model, batch)
    together = ProfileSet.of(profiles)
    mode = "train" if request.train else "eval"
    many = f"{request.seeds} seeds" if request.seeds > 1 else ""
    more = f"{request.batches} batches" if request.batches > 1 else ""
    parts = (f"{title}, input {shapes}{guessed}, {mode}, loss {request.loss}", *notes, many, more)
    headline = f"{request.target}: {', '.join(filter(None, parts))}"
    return ModelRun(together, _shown(together, stopped), title, shapes, headline, found, stopped, hint)


def remedy_trials(request: RunRequest, *, stage: Stage | None = None) -> RemedyTrials:
    """Return the remedies tried on a copy of the model of the first seed, run on its first batch.

    `stage` is that of `diagnose`.
    """
    from propscope.remedies import try_remedies

    dtype, device = named_dtype("--dtype", request.dtype), usable_device("--device", request.device)
    with on_import_path(request.target), redirect_stdout(sys.stderr):
        target, source = _target_and_input(request)
        model = target.build(seed=0, device=device, dtype=dtype).model.train(request.train)
        batch = source.batch(model, seed=0, number=0, dtype=dtype, device=device)
        return try_remedies(model, batch, make_loss(request.loss, seed=0), stage=stage)


def _target_and_input(request: RunRequest) -> tuple[Target, RandomInput | FileInput]:
    target = load_target(
        request.target,
        arguments=request.arguments,
        config=request.config,
        checkpoint=request.checkpoint,
        init=request.init,
    )
    return target, parse_input(request.shapes, request.kinds, request.file)


def _profile_model(
    model: nn.Module, first: Any, source: RandomInput | FileInput, request: RunRequest, seed: int
) -> NetworkProfile:
    """Return the profile of one model on all batches, taken by one recorder."""
    dtype, device = named_dtype("--dtype", request.dtype), usable_device("--device", request.device)
    batch = first

    def batches() -> Iterator[tuple[Any, Loss | None, int]]:
        nonlocal batch
        for number in range(request.batches):
            if number:
                batch = source.batch(model, seed=seed, number=number, dtype=dtype, device=device)
            own_seed = seed + 1000 * number
            yield batch, make_loss(request.loss, seed=own_seed), own_seed

    try:
        recorder = track(model, include=request.include, exclude=request.exclude, time=True)
        return profile_batches(model, recorder, batches(), seed=seed)
    except PropscopeError:
        raise
    except Exception as error:  # The user's model may fail in any way.
        if _raised_here(error) and _runs_alone(model, batch):
            raise
        partial: NetworkProfile | None = getattr(error, "partial_profile", None)
        place = stopped_in(partial, model)
        message = f"the model stopped{place} on input {describe_shapes(batch)}: {error_line(error)}"
        raise _Stopped(partial, message, stop_advice(error, partial, model)) from error


def _raised_here(error: Exception) -> bool:
    """Return whether propscope's own code raised the error, rather than the model that it watches."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(_HOME)


def _runs_alone(model: nn.Module, batch: Any) -> bool:
    """Return whether the model accepts the batch when propscope does not watch it: then the error is propscope's."""
    arguments = batch if isinstance(batch, (tuple, dict)) else (batch,)
    try:
        with torch.no_grad():
            model(**arguments) if isinstance(arguments, dict) else model(*arguments)
    except Exception:  # That it fails is the answer.
        return False
    return True


def _label(profile: NetworkProfile, request: RunRequest, seed: int) -> NetworkProfile:
    labels: dict[str, str | int] = {"model": request.target}
    if request.init is not None:
        labels["initializer"] = request.init
    labels["seed"] = seed
    return replace(profile, labels=labels, provenance=replace(profile.provenance, spec=request.spec(), seed=seed))


def _shown(profiles: ProfileSet, stopped: str | None) -> NetworkProfile | None:
    if not len(profiles):
        return None
    return profiles[-1] if stopped is not None else pooled_seeds(profiles)
