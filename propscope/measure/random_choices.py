"""`ChoiceWatch`: tells in one pass whether random numbers may decide which modules run.

Python decides that, so a tensor that random numbers made must be read by Python first, as by `if torch.rand(()) < p`,
or have a shape that depends on them. Where a number that is read was made of small random tensors alone, it is made
again some times: a layer that is skipped with probability 0 is a choice that never falls the other way.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from propscope.measure.outputs import tensors_of
from propscope.measure.signal_graph import operation_name
from propscope.measure.tensor_identity import version_of

# A choice that falls the other way one time in ten stays unseen in one of 800 cases.
_DRAWS = 64
# What is made again has so many elements and takes so many operations at most.
_FEW = 64
_LONGEST = 32
# These tell of a tensor what no random number changes.
# fmt: off
_TELLS_NO_VALUE = frozenset((
    "size", "stride", "dim", "ndimension", "numel", "nelement", "storage_offset", "element_size", "get_device", "type",
    "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_pinned", "is_inference", "is_neg", "is_conj",
    "is_same_size", "is_shared", "is_set_to", "is_tensor", "hash", "len", "register_hook", "backward",
))
# The shape of what these return depends on values.
_SHAPED_BY_VALUES = frozenset((
    "nonzero", "nonzero_numpy", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "one_hot",
    "repeat_interleave",
))
# fmt: on
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


class _Drawn(NamedTuple):
    """A tensor that random numbers entered; `again`, of at most `length` operations, makes another one like it."""

    tensor: weakref.ref[Tensor]
    again: Callable[[], Any] | None
    length: int


class ChoiceWatch(TorchFunctionMode):
    """Active in one pass without gradients; afterwards `found` tells whether it may have made a random choice.

    `state`: returns the state of torch's generators, to be compared with `==`.
    """

    def __init__(self, modules: Iterable[nn.Module], state: Callable[[], object]) -> None:
        super().__init__()
        self._state = state
        self._others = python_state()
        self._seen = state()
        self._drawn: dict[int, _Drawn] = {}
        # Of generators of the model's own nobody tells when it draws from them.
        self._found = any(isinstance(value, _GENERATORS) for module in modules for value in vars(module).values())

    @property
    def found(self) -> bool:
        """Whether some choice of the pass may fall the other way with other random numbers."""
        return self._found or self._others != python_state() or self._seen != self._state()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self._found:
            return func(*args, **kwargs)
        # Numbers that were drawn out of sight, as in TorchScript, may be read there too.
        self._found = self._state() != self._seen
        given = tensors_of((args, kwargs))
        versions = list(map(version_of, given))
        result = func(*args, **kwargs)
        drew = self._state() != self._seen or kwargs.get("generator") is not None
        if drew or any(map(self._entry, given)):
            written = [one for one, version in zip(given, versions, strict=True) if version_of(one) != version]
            try:
                self._note(func, args, kwargs, given, written, result)
            except Exception:  # What it cannot follow may be a choice.
                self._found = True
        self._seen = self._state()
        return result

    def _entry(self, tensor: Tensor) -> _Drawn | None:
        for one in (tensor, tensor._base):
            if one is not None and (entry := self._drawn.get(id(one))) is not None and entry.tensor() is one:
                return entry
        return None

    def _note(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: list[Tensor],
        written: list[Tensor],
        result: Any,
    ) -> None:
        """Note what a function made of random numbers."""
        name, entries, results = operation_name(func), [self._entry(one) for one in given], tensors_of(result)
        length = 1 + sum(entry.length for entry in entries if entry is not None)
        plain = sum(isinstance(value, Tensor) for value in (*args, *kwargs.values())) == len(given)
        small = length <= _LONGEST and all(one.numel() <= _FEW for one in given)
        known = all(entry is None or entry.again is not None for entry in entries)
        again = self._made_again(func, args, kwargs) if plain and small and known else None
        for tensor in results:
            self._keep(tensor, again if tensor is result else None, length)
        for tensor in written:
            # Other views of the memory show it too.
            for one in (tensor, tensor._base):
                if one is not None and one is not result:
                    self._keep(one, None, length)
        if results:
            shaped = name in _SHAPED_BY_VALUES or (name == "where" and len(given) == 1) or _is_masked(name, given)
            self._found |= shaped and any(entries)
        elif result is not None and name not in _TELLS_NO_VALUE and getattr(func, "__name__", "") != "__get__":
            if again is None or not isinstance(result, (bool, int, float)):
                self._found = True
            else:
                self._found |= any(again() != result for _ in range(_DRAWS))

    def _keep(self, tensor: Tensor, again: Callable[[], Any] | None, length: int) -> None:
        self._drawn[id(tensor)] = _Drawn(weakref.ref(tensor), again, length)

    def _made_again(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any]:
        """Return what calls a function again, with other random numbers in the place of those that it was given."""

        def bound(value: Any) -> Callable[[], Any]:
            if not isinstance(value, Tensor):
                return lambda: value
            entry = self._entry(value)
            # A function may write to what it is given.
            return value.clone if entry is None or entry.again is None else entry.again

        of_args, of_kwargs = list(map(bound, args)), {key: bound(value) for key, value in kwargs.items()}
        return lambda: func(*(one() for one in of_args), **{key: one() for key, one in of_kwargs.items()})


def _is_masked(name: str, given: list[Tensor]) -> bool:
    return name == "getitem" and any(tensor.dtype in (torch.bool, torch.uint8) for tensor in given[1:])


def python_state() -> list[object]:
    """Return the states of the random generators of Python and numpy, to be compared with `==`."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  the global one is the one that models draw from
    return [random.getstate(), name, np.asarray(keys).tobytes(), rest]
