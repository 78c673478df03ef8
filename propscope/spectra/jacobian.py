"""`jacobian`: the singular values of a model's Jacobian, from its input to each of its sites."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from propscope.errors import InputError
from propscope.measure.filters import Filter, Patterns
from propscope.measure.provenance import provenance
from propscope.records.network import CoverageNote, NetworkProfile, Site
from propscope.spectra.exact import exact_spectra
from propscope.spectra.iterative import densities
from propscope.spectra.sites import Inputs, Prefixes, survey_of
from propscope.spectra.spectrum import Spectrum, of_density, of_values

Method = Literal["auto", "exact", "iterative"]
METHODS = ("auto", "exact", "iterative")

# The singular values of 512 x 512 take 25 ms a sample and site, of 1024 x 1024 0.3 s.
_EXACT_SIDE = 512
_EXACT_SIZE = 2**22
# One matrix of 2**27 elements takes 1 GB in float64.
_LARGEST_SIZE = 2**27


@torch.inference_mode(False)
@torch.enable_grad()
def jacobian(
    model: nn.Module,
    x: Any,
    *,
    samples: int = 8,
    method: Method = "auto",
    include: Patterns = None,
    exclude: Patterns = None,
    dtype: torch.dtype | str | None = None,
    probes: int = 4,
    seed: int = 0,
) -> NetworkProfile:
    """Return the singular values of the Jacobian d site / d input at each site, over samples; the model stays as it is.

    `x`: a tensor of shape `(rows, ...)`, or a tuple, list or dict of arguments, of which the first floating tensor is
    differentiated by; the first `samples` rows are. Sites are the pre-activations and the model's output, or all sites
    that `include` keeps, as in `track`. A site's Jacobian has shape `(elements of the site, elements of x)` a sample
    and min of the two singular values. Each site carries `jacobian` (their summary, all samples together),
    `jacobian_condition` and `jacobian_square_variance`; everything else about it is left unmeasured.

    `method`: "exact" writes the matrix down and takes its SVD in float64. "iterative" takes products with it: `max` is
    the largest over all samples to 1e-4 (ARPACK); the moments and the histogram rest on `probes` random vectors a
    sample, drawn with `seed` (stochastic Lanczos quadrature, 30 steps; Ubaru, Chen, Saad 2017), so that the mean square
    has a relative standard error of about sqrt(2 (1 + jacobian_square_variance) / (probes * samples * values)), which
    the provenance states as found; the smallest and the condition number cannot be had that way: NaN and None.
    "auto" is exact up to 512 on the smaller side and 4 million elements, and says in the provenance what it did.

    The matrix is of the dtype the model computes in; `dtype` ("float64") computes with a copy of the model instead.
    Singular values below eps of that dtype times the largest are rounding, and count as 0; the condition number is then
    Inf (where all weights have one sign, rounding reaches up to 100 times further). A sample whose Jacobian is not
    finite counts as so many NaN, and is left out of condition and variance.

    Samples that depend on each other (batch norm while training) are found out by a derivative: each Jacobian is then
    of a sample's own outputs by its own input, with the whole batch `x` held fixed around it, at a pass a sample.

    Raises `InputError` for an x that the model rejects or cannot be differentiated by, when no site is left, and for
    options that are not valid.
    """
    started = time.perf_counter()
    _check(model, samples, method, probes)
    wide = _dtype(dtype)
    if wide is not None:
        model = _copied(model, wide)
    inputs = Inputs.of(x, wide)
    samples = min(samples, len(inputs.tensor))
    prefixes = Prefixes(model, inputs, Filter.of(include, exclude, None, None))
    survey = survey_of(prefixes, samples, chosen=include is not None, seed=seed)
    sizes = {key: _size(site) for key, site in survey.sites.items()}
    methods = {key: _method(method, size, inputs.tensor[0].numel(), key) for key, size in sizes.items()}
    exact = {key: size for key, size in sizes.items() if methods[key] == "exact"}
    large = {key: size for key, size in sizes.items() if methods[key] == "iterative"}
    spectra: dict[str, Spectrum] = {}
    options: dict[str, Any] = {"samples": samples, "coupled": survey.coupled}
    eps = {key: _eps(model, inputs.tensor, site) for key, site in survey.sites.items()}
    if exact:
        for key, values in exact_spectra(prefixes, inputs, exact, **options).items():
            spectra[key] = of_values(values, eps=eps[key])
    if large:
        for key, density in densities(prefixes, inputs, large, **options, probes=probes, seed=seed).items():
            spectra[key] = of_density(density, eps=eps[key])
    sites = survey.sites
    return NetworkProfile(
        sites=tuple(_with(site, spectra[key], samples) for key, site in sites.items()),
        provenance=provenance(
            spec=_spec({site.name: (methods[key], spectra[key]) for key, site in sites.items()}, options, probes),
            seed=seed,
            device=str(inputs.tensor.device),
            dtype=str(inputs.tensor.dtype).removeprefix("torch."),
            wall_seconds=time.perf_counter() - started,
            samples=samples,
            batches=1,
            histogram_limit=0,
        ),
        coverage=(
            *survey.notes,
            *_by_products(large, sites),
            *(CoverageNote(site.name, "output", note) for key, site in sites.items() for note in spectra[key].notes),
        ),
    )


def _check(model: object, samples: object, method: object, probes: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    for name, value in (("samples", samples), ("probes", probes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is {value!r}; valid is a whole number of at least 1")
    if method not in METHODS:
        raise InputError(f"method is {method!r}; valid is one of {', '.join(METHODS)}")
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise InputError(
            "the model has parameters of lazy modules, which get their shape in the first forward pass",
            hint="run the model once on a batch first",
        )


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and (not isinstance(found, torch.dtype) or not found.is_floating_point):
        raise InputError(f"dtype is {dtype!r}; valid is a floating type such as float64, or None for the model's own")
    return found


def _copied(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    try:
        return copy.deepcopy(model).to(dtype)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the model cannot be copied to compute in {str(dtype).removeprefix('torch.')} ({reason})",
            hint="leave dtype out, or convert the model yourself",
        ) from error


def _method(method: Method, outputs: int, inputs: int, key: str) -> Literal["exact", "iterative"]:
    if method == "exact" and outputs * inputs > _LARGEST_SIZE:
        size = f"{outputs} x {inputs}, {outputs * inputs * 8 / 1e9:.1f} GB a sample"
        raise InputError(
            f"the Jacobian at {key or 'the output'} is {size}",
            hint="use method='iterative', a smaller input, or exclude the site",
        )
    if method == "auto":
        return "exact" if min(outputs, inputs) <= _EXACT_SIDE and outputs * inputs <= _EXACT_SIZE else "iterative"
    return method


def _by_products(large: Mapping[str, int], sites: Mapping[str, Site]) -> Iterator[CoverageNote]:
    if large:
        reason = (
            f"the Jacobian at {len(large)} of {len(sites)} sites is known by products alone: its largest singular value"
            " to 1e-4, all else by an estimate from random vectors, the smallest and the condition number not at all"
        )
        yield CoverageNote("", "model", reason)


def _size(site: Site) -> int:
    return torch.Size(site.shape[1:]).numel()


def _eps(model: nn.Module, x: Tensor, site: Site) -> float:
    dtypes = {x.dtype, getattr(torch, site.dtype), *(p.dtype for p in model.parameters() if p.is_floating_point())}
    return max(torch.finfo(dtype).eps for dtype in dtypes)


def _with(site: Site, spectrum: Spectrum, samples: int) -> Site:
    return replace(
        site,
        samples=samples,
        jacobian=spectrum.summary,
        jacobian_condition=spectrum.condition,
        jacobian_square_variance=spectrum.square_variance,
    )


def _spec(sites: Mapping[str, tuple[str, Spectrum]], options: dict[str, Any], probes: int) -> str:
    described: dict[str, dict[str, Any]] = {}
    for name, (method, spectrum) in sites.items():
        described[name] = {"method": method}
        if method == "iterative":
            described[name] |= {"probes": probes, "mean_square_relative_error": spectrum.mean_square_error}
    return json.dumps({"jacobian": {**options, "sites": described}})
