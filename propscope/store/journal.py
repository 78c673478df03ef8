"""`Journal`: a file of records that is only appended to, so that every whole record survives a kill at any moment.

The file is `MAGIC` and then records: the payload's length (8 bytes, little-endian), the BLAKE2b digest of 16 bytes of
length and payload, the payload. The first record says what the others belong to. A record that is cut off or changed
ends the journal: what stands before it is read, and the rest is cut off when the journal is continued.
"""

from __future__ import annotations

import hashlib
import os
import struct
from contextlib import suppress
from pathlib import Path

from propscope.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind.
    fcntl = None  # type: ignore[assignment]

MAGIC = b"propscope journal 1\n"
CAN_LOCK = fcntl is not None
_LENGTH = struct.Struct("<Q")
_DIGEST = 16
_HEAD = _LENGTH.size + _DIGEST


class Journal:
    """An open journal that no other process writes to: `records` as they were found, `append` adds one.

    `Journal.open(path)` continues the journal `path`, or starts one; it returns None when another process has it open.
    Raises `StoreError` for a file that is no journal of this version, and `OSError` when it cannot be opened.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        content = b""
        while len(content) < size and (more := os.pread(descriptor, size - len(content), len(content))):
            content += more
        self.records, self._end = _records(path, content)
        if not self.records:
            self.restart()

    @classmethod
    def open(cls, path: Path) -> Journal | None:
        """Return the journal `path`, made if it is missing; None when another process has it open."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            try:
                if not lock(descriptor):
                    os.close(descriptor)
                    return None
                # Its last owner may have removed it between the two calls.
                if is_at(path, descriptor):
                    return cls(path, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def restart(self) -> None:
        """Drop every record."""
        self.records, self._end = [], len(MAGIC)
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        _write(self._descriptor, MAGIC)

    def append(self, payload: bytes) -> None:
        """Add a record; the operating system has all of it when this returns.

        Raises the `OSError` of a disk that takes no more; the journal then ends where it ended before.
        """
        length = _LENGTH.pack(len(payload))
        try:
            # Whatever an interrupted call left behind the last whole record is written over.
            os.ftruncate(self._descriptor, self._end)
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            _write(self._descriptor, length + _digest(length, payload))
            _write(self._descriptor, payload)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            raise
        self._end += _HEAD + len(payload)

    def close(self) -> None:
        """Close the file, which stays."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Remove the file and close it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.close()


def lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or its process ends; return whether no other process has it locked."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # Some network file systems have no locks; then two writers at once are the user's to avoid.
        return True
    return True


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one that has the name `path` now."""
    try:
        named, opened = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _records(path: Path, content: bytes) -> tuple[list[bytes], int]:
    """Return the whole records of a journal, and where the last one ends."""
    if not content.startswith(MAGIC) and not MAGIC.startswith(content):
        raise StoreError(
            f"{path} is not a journal of this version of propscope", hint="remove it, or choose another name"
        )
    records, at = [], len(MAGIC)
    while at + _HEAD <= len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        start = at + _HEAD
        payload = content[start : start + length]
        whole = _digest(content[at : at + _LENGTH.size], payload)
        if len(payload) != length or whole != content[at + _LENGTH.size : start]:
            break
        records.append(payload)
        at = start + length
    return records, at


def _digest(length: bytes, payload: bytes) -> bytes:
    digest = hashlib.blake2b(length, digest_size=_DIGEST)
    digest.update(payload)
    return digest.digest()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
