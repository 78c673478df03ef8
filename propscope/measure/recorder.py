"""`Recorder`: hooks that watch a model run, and leave it as it was.

Forward hooks see every module's output; a hook on each output tensor, set inside them, sees its gradient (full
backward hooks would break on in-place activations); a hook on each parameter sees its gradient in each pass. A tensor
is summarized at once and forgotten.
"""

from __future__ import annotations

import re
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from propscope.errors import InputError
from propscope.measure.modules import FlatRegions, has_units, is_activation, role_of, unit_axis_of
from propscope.measure.outputs import tensors_in
from propscope.measure.parameters import ParameterAccumulator
from propscope.measure.provenance import provenance
from propscope.measure.sites import Options, SiteAccumulator, Stats
from propscope.results.network import Label, NetworkProfile, Role

_WRAPPERS = re.compile(r"(^|(?<=\.))(module|_orig_mod)(\.|$)")


def clean_name(name: str) -> str:
    """Return a module's dotted name without the parts that DataParallel and compiled wrappers add."""
    return _WRAPPERS.sub("", name).rstrip(".")


@dataclass(frozen=True, slots=True)
class _Seen:
    """A tensor that is a site already: a container returns its last child's output, and that is one site."""

    tensor: weakref.ref[Tensor]
    version: int
    site: SiteAccumulator


