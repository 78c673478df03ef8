"""`Observer`: turns what hooks and the function mode are called with into sites.

It keeps the order, the names and the roles of the sites, and notes what could not be seen.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from propscope.measure.attention import masked_by, projected, sampled_logits, softmax_axis, softmax_figures
from propscope.measure.digest import InputDigest
from propscope.measure.filters import Filter
from propscope.measure.hooks import Guard, Hook, in_backward, transformation
from propscope.measure.input_sites import InputAccumulator, inputs_of
from propscope.measure.makers import Makers
from propscope.measure.module_info import ModuleInfo, axis_of_unknown, unit_axis_of
from propscope.measure.outputs import tensors_in
from propscope.measure.parameter_names import ParameterNames
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.saturation import FlatRegion, FlatRegions
from propscope.measure.shards import Sharding, local_shard, sharding_behind, sharding_of
from propscope.measure.signal_graph import SignalGraph
from propscope.measure.sites import Options, SiteAccumulator, measurable
from propscope.measure.tensor_identity import TensorIdentity, version_of
from propscope.measure.wrappers import class_of
from propscope.records.network import Role

# What makes the accumulator of a site from its first tensor, with the keywords of `SiteAccumulator`.
Sink = Callable[..., SiteAccumulator]
# Handles that are kept make Python's collector of garbage look at them again and again.
_PRUNE_AT = 64
_thread = threading.get_ident
ELSEWHERE = (
    "it also ran in another thread than the one that entered `track`: not recorded there; "
    "enter `track` in the thread that runs the model"
)


class _Function(NamedTuple):
    """The site of a function: its `plain` name, after the module that runs it, and the layer that made its value."""

    plain: str
    layer: str
    operation: str


@dataclass(slots=True)
class _Part:
    """A part of a checkpoint: what runs it, the running module, and the number of the pass.

    `calls`: how often each name was called before it. `sites`: those of the tensors that it was given.
    """

    observer: Observer
    mode: AbstractContextManager[Any] | None
    run: Callable[..., Any]
    info: ModuleInfo
    number: int
    calls: dict[str, int]
    sites: list[SiteAccumulator | None] = field(default_factory=list)

    def __call__(self, *args: Any) -> Any:
        return self.observer.run_part(self, args)


class Observer:
    """Gathers the sites of one recorder; every method is called from a hook or the function mode."""

    def __init__(
        self,
        *,
        options: Options,
        kept: Filter,
        root: nn.Module,
        paths: Mapping[str, ModuleInfo],
        unscale: Callable[[Tensor], Tensor] | None,
        sink: Sink,
        inputs: bool = True,
        functions: bool = True,
        transforms: bool = False,
        digest: InputDigest | None = None,
    ) -> None:
        self.sites: dict[str, SiteAccumulator] = {}
        self.guard = Guard()
        # How often each operation gave what no site shows; and the tensors of the pass that none shows so far.
        self.unrecorded: Counter[str] = Counter()
        self._unshown: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        # Modules that did not run, and do so with other random numbers.
        self.skipped: set[str] = set()
        # The modules that the present pass has called; how many passes before it called each, and where each began.
        self.running: set[str] = set()
        self._ran: Counter[str] = Counter()
        self._began: Counter[str] = Counter()
        # The site that a call of a module returned as it is, by the key that an own site of the call would have.
        self.returned: dict[str, str] = {}
        self.regions = FlatRegions()
        self.identity = TensorIdentity()
        self._names = ParameterNames(root)
        self.graph = SignalGraph(root, self._names, wanted=sink is SiteAccumulator)
        self.stack: list[ModuleInfo] = []
        self.active = False
        # The thread whose calls are recorded. Gradients of other devices come in threads of torch's own.
        self.thread = threading.get_ident()
        self.batches = 0
        self.samples = 0
        self._options = options
        self._kept = kept
        self._keeps_all = kept == Filter()
        self._root = root
        self._paths = paths
        self._unscale = unscale
        self._sink = sink
        self._takes_inputs = inputs
        self._takes_functions = functions
        self._hooked_inputs: dict[int, weakref.ref[Tensor]] = {}
        self._functorch = not transforms
        self._digest = digest
        self.makers = Makers(self._names, self.identity, paths)
        self._functions: dict[str, _Function] = {}
        self._calls: dict[str, int] = {}
        self._repeated: set[str] = set()
        self._failed: set[str] = set()
        self._first_calls: dict[str, tuple[str, str]] = {}
        self._recalls: dict[str, int] = {}
        # The part of a checkpoint that runs again, with how often each name was called by now.
        self._again: _Part | None = None
        self._watched: set[str] = set()
        self._handles: list[RemovableHandle] = []
        self._prune_at = _PRUNE_AT

    def hidden_by(self) -> str:
        """Return what hides the values of the present run from the recorder, "" where nothing does."""
        return transformation(functorch=self._functorch)

    def begin(self, info: ModuleInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start a forward pass of the model, or of the part of it that is called from outside."""
        self.batches += 1
        if self._digest is not None and self.batches == 1:
            self.guard("", "module", "the digest of its input", self._digest.see, args, kwargs)
        self._ran.update(self.running)
        self.running.clear()
        self._began[info.path] += 1
        inputs = list(inputs_of(args, kwargs))
        if inputs:
            self.samples += inputs[0][1].shape[0] if inputs[0][1].dim() else 1
        given = [tensor for _, tensor in inputs]
        self._names.begin()
        # What another part has returned is a site already.
        inputs = [entry for entry in inputs if self._takes_inputs and self.identity.find(entry[1]) is None]
        self.guard("", "module", "the graph", self.graph.begin, info.path, (args, kwargs), self._calls.items())
        self._calls.clear()
        self._recalls.clear()
        self._watched.clear()
        self._unshown.clear()
        self.identity.clear()
        self.makers.begin(active=self._takes_functions and self._began[info.path] == 1)
        if self.makers.active:
            for tensor in given:
                self.makers.note_input(tensor)
        self.stack.clear()
        if len(self._handles) > self._prune_at:
            # A handle refers to its tensor's hooks weakly: a dead reference belongs to a graph that is gone.
            self._handles = [handle for handle in self._handles if handle.hooks_dict_ref() is not None]
            self._prune_at = 2 * len(self._handles) + _PRUNE_AT
            self._hooked_inputs = {key: tensor for key, tensor in self._hooked_inputs.items() if tensor() is not None}
        # What enters an activation that is called alone becomes its pre-activation.
        if info.module is self._root or info.role != "activation":
            path = self.path_of_function(info.path, "input")
            for suffix, tensor in inputs:
                self._see_input(path + suffix, tensor)

    def _see_input(self, path: str, tensor: Tensor) -> None:
        if not self._kept.keeps(path, "input", None) or path in self._failed:
            return
        kind, reason = f"a {type(tensor).__name__}", self._unmeasurable(tensor)
        if reason:
            self.guard.add(path, "output", reason)
        elif self.guard(path, "output", kind, self._record_input, path, tensor) is None:
            self.sites.pop(path, None)
            self._failed.add(path)

    def _record_input(self, path: str, tensor: Tensor) -> SiteAccumulator:
        site = self.sites.get(path)
        if site is None:
            shard = local_shard(tensor.detach())
            axis = axis_of_unknown(tensor, None)
            site = self.sites[path] = InputAccumulator(
                shard, name=path, kind="input", role="input", unit_axis=axis, has_units=False, options=self._options
            )
            site.sharding = _along(tensor, axis)
        site.see_forward(tensor)
        if self.graph.taking:
            self.graph.mark(path, tensor)
        # The caller may give one tensor again and again: its hook stays.
        hooked = self._hooked_inputs.get(id(tensor))
        if tensor.requires_grad and (hooked is None or hooked() is not tensor):
            self._hooked_inputs[id(tensor)] = weakref.ref(tensor)
            self._handles.append(tensor.register_hook(self._gradient_hook(site)))
        return site

    def passes_of(self, path: str) -> tuple[int, int]:
        """Return in how many passes a module ran, and how many went over it or over a module around it."""
        around = sum(count for outer, count in self._began.items() if f"{path}.".startswith(f"{outer}." * bool(outer)))
        return self._ran[path] + (path in self.running), around

    def close(self) -> None:
        """Take every hook off the tensors that are still alive."""
        self.active = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._hooked_inputs.clear()
        self._unshown.clear()
        self.identity.clear()
        self.makers.begin(active=False)
        self.guard("", "module", "the graph", self.graph.close)
        self._names.begin()

    def part_of_checkpoint(self, mode: AbstractContextManager[Any] | None, run: Callable[..., Any]) -> _Part:
        """Return a part of a checkpoint so that its calls are known again when it runs in the backward pass.

        `mode`: what shows the functions of the part, which then run outside of any module.
        """
        calls = self._calls if self._again is None else self._again.calls
        return _Part(self, mode, run, self.stack[-1], self.batches, dict(calls))

    def run_part(self, part: _Part, args: tuple[Any, ...]) -> Any:
        """Run a part of a checkpoint, at first or again."""
        if self.guard("", "module", "a checkpoint", self._enter_part, part, args) is None:
            return part.run(*args)
        try:
            with part.mode or nullcontext():
                return part.run(*args)
        finally:
            self.stack.clear()
            self._again = None

    def _enter_part(self, part: _Part, args: tuple[Any, ...]) -> _Part | None:
        """Return the part as it runs again; None where it runs for the first time, or is not recorded again."""
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        if not in_backward():
            entries = map(self.identity.find, tensors)
            part.sites[:] = [None if entry is None else entry.site for entry in entries]
            return None
        if self.stack or not self.active or self.hidden_by():
            return None
        for tensor, site in zip(tensors, part.sites, strict=False):
            if site is not None:
                self.identity.remember(tensor, site)
        again = self._again = replace(part, calls=dict(part.calls))
        self.stack.append(part.info)
        return again

    def path_of_function(self, inside: str, name: str) -> str:
        """Return the name of an operation's sites inside a module: with () where a module there has the same name."""
        path = f"{inside}.{name}" if inside else name
        return f"{path}()" if path in self._paths else path

    def path_of_call(self, name: str) -> str:
        """Return the site name of the call of `name` that ends now: the name, with #1, #2 from the second on."""
        if self._again is not None:
            call = self._again.calls.get(name, 0)
            self._again.calls[name] = call + 1
        elif in_backward():
            # A checkpoint runs a part again; its calls come in the reverse order of the first time.
            again = self._recalls.get(name, 0)
            self._recalls[name] = again + 1
            call = max(self._calls.get(name, 1) - 1 - again, 0)
        else:
            call = self._calls.get(name, 0)
            self._calls[name] = call + 1
        if call:
            self._repeated.add(name)
        return f"{name}#{call}" if call else name

    def name_after(self, key: str, layer: str, plain: str, operation: str) -> None:
        """Name a function's site after the layer that made its value, if that is known and in the running module.

        `plain`: the site's name without it, after the running module.
        """
        if not self.makers.active or key in self._functions:
            return
        inside = self.stack[-1].path if self.stack else ""
        # What a layer passes to a module of its own, such as a user's activation, is named after that.
        named = layer != inside and layer.startswith(f"{inside}." * bool(inside)) and bool(layer)
        self.makers.of_sites.setdefault(key, layer)
        self._functions[key] = _Function(plain, layer if named else "", operation)

    def _label(self, key: str) -> str:
        """Return the name of a site without the number of its call, which patterns are searched in."""
        function = self._functions.get(key)
        return key if function is None or not function.layer else f"{function.layer}.{function.operation}"

    def names(self) -> dict[str, str]:
        """Return the name of each site by its key: only at the end is it known how often a name is needed."""
        renamed = {function.plain for function in self._functions.values() if function.layer}
        names = {key: self._full_name(key) for key in self.sites}
        groups: dict[str, list[str]] = {}
        for key in names:
            function = self._functions.get(key)
            if function is not None and function.plain in renamed:
                groups.setdefault(self._name_of_function(function), []).append(key)
        taken = {names[key] for key in names.keys() - {key for keys in groups.values() for key in keys}}
        for name, keys in groups.items():
            numbers = (f"{name}#{number}" for number in count(int(name in taken)))
            free = (one for one in numbers if one not in taken)
            names |= {keys[0]: name} if len(keys) == 1 and name not in taken else dict(zip(keys, free, strict=False))
        return names

    def _name_of_function(self, function: _Function) -> str:
        if not function.layer:
            return function.plain
        # Weights that no module was called for: what they made is the output of their layer.
        if function.operation.endswith(".input") and not self.passes_of(function.layer)[0]:
            return function.layer
        return self.path_of_function(function.layer, function.operation)

    def _full_name(self, path: str) -> str:
        name, suffix = self._first_calls.get(path, (path, ""))
        return f"{name}#0{suffix}" if name in self._repeated else path

    def module_output(
        self, info: ModuleInfo, inputs: Any, options: dict[str, Any], output: Any, made: Sequence[Any] = ()
    ) -> None:
        """Record what a module returned; `options`: its keyword arguments; `made`: what its hooks made that of."""
        path = self.path_of_call(info.path)
        source = self._source(inputs)
        for suffix, tensor in tensors_in(output):
            entry = self.identity.find(tensor)
            if self.makers.active:
                self.makers.note_module(path + suffix, tensor, info.path, info.module, inputs)
            site = entry.site if entry is not None else None
            if site is not None:
                self.returned[path + suffix] = site.name
            if entry is None:
                if path == info.path:
                    self._first_calls[path + suffix] = (path, suffix)
                axis = partial(unit_axis_of, info.module, tensor)
                site = self.observe(
                    path + suffix,
                    tensor,
                    kind=class_of(info.module).__name__,
                    role=info.role,
                    axis=axis,
                    source=source,
                    units=info.units,
                    module=info.module,
                )
            if site is not None and entry is None and made and site.sharding is None and tensor.dim():
                behind = sharding_behind(made[0], tensor)
                site.sharding = None if behind is None else behind.along(site.unit_axis, tensor.dim())
            if site is not None and entry is None and isinstance(inputs, tuple):
                self._see_softmax(info, site, inputs, options, tensor)
            if site is not None and info.module is self._root and site.role == "other":
                site.role = "output"

    @staticmethod
    def _see_softmax(
        info: ModuleInfo, site: SiteAccumulator, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor
    ) -> None:
        """Add what a module shows that is a softmax, or attention that runs its softmax out of sight."""
        module = info.module
        if in_backward():
            return

        def given(name: str, at: int) -> Any:
            return options.get(name, inputs[at] if len(inputs) > at else None)

        if isinstance(module, nn.Softmax) and output.numel():
            value, axis = given("input", 0), softmax_axis(module.dim, output.dim())
            if isinstance(value, Tensor) and axis is not None:
                figures = softmax_figures(measurable(value.detach()), measurable(output.detach()), axis)
                site.see_attention(figures, axis=axis)
        elif isinstance(module, nn.MultiheadAttention):
            query, key = given("query", 0), given("key", 1)
            if not (isinstance(query, Tensor) and isinstance(key, Tensor)) or output.shape != query.shape:
                return
            both = projected(module, query, key)
            logits = None if both is None else sampled_logits(*both, (), {})
            if logits is not None:
                figures = softmax_figures(logits, torch.softmax(logits, -1))
                masked = masked_by(module, given("key_padding_mask", 3), given("attn_mask", 5))
                site.see_attention(figures if masked is None else figures._replace(masked=masked))

    def output_alike(self, info: ModuleInfo, output: Any) -> bool:
        """Record what a module returned by the short path, if it is like the output of the last pass.

        Return False and do nothing if it is not: another type or shape, another call of the same pass, a tensor that is
        a site already, a part that a checkpoint runs again.
        """
        path = info.path
        site = self.sites.get(path)
        if site is None or type(output) is not Tensor or path in self._calls or self.identity.find(output) is not None:
            return False
        if info.module is self._root or in_backward() or not site.record_same_shape(output):
            return False
        self._calls[path] = 1
        if self._unshown:
            self.guard(path, "output", "what made it", self._show, output)
        if output.requires_grad:
            self._watched.add(path)
            self._handles.append(output.register_hook(self._gradient_hook(site)))
        self.identity.remember(output, site)
        if self.graph.taking:
            self.guard(path, "output", "what it was computed from", self.graph.mark, path, output)
        return True

    def activation_input(
        self, path: str, value: Any, activation: str, region: FlatRegion | None, *, layer: str = ""
    ) -> None:
        """Note that a tensor made by `layer` is about to enter a nonlinearity; one that is no site yet becomes one."""
        again = in_backward()
        # Which tensors were sites is known for the last pass only.
        known_again = self._again is not None and self._again.number == self.batches
        if not isinstance(value, Tensor) or (again and not known_again):
            return
        entry = self.identity.find(value)
        if entry is None:
            key = self.path_of_call(f"{path}.input")
            if again and key not in self.sites:
                return
            self.name_after(key, layer, f"{path}.input", f"{activation}.input")
            site = self.observe(key, value, kind="input", role="other")
        else:
            site = entry.site
        if site is not None and region is not None and not again:
            site.mark_preactivation(value.detach(), activation, region)

    def observe(
        self,
        path: str,
        tensor: Tensor,
        *,
        kind: str,
        role: Role,
        axis: Callable[[int | None], int] | None = None,
        source: SiteAccumulator | None = None,
        units: bool = False,
        module: nn.Module | None = None,
    ) -> SiteAccumulator | None:
        """Record a tensor as the site `path`, and its gradient when it comes; None if it cannot be recorded."""
        if not self._keeps_all and not self._kept.keeps(label := self._label(path), kind, module):
            if self._kept.excludes(label, module):
                self.identity.remember(tensor, None)
            return None
        if path in self._failed:
            return None
        reason = self._unmeasurable(tensor)
        if not reason and not (tensor.is_floating_point() or tensor.is_complex()):
            reason = f"{str(tensor.dtype).removeprefix('torch.')} values have no gradient and are not measured"
        if reason:
            self.guard.add(path, "output", reason)
            return None
        # Tensor subclasses and exotic layouts support what they choose; the model must go on.
        site: SiteAccumulator | None = self.guard(
            path, "output", f"a {type(tensor).__name__}", self._record, path, tensor, kind, role, axis, source, units
        )
        if site is None:
            self.sites.pop(path, None)
            self._failed.add(path)
        return site

    def _unmeasurable(self, tensor: Tensor) -> str:
        """Return why no tensor like this one can be measured, "" where it can."""
        if type(tensor).__name__ == "FakeTensor":
            return "it is a FakeTensor: no values"
        if tensor.is_meta:
            return "it is on the meta device: no values"
        if self._functorch and torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            return "a transform of torch.func holds its values"
        return ""

    def _record(
        self,
        path: str,
        tensor: Tensor,
        kind: str,
        role: Role,
        axis: Callable[[int | None], int] | None,
        source: SiteAccumulator | None,
        units: bool,
    ) -> SiteAccumulator:
        site = self.sites.get(path)
        again = in_backward()
        if site is None:
            shard = local_shard(tensor.detach())
            inherited = source.unit_axis if source is not None and len(source.shape) == tensor.dim() else None
            unit_axis = axis_of_unknown(tensor, inherited) if axis is None else axis(inherited)
            site = self._sink(
                shard, name=path, kind=kind, role=role, unit_axis=unit_axis, has_units=units, options=self._options
            )
            site.sharding = _along(tensor, unit_axis)
            self.sites[path] = site
        if not again:
            site.see_forward(tensor)
            if self._unshown:
                self._show(tensor)
        # A recomputed value carries the gradient only where the first pass ran without a graph.
        if site.takes_gradients and tensor.requires_grad and not (again and path in self._watched):
            self._watched.add(path)
            self._handles.append(tensor.register_hook(self._gradient_hook(site)))
        self.identity.remember(tensor, site)
        if self.graph.taking:
            note = self.graph.recomputed if again else self.graph.mark
            self.guard(path, "output", "what it was computed from", note, path, tensor)
        return site

    def note_unrecorded(self, operation: str, result: Tensor) -> None:
        """Count an operation whose result is no site, unless one shows the result later."""
        if not in_backward() and result.is_floating_point():
            self.unrecorded[operation] += 1
            self._unshown[id(result)] = (weakref.ref(result), version_of(result), operation)

    def _show(self, tensor: Tensor) -> None:
        """Note that a site shows a tensor, and with it the one that it is a view of all elements of."""
        for shown in (tensor, tensor._base if tensor._is_view() else None):
            if shown is None or shown.numel() != tensor.numel():
                continue
            reference, version, operation = self._unshown.get(id(shown), (None, 0, ""))
            if reference is not None and reference() is shown and version == version_of(shown):
                del self._unshown[id(shown)]
                self.unrecorded[operation] -= 1

    def note_input(self, inputs: tuple[Any, ...]) -> None:
        """Note that a tensor was there when a module was entered: in a residual sum it is the stream."""
        if inputs and isinstance(inputs[0], Tensor) and not in_backward():
            self.identity.mark_entered(inputs[0])

    def _source(self, inputs: Any) -> SiteAccumulator | None:
        if isinstance(inputs, tuple) and inputs and isinstance(inputs[0], Tensor):
            entry = self.identity.find(inputs[0])
            return None if entry is None else entry.site
        return None

    def _gradient_hook(self, site: SiteAccumulator) -> Hook:
        return Hook(self.guard, site.name, "output", "its gradient", self.see_gradient, site.see_backward)

    def parameter_hook(self, parameter: ParameterAccumulator) -> Hook:
        """Return the hook that records the gradients that a parameter receives."""
        return Hook(self.guard, parameter.name, "parameter", "its gradient", self.see_parameter, parameter)

    def see_parameter(self, parameter: ParameterAccumulator, gradient: Tensor) -> None:
        """Record the gradient of a parameter in one pass."""
        self.see_gradient(parameter.see_gradient, gradient)

    def see_gradient(self, see: Callable[[Tensor], None], gradient: Tensor) -> None:
        """Hand a gradient to `see`, without the loss scale, if it belongs to a pass that is recorded."""
        if not self.active:
            return
        if _thread() != self.thread and gradient.is_cpu:
            # What another thread computes on its own is not of the passes that are recorded.
            self.guard.add("", "model", ELSEWHERE)
            return
        fake = gradient.__class__ is not Tensor and type(gradient).__name__ == "FakeTensor"
        if fake or transformation(functorch=self._functorch):
            return
        see(gradient if self._unscale is None else self._unscale(gradient))


def _along(tensor: Tensor, unit_axis: int) -> Sharding | None:
    sharding = sharding_of(tensor)
    return None if sharding is None or not tensor.dim() else sharding.along(unit_axis, tensor.dim())
