"""What `inspect` does between its options and its output: builds the model, runs it, takes the runs together."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from propscope.cli.batches import FileBatches, RandomBatches, make_loss, make_source, moved, spelled_shapes
from propscope.cli.targets import Target, find_target, one_line, searched
from propscope.errors import InputError, PropscopeError
from propscope.measure import track
from propscope.measure.profiler import Loss, profile_batches
from propscope.records import NetworkProfile, ProfileSet
from propscope.records.pooling import pooled_seeds

_HOME = Path(__file__).parents[1]
_DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "bfloat16", "float16")}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as typed."""

    target: str
    arguments: tuple[str, ...]
    config: str | None
    checkpoint: Path | None
    init: str | None
    train: bool
    dtype: str
    device: str
    shapes: tuple[str, ...]
    kinds: str
    file: Path | None
    loss: str
    seeds: int
    batches: int
    include: str | None
    exclude: str | None

    @classmethod
    def of(cls, options: Mapping[str, Any], *, target: str, seeds: int) -> Request:
        """Return the request that the options of `inspect` or `check` make, by their names as parameters."""
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
        """Return the request as JSON, without what was left out."""
        kept = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({name: value for name, value in kept.items() if value not in (None, ())}, default=str)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen: `profiles`, one a seed, and `shown`, all of them together; None when nothing ran.

    `headline` says what ran, `input` the shapes of a batch, `title` the model's class. `stopped`: what ended the run
    before its end, None when nothing did, with a `hint`.
    """

    profiles: ProfileSet
    shown: NetworkProfile | None
    title: str
    input: str
    headline: str
    stopped: str | None = None
    hint: str = ""


class _Stopped(Exception):
    def __init__(self, partial: NetworkProfile | None, message: str) -> None:
        super().__init__(message)
        self.partial = partial


def run(request: Request) -> Outcome:
    """Build and run the model for every seed and batch; raises `InputError` for what is not valid.

    A model that raises ends the run: what it showed until then is kept.
    """
    dtype, device = dtype_of(request.dtype), device_of(request.device)
    make_loss(request.loss, seed=0)
    profiles: list[NetworkProfile] = []
    stopped: str | None = None
    title, shapes = "", ""
    notes: tuple[str, ...] = ()
    # With --json nothing else may reach stdout, and models print.
    with searched(request.target), redirect_stdout(sys.stderr):
        target, source = named_by(request)
        for seed in range(request.seeds):
            built = target.build(seed=seed, device=device, dtype=dtype)
            model, notes = built.model.train(request.train), built.notes
            title = type(model).__name__
            batch = moved(source.batch(model, seed=seed, number=0, dtype=dtype), device=device)
            shapes = spelled_shapes(batch)
            try:
                profiles.append(_label(_of_seed(model, batch, source, request, seed), request, seed))
            except _Stopped as error:
                stopped = str(error)
                if error.partial is not None and error.partial.sites:
                    profiles.append(_label(error.partial, request, seed))
                break
    together = ProfileSet.of(profiles)
    mode = "train" if request.train else "eval"
    many = f"{request.seeds} seeds" if request.seeds > 1 else ""
    more = f"{request.batches} batches" if request.batches > 1 else ""
    parts = (f"{title}, input {shapes}, {mode}, loss {request.loss}", *notes, many, more)
    headline = f"{request.target}: {', '.join(filter(None, parts))}"
    hint = "" if stopped is None else "give the input that the model takes, or mend the model"
    return Outcome(together, _shown(together, stopped), title, shapes, headline, stopped, hint)


def named_by(request: Request) -> tuple[Target, RandomBatches | FileBatches]:
    """Return what a request names: what builds its model, and where its batches come from; raises `InputError`."""
    target = find_target(
        request.target,
        arguments=request.arguments,
        config=request.config,
        checkpoint=request.checkpoint,
        init=request.init,
    )
    return target, make_source(request.shapes, request.kinds, request.file)


def _of_seed(
    model: nn.Module, first: Any, source: RandomBatches | FileBatches, request: Request, seed: int
) -> NetworkProfile:
    """Return what one model shows on all batches, seen by one recorder."""
    dtype, device = dtype_of(request.dtype), device_of(request.device)
    batch = first

    def batches() -> Iterator[tuple[Any, Loss | None, int]]:
        nonlocal batch
        for number in range(request.batches):
            if number:
                batch = moved(source.batch(model, seed=seed, number=number, dtype=dtype), device=device)
            own_seed = seed + 1000 * number
            yield batch, make_loss(request.loss, seed=own_seed), own_seed

    try:
        recorder = track(model, include=request.include, exclude=request.exclude)
        return profile_batches(model, recorder, batches(), seed=seed)
    except PropscopeError:
        raise
    except Exception as error:  # The user's model may fail in any way.
        if _raised_here(error) and _runs_alone(model, batch):
            raise
        partial: NetworkProfile | None = getattr(error, "partial_profile", None)
        place = _place(partial, model)
        message = f"the model stopped{place} on input {spelled_shapes(batch)}: {one_line(error)}"
        raise _Stopped(partial, message) from error


def _raised_here(error: Exception) -> bool:
    """Return whether the error came up in propscope's own code, where the functions of a watched model are called."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(_HOME)


def _runs_alone(model: nn.Module, batch: Any) -> bool:
    """Return whether the model takes the batch when nothing watches: then what was raised is a defect of propscope."""
    arguments = batch if isinstance(batch, (tuple, dict)) else (batch,)
    try:
        with torch.no_grad():
            model(**arguments) if isinstance(arguments, dict) else model(*arguments)
    except Exception:  # That it fails is the answer.
        return False
    return True


def _place(partial: NetworkProfile | None, model: nn.Module) -> str:
    names = [note.name for note in partial.coverage if "the run stopped in here" in note.reason] if partial else []
    if not names:
        return ""
    module = dict(model.named_modules()).get(names[0])
    kind = f" ({type(module).__name__})" if module is not None else ""
    return f" in {names[0]}{kind}" if names[0] else f" in its own forward{kind}"


def _label(seen: NetworkProfile, request: Request, seed: int) -> NetworkProfile:
    labels: dict[str, str | int] = {"model": request.target}
    if request.init is not None:
        labels["initializer"] = request.init
    labels["seed"] = seed
    return replace(seen, labels=labels, provenance=replace(seen.provenance, spec=request.spec(), seed=seed))


def _shown(profiles: ProfileSet, stopped: str | None) -> NetworkProfile | None:
    if not len(profiles):
        return None
    return profiles[-1] if stopped is not None else pooled_seeds(profiles)


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of a name; raises `InputError` for another one."""
    if name not in _DTYPES:
        raise InputError(f"--dtype is {name!r}; valid is one of {', '.join(_DTYPES)}")
    found: torch.dtype = _DTYPES[name]
    return found


def device_of(name: str) -> torch.device:
    """Return the device of a name; raises `InputError` for one that cannot be used."""
    try:
        found = torch.device(name)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--device {name!r} cannot be used: {reason}", hint="valid here is cpu") from error
    return found
