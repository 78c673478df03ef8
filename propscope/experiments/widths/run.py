"""`Run`: one network of one width and seed, trained for a few steps, and the sizes of all that changes in it."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, Optimizer, RAdam, RMSprop

from propscope.errors import InputError, PropscopeError, error_line
from propscope.experiments.losses import Loss
from propscope.experiments.widths.forward_pass import ForwardPass
from propscope.experiments.widths.roles import Shapes, SiteShapes
from propscope.measure.batches import call_model
from propscope.measure.module_info import refuse_lazy
from propscope.measure.outputs import as_batch, describe_shapes, tensors_in
from propscope.measure.undisturbed import undisturbed
from propscope.records.width_check import Quantity
from propscope.theory.parametrizations import Family

MakeOptimizer = Callable[[nn.Module, float], Optimizer]
# By (name, quantity): the rms after each step.
Sizes = dict[tuple[str, Quantity], list[float]]

# What divides each gradient by its own size moves weights by as much as sign descent does, up to a factor.
_ADAPTIVE = (Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad)


@dataclass(frozen=True, slots=True)
class Training:
    """How the networks of every width and seed are made, and trained on one `batch` for `steps` steps."""

    make_model: Callable[..., nn.Module]
    batch: Any
    make_optimizer: MakeOptimizer
    learning_rate: float
    loss: Loss
    steps: int


class Run:
    """A network of one width and seed that may be run and trained; `Run.of` makes it."""

    def __init__(self, training: Training, model: nn.Module, batch: Any, *, width: int, seed: int) -> None:
        self._training, self._model, self._batch, self._width, self._seed = training, model, batch, width, seed
        self._first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    @classmethod
    @contextmanager
    def of(cls, training: Training, *, width: int, seed: int) -> Iterator[Run]:
        """Build the network and let it be run inside the block; then the model is as it was built."""
        with _seeded(seed), torch.inference_mode(False), torch.enable_grad():
            model = _built(training.make_model, width)
            refuse_lazy(model)
            batch = as_batch(model, training.batch)
            run = cls(training, model, batch, width=width, seed=seed)
            with undisturbed(model, batch):
                try:
                    yield run
                finally:
                    with torch.no_grad():
                        for name, parameter in model.named_parameters():
                            parameter.copy_(run._first[name])

    @property
    def family(self) -> Family | None:
        """The kind of the optimizer, None where it is neither SGD nor one that divides gradients by their size."""
        optimizer = self._optimizer()
        return "adam" if isinstance(optimizer, _ADAPTIVE) else "sgd" if isinstance(optimizer, SGD) else None

    def shapes(self) -> Shapes:
        """Return what a forward pass shows of the sites."""
        seen = self._pass()
        users: dict[int, set[str]] = {}
        for name in seen.layers:
            for parameter in seen.calls[name].module.parameters():
                users.setdefault(id(parameter), set()).add(seen.calls[name].path)
        sites = {}
        for name, value in seen.values.items():
            call = seen.calls[name]
            own = dict(call.module.named_parameters()) if name in seen.layers else {}
            sites[name] = SiteShapes(
                kind=type(call.module).__name__,
                output=tuple(value.shape),
                inputs=tuple(tuple(tensor.shape) for _, tensor in tensors_in((call.args, call.kwargs))),
                parameters={part: tuple(parameter.shape) for part, parameter in own.items()},
                tied=any(len(users[id(parameter)]) > 1 for parameter in own.values()),
            )
        return Shapes(sites, {name: tuple(first.shape) for name, first in self._first.items()})

    def train(self) -> Sizes:
        """Train, and return the rms of every quantity after each step, NaN where it has none."""
        optimizer = self._optimizer()
        steps = self._training.steps
        sizes: Sizes = {}
        first = self._pass()
        repeats: set[str] = set()
        # Scores that are masked are -Inf on purpose.
        masked = {name for name in first.values.keys() - set(first.layers) if bool(first.values[name].isinf().any())}
        for step in range(steps + 1):
            seen = self._pass() if step else first
            if list(seen.values) != list(first.values):
                other = next(iter(seen.values.keys() ^ first.values.keys()), "")
                raise InputError(
                    f'the model must run the same sites at every step; "{other}" ran at step 0 or {step} only',
                    hint="switch off what skips layers",
                )
            loss = self._backward(seen)
            if all(bool(value.isfinite().all()) for name, value in seen.values.items() if name not in masked):
                # Else the first site that is not finite says more.
                self._finite("the loss", loss, step)
            for key, value in self._sizes(seen, first, repeats).items():
                if key[0] in masked:
                    continue
                what = f"the gradient at {key[0]}" if key[1] == "gradient" else key[0]
                sizes.setdefault(key, [math.nan] * (steps + 1))[step] = self._finite(what, value, step)
            if not step:
                # A layer that answers the same input in another way has no parts.
                repeats = {
                    name
                    for name, again in self._again(first, first.layers, first).items()
                    if _alike(again, first.values[name])
                }
            if step < steps:
                optimizer.step()
        return sizes

    def _optimizer(self) -> Optimizer:
        hint = "it is called with the model and lr, and returns an optimizer of torch"
        with _code_of_users(f"optimizer failed at width {self._width}", hint=hint):
            optimizer = self._training.make_optimizer(self._model, self._training.learning_rate)
        if not callable(getattr(optimizer, "step", None)):
            raise InputError(
                f"optimizer must be a function that returns an optimizer of torch, got a {type(optimizer).__name__}",
                hint="for example lambda model, lr: torch.optim.Adam(model.parameters(), lr)",
            )
        return optimizer

    def _pass(self) -> ForwardPass:
        """Run the model forward, with the same random numbers each time, and return what was seen."""
        _seed(self._seed)
        for parameter in self._model.parameters():
            parameter.grad = None
        seen = ForwardPass.of_devices(self._model)
        stopped = f"the model stopped at width {self._width} on input {describe_shapes(self._batch)}"
        with _code_of_users(stopped, hint="change the input, or fix the model"), seen.watching(self._model):
            seen.output = call_model(self._model, self._batch)
        if not seen.values:
            raise InputError(
                "no module of the model returns a floating-point tensor, so nothing can be measured",
                hint="give the model itself, not a scripted one",
            )
        return seen

    def _backward(self, seen: ForwardPass) -> float:
        """Run backward from the loss, and return it."""
        loss = self._training.loss(seen.output)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise InputError(f"loss must return a tensor with one element, got {what}")
        if not loss.requires_grad:
            raise InputError(
                "loss must depend on a parameter that requires a gradient, but none can be trained",
                hint="let parameters require gradients",
            )
        loss.backward()
        return float(loss.detach())

    def _sizes(self, seen: ForwardPass, first: ForwardPass, repeats: set[str]) -> dict[tuple[str, Quantity], float]:
        # In the order in which values come about, so that the first that is not finite is the cause of the others.
        found: dict[tuple[str, Quantity], float] = {(name, "size"): _rms(value) for name, value in seen.values.items()}
        found |= {
            (name, "gradient"): _rms(seen.gradients[name]) for name in reversed(seen.values) if name in seen.gradients
        }
        between = self._again(seen, repeats, first)
        for name, value in seen.values.items():
            if seen is not first:
                found[name, "change"] = _rms(value - first.values[name])
            if name in between:
                found[name, "weights_part"] = _rms(between[name] - first.values[name])
                found[name, "input_part"] = _rms(value - between[name])
        for name, parameter in self._model.named_parameters():
            found[name, "size"] = _rms(parameter)
            if parameter.grad is not None:
                found[name, "gradient"] = _rms(parameter.grad)
            if seen is not first:
                found[name, "update"] = _rms(parameter - self._first[name])
        return found

    def _again(self, seen: ForwardPass, names: Iterable[str], first: ForwardPass) -> dict[str, Tensor]:
        """Return what layers make of their first inputs now; after the backward pass, as buffers may be written to."""
        with undisturbed(self._model):
            return {name: seen.again(name, first) for name in names}

    def _finite(self, name: str, value: float, step: int) -> float:
        if not math.isfinite(value):
            raise InputError(
                f"{name} has NaN or infinite values at width {self._width}, seed {self._seed}, step {step}",
                hint="choose a smaller lr" if step else "initialize the model so that its signal stays finite",
            )
        return value


@contextmanager
def _code_of_users(failed: str, *, hint: str) -> Iterator[None]:
    """Raise what the block raises as an `InputError` that begins with `failed`; propscope's own errors pass."""
    try:
        yield
    except PropscopeError:
        raise
    except Exception as error:  # Code of users may fail in any way.
        raise InputError(f"{failed}: {error_line(error)}", hint=hint) from error


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Start the global generators anew, and give them their states back at the end."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=devices):
            _seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _seed(seed: int) -> None:
    """Start the global generators of torch, Python and numpy anew, from which models draw."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _built(make_model: Callable[..., nn.Module], width: int) -> nn.Module:
    hint = "it is called as make_model(width=...) and returns a torch.nn.Module"
    with _code_of_users(f"make_model failed at width {width}", hint=hint):
        model = make_model(width=width) if _takes_by_name(make_model) else make_model(width)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"make_model must return a torch.nn.Module, got a {type(model).__name__} at width {width}",
            hint="for example make_model=lambda width: Net(width)",
        )
    return model


def _takes_by_name(make_model: Callable[..., nn.Module]) -> bool:
    try:
        taken = inspect.signature(make_model).parameters
    except (TypeError, ValueError):
        return True
    return "width" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())


@torch.no_grad()
def _rms(value: Tensor) -> float:
    value = value.to_dense() if value.is_sparse else value
    wide = value if value.dtype == torch.float64 else value.float()
    return float(torch.linalg.vector_norm(wide)) / math.sqrt(max(value.numel(), 1))


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=1e-3, atol=1e-6)
