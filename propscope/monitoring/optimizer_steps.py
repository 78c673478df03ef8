"""`OptimizerSteps`: what optimizers step with and what their steps change, for any optimizer, by hooks of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, wraps
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from propscope.errors import InputError
from propscope.measure.hooks import Guard
from propscope.measure.shards import local_shard
from propscope.monitoring.norms import NamedNorms, norms

# A learning rate or weight decay that rises by more than this from one step to the next is no schedule.
JUMP = 1.5
_FIRST = 10
# The state of Adam and its like.
_MOMENTS = ("exp_avg", "exp_avg_sq")
# Where optimizers around another one keep it.
_INNER = ("optimizer", "base_optimizer")
_is_compiling = torch.compiler.is_compiling


@dataclass(slots=True)
class OptimizerStep:
    """What one optimizer did within a step of the run; where it stepped several times, `gradients` are the last ones.

    `accumulated`: their norms before clipping, None where no backward pass made them. `found_inf`: above 0 where a
    fused optimizer took no step. Of a sampled step also `before`, the norms of the values before it; `updates`, those
    of what all its steps together changed; and `moments`, those of Adam's two means.
    """

    gradients: NamedNorms | None = None
    accumulated: NamedNorms | None = None
    found_inf: Tensor | None = None
    before: NamedNorms | None = None
    updates: NamedNorms | None = None
    moments: Sequence[NamedNorms] = ()
    held: list[tuple[str, nn.Parameter, Tensor]] = field(default_factory=list)


class OptimizerSteps:
    """Watches the steps of the optimizers until `close`.

    Of each step of the run: `taken`, how many steps the optimizers took; `learning_rate`, the largest of their groups;
    `moments_left`, the share that their steps leave of Adam's mean of the squared gradient, at least; `found`, what
    each of them did; `seconds`, the time that watching took; `compiled`, whether compiled code stepped.
    Norms are those of the parameters that an optimizer has at its step, under the names that `names` returns for their
    ids. `accumulated` returns the norms before clipping. Where `step` gets a closure that makes the gradients, they are
    seen each time that it returns. `seen` gets the number of the step of the run, and what an optimizer is about to
    step with; what it raises ends the step.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        guard: Guard,
        *,
        names: Callable[[], dict[int, str]],
        accumulated: Callable[[Sequence[str]], NamedNorms | None],
        seen: Callable[[int, NamedNorms, Callable[[], NamedNorms]], None],
    ) -> None:
        self._optimizers = optimizers
        self._guard = guard
        self._find_names = names
        self._names: dict[int, str] = {}
        # Parameters of an optimizer that are none of the model.
        self._foreign: set[int] = set()
        self._accumulated = accumulated
        self._seen = seen
        self._settings: list[tuple[float, ...]] = []
        self._asked = 0
        self._running: int | None = None
        # Whether `seen` is running, in a hook: torch is going through the hooks then.
        self._inside = False
        self._handles = [
            handle
            for optimizer in optimizers
            for handle in (
                optimizer.register_step_pre_hook(self._before),
                optimizer.register_step_post_hook(self._after),
            )
        ]
        self._clear()

    def _clear(self) -> None:
        self.taken, self.seconds = 0, 0.0
        self.compiled = False
        self.learning_rate: float | None = None
        self._moments_left: dict[int, float] = {}
        self._found: dict[int, OptimizerStep] = {}

    @property
    def found(self) -> Sequence[OptimizerStep]:
        """What each optimizer did that stepped."""
        return tuple(self._found.values())

    @property
    def moments_left(self) -> float:
        """The share that the steps leave of Adam's mean of the squared gradient, at least."""
        return min(self._moments_left.values(), default=1.0)

    def begin(self, number: int, *, sampled: bool) -> None:
        """Begin a step of the run."""
        self._clear()
        self._running, self._sampled = number, sampled
        if sampled:
            self._look_again()

    def end(self) -> None:
        """End the step of the run, and forget what was seen in it."""
        self._clear()
        self._running = None

    def see_compiled(self) -> None:
        """See what is left of a step that compiled code took: the gradients, where they were not set to None yet."""
        for optimizer in self._optimizers if self.compiled and not self.taken else ():
            self.taken += 1
            self._see_settings(optimizer)
            step = self._found.setdefault(id(optimizer), OptimizerStep())
            self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer, step)

    def settings_jump(self) -> bool:
        """Return whether a learning rate or weight decay was raised at once since this was asked last."""
        groups = (group for optimizer in self._optimizers for group in optimizer.param_groups)
        before, self._settings = self._settings, [_settings(group) for group in groups]
        self._asked += 1
        # A warm-up raises the rate by large factors in its first steps, and the baseline needs later ones too.
        if self._asked <= _FIRST:
            return False
        pairs = zip(chain.from_iterable(before), chain.from_iterable(self._settings), strict=False)
        return any(now > JUMP * then >= 0 for then, now in pairs)

    def close(self) -> None:
        """Take the hooks away; called from one of them, it does so only when it is called again."""
        self.end()
        if not self._inside:
            for handle in self._handles:
                handle.remove()

    def _look_again(self) -> None:
        self._names = self._find_names()
        self._foreign.clear()

    def _own(self, optimizer: Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the model that the optimizer has by now, with their names."""
        every = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        unknown = {id(one) for one in every if id(one) not in self._names}
        if not unknown <= self._foreign:
            self._look_again()
            self._foreign = {at for at in unknown if at not in self._names}
        return ((name, one) for one in every if (name := self._names.get(id(one))) is not None)

    def _before(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if _is_compiling():
            # Anything else would become part of the graph.
            self.compiled = True
            return None
        if self._running is None:
            return None
        started = time.perf_counter()
        step = self._found.setdefault(id(optimizer), OptimizerStep())
        self._see_settings(optimizer)
        if self._sampled and not step.held:
            self._guard("", "parameter", "the value before a step", self._hold, optimizer, step)
        self.seconds += time.perf_counter() - started
        if not _has_closure(args, kwargs):
            self._judge(optimizer, step)
            return None
        # What is there now is of the last step: the closure makes what the optimizer steps with.
        step.gradients = None
        watched = partial(self._watched, optimizer, step)
        return (
            tuple(watched(one) if _is_closure(one) else one for one in args),
            {name: watched(one) if _is_closure(one) else one for name, one in kwargs.items()},
        )

    def _watched(self, optimizer: Optimizer, step: OptimizerStep, closure: Callable[[], Any]) -> Callable[[], Any]:
        @wraps(closure)
        def watched(*args: Any, **kwargs: Any) -> Any:
            found = closure(*args, **kwargs)
            if step.gradients is None:
                self._judge(optimizer, step)
            else:
                # A line search may try what it does not step with.
                self._look(optimizer, step)
            return found

        return watched

    def _look(self, optimizer: Optimizer, step: OptimizerStep) -> None:
        started = time.perf_counter()
        self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer, step)
        self.seconds += time.perf_counter() - started

    def _judge(self, optimizer: Optimizer, step: OptimizerStep) -> None:
        self._look(optimizer, step)
        if step.gradients is None or step.found_inf is not None or self._running is None:
            return
        self._inside = True
        try:
            self._seen(self._running, step.gradients, partial(self._values, optimizer))
        finally:
            self._inside = False

    def _after(self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if _is_compiling() or self._running is None:
            return
        started = time.perf_counter()
        self.taken += 1
        step = self._found.setdefault(id(optimizer), OptimizerStep())
        if step.held:
            self._guard("", "parameter", "the update of a step", self._see_update, optimizer, step)
        self.seconds += time.perf_counter() - started

    def _see_settings(self, optimizer: Optimizer) -> None:
        rates = [rate for group in optimizer.param_groups if not math.isnan(rate := _settings(group)[0])]
        self.learning_rate = max((*rates, *filter(None, [self.learning_rate])), default=None)
        left = min(_decay(optimizer, group) for group in optimizer.param_groups)
        self._moments_left[id(optimizer)] = self._moments_left.get(id(optimizer), 1.0) * left

    def _see_gradients(self, optimizer: Optimizer, step: OptimizerStep) -> None:
        own = list(self._own(optimizer))
        names = [name for name, _ in own]
        with torch.no_grad():
            found = norms([parameter.grad for _, parameter in own])
        scale = getattr(optimizer, "grad_scale", None)
        # Set where a fused optimizer unscales the gradients itself, as torch's GradScaler lets it.
        step.found_inf = getattr(optimizer, "found_inf", None) if isinstance(scale, Tensor) else None
        step.gradients = NamedNorms(names, found, None, scale.detach().clone() if isinstance(scale, Tensor) else None)
        step.accumulated = self._accumulated(names) if self._sampled else None

    def _values(self, optimizer: Optimizer) -> NamedNorms:
        own = list(self._own(optimizer))
        with torch.no_grad():
            return NamedNorms([name for name, _ in own], norms([one.detach() for _, one in own]))

    def _hold(self, optimizer: Optimizer, step: OptimizerStep) -> None:
        step.held = [
            (name, one, local_shard(one.detach()).clone())
            for name, one in self._own(optimizer)
            if one.requires_grad and not is_lazy(one)
        ]

    def _see_update(self, optimizer: Optimizer, step: OptimizerStep) -> None:
        names, parameters, held = zip(*step.held, strict=True)
        with torch.no_grad():
            values = [local_shard(parameter.detach()) for parameter in parameters]
            step.before = NamedNorms(names, norms(held))
            step.updates = NamedNorms(names, norms(torch._foreach_sub(values, held)))
            states = [optimizer.state.get(parameter, {}) for parameter in parameters]
            if any(_MOMENTS[0] in state for state in states):
                step.moments = [NamedNorms(names, norms([state.get(each) for state in states])) for each in _MOMENTS]


def _settings(group: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(_number(group.get(name)) for name in ("lr", "weight_decay"))


def _decay(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    """Return what a step leaves of Adam's mean of the squared gradient: 0 where the optimizer does not say."""
    if _MOMENTS[1] not in next((optimizer.state.get(one, {}) for one in group["params"]), {}):
        return 1.0
    betas = group.get("betas")
    decay = _number(betas[-1]) if isinstance(betas, (tuple, list)) and betas else math.nan
    return 0.0 if math.isnan(decay) else decay


def _number(value: Any) -> float:
    if isinstance(value, Tensor):
        # Reading one elsewhere would wait for its device.
        return float(value) if value.is_cpu and value.numel() == 1 else math.nan
    return float(value) if isinstance(value, (int, float)) else math.nan


def _has_closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    return any(map(_is_closure, (*args, *kwargs.values())))


def _is_closure(value: Any) -> bool:
    # The arguments include the optimizer itself.
    return callable(value) and not isinstance(value, Optimizer)


def optimizers_in(given: Any) -> list[Optimizer]:
    """Return each optimizer once that steps, inside those of Accelerate and the containers of torchtitan."""
    alone = isinstance(given, (str, Mapping)) or not isinstance(given, Iterable)
    found: dict[int, Optimizer] = {}
    for one in [given] if alone else given:
        while inner := next(filter(_is_optimizer, (getattr(one, name, None) for name in _INNER)), None):
            one = inner
        if not _is_optimizer(one):
            raise InputError(f"optimizer must be a torch.optim.Optimizer or several, got a {type(one).__name__}")
        found[id(one)] = one
    return list(found.values())


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Optimizer)
