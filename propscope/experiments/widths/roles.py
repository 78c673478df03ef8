"""How the sites of a network widen: what its shapes at several widths say of the role of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from propscope.errors import InputError
from propscope.records.width_check import LayerRole

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SiteShapes:
    """What one width shows of a site: the class of its module, the shapes of its output and inputs.

    `parameters`: of a layer the shapes of its parameters by name; empty for a site without weights of its own. `tied`:
    whether another layer has one of them too.
    """

    kind: str
    output: Shape
    inputs: tuple[Shape, ...]
    parameters: Mapping[str, Shape]
    tied: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """The sites of a network at one width in the order in which they run, and the shapes of its parameters."""

    sites: Mapping[str, SiteShapes]
    parameters: Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Widening:
    """How a site widens: whether its output does (`widens`), and the `role` of the layer, "" without weights."""

    kind: str
    role: LayerRole
    widens: bool
    tied: bool


def widenings(shapes: Mapping[int, Shapes]) -> dict[str, Widening]:
    """Return how each site widens, by the shapes of a network at several widths, the narrowest first.

    The role of a layer: "hidden" where one of its parameters widens in two dimensions, "fixed" where none widens.
    Else "output" where the layer's output does not widen, "input" where its output widens and its input does not, and
    "vector", as the gains of a norm, where both do. So the class of a layer, and the order of a weight's dimensions, do
    not matter.

    Raises `InputError` where a site or parameter is missing at a width, and where no site widens.
    """
    narrowest, *_, widest = shapes
    for width, other in shapes.items():
        _same_names("site", narrowest, shapes[narrowest].sites, width, other.sites)
        _same_names("parameter", narrowest, shapes[narrowest].parameters, width, other.parameters)
    found = {}
    for name, first in shapes[narrowest].sites.items():
        over = [of.sites[name] for of in shapes.values()]
        widens = _widening([one.output for one in over]) > 0
        found[name] = Widening(first.kind, _role(over, widens), widens, first.tied)
    if not any(site.widens for site in found.values()):
        raise InputError(
            f"make_model ignores width: every site has the same shape at width {narrowest} as at {widest}",
            hint="let width set the sizes of the layers",
        )
    return found


def _same_names(
    what: str, narrowest: int, names: Mapping[str, object], width: int, others: Mapping[str, object]
) -> None:
    for name in (*names, *others):
        if name not in names or name not in others:
            has, lacks = (narrowest, width) if name in names else (width, narrowest)
            raise InputError(
                f'the {what}s must be the same at every width; "{name}" is there at width {has}, not at {lacks}',
                hint="let width change the sizes of layers, not which layers there are",
            )


def _widening(shapes: Sequence[Shape]) -> int:
    """Return the number of dimensions that differ between widths; shapes of unequal length differ in all."""
    if len({len(shape) for shape in shapes}) > 1:
        return max(map(len, shapes))
    return sum(len(set(sizes)) > 1 for sizes in zip(*shapes, strict=True))


def _role(over: Sequence[SiteShapes], widens: bool) -> LayerRole:
    if not over[0].parameters:
        return ""
    most = max(_widening([one.parameters[name] for one in over]) for name in over[0].parameters)
    if most != 1:
        return "hidden" if most else "fixed"
    if not widens:
        return "output"
    # A layer takes as many inputs at every width, or it is called in another way at each.
    given = any(_widening(shapes) for shapes in zip(*(one.inputs for one in over), strict=False))
    return "vector" if given else "input"
