"""Which sites a Jacobian is taken at, and whether one sample's values depend on another's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from propscope.errors import InputError
from propscope.records.network import CoverageNote, Site
from propscope.spectra.sites import Prefixes, Run


@dataclass(frozen=True, slots=True)
class Survey:
    """The `sites` to differentiate, by key, whether samples are `coupled`, and `notes` on what was left out."""

    sites: dict[str, Site]
    coupled: bool
    notes: tuple[CoverageNote, ...]


def survey_of(prefixes: Prefixes, samples: int, *, chosen: bool, seed: int) -> Survey:
    """Run the model once to see what sites there are, which depend on the input, and whether samples are coupled.

    Raises `InputError` when the model rejects its input, and when no site is left.
    """
    # Two samples show whether they are coupled; a model that takes no part of its batch is treated as if they were.
    few = prefixes.inputs.samples(slice(0, max(samples, 2)))
    try:
        survey = _survey(replace(prefixes, inputs=few), samples, chosen=chosen, seed=seed)
    except Exception:
        survey = replace(_survey_whole(prefixes, samples, chosen=chosen, seed=seed), coupled=True)
    if not survey.sites:
        reasons = "; ".join(f"{note.name}: {note.reason}" for note in survey.notes if note.what == "output")
        raise InputError(
            f"no site is left to take a Jacobian of ({reasons or 'include and exclude keep none'})",
            hint="see the names of `propscope.profile(model, x).sites`",
        )
    if not survey.coupled:
        return survey
    reason = "samples of a batch depend on each other: a Jacobian is by the sample's own input, the rest held fixed"
    return replace(survey, notes=(*survey.notes, CoverageNote("", "model", reason)))


def _survey_whole(prefixes: Prefixes, samples: int, *, chosen: bool, seed: int) -> Survey:
    x = prefixes.inputs.tensor
    try:
        return _survey(prefixes, samples, chosen=chosen, seed=seed)
    except Exception as error:
        reason = " ".join(str(error).split()) or "no reason given"
        raise InputError(
            f"the model rejects x, of shape {tuple(x.shape)} and dtype {str(x.dtype).removeprefix('torch.')} "
            f"({type(error).__name__}: {reason})",
            hint="pass what its forward takes: a tensor (samples, ...), or a tuple or dict of arguments",
        ) from error


def _survey(prefixes: Prefixes, samples: int, *, chosen: bool, seed: int) -> Survey:
    x = prefixes.inputs.tensor.detach().requires_grad_()
    with prefixes.prepared():
        run = prefixes.run(x)
        notes = [note for note in run.profile.coverage if note.what in ("module", "model")]
        kept, coupled = {}, False
        for key, site in _wanted(run, chosen).items():
            reason, reaches = _reach(run.values[key], x, samples, seed)
            if reason:
                notes.append(CoverageNote(site.name, "output", reason))
            else:
                kept[key] = site
                coupled |= reaches
    return Survey(kept, coupled, tuple(notes))


def _wanted(run: Run, chosen: bool) -> dict[str, Site]:
    """Return the sites that were asked for, or else those of the signal and the output, in execution order."""
    by_key = dict(zip(run.keys, run.profile.sites, strict=True))
    if not chosen:
        signal = {site.name for site in run.profile.signal_sites}
        by_key = {key: site for key, site in by_key.items() if site.name in signal or key == run.output}
    return by_key


def _reach(value: Tensor, x: Tensor, samples: int, seed: int) -> tuple[str, bool]:
    """Return why a site has no Jacobian, "" when it has one, and whether its samples depend on other rows of x."""
    if value.dim() == 0 or len(value) != len(x):
        return f"its shape {tuple(value.shape)} has no row for each of the {len(x)} samples", False
    if value.is_complex():
        return "complex values have no real Jacobian", False
    if not value[0].numel():
        return "it is empty", False
    if not value.requires_grad:
        return "no gradient flows to it from the input", False
    generator, reaches = torch.Generator().manual_seed(seed), False
    for row in {0, samples - 1}:
        direction = torch.zeros_like(value)
        direction[row] = torch.randn(value.shape[1:], generator=generator).to(value)
        (gradient,) = torch.autograd.grad(value, x, direction, retain_graph=True, allow_unused=True)
        if gradient is None:
            return "it does not depend on the input", False
        reaches |= bool(gradient[:row].any() or gradient[row + 1 :].any())
    return "", reaches
