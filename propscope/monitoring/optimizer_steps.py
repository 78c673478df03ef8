"""`OptimizerSteps`: what optimizers step with and what their steps change, for any optimizer, by hooks of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from propscope.measure.hooks import Guard
from propscope.measure.shards import local_shard
from propscope.monitoring.norms import norms

# A learning rate or weight decay that rises by more than this from one step to the next is no schedule.
JUMP = 1.5
_FIRST = 10
# The state of Adam and its like.
_MOMENTS = ("exp_avg", "exp_avg_sq")


class OptimizerSteps:
    """Watches the steps of optimizers until `close`.

    Of each step of the run: `taken`, how often they stepped; `learning_rate`, the largest of their groups; and
    `gradients`, the L2 norms of the gradients that they stepped with. Where `sampled` is true also `before`, the norms
    of the values before the step; `updates`, those of what it changed; and `moments`, those of Adam's two means. Norms
    have the shape (len(parameters),) and stay on the device. Where `step` gets a closure that makes the gradients,
    they are seen when it has returned. Of several optimizers, each is asked for the gradients of its own parameters.
    `stepping` is called on sampled steps, before an optimizer without a closure steps and after one with a closure did,
    with a mask of its parameters, a bool tensor of the shape (len(parameters),); None for all.
    """

    def __init__(
        self, optimizers: Sequence[Optimizer], guard: Guard, stepping: Callable[[Tensor | None], None]
    ) -> None:
        self.parameters: Sequence[nn.Parameter] = ()
        self._optimizers = optimizers
        self._stepping = stepping
        self._settings: list[tuple[float, ...]] = []
        self._asked = 0
        self._guard = guard
        self._held: list[Tensor] = []
        self._handles = [
            handle
            for one in optimizers
            for handle in (one.register_step_pre_hook(self._before), one.register_step_post_hook(self._after))
        ]
        self.begin((), sampled=False)

    def begin(self, parameters: Sequence[nn.Parameter], *, sampled: bool) -> None:
        """Begin a step of the run."""
        self.parameters, self.sampled, self.taken = parameters, sampled, 0
        self.gradients: Tensor | None = None
        self.before: Tensor | None = None
        self.updates: Tensor | None = None
        self.moments: tuple[Tensor, ...] = ()
        self.learning_rate: float | None = None
        # Set where a fused optimizer unscales the gradients itself, as torch's GradScaler lets it.
        self.found_inf: Tensor | None = None
        self._held.clear()

    def settings_jump(self) -> bool:
        """Return whether a learning rate or weight decay was raised at once since this was asked last."""
        before, self._settings = (
            self._settings,
            [_settings(group) for one in self._optimizers for group in one.param_groups],
        )
        self._asked += 1
        # A warm-up raises the rate by large factors in its first steps, and the baseline needs later ones too.
        if self._asked <= _FIRST:
            return False
        pairs = zip(chain.from_iterable(before), chain.from_iterable(self._settings), strict=False)
        return any(now > JUMP * then >= 0 for then, now in pairs)

    def close(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()
        self._held.clear()

    def _before(self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.taken += 1
        rates = [_settings(group)[0] for group in optimizer.param_groups]
        self.learning_rate = max([*rates, *([] if self.learning_rate is None else [self.learning_rate])], default=None)
        if not _has_closure(args, kwargs):
            self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer)
        if self.sampled and not self._held:
            self._guard("", "parameter", "the value before a step", self._hold)

    def _after(self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if _has_closure(args, kwargs):
            self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer)
        if self._held:
            self._guard("", "parameter", "the update of a step", self._see_update)

    def _see_gradients(self, optimizer: Optimizer) -> None:
        own = self._own(optimizer)
        with torch.no_grad():
            found = norms([one.grad if own[at] else None for at, one in enumerate(self.parameters)])
        scale = getattr(optimizer, "grad_scale", None)
        if isinstance(scale, Tensor):
            self.found_inf = getattr(optimizer, "found_inf", None)
            found = torch.where(found < 0, found, found / scale.to(found))
        self.gradients = found if self.gradients is None else torch.where(found < 0, self.gradients, found)
        if self.sampled:
            self._stepping(None if all(own) else torch.tensor(own, device=found.device))

    def _own(self, optimizer: Optimizer) -> list[bool]:
        """Return which parameters are the optimizer's; all where it is the only one."""
        if len(self._optimizers) == 1:
            return [True] * len(self.parameters)
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        return [id(parameter) in own for parameter in self.parameters]

    def _hold(self) -> None:
        # Where optimizers step several times in one step of the run, the change is that of all together.
        self._held = [local_shard(parameter.detach()).clone() for parameter in self.parameters]

    def _see_update(self) -> None:
        if len(self._held) != len(self.parameters):
            return
        with torch.no_grad():
            values = [local_shard(parameter.detach()) for parameter in self.parameters]
            self.before = norms(self._held)
            self.updates = norms(torch._foreach_sub(values, self._held)) if values else None
            states: list[Mapping[str, Any]] = [
                next((one.state[parameter] for one in self._optimizers if parameter in one.state), {})
                for parameter in self.parameters
            ]
            if any(_MOMENTS[0] in state for state in states):
                self.moments = tuple(norms([state.get(name) for state in states]) for name in _MOMENTS)


def _settings(group: Mapping[str, Any]) -> tuple[float, ...]:
    values = [group.get(name) for name in ("lr", "weight_decay")]
    # Reading one that is a tensor would wait for its device.
    return tuple(float(value) if isinstance(value, (int, float)) else 0.0 for value in values)


def _has_closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    # The arguments include the optimizer itself.
    return any(callable(one) and not isinstance(one, Optimizer) for one in (*args, *kwargs.values()))
