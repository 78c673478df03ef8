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

from propscope.checks import count, fits_memory, known_arguments, one_of, seed_number, shown
from propscope.errors import InputError
from propscope.measure.filters import Filter, Patterns
from propscope.measure.module_info import refuse_lazy
from propscope.measure.outputs import as_batch
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
@known_arguments
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

    `x`: a tensor of shape `(rows, ...)`, or a tuple, list or dict of arguments. The derivative is by its first floating
    tensor, for the first `samples` rows. Sites are the pre-activations and the model's output, or all sites that
    `include` and `exclude` keep, as in `track`. For one sample, a site's Jacobian has shape
    `(elements of the site, elements of x)`, and as many singular values as its smaller side. Each site carries
    `jacobian` (their summary over all samples), `jacobian_condition` and `jacobian_square_variance`, and nothing else.

    `method`: "exact" computes the matrix and its SVD in float64. "iterative" only computes products with the matrix:
    `max`, the largest singular value over all samples, is good to 1e-4 (ARPACK). Moments and histogram are estimated
    from `probes` random vectors for each sample, drawn with `seed` (stochastic Lanczos quadrature, 30 steps; Ubaru,
    Chen, Saad 2017); the mean square has a relative standard error of about
    sqrt(2 (1 + jacobian_square_variance) / (probes * samples * values)), and the provenance states the one found. `min`
    is NaN and the condition number None. "auto" is exact up to 512 on the smaller side and 4 million elements; the
    provenance states the method of each site.

    The model computes in its own dtype; with `dtype` ("float64") a copy of it computes in that. Singular values below
    eps of the dtype times the largest are rounding errors and count as 0, and the condition number is then Inf. (Where
    all weights have the same sign, rounding errors can be 100 times larger.) A sample whose Jacobian is not finite
    counts as NaN, and is left out of condition and variance.

    Samples that depend on each other, as in batch norm while training, are detected. Each Jacobian is then of a
    sample's own outputs by its own input, with the rest of `x` held fixed; this takes one pass for each sample.

    Raises `InputError` for an x that the model rejects or that has no floating tensor, when no site is left, and for
    an invalid option.
    """
    started = time.perf_counter()
    _check(model, samples, method, probes)
    seed = seed_number(seed)
    wide = _dtype(dtype)
    if wide is not None:
        model = _copied(model, wide)
    inputs = Inputs.of(as_batch(model, x, name="x"), wide)
    samples = min(samples, len(inputs.tensor))
    prefixes = Prefixes(model, inputs, Filter.of(include, exclude, None, None))
    survey = survey_of(prefixes, samples, chosen=include is not None, seed=seed)
    sizes = {key: _size(site) for key, site in survey.sites.items()}
    methods = {key: _method(method, size, inputs.tensor[0].numel(), key) for key, size in sizes.items()}
    exact = {key: size for key, size in sizes.items() if methods[key] == "exact"}
    large = {key: size for key, size in sizes.items() if methods[key] == "iterative"}
    spectra: dict[str, Spectrum] = {}
    if large:
        side = max(inputs.tensor[0].numel(), *large.values())
        # The directions, and what each becomes on its way through the network and back.
        fits_memory(
            f"the iterative method with {probes} probes", 24.0 * probes * samples * side, hint="choose fewer probes"
        )
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
        raise InputError(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    count("samples", samples)
    count("probes", probes)
    one_of("method", method, METHODS)
    refuse_lazy(model)


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and (not isinstance(found, torch.dtype) or not found.is_floating_point):
        valid = "a floating type such as float64, or None for the model's own"
        raise InputError(f"dtype must be {valid}, got {shown(dtype)}")
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
            f"the Jacobian at {key or 'the output'} is too large for the exact method: {size}",
            hint='use method="iterative", a smaller input, or exclude the site',
        )
    if method == "auto":
        return "exact" if min(outputs, inputs) <= _EXACT_SIDE and outputs * inputs <= _EXACT_SIZE else "iterative"
    return method


def _by_products(large: Mapping[str, int], sites: Mapping[str, Site]) -> Iterator[CoverageNote]:
    if large:
        reason = (
            f"{len(large)} of {len(sites)} sites used the iterative method: the largest singular value is good to 1e-4,"
            " mean square and histogram are estimates from random vectors, minimum and condition are missing"
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
