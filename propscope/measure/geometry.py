"""Geometry of the samples' vectors at a site, from the inner products of at most 32 of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _usable(gram: ArrayLike) -> NDArray[np.float64]:
    products = np.asarray(gram, dtype=np.float64)
    lengths = np.sqrt(np.abs(np.diagonal(products)))
    if np.isfinite(products).all() and lengths.all():
        return products
    kept = np.isfinite(products).all(axis=1) & (lengths > 0)
    return products[np.ix_(kept, kept)]


def mean_cosine(gram: ArrayLike) -> float | None:
    """Return the mean cosine between different samples' vectors, from their Gram matrix, shape (rows, rows).

    1 means that the layer no longer tells inputs apart. Zero and non-finite vectors are left out; None below two.
    """
    products = _usable(gram)
    rows = len(products)
    if rows < 2:
        return None
    lengths = np.sqrt(np.diagonal(products))
    cosines = products / np.outer(lengths, lengths)
    return float(np.clip((cosines.sum() - np.trace(cosines)) / (rows * (rows - 1)), -1, 1))


def effective_rank(gram: ArrayLike) -> float | None:
    """Return exp(entropy of the normalized eigenvalues) of the Gram matrix, shape (rows, rows): between 1 and rows.

    Roy and Vetterli 2007 (The effective rank), with the squared singular values as the distribution. Zero and
    non-finite vectors are left out; None below two.
    """
    products = _usable(gram)
    if len(products) < 2:
        return None
    values = np.clip(np.linalg.eigvalsh(products / np.trace(products)), 0, None)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))
