"""`Recorder`: watches a model run, and leaves it as it was.

The calls of its modules come by `calls`, the functional operations between them by a torch function mode that is active
while the model runs; a hook on each output tensor, set there, sees its gradient (full backward hooks would break on
in-place activations); a hook on each parameter sees its gradient in each pass. A tensor is summarized at once and
forgotten.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from propscope.checks import one_of
from propscope.errors import InputError
from propscope.measure import calls, checkpoints
from propscope.measure.coverage_notes import coverage_notes
from propscope.measure.digest import InputDigest
from propscope.measure.filters import Filter
from propscope.measure.function_mode import FunctionWatch
from propscope.measure.geometry import geometries
from propscope.measure.gradient_flow import ParameterFlow, Seen, gradient_flow
from propscope.measure.hooks import in_backward
from propscope.measure.loss_fault import LossFault, LossWatch
from propscope.measure.loss_scale import unscaling
from propscope.measure.merging import Merged, merged
from propscope.measure.module_info import CONTAINERS, ModuleInfo, is_leaf, module_info
from propscope.measure.observer import ELSEWHERE, Observer, Sink
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.pass_ends import PassEnds
from propscope.measure.provenance import provenance
from propscope.measure.rank_places import numbers_of_one
from propscope.measure.ranks import Origin, Share
from propscope.measure.recurrent import TimeWatch, is_recurrent, time_courses
from propscope.measure.reduced_gradients import ReducedGradients
from propscope.measure.shards import (
    Sharding,
    flat_shardings,
    is_fully_sharded,
    reduced_in_place,
    said_of_parameters,
    sharding_of,
    with_inherited,
)
from propscope.measure.signal_graph import Call, Traced
from propscope.measure.sites import Options, SiteAccumulator
from propscope.measure.skipped import skipped_at_random
from propscope.measure.token_share import with_token_shares
from propscope.measure.wrappers import (
    COMPILED,
    class_of,
    is_compiled,
    is_redirected,
    parameter_names,
    parameters_at,
    place_inside,
    require_module,
    shared_modules,
    unwrapped,
    unwrapped_modules,
    without_shortcuts,
)
from propscope.records.network import CoverageNote, Label, NetworkProfile, Parameter, Site
from propscope.records.summary import TensorSummary
from propscope.records.time_course import TimeCourse

# These compute nothing of their own.
_SILENT = (nn.Sequential, nn.Identity, *CONTAINERS)


class _Watch:
    """What is called while a recorder watches: it knows nothing of the recorder, which may be dropped meanwhile."""

    def __init__(
        self,
        model: nn.Module,
        *,
        observer: Observer,
        modules: dict[str, ModuleInfo],
        options: Options,
        kept: Filter,
        functions: bool,
        parameters: bool,
        activations: Collection[int],
        time: bool,
        unscale: Callable[[Tensor], Tensor] | None,
    ) -> None:
        self.observer = observer
        self._unscale = unscale
        self.over_time = TimeWatch(observer, options) if time else None
        self.modules = modules
        self.parameters: dict[str, ParameterAccumulator] = {}
        self.notes: tuple[CoverageNote, ...] = ()
        self.seconds = 0.0
        self.model = model
        self._model = unwrapped(model)
        self._options = options
        self._kept = kept
        self._functions = functions
        self._takes_parameters = parameters
        self._activations = activations
        self._mode: FunctionWatch | None = None
        self._shared: frozenset[int] = frozenset()
        self._places: dict[tuple[str, int], ModuleInfo] = {}
        # Active in a pass whose graph is taken.
        self._tracing: FunctionWatch | None = None
        self._waiting: list[tuple[str, nn.Parameter]] = []
        self._reduced: set[int] = set()
        self._flat: dict[int, Sharding] = {}
        # The modules that hold distributed parameters.
        self._distributed: set[int] = set()
        self._stopped: tuple[int, ModuleInfo | None] = (0, None)
        self._stack = ExitStack()
        self._started = 0.0

    def open(self) -> None:
        """Begin to watch."""
        observer = self.observer
        observer.active = True
        observer.thread = threading.get_ident()
        self._started = time.perf_counter()
        try:
            self.notes = self._stack.enter_context(without_shortcuts(self.model))
            places = unwrapped_modules(self._model)
            for path, module in places:
                info = module_info(path, module, self._activations)
                self.modules[info.path] = info
            # Where every operation is some module's own, as in nn.Sequential of layers, there is none to watch for.
            watch = self._functions and not all(
                info.opaque or class_of(info.module) in _SILENT for info in self.modules.values()
            )
            self._mode = FunctionWatch(observer) if watch else None
            covered = all(class_of(info.module) in _SILENT or info.atomic for info in self.modules.values())
            self._tracing = FunctionWatch(observer) if self._functions and not covered else None
            for name, parameter in parameters_at(places) if self._takes_parameters else ():
                if self._kept.keeps_parameter(name):
                    self._waiting.append((name, parameter))
            if self._waiting and is_fully_sharded(self.model):
                self._reduced, self._flat = reduced_in_place(self.model), flat_shardings(self.model)
            gradients: ReducedGradients | PassEnds | None = None
            if self._waiting and self._options.places is not None:
                gradients = PassEnds(observer.guard, self.see_accumulated, began=self._begin_pass)
            elif self._reduced:
                gradients = ReducedGradients(observer.guard, self.parameters, observer.see_parameter)
            if gradients is not None:
                self._stack.callback(gradients.unwatch)
                gradients.watch(self.model)
            self._hook_parameters()
            self._distributed = {
                id(info.module)
                for info in self.modules.values()
                if any(p is not None and sharding_of(p) for p in info.module._parameters.values())
            }
            self._shared = shared_modules(info.module for info in self.modules.values())
            # What is compiled by TorchScript runs no Python inside.
            watched = [info for info in self.modules.values() if not isinstance(info.module, torch.jit.ScriptModule)]
            if self.over_time is not None:
                self._stack.callback(calls.unwatch, self.over_time)
                calls.watch(self.over_time, [info for info in watched if is_recurrent(info.module)])
            self._stack.callback(calls.unwatch, self)
            calls.watch(self, watched)
            self._stack.callback(checkpoints.unwatch, self)
            checkpoints.watch(self)
        except BaseException:
            self.close()
            raise

    def close(self, error: BaseException | None = None, *, dropped: bool = False) -> None:
        """Stop to watch; in any thread, and in any order with other watches.

        `dropped`: whether nobody is left to ask for a profile.
        """
        observer = self.observer
        if not observer.active:
            return
        if not any(note.reason == COMPILED for note in self.notes) and is_compiled(self.model):
            self.notes += (CoverageNote("", "model", COMPILED),)
        self._stack.close()
        observer.close()
        self.seconds += time.perf_counter() - self._started
        if self.over_time is not None:
            if error is None and not dropped:
                observer.guard("", "module", "states over time", self.over_time.finish)
            self.over_time.forget()
        if error is not None and self._stopped[0] == id(error) and (info := self._stopped[1]) is not None:
            first = next(iter(str(error).strip().splitlines()), "")
            reason = f"the run stopped in here: {type(error).__name__}: {first}"
            self.notes += (CoverageNote(info.path, "module", reason),)
            # Python 3.10 has no notes.
            if hasattr(error, "add_note"):
                where = info.path or "its own forward"
                error.add_note(f"propscope: the model stopped in {where} ({class_of(info.module).__name__})")
        self._stopped = (0, None)
        self._waiting.clear()
        observer.stack.clear()

    @property
    def elapsed(self) -> float:
        """Seconds that it watched until now."""
        return self.seconds + (time.perf_counter() - self._started if self.observer.active else 0.0)

    def said_of_parameters(self, *, alone: bool) -> list[str]:
        """Return what is seen of the parameters of a parallel model; `alone`: by this rank alone."""
        return self.observer.guard("", "module", "its ranks", list, said_of_parameters(self.model, alone=alone)) or []

    def _hook_parameters(self) -> None:
        """Watch the parameters that have a shape by now; those of lazy modules get one in their first forward."""
        waiting = self._waiting
        self._waiting = [(name, parameter) for name, parameter in waiting if is_lazy(parameter)]
        for name, parameter in waiting:
            if is_lazy(parameter):
                continue
            if name not in self.parameters:
                self.parameters[name] = ParameterAccumulator(
                    name,
                    parameter,
                    self._options,
                    reduced=id(parameter) in self._reduced,
                    flat=self._flat.get(id(parameter)),
                )
            hooked = self._options.places is None and id(parameter) not in self._reduced
            if parameter.requires_grad and hooked:
                hook = self.observer.parameter_hook(self.parameters[name])
                self._stack.callback(parameter.register_hook(hook).remove)

    def _begin_pass(self) -> None:
        for accumulator in self.parameters.values():
            accumulator.begin_pass()

    def see_accumulated(self) -> None:
        """See what a pass left: the gradients of the parameters, reduced over the ranks, and what is not finite."""
        for site in list(self.observer.sites.values()):
            site.end_pass()
        for accumulator in self.parameters.values():
            accumulator.see_accumulated(self._unscale)

    def call(
        self, info: ModuleInfo, run: calls.Run, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a module, and record what enters and what leaves it; what it raises passes through."""
        observer = self.observer
        # What it runs calls the model itself.
        if module is self._model and is_redirected(module):
            return run(module, *args, **kwargs)
        # A checkpoint of another device runs its part again in a thread of torch's own.
        if threading.get_ident() != observer.thread and not in_backward():
            observer.guard.add("", "model", ELSEWHERE)
            return run(module, *args, **kwargs)
        if what := observer.hidden_by():
            observer.guard.add("", "model", f"calls inside {what} hold no values: not recorded", key=what)
            return run(module, *args, **kwargs)
        hooked: list[Any] = []
        made: list[Any] = []
        call: Call | None = None
        if self._shared and id(module) in self._shared:
            info = observer.guard(info.path, "module", "its place", self._as_called, info) or info
        if module._backward_hooks or module._backward_pre_hooks:
            run = partial(_run_kept, run, hooked, False)
        if self._distributed and id(module) in self._distributed and not torch.is_grad_enabled():
            run = partial(_run_kept, run, made, True)
        stack, guard, graph = observer.stack, observer.guard, observer.graph
        try:
            if self._mode is None and not graph.taking and (stack or not graph.wanted):
                if is_leaf(module):
                    # Nothing in between could tell: what enters and what leaves it is recorded at once.
                    output = run(module, *args, **kwargs)
                    seen = (info, args, kwargs, *(hooked or [output]), made)
                    guard(info.path, "module", "a call", self._through_leaf, *seen)
                    return output
                guard(info.path, "module", "a call", self._enter, info, args, kwargs)
                stack.append(info)
                output = run(module, *args, **kwargs)
            else:
                outermost = not stack
                guard(info.path, "module", "a call", self._enter, info, args, kwargs)
                if graph.taking:
                    call = guard(info.path, "module", "a call", graph.enter, info, args, kwargs)
                stack.append(info)
                mode = self._tracing if graph.taking else self._mode
                if outermost and mode is not None:
                    with mode:
                        output = run(module, *args, **kwargs)
                elif mode is not None and info.opaque and info.atomic:
                    output = mode.run_apart(run, module, *args, **kwargs)
                else:
                    output = run(module, *args, **kwargs)
        except BaseException as error:
            # By identity alone: an exception holds its frames, and those the model's tensors.
            if id(error) != self._stopped[0]:
                self._stopped = (id(error), info)
            while stack and stack.pop() is not info:
                pass
            raise
        while stack and stack.pop() is not info:
            pass
        if call is not None:
            guard(info.path, "module", "a call", graph.leave, info, call, *(hooked or [output]))
        guard(info.path, "module", "a call", self._leave, info, args, kwargs, *(hooked or [output]), made)
        return output

    def checkpointed(self, part: checkpoints.Part) -> checkpoints.Part:
        """Return a part of a checkpoint of the model so that it is recorded when it runs again, any other as it is."""
        observer = self.observer
        if threading.get_ident() != observer.thread or not observer.stack or observer.hidden_by():
            return part
        return observer.guard("", "module", "a checkpoint", observer.part_of_checkpoint, self._mode, part) or part

    def _as_called(self, info: ModuleInfo) -> ModuleInfo:
        """Return a shared module's info at the place where the running module holds it, if it does."""
        observer = self.observer
        if not observer.stack:
            return info
        caller = observer.stack[-1]
        key = caller.path, id(info.module)
        if (found := self._places.get(key)) is None:
            place = place_inside(caller.module, info.module)
            path = info.path if place is None else f"{caller.path}.{place}" if caller.path else place
            found = self._places[key] = info if path == info.path else replace(info, path=path)
        observer.running.add(info.path)
        return found

    def _through_leaf(
        self, info: ModuleInfo, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any, made: Sequence[Any]
    ) -> None:
        self._enter(info, args, kwargs)
        self._leave(info, args, kwargs, output, made)

    def _enter(self, info: ModuleInfo, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        observer = self.observer
        # Whatever is called from outside, the model or a part of it, starts a pass of its own.
        if not observer.stack and not in_backward():
            observer.begin(info, args, kwargs)
        inputs = args or tuple(kwargs.values())
        observer.running.add(info.path)
        if info.role == "activation" and inputs:
            region = observer.regions.of_module(info.module)
            observer.activation_input(info.path, inputs[0], class_of(info.module).__name__, region)
        if self._mode is not None:
            observer.note_input(inputs)

    def _leave(
        self, info: ModuleInfo, inputs: tuple[Any, ...], options: dict[str, Any], output: Any, made: Sequence[Any]
    ) -> None:
        if self._waiting:
            self._hook_parameters()
        if not self.observer.output_alike(info, output):
            self.observer.module_output(info, inputs, options, output, made)


def _run_kept(run: calls.Run, outputs: list[Any], first: bool, module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """Run a module, and keep its output as its hooks leave it, or, `first`, as it is before they see it.

    Where it has backward hooks of the user's, torch wraps the output for them afterwards. The gradient of what is kept
    is then what the hooks make of it, which is what goes on through the module.
    """

    def keep(module: nn.Module, inputs: Any, output: Any) -> None:
        outputs[:] = [output]

    handle = module.register_forward_hook(keep, prepend=first)
    try:
        return run(module, *args, **kwargs)
    finally:
        handle.remove()


class Recorder:
    """Watches `model` between `with` and its end; `profile()` returns what was seen, then or later.

    Recorded is what the thread that enters the block runs; it may be left in any thread, and in any order with other
    recorders. A recorder that is dropped inside its block leaves it.

    `sink` makes the accumulator of each site, which then receives the site's tensors: it is called with the first of
    them and the keywords of `SiteAccumulator`. `inputs`, `parameters`: whether these are recorded too.
    `transforms`: whether runs inside the transforms of torch.func are recorded, for a sink that reads no values.
    `time`: whether fused recurrent modules are run once more, unrolled, when the block ends or a profile is asked for.
    `traced`: what a recorder found of a network of the same structure, whose modules call each other in the same way;
    the passes of this one are not traced then. `digests`: whether the first batch and the weights that it met are
    hashed; where ranks put their records together they are not, since each has a batch of its own.
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
        inputs: bool = True,
        transforms: bool = False,
        activations: Collection[nn.Module] = (),
        loss_scale: Any = None,
        layer_of: Callable[[str], int | None] | None = None,
        time: bool = False,
        traced: Traced | None = None,
        digests: bool = True,
    ) -> None:
        require_module(model)
        self._model = unwrapped(model)
        self._options = options or Options()
        self._loss_fault = LossFault()
        one_of("stats", self._options.stats, ("all", "moments"))
        kept = kept or Filter()
        self._layer_of = layer_of or (lambda name: None)
        modules: dict[str, ModuleInfo] = {}
        places = self._options.places
        hashed = digests and places is None and sink is SiteAccumulator
        self._digest = InputDigest(self._model) if hashed else None
        self._observer = Observer(
            options=self._options,
            kept=kept,
            root=self._model,
            paths=modules,
            unscale=unscaling(loss_scale, shares=1 if places is None else places.losses),
            sink=sink,
            inputs=inputs,
            functions=functions,
            transforms=transforms,
            digest=self._digest,
        )
        if traced is not None:
            self._observer.graph.adopt(traced)
        self._watch = _Watch(
            model,
            observer=self._observer,
            modules=modules,
            options=self._options,
            kept=kept,
            functions=functions,
            parameters=parameters,
            activations={id(module) for module in activations},
            time=time,
            unscale=unscaling(loss_scale),
        )
        self._dropped: weakref.finalize[..., Recorder] | None = None
        # What was put together beside the record, and where values that are not finite came up first, by site.
        self.beside: Mapping[str, Any] = {}
        self.origins: Mapping[str, Origin] = {}

    def __enter__(self) -> Recorder:
        if self._observer.active:
            raise InputError("the recorder is already tracking", hint="leave its `with` block first")
        self._watch.open()
        self._dropped = weakref.finalize(self, self._watch.close, dropped=True)
        self._dropped.atexit = False
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._watch.close(error)
        if self._dropped is not None:
            self._dropped.detach()

    @property
    def traced(self) -> Traced:
        """What was found of the graph of the network, for recorders of others of the same structure."""
        return self._observer.graph.traced

    def end_batch(self) -> None:
        """Count the geometry of what ran since the last call as one batch; waits for the device.

        The profile then holds means of cosine and rank over these batches, instead of those of the last batch.
        """
        ended = [site for site in self._observer.sites.values() if site.end_batch()]
        for site, geometry in zip(ended, geometries([site.products for site in ended]), strict=True):
            site.keep_geometry(geometry)
        self._observer.graph.renew()

    def note_output(self, name: str, reason: str) -> None:
        """Add to the coverage what is not seen of a part of the model's output."""
        self._observer.guard.add(name, "output", reason, key=reason)

    def watch_loss(self) -> LossWatch:
        """Return what watches a loss while it is computed from the model's output."""
        return LossWatch(self._observer.guard)

    def note_loss(self, fault: LossFault) -> None:
        """Add what is not finite in a loss; of several batches the first counts."""
        if not self._loss_fault.fault:
            self._loss_fault = fault

    def note_skipped(self, run: Callable[[], object]) -> None:
        """Add to the coverage which of the modules that did not run do so in other runs, with other random numbers."""
        waiting = {
            n.rpartition(".")[0] for n, p in self._watch.parameters.items() if not (p.is_frozen or p.has_gradient)
        }
        idle = {
            path: info.module
            for path, info in self._watch.modules.items()
            if path in waiting and not self._observer.passes_of(path)[0]
        }
        if idle:
            self._observer.skipped |= skipped_at_random(run, self._model, idle)

    def shardings(self) -> dict[str, Sharding | None]:
        """Return how each site of a parallel model lies on the ranks, in execution order by the observer's keys.

        None: as plain tensors do, the same on the ranks of `shards.model_groups`, and different samples on those of
        `shards.data_groups`. What local operations made of a local part is split as that is; the dimension is not known
        then.
        """
        observer = self._observer
        observer.guard("", "module", "the graph", observer.graph.finish)
        own = {key: observer.sites[key].sharding for key in self._order()}
        return with_inherited(own, {key: observer.graph.sources_of(key) for key in own}) if any(own.values()) else own

    def _order(self) -> list[str]:
        observer = self._observer
        return observer.graph.order(sorted(observer.sites, key=lambda key: observer.sites[key].role != "input"))

    def profile(
        self,
        *,
        labels: dict[str, Label] | None = None,
        spec: str = "{}",
        seed: int | None = None,
        moment: int = 0,
        beside: Callable[[], Mapping[str, Share]] = dict,
    ) -> NetworkProfile:
        """Return what was seen so far: sites in execution order, parameters with their present values.

        Waits for the device. A direction that was not seen is None at each site. Where ranks put their records
        together, all of them ask for the profile at the same time, and get what all of them saw. `moment`: the number
        of the step. `beside`: what else they put together in the same reductions, which `beside` then holds.
        """
        first = next((p for p in self._model.parameters() if not is_lazy(p)), None)
        observer = self._observer
        watch = self._watch
        # What is computed on a device comes before the first value is read back from it.
        if watch.over_time is not None:
            observer.guard("", "module", "states over time", watch.over_time.finish)
        for name, accumulator in watch.parameters.items():
            observer.guard(name, "parameter", "its value", accumulator.see_value)
        parameters = {
            name: (accumulator, recorded)
            for name, accumulator in watch.parameters.items()
            if (recorded := observer.guard(name, "parameter", "its value", accumulator.record)) is not None
        }
        shardings = self.shardings()
        order = list(shardings)
        places = {key: place for place, key in enumerate(order)}
        names = observer.names()
        recorded = {key: observer.sites[key] for key in order}
        whole = self._merged(recorded, parameters, shardings, moment, beside())
        self.beside, self.origins = whole.beside, {names[key]: one for key, one in whole.origins.items()}
        alone = self._options.places is None
        if not alone:
            shardings = {key: one for key, one in shardings.items() if key not in whole.sites}
        measured = {key: whole.sites.get(key) or site.measured() for key, site in recorded.items()}
        shapes = geometries([None if recorded[key].keeps_geometry else measured[key]["products"] for key in order])
        sites = {
            key: recorded[key].record(
                name=names[key],
                layer=self._layer_of(key),
                measured=measured[key],
                geometry=shape,
                parents=observer.graph.parents_of(key, places, names.__getitem__),
                parameters=observer.graph.parameters_of(key),
            )
            for key, shape in zip(order, shapes, strict=True)
        }
        sites = with_token_shares(sites)
        flow = observer.guard("", "module", "where gradients go", self._gradient_flow, sites, whole.parameters) or {}
        over_time = time_courses(watch.over_time, watch.modules, observer, sites)
        courses = observer.guard("", "module", "states over time", list, over_time) or []
        # Another rank may have seen a gradient that this one has not, and what has no values is not in the record.
        seen = {parameter.name for parameter in whole.parameters if parameter.gradient is not None}
        seen.update(name for name, parameter in watch.parameters.items() if parameter.has_gradient)
        reason = numbers_of_one(watch.model) if alone else ""
        return NetworkProfile(
            sites=tuple(sites.values()),
            parameters=tuple(
                replace(parameter, **flow[parameter.name]._asdict()) if parameter.name in flow else parameter
                for parameter in whole.parameters
            ),
            labels=labels or {},
            provenance=provenance(
                spec=spec,
                seed=seed,
                device=str(first.device) if first is not None else "cpu",
                dtype=str(first.dtype).removeprefix("torch.") if first is not None else "",
                wall_seconds=watch.elapsed,
                samples=whole.samples,
                batches=whole.batches,
                histogram_limit=self._options.histogram_limit,
            ),
            coverage=(
                *watch.notes,
                *([CoverageNote("", "model", reason)] if reason else []),
                *(CoverageNote("", "parameter", said) for said in watch.said_of_parameters(alone=alone)),
                *coverage_notes(observer, watch.modules, watch.parameters, sites, shardings, seen, parts=alone),
                *(note for note in courses if isinstance(note, CoverageNote)),
                *whole.notes,
            ),
            time_courses=tuple(course for course in courses if isinstance(course, TimeCourse)),
            loss_fault=self._loss_fault.fault,
            loss_operation=self._loss_fault.operation,
            batch_digest="" if self._digest is None else self._digest.batch,
            weights_digest="" if self._digest is None else self._digest.weights,
        )

    def _merged(
        self,
        sites: Mapping[str, SiteAccumulator],
        parameters: Mapping[str, tuple[ParameterAccumulator, Parameter]],
        shardings: Mapping[str, Sharding | None],
        moment: int,
        beside: Mapping[str, Share],
    ) -> Merged:
        """Return what all ranks saw; of one process alone, its parameters and the counts of its passes."""
        observer, places = self._observer, self._options.places
        if places is None:
            return Merged({}, tuple(own for _, own in parameters.values()), observer.samples, observer.batches)
        every = self._options.stats == "all"
        return merged(
            sites,
            parameters,
            shardings,
            places,
            samples=observer.samples,
            batches=observer.batches,
            bins=lambda site: every,
            given=self._given(sites),
            moment=moment,
            beside=beside,
        )

    def _given(self, sites: Mapping[str, SiteAccumulator]) -> frozenset[str]:
        """Return the keys of the sites, which are in execution order, that are inputs or were computed from one."""
        found: set[str] = set()
        for key, site in sites.items():
            if site.role == "input" or not found.isdisjoint(self._observer.graph.sources_of(key)):
                found.add(key)
        return frozenset(found)

    def _gradient_flow(self, sites: Mapping[str, Site], parameters: Collection[Parameter]) -> dict[str, ParameterFlow]:
        graph = self._observer.graph
        own = {parameter.name: parameter for parameter in parameters}

        # Only asked for where some parameter got no gradient.
        @cache
        def recorded_names() -> dict[str, str | None]:
            return {
                name: next((one for one in all_names if one in own), None)
                for all_names in parameter_names(self._model).values()
                for name in all_names
            }

        nodes = {node: sites[key] for node, key in graph.sites.items() if key in sites}
        pass_record = Seen(
            values={node: _is_other_than_zero(s) for node, site in nodes.items() if (s := site.forward) is not None},
            gradients={
                node: _is_other_than_zero(s) for node, site in nodes.items() if (s := site.backward) is not None
            },
            parameter_values={name: _is_other_than_zero(one.value) for name, one in own.items()},
            parameter_gradients={name: _is_other_than_zero(one.gradient) for name, one in own.items()},
            frozen=frozenset(name for name, one in self._watch.parameters.items() if one.is_frozen),
            sites={node: site.name for node, site in nodes.items()},
        )
        return gradient_flow(graph.nodes, pass_record, lambda name: recorded_names().get(name))


def _is_other_than_zero(summary: TensorSummary | None) -> bool:
    """Return whether a tensor has an element other than zero; NaN and Inf are."""
    return summary is not None and (summary.nonfinite_count > 0 or summary.rms > 0)
