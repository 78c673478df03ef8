"""`Recorder`: hooks that watch a model run, and leave it as it was.

Forward hooks see every module's output, a torch function mode the functional operations between them; a hook on each
output tensor, set there, sees its gradient (full backward hooks would break on in-place activations); a hook on each
parameter sees its gradient in each pass. A tensor is summarized at once and forgotten.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from propscope.checks import one_of
from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.measure.function_mode import FunctionWatch
from propscope.measure.hooks import Hook, in_backward
from propscope.measure.loss_scale import unscaling
from propscope.measure.module_info import ModuleInfo, is_leaf, module_info
from propscope.measure.observer import Observer, Sink
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.provenance import provenance
from propscope.measure.sites import Options, SiteAccumulator
from propscope.measure.wrappers import seen_in_full, unwrapped, walk, walk_parameters
from propscope.records.network import CoverageNote, Label, NetworkProfile

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# These compute nothing of their own.
_SILENT = (nn.Sequential, nn.Identity, *_CONTAINERS)


class Recorder:
    """Watches `model` between `with` and its end; `profile()` returns what was seen, then or later.

    `sink` makes the accumulator of each site, which then receives the site's tensors: it is called with the first of
    them and the keywords of `SiteAccumulator`. `parameters`: whether parameters are recorded too.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        options: Options | None = None,
        kept: Filter | None = None,
        functions: bool = True,
        parameters: bool = True,
        sink: Sink = SiteAccumulator,
        activations: Collection[nn.Module] = (),
        loss_scale: Any = None,
        layer_of: Callable[[str], int | None] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
        self._outer = model
        self._model = unwrapped(model)
        self._options = options or Options()
        one_of("stats", self._options.stats, ("all", "moments"))
        self._kept = kept or Filter()
        self._functions = functions
        self._takes_parameters = parameters
        self._activations = {id(module) for module in activations}
        self._layer_of = layer_of or (lambda name: None)
        self._unscale = unscaling(loss_scale)
        self._parameters: dict[str, ParameterAccumulator] = {}
        self._modules: dict[str, ModuleInfo] = {}
        self._observer = Observer(
            options=self._options,
            kept=self._kept,
            root=self._model,
            paths=self._modules,
            unscale=self._unscale,
            sink=sink,
        )
        self._waiting: list[tuple[str, nn.Parameter]] = []
        self._notes: tuple[CoverageNote, ...] = ()
        self._stopped: tuple[int, ModuleInfo | None] = (0, None)
        self._stack = ExitStack()
        self._started = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Recorder:
        if self._observer.active:
            raise InputError("the recorder is already tracking", hint="leave its `with` block first")
        self._observer.active = True
        self._started = time.perf_counter()
        try:
            self._notes = self._stack.enter_context(seen_in_full(self._outer))
            for path, module in walk(self._model):
                info = module_info(path, module, self._activations)
                self._modules[info.path] = info
            # Where every operation is some module's own, as in nn.Sequential of layers, there is none to watch for.
            watch = self._functions and not all(
                info.opaque or type(info.module) in _SILENT for info in self._modules.values()
            )
            self._hook(watch)
            if watch:
                self._stack.enter_context(FunctionWatch(self._observer))
        except BaseException:
            self._observer.active = False
            self._stack.close()
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._stack.close()
        self._observer.close()
        self._seconds += time.perf_counter() - self._started
        if error is not None and self._stopped[0] == id(error) and (info := self._stopped[1]) is not None:
            first = next(iter(str(error).strip().splitlines()), "")
            reason = f"the run stopped in here: {type(error).__name__}: {first}"
            self._notes += (CoverageNote(info.path, "module", reason),)
        self._stopped = (0, None)
        self._observer.stack.clear()

    def _hook(self, watch: bool) -> None:
        def keep(handle: Any) -> None:
            self._stack.callback(handle.remove)

        for info in self._modules.values():
            module = info.module
            if isinstance(module, torch.jit.ScriptModule):
                # What is compiled calls no Python hooks, and its outermost module takes none with keywords.
                continue
            if not watch and is_leaf(module):
                keep(module.register_forward_hook(Hook(self._at_leaf, info), with_kwargs=True, always_call=True))
                continue
            keep(module.register_forward_pre_hook(Hook(self._before, info), with_kwargs=True))
            keep(module.register_forward_hook(Hook(self._after, info), always_call=True))
        for name, parameter in walk_parameters(self._model) if self._takes_parameters else ():
            if self._kept.keeps_parameter(name):
                self._waiting.append((name, parameter))
        self._hook_parameters()

    def _hook_parameters(self) -> None:
        """Watch the parameters that have a shape by now; those of lazy modules get one in their first forward."""
        waiting = self._waiting
        self._waiting = [(name, parameter) for name, parameter in waiting if is_lazy(parameter)]
        for name, parameter in waiting:
            if is_lazy(parameter):
                continue
            if name not in self._parameters:
                self._parameters[name] = ParameterAccumulator(name, parameter, self._options)
            if parameter.requires_grad:
                hook = Hook(self._after_gradient, self._parameters[name])
                self._stack.callback(parameter.register_hook(hook).remove)

    def _before(self, info: ModuleInfo, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = args or tuple(kwargs.values())
        with torch._C.DisableTorchFunction():
            self._enter(info, inputs)
            self._observer.stack.append(info)
            if self._functions:
                self._observer.note_input(inputs)

    def _after(self, info: ModuleInfo, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        stack = self._observer.stack
        while stack and stack.pop() is not info:
            pass
        if output is None and self._stops(info):
            return
        with torch._C.DisableTorchFunction():
            self._leave(info, inputs, output)

    def _at_leaf(
        self, info: ModuleInfo, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Do what `_before` and `_after` do in one call, for modules that contain nothing to watch."""
        if output is None and self._stops(info):
            return
        with torch._C.DisableTorchFunction():
            self._enter(info, args or tuple(kwargs.values()))
            self._leave(info, args, output)

    def _enter(self, info: ModuleInfo, inputs: tuple[Any, ...]) -> None:
        observer = self._observer
        # Whatever is called from outside, the model or a part of it, starts a pass of its own.
        if not observer.stack and not in_backward():
            observer.begin(inputs)
        observer.called.add(info.path)
        if info.role == "activation" and inputs:
            region = observer.regions.of_module(info.module)
            observer.activation_input(info.path, inputs[0], type(info.module).__name__, region)

    def _leave(self, info: ModuleInfo, inputs: tuple[Any, ...], output: Any) -> None:
        if self._waiting:
            self._hook_parameters()
        if not self._observer.output_alike(info, output):
            self._observer.module_output(info, inputs, output)

    def _stops(self, info: ModuleInfo) -> bool:
        """Return whether a module's hook is called on the way out of an exception, and note the first such module."""
        error = sys.exc_info()[1]
        if error is None:
            return False
        # By identity alone: an exception holds its frames, and those the model's tensors.
        if id(error) != self._stopped[0]:
            self._stopped = (id(error), info)
        return True

    def _after_gradient(self, parameter: ParameterAccumulator, gradient: Tensor) -> None:
        if self._observer.active:
            with torch._C.DisableTorchFunction():
                parameter.see_gradient(gradient if self._unscale is None else self._unscale(gradient))

    def end_batch(self) -> None:
        """Count the geometry of what ran since the last call as one batch; waits for the device.

        The profile then holds means of cosine and rank over these batches, instead of those of the last batch.
        """
        for site in self._observer.sites.values():
            site.end_batch()

    def profile(
        self, *, labels: dict[str, Label] | None = None, spec: str = "{}", seed: int | None = None
    ) -> NetworkProfile:
        """Return what was seen so far: sites in execution order, parameters with their present values.

        Waits for the device. A direction that was not seen is None at each site.
        """
        first = next((p for p in self._model.parameters() if not is_lazy(p)), None)
        observer = self._observer
        seconds = self._seconds + (time.perf_counter() - self._started if observer.active else 0.0)
        parameters = [accumulator.record() for accumulator in self._parameters.values()]
        return NetworkProfile(
            sites=tuple(
                site.record(name=observer.full_name(key), layer=self._layer_of(key))
                for key, site in observer.sites.items()
            ),
            parameters=tuple(parameter for parameter in parameters if parameter is not None),
            labels=labels or {},
            provenance=provenance(
                spec=spec,
                seed=seed,
                device=str(first.device) if first is not None else "cpu",
                dtype=str(first.dtype).removeprefix("torch.") if first is not None else "",
                wall_seconds=seconds,
                samples=observer.samples,
                batches=observer.batches,
                histogram_limit=self._options.histogram_limit,
            ),
            coverage=(*self._notes, *_coverage(observer, self._modules, self._parameters)),
        )


def _coverage(
    observer: Observer, modules: Mapping[str, ModuleInfo], parameters: Mapping[str, ParameterAccumulator]
) -> Iterator[CoverageNote]:
    """Yield a note for each module that never ran, each output, operation and parameter that was not recorded."""
    for path, info in modules.items():
        if isinstance(info.module, torch.jit.ScriptModule):
            yield CoverageNote(path, "module", "TorchScript calls no hooks: nothing inside was recorded")
        elif path not in observer.called and not isinstance(info.module, _CONTAINERS):
            yield CoverageNote(path, "module", f"{type(info.module).__name__} was never called")
    yield from observer.unmeasured.values()
    for path, site in observer.sites.items():
        if site.dtype.startswith("complex"):
            yield CoverageNote(path, "output", "complex values are measured by their magnitude")
    for name, count in observer.unrecorded.most_common():
        if count:
            yield CoverageNote(name, "operation", f"called {count} times between modules, not recorded")
    for name, accumulator in parameters.items():
        if not accumulator.has_gradient:
            yield CoverageNote(name, "parameter", accumulator.why_no_gradient)
