"""Faults that are planted into models of others: where each can be planted, and what a right diagnosis says of it.

Nothing is known of a model but its modules and what its profile shows, so that a fault of each kind has a place in most
architectures. Where a fault changes nothing is told by what it does, not by its place: see `has_effect`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import propscope
from propscope.records import Diagnosis, Finding, NetworkProfile, Site
from propscope.records.gains import is_norm

Batch = Any
Places = Callable[[nn.Module, NetworkProfile], Iterator[str]]
Plant = Callable[[nn.Module, Batch, NetworkProfile, str], Batch]
Right = Callable[[NetworkProfile, str], set[str]]

RECTIFIERS = ("relu", "relu6", "gelu", "geluactivation", "newgeluactivation", "silu", "hardswish")
# A fault has an effect if it changes a gradient, in units of the parameter, by this factor.
EFFECT = 1.5
# The layers that give queries and keys, as libraries name them; what stands before the last part holds both.
QUERIES = {
    "q_proj": "k_proj", "query": "key", "q_lin": "k_lin", "q": "k", "to_q": "to_k", "lin_query": "lin_key",
    "query_proj": "key_proj",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: `places` where it can be planted, `plant`, the right `kinds` of finding, and the right sites.

    `note`: for a place where a note is right, "note"; where a stronger finding is too, "either".
    """

    places: Places
    plant: Plant
    kinds: frozenset[str]
    right: Right
    note: Callable[[NetworkProfile, str], str] = lambda profile, place: ""


def module_of(name: str) -> str:
    """Return the name of a site without its call and the key in its output."""
    return name.partition("[")[0].partition("#")[0]


def sites_of(profile: NetworkProfile, place: str) -> list[Site]:
    return [site for site in profile.sites if place in (site.name, module_of(site.name))]


def behind(profile: NetworkProfile, place: str) -> list[Site]:
    """Return the sites that those of a module feed directly."""
    names = [name for site in sites_of(profile, place) for name in profile.graph.children_of(site.name)]
    return [profile[name] for name in dict.fromkeys(names)]


def before(profile: NetworkProfile, place: str) -> list[Site]:
    names = [parent.name for site in sites_of(profile, place) for parent in site.parents or ()]
    return [site for site in profile.sites if site.name in names]


def layers(model: nn.Module, profile: NetworkProfile, *, biased: bool = False) -> Iterator[str]:
    """Yield the layers with weight matrices that ran and learn; with `biased`, those that have a bias too."""
    ran = {module_of(site.name) for site in profile.sites}
    learn = {p.name for p in profile.parameters if p.gradient is not None and p.gradient.rms > 0}
    for name, module in model.named_modules():
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim < 2 or "embedding" in type(module).__name__.lower():
            continue
        if name in ran and f"{name}.weight" in learn and (not biased or isinstance(bias, nn.Parameter)):
            yield name


