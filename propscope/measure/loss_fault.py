"""`LossWatch`: the operation of a loss whose value, or whose derivative, is not finite where what it was given is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from propscope.measure.hooks import Guard
from propscope.measure.outputs import tensors_of
from propscope.measure.signal_graph import autograd_name, operation_name

# A loss has a few operations; where it is a network of its own, its sites show more.
_MOST = 256


class LossFault(NamedTuple):
    """What is not finite in a loss: its "value" or a "derivative", and the `operation` that made it so, if known."""

    operation: str = ""
    fault: Literal["", "value", "derivative"] = ""


class LossWatch(TorchFunctionMode):
    """Active while a loss is computed from a model's output; the calls go on unchanged.

    What fails here is given to `guard` and does not reach the caller. The only tensors kept are the answers, of one
    element each.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self._values: list[tuple[str, Tensor]] = []
        self._derivatives: list[tuple[str, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and len(self._values) < _MOST:
            self._guard("", "output", "the loss", self._see_value, operation_name(func), (args, kwargs), result)
        return result

    def _see_value(self, name: str, given: Any, result: Tensor) -> None:
        if result.is_floating_point():
            self._values.append((name, _spoils(tensors_of(given), [result])))

    def follow(self, loss: Tensor, output: Any) -> None:
        """Watch the functions that the gradient passes from a loss to the model's output."""
        self._guard("", "output", "the loss", self._follow, loss, output)

    def _follow(self, loss: Tensor, output: Any) -> None:
        ends = {tensor.grad_fn for tensor in tensors_of(output)}
        for function in _functions(loss.grad_fn, ends):
            function.register_hook(partial(self._see_derivative, autograd_name(function.name())))

    def _see_derivative(self, name: str, passed: Any, given: Any) -> None:
        def see() -> None:
            both = ([one for one in gradients if isinstance(one, Tensor)] for gradients in (given, passed))
            self._derivatives.append((name, _spoils(*both)))

        self._guard("", "output", "the loss", see)

    def fault(self, loss: Tensor) -> LossFault:
        """Return what is not finite in a loss after its backward pass; waits for the device."""
        found: LossFault | None = self._guard("", "output", "the loss", self._fault, loss)
        return found or LossFault()

    def _fault(self, loss: Tensor) -> LossFault:
        seen = [spoilt for _, spoilt in (*self._values, *self._derivatives)]
        # One wait for all.
        flags = [one.to(loss.device) for one in (loss.detach().isfinite().all(), *seen)]
        is_finite, *spoilt = torch.stack(flags).tolist()
        values, derivatives = spoilt[: len(self._values)], spoilt[len(self._values) :]
        if not is_finite:
            return LossFault(_first(self._values, values), "value")
        found = _first(self._derivatives, derivatives)
        return LossFault(found, "derivative") if found else LossFault()


def _first(named: Sequence[tuple[str, Tensor]], spoilt: Sequence[bool]) -> str:
    """Return the name of the first one that is spoilt, "" for none."""
    return next((name for (name, _), bad in zip(named, spoilt, strict=True) if bad), "")


def _functions(start: Any, ends: set[Any]) -> Iterator[Any]:
    """Yield the autograd functions from `start` back to `ends`, without `ends`; at most 256."""
    seen, waiting = {None, *ends}, [start]
    for _ in range(_MOST):
        while waiting and waiting[-1] in seen:
            waiting.pop()
        if not waiting:
            return
        function = waiting.pop()
        seen.add(function)
        waiting += [before for before, _ in function.next_functions]
        yield function


def _spoils(given: list[Tensor], results: list[Tensor]) -> Tensor:
    """Return, as a 0-d tensor, whether some result is not finite although all that was given is."""
    return _are_finite(given) & ~_are_finite(results)


def _are_finite(tensors: list[Tensor]) -> Tensor:
    every = [tensor.detach().isfinite().all() for tensor in tensors]
    return torch.stack([one.to(every[0].device) for one in every]).all() if every else torch.tensor(True)
