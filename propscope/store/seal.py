"""The seal of a result file: digests of its blocks behind HDF5's last byte, which are checked before HDF5 reads.

HDF5 has checksums of its own structures only, loops for ever on some damaged files, and takes a changed letter for a
name. docs/schema.md states the seal. A program that changes the file with HDF5 cuts the seal off: such a file, and one
of an earlier propscope, ends where HDF5 says that it ends, and is read without a seal.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import h5py

from propscope.errors import StoreError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_MAGIC = b"propscope seal 1"
_DIGEST = hashlib.sha256().digest_size
_TAIL = 8 + _DIGEST + len(_MAGIC)

# A single profile out of many is read in pieces of a few kB; each piece costs the digest of its block, once.
BLOCK = 1 << 18
# A file up to this size is checked as a whole, which takes a tenth of a second; of a larger one, what is read.
WHOLE = 1 << 26
# HDF5 reads a small file from memory: it asks for a few hundred pieces, each of which costs a call of Python.
SMALL = 1 << 22

_HDF5 = b"\x89HDF\r\n\x1a\n"


def seal_of(stream: BinaryIO | io.FileIO) -> bytes:
    """Return the seal of a whole file, which is appended to it.

    It is the SHA-256 of every `BLOCK` bytes, the number of bytes that they cover (8 bytes, little-endian), the SHA-256
    of all of this, and the 16 bytes "propscope seal 1".
    """
    stream.seek(0)
    digests, size = [], 0
    while block := _read(stream, BLOCK):
        digests.append(hashlib.sha256(block).digest())
        size += len(block)
    table = b"".join(digests) + size.to_bytes(8, "little")
    return table + hashlib.sha256(table).digest() + _MAGIC


@contextmanager
def open_sealed(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Yield the HDF5 file `path`, open for reading; of a sealed file, HDF5 sees bytes only whose digest is right.

    Raises `StoreError` when the file differs from its seal, or lacks a seal without ending where HDF5 says, and the
    `OSError` of HDF5 for an unsealed file that it cannot open.
    """
    with open(path, "rb", buffering=0) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _TAIL, 0))
        tail = _read(stream, _TAIL)
        if not tail.endswith(_MAGIC):
            _check_end(path, stream, size)
            with h5py.File(path, "r") as file:
                yield file
            return
        sealed = _SealedFile(path, stream, size, tail)
        if sealed.size <= SMALL:
            with h5py.File(h5py.h5f.open_file_image(sealed.whole()), "r") as file:
                yield file
            return
        if sealed.size <= WHOLE:
            sealed.compare(0, sealed.size)
        try:
            with h5py.File(sealed, "r") as file:
                yield file
        finally:
            # HDF5 may go on after a failed read, and h5py raise something else.
            sealed.check()


class _SealedFile(io.RawIOBase):
    """The file that HDF5 reads: a block is compared with its digest before the first of its bytes is handed on."""

    def __init__(self, path: str | os.PathLike[str], stream: io.FileIO, size: int, tail: bytes) -> None:
        self._path, self._stream = path, stream
        self._failure: StoreError | None = None
        self._position = 0
        self.size = int.from_bytes(tail[:8], "little")
        blocks = -(-self.size // BLOCK)
        if size != self.size + blocks * _DIGEST + _TAIL:
            raise _damaged(path, f"it has {size} bytes, but its seal is for {self.size}")
        stream.seek(self.size)
        table = _read(stream, blocks * _DIGEST + 8)
        if hashlib.sha256(table).digest() != tail[8 : 8 + _DIGEST]:
            raise _damaged(path, "its seal was changed")
        self._digests = [table[at : at + _DIGEST] for at in range(0, blocks * _DIGEST, _DIGEST)]
        self._unseen = set(range(blocks))

    def whole(self) -> bytes:
        """Return all that the seal covers, after comparing it; raises `StoreError` for the first difference."""
        return b"".join(map(self._block, range(len(self._digests))))

    def compare(self, start: int, stop: int) -> None:
        """Compare the blocks that hold these bytes, unless they were; raises `StoreError` for the first difference."""
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            if block in self._unseen:
                self._block(block)

    def _block(self, block: int) -> bytes:
        self._stream.seek(block * BLOCK)
        data = _read(self._stream, min(BLOCK, self.size - block * BLOCK))
        if hashlib.sha256(data).digest() != self._digests[block]:
            last = block * BLOCK + len(data) - 1
            self._failure = _damaged(self._path, f"bytes {block * BLOCK} to {last} are not those that propscope wrote")
            raise self._failure
        self._unseen.discard(block)
        return data

    def check(self) -> None:
        """Raise the first difference that was met, if any."""
        if self._failure is not None:
            raise self._failure

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (self.size if whence == os.SEEK_END else 0)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        self.check()
        view = memoryview(buffer).cast("B")
        start, count = self._position, len(view)
        stop = max(start, min(start + count, self.size))
        if self._unseen:
            self.compare(start, stop)
        # HDF5 asks for ten thousands of pieces of a large file.
        self._stream.seek(start)
        found = self._stream.readinto(view[: stop - start]) or 0
        while start + found < stop and (more := self._stream.readinto(view[found : stop - start])):
            found += more
        if found < count:
            view[found:] = bytes(count - found)
        self._position += count
        return count


def _check_end(path: str | os.PathLike[str], stream: io.FileIO, size: int) -> None:
    """Raise `StoreError` where a file without a seal is shorter or longer than its superblock says."""
    stream.seek(0)
    superblock = _read(stream, 48)
    # Version 2 and 3 of the superblock, with addresses of 8 bytes: what propscope has always written.
    if len(superblock) == 48 and superblock[:8] == _HDF5 and superblock[8] in (2, 3) and superblock[9] == 8:
        end = int.from_bytes(superblock[28:36], "little")
        if size != end:
            raise _damaged(path, f"it has {size} bytes and no seal, but its HDF5 part has {end}")


def _damaged(path: str | os.PathLike[str], cause: str) -> StoreError:
    return StoreError(f"{path} is truncated or damaged: {cause}", hint="measure again, or restore a copy")


def _read(stream: BinaryIO | io.FileIO, count: int) -> bytes:
    """Return the next `count` bytes, fewer at the end of the file; a single read may give fewer anywhere."""
    data = stream.read(max(count, 0)) or b""
    while len(data) < count and (more := stream.read(count - len(data))):
        data += more
    return data
