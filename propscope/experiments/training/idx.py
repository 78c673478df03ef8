"""IDX files, the format of MNIST and its successors: whole numbers of one byte, gzipped or not.

Format: http://yann.lecun.com/exdb/mnist: two zero bytes, the type (8: unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit number, the values.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from propscope.errors import InputError

_GZIP, _UNSIGNED_BYTE = b"\x1f\x8b", 8
_AGAIN = "get the file again"


def images_and_labels(
    folder: Path, *, classes: int, within: tuple[str, ...] = ()
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the training images, shape (rows, height, width), and labels, shape (rows,), that a folder holds.

    The files `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or with a dot in place of the second-last dash,
    each with or without `.gz`, in the folder or in one of `within` it. Raises `InputError` for files that are missing,
    truncated, not IDX or without rows, for counts that differ and for a label of `classes` or above.
    """
    images_path = _find(folder, "train-images", "idx3-ubyte", within)
    labels_path = _find(folder, "train-labels", "idx1-ubyte", within)
    images, labels = read_idx(images_path, dimensions=3), read_idx(labels_path, dimensions=1)
    if len(images) != len(labels):
        raise InputError(
            f"{images_path} and {labels_path} must have as many images as labels, got {len(images)} and {len(labels)}",
            hint="both files must come from the same data set",
        )
    if (wrong := np.flatnonzero(labels >= classes)).size:
        raise InputError(
            f"the labels of {labels_path} must be 0 to {classes - 1}, got {labels[wrong[0]]} in row {wrong[0]}",
            hint=_AGAIN,
        )
    return images, labels


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an IDX file of unsigned bytes; raises `InputError` for anything else."""
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or truncated ({error})", hint=_AGAIN) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", hint=_AGAIN) from error
    start = 4 + 4 * dimensions
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UNSIGNED_BYTE or data[3] != dimensions:
        raise InputError(
            f"{path} starts with {data[:4].hex(' ') or 'nothing'}; an IDX file of bytes in {dimensions} "
            f"dimension{'s' * (dimensions > 1)} starts with 00 00 08 {dimensions:02x}",
            hint="give the folder of the IDX files",
        )
    shape = tuple(np.frombuffer(data[4:start], dtype=">u4").tolist()) if len(data) >= start else ()
    if len(shape) < dimensions or len(data) - start != math.prod(shape):
        promised = f"shape {shape} makes {math.prod(shape)}" if shape else "its head alone is longer"
        raise InputError(f"{path} holds {max(len(data) - start, 0)} values, but {promised}", hint=_AGAIN)
    if not math.prod(shape):
        raise InputError(f"{path} has shape {shape}, without any element", hint=_AGAIN)
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)


def _find(folder: Path, stem: str, kind: str, within: tuple[str, ...]) -> Path:
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise InputError(f"the folder {folder} {problem}", hint="give the folder of the IDX files, as path=DIR")
    for place in (folder, *(folder / part for part in within)):
        for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
            for path in (place / name, place / f"{name}.gz"):
                if path.is_file():
                    return path
    raise InputError(
        f"{folder} has no {stem}-{kind}, nor the same with .gz",
        hint="put the four files of the data set there; propscope downloads nothing",
    )