class Recorder:
    """Watches `model` between `with` and its end; `profile()` returns what was seen, then or later."""

    def __init__(
        self,
        model: nn.Module,
        *,
        options: Options | None = None,
        activations: Collection[nn.Module] = (),
        layer_of: Callable[[str], int | None] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
        self._model = model
        self._options = options or Options()
        if self._options.stats not in ("all", "moments"):
            raise InputError(f"stats is {self._options.stats!r}; valid are 'all' and 'moments'")
        self._activations = {id(module) for module in activations}
        self._layer_of = layer_of or (lambda name: None)
        self._handles: list[RemovableHandle] = []
        self._tensor_handles: list[RemovableHandle] = []
        self._prune_at = 4096
        self._sites: dict[str, SiteAccumulator] = {}
        self._parameters: list[ParameterAccumulator] = []
        self._calls: dict[str, int] = {}
        self._seen: dict[int, _Seen] = {}
        self._regions = FlatRegions()
        self._active = False
        self._batches = 0
        self._samples = 0
        self._started = 0.0
        self._seconds = 0.0

    def __enter__(self) -> Recorder:
        if self._active:
            raise InputError("this recorder is tracking already; leave its `with` block first")
        self._active = True
        self._started = time.perf_counter()
        self._handles.append(self._model.register_forward_pre_hook(self._begin, prepend=True))
        for path, module in self._model.named_modules():
            name = clean_name(path)
            if self._is_activation(module):
                self._handles.append(module.register_forward_pre_hook(partial(self._before_activation, name)))
            self._handles.append(module.register_forward_hook(partial(self._after, name)))
        known = {accumulator.name: accumulator for accumulator in self._parameters}
        for path, parameter in self._model.named_parameters():
            name = clean_name(path)
            if name not in known:
                known[name] = ParameterAccumulator(name, parameter, self._options)
                self._parameters.append(known[name])
            if parameter.requires_grad:
                self._handles.append(parameter.register_hook(partial(self._after_gradient, known[name])))
        return self

    def __exit__(self, *exception: object) -> None:
        self._active = False
        self._seconds += time.perf_counter() - self._started
        for handle in self._handles + self._tensor_handles:
            handle.remove()
        self._handles.clear()
        self._tensor_handles.clear()
        self._seen.clear()

    def profile(
        self, *, labels: dict[str, Label] | None = None, spec: str = "{}", seed: int | None = None
    ) -> NetworkProfile:
        """Return what was seen so far: sites in execution order, parameters with their present values.

        Waits for the device. A direction that was not seen is None at each site.
        """
        first = next(iter(self._model.parameters()), None)
        seconds = self._seconds + (time.perf_counter() - self._started if self._active else 0.0)
        parameters = [accumulator.record() for accumulator in self._parameters]
        return NetworkProfile(
            sites=tuple(self._record(key, site) for key, site in self._sites.items()),
            parameters=tuple(parameter for parameter in parameters if parameter is not None),
            labels=labels or {},
            provenance=provenance(
                spec=spec,
                seed=seed,
                device=str(first.device) if first is not None else "cpu",
                dtype=str(first.dtype).removeprefix("torch.") if first is not None else "",
                wall_seconds=seconds,
                samples=self._samples,
                batches=self._batches,
                histogram_limit=self._options.histogram_limit,
            ),
        )

    def _record(self, key: str, site: SiteAccumulator) -> Any:
        # Only now is it known whether a first call was the only one.
        name = f"{key}#0" if f"{key}#1" in self._sites else key
        return site.record(name=name, layer=self._layer_of(key))

    def _is_activation(self, module: nn.Module) -> bool:
        return id(module) in self._activations or is_activation(module)

    def _role_of(self, module: nn.Module | None) -> Role:
        if module is None:
            return "other"
        return "activation" if self._is_activation(module) else role_of(module)

    def _begin(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._batches += 1
        self._calls.clear()
        self._seen.clear()
        if len(self._tensor_handles) > self._prune_at:
            # A handle refers to its tensor's hooks weakly: a dead reference belongs to a graph that is gone.
            self._tensor_handles = [handle for handle in self._tensor_handles if handle.hooks_dict_ref() is not None]
            self._prune_at = 2 * len(self._tensor_handles) + 4096
        for _, tensor in tensors_in(inputs):
            self._samples += tensor.shape[0] if tensor.dim() else 1
            break

    def _after(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        call = self._calls.get(name, 0)
        self._calls[name] = call + 1
        path = f"{name}#{call}" if call else name
        source = self._site_of(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else None
        for suffix, tensor in tensors_in(output):
            site = self._site_of(tensor)
            if site is None:
                site = self._observe(path + suffix, module, tensor, source)
            if site is not None and module is self._model and site.role == "other":
                site.role = "output"

    def _before_activation(self, name: str, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs or not isinstance(inputs[0], Tensor):
            return
        value = inputs[0]
        site = self._site_of(value)
        if site is None:
            call = self._calls.get(name, 0)
            site = self._observe(f"{name}.input#{call}" if call else f"{name}.input", None, value, None)
        region = self._regions.of(module)
        if site is not None and region is not None:
            site.enter(value.detach(), type(module).__name__, region)

    def _observe(
        self, path: str, module: nn.Module | None, tensor: Tensor, source: SiteAccumulator | None
    ) -> SiteAccumulator | None:
        if not (tensor.is_floating_point() or tensor.is_complex()):
            return None
        site = self._sites.get(path)
        if site is None:
            inherited = source.unit_axis if source is not None and len(source.shape) == tensor.dim() else None
            site = self._sites[path] = SiteAccumulator(
                tensor,
                name=path,
                kind="input" if module is None else type(module).__name__,
                role=self._role_of(module),
                unit_axis=(1 if tensor.dim() > 3 else -1)
                if module is None
                else unit_axis_of(module, tensor, inherited),
                has_units=module is not None and has_units(module),
                options=self._options,
            )
        site.see_forward(tensor.detach())
        if tensor.requires_grad:
            self._tensor_handles.append(tensor.register_hook(partial(self._after_backward, site)))
        self._seen[id(tensor)] = _Seen(weakref.ref(tensor), _version(tensor), site)
        return site

    def _site_of(self, tensor: Tensor) -> SiteAccumulator | None:
        seen = self._seen.get(id(tensor))
        if seen is None or seen.tensor() is not tensor or seen.version != _version(tensor):
            return None
        return seen.site

    def _after_backward(self, site: SiteAccumulator, gradient: Tensor) -> None:
        if self._active:
            site.see_backward(gradient)

    def _after_gradient(self, parameter: ParameterAccumulator, gradient: Tensor) -> None:
        if self._active:
            parameter.see_gradient(gradient)


def _version(tensor: Tensor) -> int:
    # Tensors made in inference mode keep no version; they cannot be told from their in-place successors.
    return -1 if tensor.is_inference() else tensor._version


def track(model: nn.Module, *, stats: Stats = "all", histogram_limit: int | None = None) -> Recorder:
    """Return a context manager that watches `model` in the caller's own loop and changes nothing in it.

    `stats`: "all", or "moments" for moments and counts alone. `histogram_limit`: elements of one tensor that a
    histogram counts at most (default 8192, 0 for all). `recorder.profile()` inside or after the block returns a
    `NetworkProfile`; several batches and backward passes are merged in it.
    """
    limit = Options().histogram_limit if histogram_limit is None else histogram_limit
    return Recorder(model, options=Options(stats=stats, histogram_limit=limit))
