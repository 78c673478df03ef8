"""`costs`: parameters, multiply-adds and memory of one forward pass, which runs for that purpose alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from propscope.checks import known_arguments
from propscope.errors import error_line
from propscope.measure import calls
from propscope.measure.batches import batch_of, call_model, model_of
from propscope.measure.calls import Run
from propscope.measure.module_info import ModuleInfo, module_info, refuse_lazy
from propscope.measure.multiply_adds import has_formula, multiply_adds, name_of
from propscope.measure.outputs import tensors_of
from propscope.measure.undisturbed import tensors_held, undisturbed
from propscope.measure.wrappers import (
    class_of,
    is_wrapper,
    modules_in,
    require_module,
    unwrapped,
    unwrapped_modules,
    without_shortcuts,
)
from propscope.records.model_costs import ModelCosts, ModuleCosts


@known_arguments
def costs(
    model: nn.Module | str,
    batch: Any = None,
    *,
    input_size: Any = None,
    dtypes: Any = None,
    seed: int = 0,
) -> ModelCosts:
    """Run `model` forward on one batch and return what that costs, module by module; the model stays as it was.

    `model`, `batch`, `input_size`, `dtypes` and `seed` are as in `profile`. Multiply-adds are those of matrix products,
    convolutions, attention and recurrent layers, by the shapes that ran: masked positions count, and elementwise
    operations, norms, pooling, softmax and lookups do not. A multiply-add is two floating-point operations; a backward
    pass takes about twice those of its forward pass. Operations whose multiply-adds are not known are listed in
    `uncounted`. Raises `InputError` as `profile` does; an exception of the model passes through.
    """
    model = model_of(model, seed=seed)
    require_module(model)
    refuse_lazy(model)
    given = batch_of(model, batch, input_size=input_size, dtypes=dtypes, seed=seed)
    found, error = _measured(model, given)
    if error is not None:
        raise error
    return found


def costs_so_far(model: nn.Module, batch: Any) -> ModelCosts:
    """Return what `costs` returns for a batch that `profile` has run; where the model raises now, what ran until then.

    `stopped` of what is returned then says what it raised.
    """
    return _measured(model, batch)[0]


def _measured(model: nn.Module, batch: Any) -> tuple[ModelCosts, Exception | None]:
    # Wrappers of torch.distributed expect a backward pass after a forward pass with gradients.
    wrapped = any(is_wrapper(module) and "_orig_mod" not in module._modules for module in modules_in(model))
    gradients = torch.is_grad_enabled() and not wrapped
    counter, error = _pass(model, batch, gradients)
    if "saved tensor hooks" in str(error):
        # A transform of torch.func inside the model.
        counter, error = _pass(model, batch, False)
    return counter.costs("" if error is None else error_line(error)), error


def _pass(model: nn.Module, batch: Any, gradients: bool) -> tuple[_Counter, Exception | None]:
    counter = _Counter(model, batch, gradients)
    try:
        with undisturbed(model, batch), torch.set_grad_enabled(gradients), counter.watching():
            # What the backward pass needs is kept as long as the output is.
            output = call_model(model, batch)
            counter.note_kept()
            del output
    except Exception as raised:
        return counter, raised
    return counter, None


class _Operations(TorchDispatchMode):
    """Hands what each operation does to a function; one made of others is seen by these."""

    # Operations that hold others, such as flex_attention, would raise otherwise.
    supports_higher_order_operators = True

    def __init__(self, see: Callable[[Any, int | None], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if isinstance(func, OpOverload) and not has_formula(func):
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        self._see(func, multiply_adds(func, args, kwargs, output))
        return output


class _Counter:
    """Counts what happens in a pass, for every module that is running then."""

    def __init__(self, model: nn.Module, batch: Any, gradients: bool) -> None:
        self._model = model
        self._batch = batch
        self._with_gradients = gradients
        self._infos = [module_info(path, module, ()) for path, module in unwrapped_modules(unwrapped(model))]
        self._running: list[str] = []
        # By path, in the order in which they began.
        self._calls: Counter[str] = Counter()
        self._multiply_adds: Counter[str] = Counter()
        self._output_bytes: Counter[str] = Counter()
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._uncounted: Counter[str] = Counter()
        self._layer_bytes = 0
        self._last_called = ""
        # What is saved for the backward pass, by its memory, and the modules that ran.
        self._saved: dict[int, tuple[StorageWeakRef, int, set[str]]] = {}
        self._kept: Counter[str] = Counter()
        held = [*tensors_held(model), *tensors_of(batch)]
        self._others = {id_ for tensor in held if (id_ := _memory(tensor)) is not None}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what runs in the block."""
        with ExitStack() as stack:
            stack.enter_context(without_shortcuts(self._model))
            stack.callback(calls.unwatch, self)
            calls.watch(self, [info for info in self._infos if not isinstance(info.module, torch.jit.ScriptModule)])
            if self._with_gradients:
                stack.enter_context(saved_tensors_hooks(self._see_saved, _unchanged))
            stack.enter_context(_Operations(self._see_operation))
            yield

    def call(self, info: ModuleInfo, run: Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a module, and note what it returns."""
        self._calls[info.path] += 1
        self._running.append(info.path)
        self._last_called = info.path
        try:
            output = run(module, *args, **kwargs)
        finally:
            self._running.pop()
        tensors = tensors_of(output)
        size = sum(map(_bytes, tensors))
        self._output_bytes[info.path] += size
        if tensors:
            self._shapes.setdefault(info.path, tuple(tensors[0].shape))
        given = set(map(_memory, tensors_of((args, kwargs))))
        # The innermost: no other module ran in it, and what it returns is not what it was given.
        if self._last_called == info.path and not any(_memory(tensor) in given for tensor in tensors):
            self._layer_bytes += size
        return output

    def _see_operation(self, operation: Any, done: int | None) -> None:
        if done is None:
            self._uncounted[name_of(operation)] += 1
        elif done:
            for path in {"", *self._running}:
                self._multiply_adds[path] += done

    def _see_saved(self, tensor: Tensor) -> Tensor:
        id_ = _memory(tensor)
        if id_ is not None and id_ not in self._others:
            known = self._saved.get(id_)
            # Memory that was freed meanwhile may have been given to another tensor.
            if known is None or known[0].expired():
                storage = tensor.untyped_storage()
                self._saved[id_] = (StorageWeakRef(storage), storage.nbytes(), {"", *self._running})
        return tensor

    def note_kept(self) -> None:
        """Note what is kept for the backward pass, when the forward pass is over."""
        for reference, size, paths in self._saved.values():
            if not reference.expired():
                for path in paths:
                    self._kept[path] += size

    def costs(self, stopped: str) -> ModelCosts:
        """Return what was counted."""
        by_path = {info.path: info.module for info in self._infos}
        ran = ["", *(path for path in self._calls if path)]
        idle = [path for path, module in by_path.items() if path not in self._calls and path and module._parameters]
        return ModelCosts(
            tuple(self._of(path, by_path[path]) for path in [*ran, *idle]),
            samples=_samples(self._batch),
            input_bytes=sum(map(_bytes, tensors_of(self._batch))),
            weight_bytes=sum(map(_bytes, self._model.parameters())),
            layer_bytes=self._layer_bytes,
            uncounted=tuple(self._uncounted.items()),
            stopped=stopped,
        )

    def _of(self, path: str, module: nn.Module) -> ModuleCosts:
        parameters = list(module.parameters())
        return ModuleCosts(
            path,
            class_of(module).__name__,
            calls=self._calls[path],
            shape=self._shapes.get(path),
            parameters=sum(parameter.numel() for parameter in parameters),
            frozen_parameters=sum(parameter.numel() for parameter in parameters if not parameter.requires_grad),
            multiply_adds=self._multiply_adds[path],
            output_bytes=self._output_bytes[path],
            kept_bytes=self._kept[path] if self._with_gradients else None,
        )


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


def _memory(tensor: Tensor) -> int | None:
    """Return what tells the memory of one tensor from that of others; None of one that has none of its own."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _samples(batch: Any) -> int | None:
    """Return the rows of a batch: the first axis of its arguments, where it is the same in all."""
    arguments = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, (tuple, list)) else [batch]
    rows = {len(one) for one in arguments if isinstance(one, Tensor) and one.dim()}
    return rows.pop() if len(rows) == 1 else None
