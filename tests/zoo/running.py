"""Runs an entry of the zoo, watched or not, and gathers what is to be compared."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from zoo.comparison import hooks_of, random_states, state_of, switches
from zoo.models import Entry


class Interruption(Exception):
    """Raised in the middle of a forward pass."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What a run gave and left: `results` are outputs and loss, `state` the model's and the world's afterwards."""

    results: dict[str, Any]
    state: dict[str, Any]
    raised: bool = False


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002  models may use the global state
    random.seed(number)


def prepare(entry: Entry, *, plain: bool = False) -> tuple[nn.Module, Any]:
    """Return the model and the batch, the same in each call, with the generators of random numbers at a fixed state."""
    seed(0)
    model = (entry.plain if plain and entry.plain else entry.build)()
    seed(1)
    batch = entry.batch()
    seed(2)
    return model, batch


def observe(
    entry: Entry,
    *,
    tracker: Callable[[nn.Module], AbstractContextManager[Any]] = lambda model: nullcontext(),
    raises_in: str | None = None,
    again: bool = False,
) -> Observation:
    """Run the entry's step under `tracker`; `raises_in`: module made to fail; `again`: a second step, not watched."""
    model, batch = prepare(entry)
    hooks = hooks_of(model)
    before = switches()
    raised = False
    output = loss = None
    with interrupted(model, raises_in):
        try:
            with tracker(model):
                output, loss = entry.step(model, batch)
        except Interruption:
            raised = True
    # A step may change hooks and switches itself (lazy layers do); then it does so watched or not.
    state = {
        "random": random_states(),
        "hooks unchanged": hooks_of(model) == hooks,
        "switches unchanged": switches() == before,
        "model": state_of(model),
        "batch": batch,
    }
    results = {"output": output, "loss": loss}
    if again:
        results["second"] = entry.step(model, batch)
    return Observation(results, state, raised)


@contextmanager
def interrupted(model: nn.Module, name: str | None) -> Iterator[None]:
    """Make one module's forward raise after it has computed, as long as the block lasts."""
    if name is None:
        yield
        return
    module = model.get_submodule(name)
    original = module.forward

    def forward(*inputs: Any, **keywords: Any) -> Any:
        original(*inputs, **keywords)
        raise Interruption(name)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@functools.cache
def middle(entry: Entry) -> str:
    """Return the name of the module to interrupt: the entry's own choice, or the middle one of those that run."""
    if entry.raises_in is not None:
        return entry.raises_in
    model, batch = prepare(entry)
    ran: list[str] = []
    for name, module in model.named_modules():
        scripted = type(module).__module__ == "torch.jit._script"
        if name and not scripted and not any(True for _ in module.children()):
            module.register_forward_hook(lambda module, inputs, output, name=name: ran.append(name))
    entry.step(model, batch)
    return ran[len(ran) // 2] if ran else ""
