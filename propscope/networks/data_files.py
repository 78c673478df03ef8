"""Inputs that are data: scikit-learn's digits, `.npy` and `.pt` files; nothing in a file is ever executed."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from propscope.errors import InputError, MissingDependencyError
from propscope.networks.tensor_files import read_array, read_tensors, usable

Rows = tuple[Tensor, Tensor | None]
_FILE = "input file"


@lru_cache(maxsize=1)
def digits() -> Rows:
    """Return scikit-learn's handwritten digits: float64 values 0 to 16, shape (1797, 64), and labels, shape (1797,).

    Alpaydin, Kaynak 1998, UCI. Raises `MissingDependencyError` without scikit-learn.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise MissingDependencyError("scikit-learn", extra="data", purpose="the input digits")
    # Reading the file that the package ships takes 20 ms, importing the package more than a second.
    files = [
        Path(folder) / "datasets" / "data" / "digits.csv.gz" for folder in package.submodule_search_locations or ()
    ]
    for file in filter(Path.exists, files):
        table = torch.from_numpy(np.loadtxt(file, delimiter=","))
        return table[:, :-1].contiguous(), table[:, -1].long()
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.data).double(), torch.from_numpy(data.target).long()


def sample(content: Rows, rows: int, generator: torch.Generator) -> Rows:
    """Return `rows` of the rows, drawn without replacement, or all in another order where there are fewer."""
    values, targets = content
    chosen = torch.randperm(len(values), generator=generator)[:rows]
    return values[chosen], None if targets is None else targets[chosen]


def npy_file(path: Path) -> Rows:
    """Return the rows of a numpy array as float64, shape (rows, features), with later dimensions flattened.

    Raises `InputError` for a file that cannot be read, and for an array that is empty, has one dimension, or holds NaN
    or Inf.
    """
    array = read_array(path, what=_FILE, kinds="biuf")
    return _rows(path, torch.from_numpy(array.astype(np.float64))), None


def pt_file(path: Path) -> Rows:
    """Return the rows of a saved tensor, a pair (x, y), or a dict with one tensor or with "x" and "y".

    `y` holds class labels: whole numbers of at least 0, one per row. Raises `InputError` for a file that cannot be read
    with weights_only or holds something else, and for rows as in `npy_file`.
    """
    content = read_tensors(path, what=_FILE)
    x, y = _pair(content)
    if not isinstance(x, Tensor) or not (y is None or isinstance(y, Tensor)):
        raise InputError(
            f"{path} must hold a tensor, a pair (x, y) of tensors, or a dict with one tensor or with x and y, got a "
            f"{type(content).__name__}"
        )
    x = usable(f"the {_FILE} {path}", x)
    if x.is_complex():
        raise InputError(f"{path} must hold real numbers, got elements of type {x.dtype}", hint="save it as numbers")
    return _rows(path, x.double()), None if y is None else _labels(path, usable(f"y in {path}", y), len(x))


def _pair(content: Any) -> tuple[Any, Any]:
    if isinstance(content, dict):
        if len(content) == 1:
            return next(iter(content.values())), None
        return content.get("x"), content.get("y") if len(content) == 2 else None
    if isinstance(content, (tuple, list)):
        return tuple(content) if len(content) == 2 else (None, None)
    return content, None


def _rows(path: Path, values: Tensor) -> Tensor:
    if values.ndim < 2:
        raise InputError(
            f"{path} must have shape (rows, features), got {tuple(values.shape)}",
            hint="reshape a single sample to (1, features)",
        )
    if not values.numel():
        raise InputError(f"{path} must have at least one row and one feature, got shape {tuple(values.shape)}")
    values = values.flatten(1)
    if not (finite := values.isfinite()).all():
        row, column = (~finite).nonzero()[0].tolist()
        raise InputError(
            f"{path} has {int(values.isnan().sum())} NaN and {int(values.isinf().sum())} infinite values, the first in "
            f"row {row}, feature {column}",
            hint="drop or replace these rows",
        )
    return values


def _labels(path: Path, y: Tensor, rows: int) -> Tensor:
    whole = not (y.is_floating_point() or y.is_complex())
    if not whole or y.shape != (rows,) or bool((y < 0).any()):
        raise InputError(
            f"y in {path} must be class labels, whole numbers of at least 0, of shape ({rows},), got type {y.dtype} "
            f"and shape {tuple(y.shape)}"
        )
    return y.long()
