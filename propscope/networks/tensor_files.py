"""Arrays and tensors from a stranger's file: nothing in it is run, and no size that it states is trusted.

`read_array`, `read_arrays` and `read_tensors` compare what a file promises with what it holds, and with the memory of
the machine, before anything is allocated. `usable` returns a tensor with its values at hand, and refuses one that has
none.
"""

from __future__ import annotations

import io
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from propscope.checks import bytes_text, fits_memory, regular_file
from propscope.errors import InputError, error_line

_ZIP, _NPY = b"PK\x03\x04", b"\x93NUMPY"
_WIDE = {"f": np.dtype(np.float64), "c": np.dtype(np.complex128)}
# Far above what a file of arguments holds; lists that hold the same list twice, again and again, soon exceed it.
_MOST_ENTRIES, _DEEPEST = 100_000, 32
# A tensor may repeat what it stores up to so many elements (256 MB of float32).
_MOST_REPEATED = 2**26


def read_array(path: Path, *, what: str, kinds: str = "biufc") -> NDArray[Any]:
    """Return the array of a `.npy` file, in native byte order; `kinds`: the dtype kinds that are valid.

    Types wider than double become float64 or complex128. `what` names the file in errors. Raises `InputError` for
    anything but an array of numbers that the file holds entirely and that fits in memory.
    """
    regular_file(what, path, hint="give the path of a .npy or .pt file")
    with path.open("rb") as file:
        start = file.read(len(_NPY))
    if start.startswith(_ZIP[:2]):
        raise InputError(
            f"the {what} {path} cannot be read as a numpy array: it is a zip archive, as .npz and .pt files are",
            hint="give it the ending .npz, or that of a file of torch.save .pt",
        )
    with path.open("rb") as file:
        return _array(file, path.stat().st_size, f"the {what} {path}", kinds)


def read_arrays(path: Path, *, what: str, kinds: str = "biufc") -> dict[str, NDArray[Any]]:
    """Return the arrays of a `.npz` file by their names, each as `read_array` returns it; compressed ones too.

    Raises `InputError` as `read_array` does, and for an archive that does not fit in memory when it is unpacked.
    """
    regular_file(what, path, hint="give the path of a .npz file")
    name = f"the {what} {path}"
    found: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            fits_memory(name, 2 * sum(entry.file_size for entry in entries), hint="save fewer rows")
            for entry in entries:
                if entry.filename.endswith(".npy"):
                    with archive.open(entry) as file:
                        # No more than the archive promised, whatever it unpacks to.
                        content = io.BytesIO(file.read(entry.file_size))
                    key = entry.filename.removesuffix(".npy")
                    found[key] = _array(content, entry.file_size, f"{key} of {name}", kinds)
    except InputError:
        raise
    except Exception as error:  # A damaged archive raises whatever its bytes happen to spell.
        raise InputError(
            f"{name} cannot be read as an archive of numpy arrays ({error_line(error)})",
            hint="save it again with numpy.savez",
        ) from error
    if not found:
        raise InputError(f"{name} holds no arrays", hint="save them with numpy.savez(path, x=..., y=...)")
    return found