def norms(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    ran = {module_of(site.name) for site in profile.sites}
    for name, module in model.named_modules():
        kind = type(module).__name__.lower()
        # A class that fuses a norm with what follows it is not replaced by nothing.
        own = "norm" in kind and getattr(module, "weight", None) is not None and "act" not in kind
        if own and name in ran and not any(module.children()):
            yield name


def before_rectifiers(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    """Yield the layers and norms with a bias that a rectifier follows."""
    rectified = {module_of(site.name) for site in profile.sites if site.activation.lower() in RECTIFIERS}
    for name, module in model.named_modules():
        bias = getattr(module, "bias", None)
        if name in rectified and isinstance(bias, nn.Parameter) and bias.ndim == 1:
            yield name


def between_rectifiers(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    """Yield the layers before a rectifier that get no negative values."""
    known = {*layers(model, profile)}
    for name in before_rectifiers(model, profile):
        given = before(profile, name)
        if name in known and given and all(site.forward is not None and site.forward.min >= 0 for site in given):
            yield name


def but_the_last(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    """Yield the layers behind which there is another one: a small last layer starts with a neutral guess."""
    weighted = {site.name for site in profile.sites if any(len(p.shape) > 1 for p in profile.parameters_of(site))}
    for name in layers(model, profile):
        if any(weighted.intersection(profile.graph.descendants(site.name)) for site in sites_of(profile, name)):
            yield name


def scoring(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    """Yield the layers of queries beside which there is one of keys."""
    for name in layers(model, profile):
        above, _, own = name.rpartition(".")
        beside = dict(model.get_submodule(above).named_children())
        if QUERIES.get(own) in beside and any(site.logit_spread for site in softmaxes(profile, name)):
            yield name


def in_line(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    """Yield the layers whose values enter one other layer alone, past an activation or a norm."""
    known = {*layers(model, profile)}
    for name in sorted(known):
        if following(profile, name) in known:
            yield name


def following(profile: NetworkProfile, place: str) -> str | None:
    """Return the layer that alone follows a layer, past what has no matrix."""
    at = sites_of(profile, place)
    while len(at) == 1:
        at = [profile[name] for name in dict.fromkeys(profile.graph.children_of(at[0].name))]
        if len(at) == 1 and any(len(p.shape) > 1 for p in profile.parameters_of(at[0])):
            return module_of(at[0].name)
        if len(at) == 1 and at[0].branch_share is not None:
            return None
    return None


def dropouts(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    yield from (name for name, module in model.named_modules() if isinstance(module, nn.Dropout))


def inputs(model: nn.Module, profile: NetworkProfile) -> Iterator[str]:
    yield from (site.name for site in profile.inputs if site.dtype.startswith("float"))


@torch.no_grad()
def scale(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str, *, by: float) -> Batch:
    model.get_parameter(f"{at}.weight").mul_(by)
    return batch


@torch.no_grad()
def shift(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str, *, to: float) -> Batch:
    model.get_parameter(f"{at}.bias").fill_(to)
    return batch


@torch.no_grad()
def kill(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    """Make all weights negative, as one step at a rate that is far too large does behind a rectifier."""
    weight = model.get_parameter(f"{at}.weight")
    weight.copy_(-weight.abs())
    return batch


def remove(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    model.set_submodule(at, nn.Identity())
    return batch


@torch.no_grad()
def sharpen(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    """Multiply the weights of queries and keys by as much as brings the logits' spread to 30."""
    above, _, own = at.rpartition(".")
    spread = next(site.logit_spread for site in softmaxes(profile, at) if site.logit_spread)
    for name in (own, QUERIES[own]):
        model.get_parameter(f"{above}.{name}.weight").mul_(math.sqrt(30 / spread))
    return batch


def zero(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    for name in (at, following(profile, at)):
        for parameter in model.get_submodule(name or "").parameters():
            nn.init.zeros_(parameter)
    return batch


def recast(module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
    """Change what a module returns, and keep its parameters and name."""
    inner = module.forward

    def forward(*given: Any, **options: Any) -> Any:
        out = inner(*given, **options)
        return change(out) if isinstance(out, Tensor) else type(out)((change(out[0]), *out[1:]))

    module.forward = forward


def detach(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    recast(model.get_submodule(at), Tensor.detach)
    return batch


def drop_all(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    dropout = model.get_submodule(at)
    assert isinstance(dropout, nn.Dropout)
    dropout.p = 1.0
    return batch


class Listed(nn.Module):
    """Keeps a layer where `parameters()` does not find it: in a plain list."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layers = [layer]

    def forward(self, *given: Any) -> Any:
        """Return what the layer gives."""
        return self.layers[0](*given)


def unregister(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    model.set_submodule(at, Listed(model.get_submodule(at)))
    return batch


@torch.no_grad()
def not_a_number(model: nn.Module, batch: Batch, profile: NetworkProfile, at: str) -> Batch:
    model.get_parameter(f"{at}.weight").view(-1)[0] = math.nan
    return batch


def changed(
    model: nn.Module, batch: Batch, profile: NetworkProfile, at: str, *, by: Callable[[Tensor], Tensor]
) -> Batch:
    """Change the batch's first tensor of real numbers, or that of this name."""
    if isinstance(batch, Tensor):
        return by(batch)
    if isinstance(batch, dict):
        name = at.partition("[")[2].strip("]'")
        return {key: by(value) if key == name else value for key, value in batch.items()}
    return (by(batch[0]), *batch[1:])


def pixels(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (255 * (values - low) / (high - low)).round()


def itself(profile: NetworkProfile, place: str) -> set[str]:
    """Return the layer, and the module that applies it itself where it has no site."""
    return {place} if sites_of(profile, place) else {place, place.rpartition(".")[0]}


def around(profile: NetworkProfile, place: str) -> set[str]:
    return {module_of(site.name) for site in (*before(profile, place), *behind(profile, place))}


def off(profile: NetworkProfile, place: str) -> set[str]:
    """Return the layer and the rectifier that follows it."""
    return {place, *(module_of(site.name) for site in behind(profile, place) if site.role == "activation")}


def scores(profile: NetworkProfile, place: str) -> set[str]:
    above, _, own = place.rpartition(".")
    return {place, f"{above}.{QUERIES[own]}", *(module_of(site.name) for site in softmaxes(profile, place))}


def softmaxes(profile: NetworkProfile, place: str) -> list[Site]:
    """Return the softmaxes in the module that holds a layer."""
    above = place.rpartition(".")[0]
    return [site for site in profile.sites if site.role == "attention" and f"{site.name}.".startswith(f"{above}.")]


def cut(profile: NetworkProfile, place: str) -> set[str]:
    """Return the layer and what uses its values, where the gradient goes no farther."""
    return {place, *(module_of(site.name) for site in behind(profile, place))}


def both(profile: NetworkProfile, place: str) -> set[str]:
    return {place, following(profile, place) or place}


def normed(profile: NetworkProfile, place: str) -> str:
    """Return what is right of an input: a note where batch norms follow it, either where other norms do, else ""."""
    first = behind(profile, place)
    near = {kind: [_near(profile, site, kind) for site in first] for kind in ("batch", "")}
    return "note" if first and all(near["batch"]) else "either" if first and all(near[""]) else ""


def _near(profile: NetworkProfile, site: Site, kind: str) -> bool:
    """Return whether a norm of a kind is a site, or follows it past one that has no weights."""
    waiting = [site, *behind(profile, module_of(site.name))]
    waiting += [far for near in waiting[1:] if not near.parameters for far in behind(profile, near.name)]
    return any(is_norm(each) and kind in _made_by(each) for each in waiting)


def _made_by(site: Site) -> str:
    return " ".join((site.kind.lower(), *(parent.operations[-1] for parent in site.parents or () if parent.operations)))


BIASED = partial(layers, biased=True)
INPUT = frozenset({"input"})
# fmt: off
FAULTS: dict[str, Fault] = {
    "weights x100": Fault(layers, partial(scale, by=100.0), frozenset({"exploding", "stagnant", "saturated"}), itself),
    "weights x0.01": Fault(but_the_last, partial(scale, by=0.01), frozenset({"vanishing"}), itself),
    "biases of 10": Fault(BIASED, partial(shift, to=10.0),
                          frozenset({"collapse", "saturated", "inactive", "exploding"}), off),
    "no norm": Fault(norms, remove, frozenset({"exploding", "vanishing"}), around),
    "dead: biases": Fault(before_rectifiers, partial(shift, to=-10.0), frozenset({"inactive", "stagnant"}), off),
    "dead: weights": Fault(between_rectifiers, kill, frozenset({"inactive", "stagnant"}), off),
    "sharp softmax": Fault(scoring, sharpen, frozenset({"saturated", "exploding"}), scores),
    "pixels": Fault(inputs, partial(changed, by=pixels), INPUT, itself, normed),
    "input x100": Fault(inputs, partial(changed, by=lambda x: 100 * x), INPUT, itself, normed),
    "input + 30": Fault(inputs, partial(changed, by=lambda x: x + 30), INPUT, itself, normed),
    "two zeros": Fault(in_line, zero, frozenset({"vanishing", "stagnant", "symmetric", "non-finite"}), both),
    "detached": Fault(but_the_last, detach, frozenset({"stagnant"}), cut),
    "dropout of 1": Fault(dropouts, drop_all, frozenset({"stagnant", "non-finite"}), itself),
    "unregistered": Fault(layers, unregister, frozenset({"unregistered"}), itself),
    "NaN weight": Fault(layers, not_a_number, frozenset({"non-finite"}), itself),
}
# fmt: on


def profiled(model: nn.Module, batch: Batch) -> NetworkProfile:
    torch.manual_seed(1)
    return propscope.profile(model.train(), batch)


def has_effect(sound: NetworkProfile, planted: NetworkProfile, place: str) -> bool:
    """Return whether a fault changes a gradient in units of its parameter; what the fault itself set does not count.

    What changes nothing, such as a bias before a norm, no training can show.
    """
    before = {p.name: p for p in sound.parameters}
    for parameter in planted.parameters:
        other = before.get(parameter.name, parameter)
        if other.gradient_outlook in ("now", "later") and parameter.gradient_outlook == "never":
            return True
        if parameter.name == f"{place}.bias" or not (other.value.rms and other.gradient and other.gradient.rms):
            continue
        size = parameter.gradient.rms if parameter.gradient else 0.0
        if not size or not parameter.value.rms or parameter.gradient is None or parameter.gradient.nonfinite_count:
            return True
        ratio = size / parameter.value.rms / (other.gradient.rms / other.value.rms)
        if abs(math.log(ratio)) > math.log(EFFECT):
            return True
    return len(planted.parameters) != len(sound.parameters)


def answer(found: Diagnosis, kinds: frozenset[str], sites: set[str], note: str) -> str:
    """Return how right a diagnosis is: "right", or what of it is not."""

    def is_right(finding: Finding) -> bool:
        return finding.kind in kinds and not sites.isdisjoint((finding.first, module_of(finding.first)))

    if note and (note == "note" or found.verdict == "healthy"):
        said = any(map(is_right, found.findings))
        return "right" if said and found.verdict == "healthy" else "accused" if said else "not said"
    if found.verdict == "healthy":
        return "missed"
    assert found.worst is not None
    if is_right(found.worst):
        return "right"
    grave = [finding for finding in found.findings if finding.severity != "note"]
    if any(map(is_right, grave)):
        return "listed"
    is_near = module_of(found.worst.first) in sites
    return "kind" if found.worst.kind in kinds else "place" if is_near else "wrong"
