"""What a recording did not see, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from propscope.measure.module_info import ModuleInfo
from propscope.measure.observer import Observer
from propscope.measure.parameters import ParameterAccumulator
from propscope.records.network import CoverageNote

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# These compute nothing of their own.
SILENT = (nn.Sequential, nn.Identity, *_CONTAINERS)


def coverage_of(
    observer: Observer, places: Mapping[str, ModuleInfo], parameters: Mapping[str, ParameterAccumulator]
) -> Iterator[CoverageNote]:
    """Yield a note for each module that never ran, each output, operation and parameter that was not recorded."""
    for path, place in places.items():
        if isinstance(place.module, torch.jit.ScriptModule):
            yield CoverageNote(path, "module", "TorchScript calls no hooks: nothing in here was seen")
        elif path not in observer.called and not isinstance(place.module, _CONTAINERS):
            yield CoverageNote(path, "module", f"{type(place.module).__name__} was never called")
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
