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

from propscope.checks import fits_memory
from propscope.errors import InputError

_GZIP, _UNSIGNED_BYTE = b"\x1f\x8b", 8
# Deflate makes at most 1,032 bytes of one; images become float32.
_INFLATED, _FLOAT, _BLOCK = 1032, 4, 1 << 20
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
    """Return the array of an IDX file of unsigned bytes; raises `InputError` for anything else.

    No more is unpacked than the head of the file promises, and nothing where that does not fit in memory.
    """
    start = 4 + 4 * dimensions
    try:
        stored = path.stat().st_size
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as stream:
            shape = _shape(path, stream.read(start), dimensions)
            promised = math.prod(shape)
            if not packed and stored - start != promised:
                raise _other_size(path, str(stored - start), shape)
            if packed and promised > stored * _INFLATED:
                raise _other_size(path, f"at most {stored * _INFLATED}", shape)
            fits_memory(f"{path} of shape {shape}", _FLOAT * promised, hint="use fewer rows of it")
            values = bytearray()
            while len(values) <= promised and (more := stream.read(min(_BLOCK, promised + 1 - len(values)))):
                values += more
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is damaged or truncated ({error})", hint=_AGAIN) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})", hint=_AGAIN) from error
    if len(values) != promised:
        raise _other_size(path, str(len(values)) if len(values) < promised else f"more than {promised}", shape)
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, dimensions: int) -> tuple[int, ...]:
    """Return the shape that the head of an IDX file promises."""
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] != _UNSIGNED_BYTE or head[3] != dimensions:
        raise InputError(
            f"{path} starts with {head[:4].hex(' ') or 'nothing'}; an IDX file of bytes in {dimensions} "
            f"dimension{'s' * (dimensions > 1)} starts with 00 00 08 {dimensions:02x}",
            hint="give the folder of the IDX files",
        )
    if len(head) < 4 + 4 * dimensions:
        raise InputError(f"{path} is shorter than the header of an IDX file", hint=_AGAIN)
    shape = tuple(np.frombuffer(head[4:], dtype=">u4").tolist())
    if not math.prod(shape):
        raise InputError(f"{path} has shape {shape}, without any element", hint=_AGAIN)
    return shape


def _other_size(path: Path, held: str, shape: tuple[int, ...]) -> InputError:
    return InputError(f"{path} holds {held} values, but shape {shape} makes {math.prod(shape)}", hint=_AGAIN)


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
