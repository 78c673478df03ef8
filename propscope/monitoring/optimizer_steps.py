"""`OptimizerSteps`: what an optimizer steps with and what its step changes, for any optimizer, by hooks of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from propscope.measure.hooks import Guard, local_shard
from propscope.monitoring.norms import norms

# A learning rate or weight decay that rises by more than this from one step to the next is no schedule.
JUMP = 1.5
_FIRST = 10
# The state of Adam and its like.
_MOMENTS = ("exp_avg", "exp_avg_sq")


class OptimizerSteps:
    """Watches the steps of an optimizer until `close`.

    Of each step of the run: `taken`, how often the optimizer stepped; `learning_rate`, the largest of its groups; and
    `gradients`, the L2 norms of the gradients that it stepped with. Where `sampled` is true also `before`, the norms of
    the values before the step; `updates`, those of what it changed; and `moments`, those of Adam's two means. Norms
    have the shape (len(parameters),) and stay on the device. Where `step` gets a closure that makes the gradients,
    they are seen when it has returned.
    """

    def __init__(self, optimizer: Optimizer, guard: Guard) -> None:
        self.parameters: Sequence[nn.Parameter] = ()
        self._optimizer = optimizer
        self._settings: list[tuple[float, ...]] = []
        self._asked = 0
        self._guard = guard
        self._held: list[Tensor] = []
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
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
        before, self._settings = self._settings, [_settings(group) for group in self._optimizer.param_groups]
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
        self.learning_rate = max((_settings(group)[0] for group in optimizer.param_groups), default=None)
        if not _has_closure(args, kwargs):
            self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer)
        if self.sampled and not self._held:
            self._guard("", "parameter", "the value before a step", self._hold)

    def _after(self, optimizer: Optimizer, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if _has_closure(args, kwargs):
            self._guard("", "parameter", "the gradient of a step", self._see_gradients, optimizer)
        if self._held:
            self._guard("", "parameter", "the update of a step", self._see_update, optimizer)

    def _see_gradients(self, optimizer: Optimizer) -> None:
        with torch.no_grad():
            found = norms([parameter.grad for parameter in self.parameters])
        scale = getattr(optimizer, "grad_scale", None)
        if isinstance(scale, Tensor):
            self.found_inf = getattr(optimizer, "found_inf", None)
            found = torch.where(found < 0, found, found / scale.to(found))
        self.gradients = found

    def _hold(self) -> None:
        # Where the optimizer steps several times in one step of the run, the change is that of all together.
        self._held = [local_shard(parameter.detach()).clone() for parameter in self.parameters]

    def _see_update(self, optimizer: Optimizer) -> None:
        if len(self._held) != len(self.parameters):
            return
        with torch.no_grad():
            values = [local_shard(parameter.detach()) for parameter in self.parameters]
            self.before = norms(self._held)
            self.updates = norms(torch._foreach_sub(values, self._held)) if values else None
            states = [optimizer.state.get(parameter, {}) for parameter in self.parameters]
            if any(_MOMENTS[0] in state for state in states):
                self.moments = tuple(norms([state.get(name) for state in states]) for name in _MOMENTS)


def _settings(group: Mapping[str, Any]) -> tuple[float, ...]:
    values = [group.get(name) for name in ("lr", "weight_decay")]
    # Reading one that is a tensor would wait for its device.
    return tuple(float(value) if isinstance(value, (int, float)) else 0.0 for value in values)


def _has_closure(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    # The arguments include the optimizer itself.
    return any(callable(one) and not isinstance(one, Optimizer) for one in (*args, *kwargs.values()))
