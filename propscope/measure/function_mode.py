"""`FunctionWatch`: shows the observer the functional operations of a forward pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from propscope.measure import kernel
from propscope.measure.attention import masked_share, sampled_logits, softmax_axis, softmax_figures
from propscope.measure.functions import BY_FUNCTION, Operation, is_residual_sum
from propscope.measure.hooks import in_backward
from propscope.measure.observer import Observer
from propscope.measure.signal_graph import kind_of
from propscope.measure.sites import SiteAccumulator, Summands, measurable
from propscope.measure.sums import total
from propscope.records.network import Role

_ROLES: dict[str, Role] = {
    "activation": "activation",
    "norm": "norm",
    "softmax": "attention",
    "attention": "attention",
    "residual": "residual",
}
# What only looks at a tensor, or moves its elements: there is no new signal to record.
# fmt: off
_MOVES = frozenset((
    "view", "view_as", "as_strided", "reshape", "permute", "transpose", "t", "contiguous", "clone", "detach", "to",
    "float", "half", "bfloat16", "double", "type_as", "size", "dim", "numel", "flatten", "unflatten", "squeeze",
    "unsqueeze", "expand", "expand_as", "repeat", "repeat_interleave", "chunk", "split", "unbind", "narrow", "select",
    "__getitem__", "__get__", "__set__", "__setitem__", "stack", "cat", "concat", "zeros_like", "ones_like",
    "empty_like", "full_like", "arange", "zeros", "ones", "empty", "full", "tensor", "register_hook",
    "requires_grad_", "backward", "item", "is_floating_point", "is_complex", "movedim", "roll", "pad",
    "masked_fill", "where", "copy_", "new_zeros", "new_ones", "index_select", "gather", "dropout",
))
# fmt: on
_VIEW_AS = Tensor.view_as
# Looked up once, as each call of a module asks.
_modes, _mode_at = torch._C._len_torch_function_stack, torch._C._get_function_stack_at
_pop_mode, _push_mode = torch._C._pop_torch_function_stack, torch._C._push_on_torch_function_stack


class FunctionWatch(TorchFunctionMode):
    """Active while a watched model runs; hands each call on unchanged."""

    def __init__(self, observer: Observer) -> None:
        super().__init__()
        self._observer = observer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        observer = self._observer
        if not observer.stack:
            return func(*args, **kwargs)
        info = observer.stack[-1]
        if func is _VIEW_AS and len(args) == 2 and args[0] is args[1]:
            return self._passed_on(info.path, *args)
        moves = _moves(func)
        if (info.opaque or moves) and not (observer.graph.taking or observer.makers.active):
            return func(*args, **kwargs)
        traced = observer.graph.taking and not info.atomic
        followed = observer.makers.active and not info.opaque and not in_backward()
        if (not (traced or followed) and (info.opaque or moves)) or observer.hidden_by():
            return func(*args, **kwargs)
        run = partial(self._traced, func) if traced else func
        run = partial(self._followed, run, kind_of(func).name) if followed else run
        return run(*args, **kwargs) if info.opaque or moves else self._observed(run, func, args, kwargs)

    def run_apart(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a function none of whose operations is a site or traced, without this mode.

        Torch asks a mode about each operation, which takes as long as a small operation does.
        """
        depth = _modes()
        # Others that came meanwhile are asked first, and must not be passed over.
        if not depth or _mode_at(depth - 1) is not self:
            return run(*args, **kwargs)
        _pop_mode()
        try:
            return run(*args, **kwargs)
        finally:
            _push_mode(self)

    def _passed_on(self, path: str, tensor: Tensor, _: Tensor) -> Any:
        """Make the view that torch makes of what a custom function returns as it is: the same signal."""
        observer, result = self._observer, tensor.view_as(tensor)
        for note in (observer.identity.pass_on, observer.makers.pass_on, observer.graph.pass_on):
            observer.guard(path, "operation", "view_as", note, tensor, result)
        return result

    def _traced(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, and note in the graph what it was given and what it returned."""
        observer = self._observer
        graph, guard, path, name = observer.graph, observer.guard, observer.stack[-1].path, kind_of(func).name
        call = guard(path, "operation", name, graph.before, args, kwargs)
        result = func(*args, **kwargs)
        if call is not None:
            guard(path, "operation", name, graph.after, func, call, args, kwargs, result)
        return result

    def _followed(self, run: Callable[..., Any], operation: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a function, and note which layer made what it returns."""
        guard, path, makers = self._observer.guard, self._observer.stack[-1].path, self._observer.makers
        made = guard(path, "operation", "its layer", makers.of, path, (args, kwargs), operation)
        result = run(*args, **kwargs)
        if made is not None:
            guard(path, "operation", "its layer", makers.note, made, result)
        return result

    def _observed(
        self, run: Callable[..., Any], func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        observer = self._observer
        operation = BY_FUNCTION.get(func)
        guard, path = observer.guard, observer.stack[-1].path
        if operation is not None and operation.role == "residual":
            operation = guard(path, "operation", "a sum", _if_residual, operation, args)
            if operation is None:
                return run(*args, **kwargs)
        if operation is None:
            result = run(*args, **kwargs)
            name = getattr(func, "__name__", "")
            if isinstance(result, Tensor) and not _is_collective(func):
                guard(path, "operation", name, observer.note_unrecorded, name, result)
            return result
        before = guard(path, "operation", operation.name, self._before, operation, func, args, kwargs)
        result = run(*args, **kwargs)
        if before is not None and isinstance(result, Tensor):
            guard(path, "operation", operation.name, self._after, operation, *before, args, kwargs, result)
        return result

    def _before(
        self, operation: Operation, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[str, str, SiteAccumulator | None, Summands | None]:
        """Return the operation's name, the layer it is named after, the site that enters it, and a sum's summands.

        All before it may overwrite them.
        """
        observer = self._observer
        name = observer.path_of_function(observer.stack[-1].path, operation.name)
        value = args[0] if args else kwargs.get("input")
        share = None
        if operation.role == "activation":
            region = observer.regions.of_function(func, args[1:], kwargs)
            observer.activation_input(name, value, operation.name, region, layer=self._layer(operation, args, kwargs))
        elif operation.role == "residual" and not in_backward():
            share = self._summands(*args[:2])
        entry = observer.identity.find(value) if isinstance(value, Tensor) else None
        return name, self._layer(operation, args, kwargs), None if entry is None else entry.site, share

    def _layer(self, operation: Operation, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Return the layer that the site of an operation is named after; a norm is named after its own weights."""
        makers, path = self._observer.makers, self._observer.stack[-1].path
        if not makers.active or in_backward() or operation.role in ("residual", "attention"):
            return ""
        own = makers.of(path, (args[1:], kwargs))[0] if operation.role == "norm" else ""
        return own or makers.of(path, (args, kwargs))[0]

    def _after(
        self,
        operation: Operation,
        name: str,
        layer: str,
        source: SiteAccumulator | None,
        share: Summands | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Tensor,
    ) -> None:
        observer = self._observer
        path = observer.path_of_call(name)
        observer.name_after(path, layer, name, operation.name)
        if observer.identity.find(result) is not None:
            return
        site = observer.observe(path, result, kind=operation.name, role=_ROLES[operation.role], source=source)
        if site is None or in_backward():
            return
        value = args[0] if args else kwargs.get("input")
        if share is not None:
            site.see_summands(share)
        elif operation.role == "softmax" and isinstance(value, Tensor):
            axis = softmax_axis(kwargs.get("dim", args[1] if len(args) > 1 else None), value.dim())
            if axis is not None:
                figures = softmax_figures(measurable(value.detach()), measurable(result.detach()), axis)
                site.see_attention(figures, axis=axis)
        elif operation.role == "attention" and len(args) > 1:
            self._see_attention(site, args, kwargs)

    def _summands(self, a: Tensor, b: Tensor) -> Summands:
        """Return the mean squares of a sum's operands, and which of them is the stream.

        The graph tells it in a pass that is traced; else the stream is what was seen first.
        """
        observer = self._observer
        order_of, graph = observer.identity.order_of, observer.graph
        stream = graph.stream_of(a, b) if graph.taking else None
        return Summands(_mean_square(a), _mean_square(b), stream, int(order_of(a) > order_of(b)))

    @staticmethod
    def _see_attention(site: SiteAccumulator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        query, key = measurable(args[0].detach()), measurable(args[1].detach())
        with torch.autocast(query.device.type, enabled=False):
            logits = sampled_logits(query, key, args[3:], kwargs)
            if logits is not None:
                # A row whose keys are all masked is NaN by torch's own rule; it has no entropy.
                figures = softmax_figures(logits, torch.nan_to_num(torch.softmax(logits, -1)))
                mask = kwargs.get("attn_mask", args[3] if len(args) > 3 else None)
                # The sampled rows may miss those that are masked.
                masked = figures.masked if mask is None else masked_share(mask.detach())
                site.see_attention(figures._replace(masked=masked))


@lru_cache(maxsize=1024)
def _moves(func: Callable[..., Any]) -> bool:
    return getattr(func, "__name__", "") in _MOVES and func not in BY_FUNCTION


def _if_residual(operation: Operation, args: tuple[Any, ...]) -> Operation | None:
    return operation if is_residual_sum(args) else None


def _is_collective(func: Callable[..., Any]) -> bool:
    """Return whether an operation only moves elements between ranks, or waits for them."""
    name = getattr(func, "_qualified_op_name", None) or getattr(func, "name", str)()
    return str(name).startswith(("_c10d_functional", "c10d"))


def _mean_square(tensor: Tensor) -> Tensor | float:
    values = measurable(tensor.detach())
    # A tensor inside a transform of torch.func has no memory of its own.
    if not torch._C._functorch.is_functorch_wrapped_tensor(values) and kernel.can_read(values):
        return kernel.mean_square(values)
    values = values if values.dtype == torch.float64 else values.float()
    return total(values.square()) / max(values.numel(), 1)
