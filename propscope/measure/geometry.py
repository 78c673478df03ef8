"""Geometry of the samples' vectors at a site, from the inner products of at most 32 of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from propscope.measure import kernel
from propscope.measure.parts import Part, both_ends, common, vector
from propscope.measure.rank_places import Places
from propscope.measure.shards import Sharding
from propscope.measure.sums import widest

GEOMETRY_ROWS = 32
GEOMETRY_FEATURES = 1024
_RUN = 16
# So many matrices are worked on at once: 2 MB of 32 rows.
_TOGETHER = 256
_SAFE = (1e-20, 1e20)
# Numbers of a row are sent as so many steps to each side.
_HALF = 1 << 25


def sample_rows(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return at most 32 samples' vectors as a float matrix, (rows, features); None below two samples or two features.

    If the units are on the last axis, a sample is a position on all other axes (tokens of a sequence included);
    otherwise it is an entry of the first axis (images). At most 1024 features of each sample are taken, in 64 evenly
    spread runs of 16, because single features would need a cache line each.
    """
    vectors = _vectors(tensor, unit_axis)
    if vectors is None or len(vectors) < 2:
        return None
    return _some_features(vectors[:: -(-len(vectors) // GEOMETRY_ROWS)])


def _vectors(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return the vectors of all samples, (samples, features); None below two features."""
    if tensor.dim() < 2 or not tensor.numel():
        return None
    if tensor.dim() > 2:
        tensor = tensor.flatten(0, -2) if _units_last(tensor, unit_axis) else tensor.flatten(1)
    return tensor if tensor.shape[1] > 1 else None


def _some_features(rows: Tensor) -> Tensor:
    if rows.shape[1] <= GEOMETRY_FEATURES:
        return rows
    blocks, apart = _spread(rows.shape[1])
    return rows.unfold(1, _RUN, apart)[:, :blocks].flatten(1)


def rows_of_rank(tensor: Tensor, unit_axis: int, rank: int, ranks: int) -> Tensor | None:
    """Return a copy of those rows that one rank has of what `sample_rows` takes of all ranks' samples together.

    The samples of the ranks follow each other, as many on each. Above 32 ranks, one row of each so manieth rank is
    taken. Shape (rows, features), perhaps without rows; None below two features.
    """
    vectors = _vectors(tensor, unit_axis)
    if vectors is None:
        return None
    count, apart = len(vectors), _ranks_apart(ranks)
    if apart > 1:
        rows = vectors[: int(rank % apart == 0)]
    else:
        step = -(-count * ranks // GEOMETRY_ROWS)
        rows = vectors[-rank * count % step :: step][: _slots(ranks)]
    rows = _some_features(rows)
    return (rows if rows.dtype == torch.float64 else rows.float()).clone()


def _ranks_apart(ranks: int) -> int:
    return -(-ranks // GEOMETRY_ROWS)


def _slots(ranks: int) -> int:
    """Return how many rows a rank has at most."""
    return max(-(-GEOMETRY_ROWS // ranks), 1)


def gathered_gram(rows: Tensor | None, places: Places, sharding: Sharding | None) -> Part[NDArray[np.float64] | None]:
    """Return the inner products of all ranks' rows, each of which adds its own ones to a matrix of zeros.

    `rows`: what `rows_of_rank` returned for the rank's number of `places.data`. Ranks that hold different units of the
    same samples have different columns of the same rows; other parts of a site are other rows. Rows of zeros are no
    samples, which `geometries` leaves out. A row is rounded to 2^-26 of its largest number, which makes half the bytes.
    None where the ranks' rows have other numbers of features.
    """
    features = yield both_ends(None if rows is None else rows.shape[1])
    split = places.splits_units(sharding)
    width = int(features[0]) if split and features[0] > 0 else common(features)
    if width is None:
        yield vector(())
        return None
    part, parts = (places.part, places.parts) if places.parts_differ(sharding) else (0, 1)
    column, columns = (part, parts) if split else (0, 1)
    apart, slots = _ranks_apart(places.data_size), _slots(places.data_size)
    row = places.data // apart * slots
    if not split:
        row, slots = row * parts + part * slots, slots * parts
    count = -(-places.data_size // apart) * slots
    sizes, packed = np.zeros((count, columns)), np.zeros((count, columns, -(-width // 2)))
    if rows is not None:
        own = slice(row, row + len(rows))
        values = np.pad(rows.cpu().numpy().astype(np.float64), ((0, 0), (0, 2 * packed.shape[2] - rows.shape[1])))
        sizes[own, column], packed[own, column] = _packed(values)
    got = yield np.concatenate([sizes.reshape(-1), packed.reshape(-1)])
    sizes, packed = got[: sizes.size].reshape(sizes.shape), got[sizes.size :].reshape(packed.shape)
    with np.errstate(all="ignore"):
        whole = _unpacked(sizes, packed).reshape(count, -1) / (sizes[np.isfinite(sizes)].max(initial=0.0) or 1.0)
        return whole @ whole.T


def _packed(rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the largest magnitude of each row, and the row in units of it, two numbers of 26 bits in each float64.

    NaN in place of the magnitude for a row that is not finite, and no numbers.
    """
    with np.errstate(all="ignore"):
        sizes = np.abs(rows).max(axis=1, initial=0.0)
        sizes[~np.isfinite(sizes)] = np.nan
        steps = np.rint(np.nan_to_num(rows / sizes[:, None]) * (_HALF - 1)) + _HALF
    return sizes, steps[:, ::2] * 2 * _HALF + steps[:, 1::2]


def _unpacked(sizes: NDArray[np.float64], packed: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows, in pieces, that `_packed` packed; zeros where nothing was."""
    first = np.floor(packed / (2 * _HALF))
    steps = np.stack([first, packed - first * 2 * _HALF], axis=-1).reshape(*packed.shape[:-1], -1) - _HALF
    return steps / (_HALF - 1) * sizes[..., None]


def rows_in_memory(tensor: Tensor, unit_axis: int) -> kernel.Rows | None:
    """Return where the samples of `sample_rows` lie in memory, with their features in any order.

    None below two samples or two features, and where a sample does not lie in one piece.
    """
    dimensions, count = tensor.dim(), tensor.numel()
    if dimensions < 2 or not count:
        return None
    order = kernel.memory_order(tensor)
    if order is None:
        return None
    if _units_last(tensor, unit_axis):
        features = tensor.shape[-1]
        together = order[-1] == dimensions - 1
    else:
        features = count // tensor.shape[0]
        together = order[0] == 0
    rows = count // features
    if min(rows, features) < 2 or not together:
        return None
    step = -(-rows // GEOMETRY_ROWS)
    blocks, apart = (1, features) if features <= GEOMETRY_FEATURES else _spread(features)
    length = features if blocks == 1 else _RUN
    return kernel.Rows(-(-rows // step), step * features, blocks, apart, length)


def _units_last(tensor: Tensor, unit_axis: int) -> bool:
    return unit_axis in (-1, tensor.dim() - 1)


def _spread(features: int) -> tuple[int, int]:
    """Return the number of runs of 16 features and the distance of their starts, odd because widths are even."""
    blocks = GEOMETRY_FEATURES // _RUN
    return blocks, max(((features - _RUN) // (blocks - 1) - 1) | 1, _RUN)


def is_safe(last_product: float) -> bool:
    """Return whether inner products lie within float32's range, judged by the last vector's product with itself.

    One is enough: the rows of one layer differ by less than the ten decades of margin.
    """
    return _SAFE[0] < abs(last_product) < _SAFE[1]


def gram(tensor: Tensor, unit_axis: int) -> Tensor | None:
    """Return the inner products of the sampled rows, (rows, rows), or None; see `sample_rows`.

    The product of two rows of n features is summed in float64. Its error is at most n * 2^-53 times the product of
    their lengths, in any order of summation. Rows that are float64 themselves are first divided by their largest
    magnitude, so that no square leaves the range: the mean cosine and the effective rank do not depend on the scale.
    """
    rows = sample_rows(tensor, unit_axis)
    if rows is None:
        return None
    # In float32 a matrix product may be lowered to half the digits, as the processor and the user's settings have it.
    wide = widest(rows)
    if rows.dtype is wide:
        largest = torch.where(torch.isfinite(rows), rows, 0.0).abs().amax()
        rows = rows / torch.where(largest > 0, largest, 1.0)
    rows = rows.to(wide)
    if rows.device.type != "cpu":
        return torch.mm(rows, rows.t())
    # numpy's product: a mode that counts the model's operations does not see it.
    values = rows.numpy()
    with np.errstate(all="ignore"):
        return torch.from_numpy(values @ values.T)


def geometries(grams: Sequence[ArrayLike | None]) -> list[tuple[float | None, float | None]]:
    """Return the mean cosine and the effective rank of each Gram matrix, shape (rows, rows); None of one that is None.

    Zero and non-finite vectors are left out; None below two. The mean cosine is that between different samples'
    vectors: 1 means that the layer no longer tells inputs apart. The effective rank is exp(entropy of the normalized
    eigenvalues), between 1 and rows: Roy and Vetterli 2007 (The effective rank), with the squared singular values as
    the distribution.
    """
    found: list[tuple[float | None, float | None]] = [(None, None)] * len(grams)
    for places, products in _stacks(grams):
        for place, *geometry in zip(places, _mean_cosines(products), _effective_ranks(products), strict=True):
            found[place] = geometry[0], geometry[1]
    return found


def _stacks(grams: Sequence[ArrayLike | None]) -> Iterator[tuple[list[int], NDArray[np.float64]]]:
    """Yield Gram matrices of the same size, shape (matrices, rows, rows), with their places: one call for many."""
    waiting: dict[int, list[tuple[int, NDArray[np.float64]]]] = {}
    for place, gram in enumerate(grams):
        if gram is None or len(products := _usable(gram)) < 2:
            continue
        alike = waiting.setdefault(len(products), [])
        alike.append((place, products))
        if len(alike) == _TOGETHER:
            yield [at for at, _ in alike], np.stack([products for _, products in alike])
            alike.clear()
    for alike in waiting.values():
        if alike:
            yield [at for at, _ in alike], np.stack([products for _, products in alike])


def _usable(gram: ArrayLike) -> NDArray[np.float64]:
    products = np.asarray(gram, dtype=np.float64)
    lengths = np.sqrt(np.abs(np.diagonal(products)))
    if np.isfinite(products).all() and lengths.all():
        return products
    usable = np.isfinite(products).all(axis=1) & (lengths > 0)
    return products[np.ix_(usable, usable)]


def _mean_cosines(products: NDArray[np.float64]) -> list[float]:
    count, rows, _ = products.shape
    lengths = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
    cosines = products / (lengths[:, :, None] * lengths[:, None, :])
    between = cosines.reshape(count, -1).sum(axis=1) - np.trace(cosines, axis1=1, axis2=2)
    means: list[float] = np.clip(between / (rows * (rows - 1)), -1, 1).tolist()
    return means


def _effective_ranks(products: NDArray[np.float64]) -> list[float]:
    shares = products / np.trace(products, axis1=1, axis2=2)[:, None, None]
    return [_exp_entropy(values) for values in np.clip(np.linalg.eigvalsh(shares), 0, None)]


def _exp_entropy(values: NDArray[np.float64]) -> float:
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
