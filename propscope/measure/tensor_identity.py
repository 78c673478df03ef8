"""`TensorIdentity`: tells which tensors of the present forward pass are sites already, without keeping them alive."""

from __future__ import annotations

import math
import weakref
from typing import NamedTuple

from torch import Tensor

from propscope.measure.sites import SiteAccumulator


class KnownTensor(NamedTuple):
    """A tensor that is a site already: a container returns its last child's output, and that is one site.

    `site` is None for a tensor that the caller excluded, so that it is not recorded under a container's name. A tuple,
    as making one costs a tenth of a microsecond.
    """

    tensor: weakref.ref[Tensor]
    version: int
    site: SiteAccumulator | None
    order: int


class TensorIdentity:
    """Remembers tensors by identity for one forward pass."""

    def __init__(self) -> None:
        self._known: dict[int, KnownTensor] = {}
        self._entered: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        self._clock = 0

    def clear(self) -> None:
        """Forget everything: another forward pass begins."""
        self._known.clear()
        self._entered.clear()

    def remember(self, tensor: Tensor, site: SiteAccumulator | None) -> None:
        """Note that a tensor, as it is now, is a site."""
        self._clock += 1
        self._known[id(tensor)] = KnownTensor(weakref.ref(tensor), version_of(tensor), site, self._clock)

    def pass_on(self, tensor: Tensor, result: Tensor) -> None:
        """Note that a custom function returned a tensor as it is, which torch makes a new object of."""
        if (entry := self.find(tensor)) is not None:
            self._known[id(result)] = entry._replace(tensor=weakref.ref(result), version=version_of(result))
        entered = self._entered.get(id(tensor))
        if entered is not None and entered[0]() is tensor:
            self._entered[id(result)] = (weakref.ref(result), entered[1])

    def mark_entered(self, tensor: Tensor) -> None:
        """Note that a tensor was there when a module was entered."""
        self._clock += 1
        self._entered[id(tensor)] = (weakref.ref(tensor), self._clock)

    def find(self, tensor: Tensor) -> KnownTensor | None:
        """Return what is known of a tensor that has not changed since it was remembered."""
        entry = self._known.get(id(tensor))
        if entry is None or entry.tensor() is not tensor or entry.version != version_of(tensor):
            return None
        return entry

    def order_of(self, tensor: Tensor) -> float:
        """Return when a tensor was first met in this forward pass; infinity for one that was just computed."""
        entry = self._known.get(id(tensor))
        if entry is not None and entry.tensor() is tensor:
            return entry.order
        reference, order = self._entered.get(id(tensor), (None, math.inf))
        return order if reference is not None and reference() is tensor else math.inf


def version_of(tensor: Tensor) -> int:
    """Return the number of writes in place that a tensor has seen, -1 where torch does not count them."""
    try:
        return tensor._version
    except RuntimeError:
        # Tensors made in inference mode keep no version; they cannot be told from their in-place successors.
        return -1
