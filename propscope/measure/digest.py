"""`InputDigest`: 64 bits that tell whether two runs began with the same batch and the same weights.

Each tensor is read once, as words of 32 bits in the order of its elements, and hashed in integers, so that every device
finds the same number and none waits:

    digest = sum_r v_r sum_j h(w_j x_rj)  mod 2^64,   h(y) = y xor (y >> 15)  of 32 bits,

over rows r of 2^14 words x, with odd factors w and v that are drawn from the position by multiplication. It proves
nothing against somebody who wants two tensors to have the same one.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from propscope.measure import kernel
from propscope.measure.hooks import has_storage
from propscope.measure.outputs import tensors_of
from propscope.measure.wrappers import modules_in, parameters_in

_ROW = 1 << 14
# Rows at once: what lies between the operations fits a processor's cache, and takes 16 MB on another device.
_ROWS_ON_CPU, _ROWS_ELSEWHERE = 16, 256
_GOLDEN, _SILVER = -0x61C8864680B583EB, -0x3B314601E57A13AD
_MASK = (1 << 64) - 1

# A tensor's shape and type, and its number: 0-d where reading it would wait for a device.
Numbered = tuple[torch.Size, torch.dtype, "Tensor | int"]


class InputDigest:
    """What the first pass of a recording begins with: the digests of its `batch` and of the model's `weights`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._batch: list[Numbered] | None = None
        self._weights: list[Numbered] | None = None

    def see(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Read what the first pass is called with, and all parameters and buffers; waits for no device."""
        self._batch = _numbered(tensors_of((args, kwargs)))
        modules = modules_in(self._model)
        buffers = {id(one): one for module in modules for one in module._buffers.values() if one is not None}
        self._weights = _numbered((*parameters_in(modules), *buffers.values()))

    @property
    def batch(self) -> str:
        """16 hexadecimal digits, "" where the batch has no tensor or one that cannot be read. Waits for the device."""
        return _text(self._batch)

    @property
    def weights(self) -> str:
        """The same of all parameters and buffers, in the order in which they were registered, without their names."""
        return _text(self._weights)


def _numbered(tensors: Iterable[Tensor]) -> list[Numbered] | None:
    """Return the tensors with their numbers; None where one of them cannot be read as it is."""
    found = []
    for tensor in tensors:
        if not _is_plain(tensor):
            return None
        found.append((tensor.shape, tensor.dtype, number_of(tensor.detach())))
    return found


def _is_plain(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter, getattr(nn, "Buffer", Tensor)) and not is_lazy(tensor)
    return plain and tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized and _held(tensor)


def _held(tensor: Tensor) -> bool:
    return not tensor.is_nested and has_storage(tensor)


def _text(tensors: list[Numbered] | None) -> str:
    if not tensors:
        return ""
    hashed = hashlib.blake2b(digest_size=8)
    for shape, dtype, number in tensors:
        hashed.update(f"{tuple(shape)} {dtype} {int(number) & _MASK:016x};".encode())
    return hashed.hexdigest()


def number_of(tensor: Tensor) -> Tensor | int:
    """Return the number of a plain tensor, the same on every device; 0-d where reading it would wait for one."""
    if not tensor.is_cpu:
        return _of_tensor(_as_words(tensor))
    size = tensor.element_size()
    whole = size % 4 == 0 and tensor.is_contiguous() and not (tensor.is_complex() or tensor.is_neg())
    words = tensor if whole else _as_words(tensor)
    if kernel.can_digest(words):
        return kernel.digest(words, _factors_of_words())
    # Tensor.numpy() would forbid the model to resize its buffer from then on.
    return _of_array(np.from_dlpack(_as_words(words)).view(np.int32))


def _as_words(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor's elements in their order as int32; zeros fill the last one."""
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    flat = tensor.contiguous().reshape(-1)
    if flat.element_size() % 4 == 0 and not flat.is_complex():
        return flat.view(torch.int32)
    octets = torch.view_as_real(flat).reshape(-1).view(torch.uint8) if flat.is_complex() else flat.view(torch.uint8)
    if octets.numel() % 4 or octets.storage_offset() % 4:
        padded = octets.new_zeros(-(-octets.numel() // 4) * 4)
        padded[: octets.numel()] = octets
        octets = padded
    return octets.view(torch.int32)


# numpy computes in the thread that calls it: in a child process, torch would wait for threads that are not there.
def _of_array(words: NDArray[np.int32]) -> int:
    within, total = _factors_of_words(), 0
    at = 0
    for rows in _blocks(len(words), _ROWS_ON_CPU):
        block = words[at : at + rows * _ROW].reshape(rows, -1)
        mixed = block * within[: block.shape[1]]
        mixed ^= mixed >> 15
        sums = mixed.sum(1, dtype=np.int64).tolist()
        total += sum(map(operator.mul, sums, _factors_of_rows(at // _ROW, rows)))
        at += block.size
    return total & _MASK


def _of_tensor(words: Tensor) -> Tensor:
    within = torch.arange(1, _ROW + 1, device=words.device) * _GOLDEN >> 32
    within = within.to(torch.int32) | 1
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    at = 0
    for rows in _blocks(words.numel(), _ROWS_ELSEWHERE):
        block = words[at : at + rows * _ROW].view(rows, -1)
        mixed = block * within[: block.shape[1]]
        mixed ^= mixed >> 15
        first = at // _ROW + 1
        factors = torch.arange(first, first + rows, device=words.device) * _SILVER | 1
        total += (mixed.sum(1) * factors).sum()
        at += block.numel()
    return total


def _blocks(words: int, most: int) -> Iterable[int]:
    """Yield the numbers of whole rows that are read at once, and 1 for the rest."""
    whole, rest = divmod(words, _ROW)
    yield from (min(most, whole - first) for first in range(0, whole, most))
    if rest:
        yield 1


@cache
def _factors_of_words() -> NDArray[np.int32]:
    with np.errstate(over="ignore"):
        return (np.arange(1, _ROW + 1) * np.int64(_GOLDEN) >> 32).astype(np.int32) | np.int32(1)


def _factors_of_rows(first: int, count: int) -> list[int]:
    return [(row * _SILVER & _MASK) | 1 for row in range(first + 1, first + count + 1)]