def _array(file: IO[bytes], size: int, name: str, kinds: str) -> NDArray[Any]:
    """Return the array of an open `.npy` file of so many bytes; `name` begins the errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            # Versions 2 and 3 differ in names of fields only, which no numbers have.
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = header(file)
            available = size - file.tell()
            if not dtype.hasobject:
                _check_promise(name, shape, dtype, available)
            file.seek(0)
            array: NDArray[Any] = np.load(file, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # A damaged header raises whatever its bytes happen to spell.
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"{name} cannot be read as a numpy array ({type(error).__name__}: {reason})",
            hint="save it again with numpy.save",
        ) from error
    if array.dtype.kind not in kinds:
        numbers = "numbers" if "c" in kinds else "real numbers"
        raise InputError(f"{name} must hold {numbers}, got elements of type {array.dtype}", hint="save it as numbers")
    if (wide := _WIDE.get(array.dtype.kind)) is not None and array.dtype.itemsize > wide.itemsize:
        with np.errstate(over="ignore"):
            array = array.astype(wide)
    native: NDArray[Any] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native


def _check_promise(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], available: int) -> None:
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or size > available:
        raise InputError(
            f"{name} cannot be read as a numpy array: its header promises shape {shape} of {dtype}, "
            f"{bytes_text(size)}, but {bytes_text(available)} follow it",
            hint="save it again with numpy.save",
        )
    fits_memory(f"{name} of shape {shape}", 2 * size, hint="save fewer rows")


def read_tensors(path: Path, *, what: str) -> Any:
    """Return what a file of `torch.save` holds, on the CPU, read with `weights_only=True`.

    `what` names the file in errors. Raises `InputError` for a file that cannot be read so, that is compressed (a few
    kilobytes could fill the memory; `torch.save` never compresses), or that does not fit in memory.
    """
    regular_file(what, path, hint="give the path of a file that torch.save wrote")
    try:
        _refuse_compressed(path, what)
        # The memory that is not there, and formats that torch calls prototypes, are reported below or not at all.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception as error:  # A damaged archive raises whatever its bytes happen to spell.
        raise InputError(
            f"the {what} {path} cannot be read as a torch file that loads with weights_only=True ({_reason(error)})",
            hint=_other_format(path) or "save only tensors, with torch.save",
        ) from error


def _reason(error: Exception) -> str:
    """Return why torch cannot load a file; torch's own text advises to run the file's code, in colours."""
    text = str(error)
    if (named := re.search(r"GLOBAL (\S+)", text)) is not None:
        return f"it names {named[1]}, and no code in a file is run"
    if "Weights only load failed" in text:
        return "it holds something else than tensors" if "nested" not in text else "it holds nested tensors"
    first = (text.strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _refuse_compressed(path: Path, what: str) -> None:
    size = path.stat().st_size
    fits_memory(f"the {what} {path}", size, hint="save fewer rows")
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > size:
        raise InputError(
            f"the {what} {path} is compressed: its {bytes_text(size)} unpack to {bytes_text(unpacked)}",
            hint="save it with torch.save, which does not compress",
        )


def _other_format(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(_NPY):
        return "it is a numpy array: give the file the ending .npy"
    if path.suffix == ".safetensors" or start[8:9] == b"{":
        return "convert safetensors first: torch.save(safetensors.torch.load_file(path), 'weights.pt')"
    if path.suffix == ".npz":
        return "save the one array with numpy.save, as .npy"
    return ""


def usable(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor whose values can be used: dense, real or complex numbers, float8 as float32, detached.

    `name` begins the errors, such as "the input x.pt". Raises `InputError` for a tensor without values (meta), that is
    sparse, nested or quantized, of a type without arithmetic, or that repeats what it stores far beyond its size.
    """
    problem, hint = _unusable(tensor)
    if problem:
        raise InputError(f"{name} must hold dense numbers, got {problem}", hint=hint)
    tensor = tensor.detach()
    elements = tensor.numel()
    stored = tensor.untyped_storage().nbytes() // tensor.element_size()
    if elements > max(stored, _MOST_REPEATED):
        raise InputError(
            f"{name} has shape {tuple(tensor.shape)}, {bytes_text(elements * tensor.element_size())}, but stores "
            f"{stored:,} numbers, which it repeats",
            hint="save fewer rows: repeated ones tell nothing new",
        )
    fits_memory(f"{name} of shape {tuple(tensor.shape)}", 8 * elements, hint="save fewer rows")
    return tensor.to(torch.float32) if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _unusable(tensor: Tensor) -> tuple[str, str]:
    """Return what a tensor is that has no plain values, and what to save instead; two empty texts where it has."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_nested:
        return "a nested tensor", "save one tensor of equal rows: torch.nested.to_padded_tensor(x, 0.0)"
    if tensor.is_meta:
        return "a tensor on the meta device, which has no values", "save a tensor that has values"
    if tensor.layout != torch.strided:
        return f"a tensor of layout {str(tensor.layout).removeprefix('torch.')}", "save x.to_dense()"
    if tensor.is_quantized:
        return f"a quantized tensor ({kind})", "save x.dequantize()"
    try:
        torch.zeros(1, dtype=tensor.dtype).to(torch.complex64 if tensor.is_complex() else torch.float32)
    except (RuntimeError, TypeError):
        return f"elements of type {kind}", "save it as float32"
    return "", ""


def check_structure(name: str, content: Any) -> None:
    """Raise `InputError` for lists and dicts that are nested too deeply, or that hold too much, to be arguments.

    A file of a hundred bytes can hold a list of two lists that are one list of two lists, and so on, 60 times.
    """
    entries: dict[int, int] = {}

    def count(value: Any, depth: int) -> int:
        if not isinstance(value, (tuple, list, dict, set, frozenset)):
            return 1
        if depth > _DEEPEST:
            raise InputError(f"{name} is nested more than {_DEEPEST} deep", hint="save a tensor, a tuple or a dict")
        if id(value) not in entries:
            parts = value.values() if isinstance(value, dict) else value
            entries[id(value)] = sum(count(part, depth + 1) for part in parts)
        return entries[id(value)]

    if (found := count(content, 0)) > _MOST_ENTRIES:
        raise InputError(
            f"{name} must hold at most {_MOST_ENTRIES:,} values in lists and dicts, got {found:,}",
            hint="save a tensor, a tuple or a dict",
        )
