"""What is differentiated, and by what: the sites that qualify, their tensors, and the model's inputs."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _NormBase

from propscope.errors import InputError
from propscope.measure.filters import Filter
from propscope.measure.outputs import tensors_in
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options, SiteAccumulator
from propscope.measure.tensor_identity import version_of
from propscope.measure.undisturbed import undisturbed
from propscope.networks import MLP, Layer
from propscope.records.network import CoverageNote, NetworkProfile, Site

_MOMENTS = Options(stats="moments")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The arguments of a model; the sites are differentiated by the one at `key`, shape (rows, ...)."""

    positional: tuple[Any, ...]
    named: Mapping[str, Any]
    key: int | str

    @classmethod
    def of(cls, x: Any, dtype: torch.dtype | None) -> Inputs:
        """Return the inputs of what a user passed; floating tensors become `dtype`, None leaves them as they are.

        Raises `InputError` if it holds no tensor to differentiate by.
        """
        if not isinstance(x, (Tensor, tuple, list, Mapping)):
            raise InputError(f"x must be a tensor, or a tuple, list or dict of arguments, got a {type(x).__name__}")
        positional = (x,) if isinstance(x, Tensor) else () if isinstance(x, Mapping) else tuple(x)
        named = dict(x) if isinstance(x, Mapping) else {}
        tensors = [(key, value) for key, value in (*enumerate(positional), *named.items()) if isinstance(value, Tensor)]
        key = next((key for key, value in tensors if value.is_floating_point()), None)
        if key is None:
            kinds = ", ".join(str(value.dtype).removeprefix("torch.") for _, value in tensors) or "no tensor"
            raise InputError(
                f"x must hold a real floating tensor to differentiate by, got {kinds}",
                hint="integers have no Jacobian: pass embeddings to the part of the model that follows its embedding",
            )
        first = dict(tensors)[key]
        if first.dim() < 2 or not first.numel():
            raise InputError(
                f"x must have shape (samples, ...), with at least one sample and one feature, got {tuple(first.shape)}",
                hint="for a single sample pass x[None]" if first.dim() == 1 else "",
            )

        def own(value: Any) -> Any:
            # A copy, since the model may overwrite its input, and one that autograd takes, made in inference or not.
            if not isinstance(value, Tensor):
                return value
            return value.detach().to(dtype if dtype and value.is_floating_point() else value.dtype, copy=True)

        return cls(tuple(map(own, positional)), {name: own(value) for name, value in named.items()}, key)

    @property
    def tensor(self) -> Tensor:
        """The tensor by which the sites are differentiated."""
        found: Tensor = self.positional[self.key] if isinstance(self.key, int) else self.named[self.key]
        return found

    def samples(self, rows: slice) -> Inputs:
        """Return those rows of every tensor that has as many rows as `tensor`."""
        count = len(self.tensor)

        def some(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == count else value

        return Inputs(
            tuple(map(some, self.positional)), {name: some(value) for name, value in self.named.items()}, self.key
        )

    def call(self, model: nn.Module, tensor: Tensor) -> Any:
        """Return the model's output with `tensor` in the place of this one's."""
        # The model may overwrite its input, and a leaf may not be.
        tensor = tensor.clone()
        positional = [tensor if index == self.key else value for index, value in enumerate(self.positional)]
        return model(*positional, **{name: tensor if name == self.key else value for name, value in self.named.items()})


class _TappedSite(SiteAccumulator):
    """Hands the site's tensor to a tap, and takes no statistics."""

    __slots__ = ("_tap",)
    takes_gradients = False

    def __init__(self, tap: _Tap, tensor: Tensor, **what: Any) -> None:
        super().__init__(tensor, **what)
        self._tap = tap

    def see_forward(self, value: Tensor) -> None:
        self._tap.see(self.name, value)

    def record_same_shape(self, value: Tensor) -> bool:
        return False


class _Tap:
    """A recorder's sink that keeps the tensors at the sites `wanted` (None: at all), with their graph."""

    def __init__(self, wanted: Collection[str] | None) -> None:
        self.values: dict[str, Tensor] = {}
        self._wanted = wanted
        self._seen: dict[str, tuple[weakref.ref[Tensor], int]] = {}

    def __call__(self, tensor: Tensor, **what: Any) -> SiteAccumulator:
        return _TappedSite(self, tensor, **what)

    def see(self, key: str, tensor: Tensor) -> None:
        """Keep the tensor of a site."""
        if self._wanted is None or key in self._wanted:
            # An operation in place behind the site would change the tensor.
            self.values[key] = tensor.clone()
        self._seen[key] = (weakref.ref(tensor), version_of(tensor))

    @property
    def keys(self) -> tuple[str, ...]:
        """The sites in execution order."""
        return tuple(self._seen)

    def key_of(self, tensor: Tensor) -> str | None:
        """Return the key of the site that a tensor is; None for another tensor, or one changed in place since."""
        now = version_of(tensor)
        return next((key for key, (seen, version) in self._seen.items() if seen() is tensor and version == now), None)


def _tapped(model: nn.Module, tap: _Tap, kept: Filter) -> Recorder:
    own = model if isinstance(model, MLP) else None
    return Recorder(
        model,
        options=_MOMENTS,
        kept=kept,
        # A user's own class is a nonlinearity there because the spec says so.
        activations=[layer.activation for layer in own.layers if isinstance(layer, Layer)] if own else (),
        functions=own is None,
        layer_of=None if own is None else layer_of,
        inputs=False,
        parameters=False,
        sink=tap,
        transforms=True,
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One forward pass: the `values` at the sites by key, and the profile of the sites, whose keys are `keys`.

    `output`: the key of the site that is the model's output, None where no site is.
    """

    values: dict[str, Tensor]
    profile: NetworkProfile
    keys: tuple[str, ...]
    output: str | None


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The function from a model's input to the tensors at its sites; each run starts from the same state."""

    model: nn.Module
    inputs: Inputs
    kept: Filter

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Restore the model and the random generators at the end of the block."""
        # What torch's fused attention computes has no second derivative, and none forward.
        with undisturbed(self.model), _untracked(self.model), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            # Torch's own, on loading its forward derivatives.
            warnings.filterwarnings("ignore", message="`torch.jit", category=DeprecationWarning)
            yield

    def run(self, tensor: Tensor, wanted: Collection[str] | None = None) -> Run:
        """Run the model with `tensor` as its input, and keep the values at the sites `wanted` (None: all)."""
        tap = _Tap(wanted)
        with _tapped(self.model, tap, self.kept) as recorder:
            result = self.inputs.call(self.model, tensor)
        output = next((tap.key_of(value) for _, value in tensors_in(result)), None)
        return Run(tap.values, recorder.profile(), tap.keys, output)

    def at(self, tensor: Tensor, keys: Collection[str]) -> tuple[Tensor, ...]:
        """Return the values at the sites `keys`, each of shape (rows, ...), for that input."""
        tap = _Tap(keys)
        with _tapped(self.model, tap, self.kept):
            self.inputs.call(self.model, tensor)
        return tuple(tap.values[key] for key in keys)


@contextmanager
def _untracked(model: nn.Module) -> Iterator[None]:
    """Keep norms that train from updating their running statistics, which torch's transforms refuse."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def layer_of(name: str) -> int | None:
    """Return the layer, from 1, of a site of propscope's own MLP: 3 for `layers.2.linear`."""
    parts = name.split(".")
    return int(parts[1]) + 1 if parts[0] == "layers" and len(parts) > 1 else None


@dataclass(frozen=True, slots=True)
class Survey:
    """The `sites` to differentiate, by key, whether samples are `coupled`, and `notes` on what was left out."""

    sites: dict[str, Site]
    coupled: bool
    notes: tuple[CoverageNote, ...]


def survey_of(prefixes: Prefixes, samples: int, *, chosen: bool, seed: int) -> Survey:
    """Run the model once and return its sites that depend on the input, and whether samples are coupled.

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
            f"no site has a Jacobian ({reasons or 'no site is left by include and exclude'})",
            hint="`propscope.profile(model, x).sites` lists the names",
        )
    if not survey.coupled:
        return survey
    reason = "samples depend on each other: each Jacobian is by the sample's own input, the other samples held fixed"
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
        sites, coupled = {}, False
        for key, site in _wanted(run, chosen).items():
            reason, reaches = _reach(run.values[key], x, samples, seed)
            if reason:
                notes.append(CoverageNote(site.name, "output", reason))
            else:
                sites[key] = site
                coupled |= reaches
    return Survey(sites, coupled, tuple(notes))


def _wanted(run: Run, chosen: bool) -> dict[str, Site]:
    """Return the sites that were asked for, or else those of the signal and the output, in execution order."""
    by_key = dict(zip(run.keys, run.profile.sites, strict=True))
    if not chosen:
        signal = {site.name for site in run.profile.signal_sites}
        by_key = {key: site for key, site in by_key.items() if site.name in signal or key == run.output}
    return by_key


def _reach(value: Tensor, x: Tensor, samples: int, seed: int) -> tuple[str, bool]:
    """Return why a site has no Jacobian ("" when it has one), and whether its samples depend on other rows of x."""
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
