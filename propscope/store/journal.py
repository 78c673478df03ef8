"""`Journal`: a file of records that is only appended to, so that every whole record survives a kill at any moment.

The file is `MAGIC` and then records: the payload's length (8 bytes, little-endian), the BLAKE2b digest of 16 bytes of
length and payload, the payload. The first record says what the others belong to. A record that is cut off or changed
ends the journal: what stands before it is read, and the rest is cut off when the journal is continued.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import weakref
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from propscope.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind.
    fcntl = None  # type: ignore[assignment]

MAGIC = b"propscope journal 3\n"
CAN_LOCK = fcntl is not None
_LENGTH = struct.Struct("<Q")
_DIGEST = 16
_HEAD = _LENGTH.size + _DIGEST
_BINARY = getattr(os, "O_BINARY", 0)
_NAME = re.compile(r"\.(?P<name>.+?)(?:\.\d+)?\.partial")


class Journal:
    """An open journal: a sequence of its whole records, of which the file alone holds the bytes; `append` adds one.

    `Journal.open(path)` continues the journal `path`, or starts one; it returns None when another process has it open.
    `Journal.view(path)` reads what is there by now, also while another process writes. Both raise `StoreError` for a
    file that is no journal of this version, and `OSError` when it cannot be opened.
    """

    def __init__(self, path: Path, descriptor: int, *, view: bool = False) -> None:
        self.path = path
        self.descriptor = descriptor
        # Where each record's payload begins and, behind the last one, would begin.
        self._starts = array("Q", [len(MAGIC) + _HEAD])
        magic = self._bytes(0, len(MAGIC))
        if not MAGIC.startswith(magic):
            raise StoreError(
                f"{path} is not a journal of this version of propscope", hint="remove it, or choose another name"
            )
        self.look_again()
        if not len(self) and not view:
            self.restart()
        self._closing = weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: Path) -> Journal | None:
        """Return the journal `path`, made if it is missing; None when another process has it open."""
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
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

    @classmethod
    def view(cls, path: Path) -> Journal:
        """Return the journal `path` with the records that are whole now; nothing is locked and nothing written."""
        descriptor = os.open(path, os.O_RDONLY | _BINARY)
        try:
            return cls(path, descriptor, view=True)
        except BaseException:
            os.close(descriptor)
            raise

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, record: int) -> bytes:
        return self.part(record, 0, self.size(record))

    def size(self, record: int) -> int:
        """Return the bytes of a record's payload."""
        if not 0 <= record < len(self):
            raise IndexError(record)
        return self._starts[record + 1] - _HEAD - self._starts[record]

    def part(self, record: int, start: int, stop: int) -> bytes:
        """Return these bytes of a record's payload, half-open.

        Raises `ValueError` where it is shorter, and `StoreError` where another process has cut the file off.
        """
        if not 0 <= start <= stop <= self.size(record):
            raise ValueError(f"record {record} has {self.size(record)} bytes, but {stop} are asked for")
        found = self._bytes(self._starts[record] + start, stop - start)
        if len(found) != stop - start:
            raise StoreError(f"{self.path} was cut off while it was read", hint="run the command again")
        return found

    def look_again(self) -> None:
        """Find the records that were added since the journal was opened, or since the last call."""
        size = os.fstat(self.descriptor).st_size
        while (start := self._starts[-1]) <= size:
            head = self._bytes(start - _HEAD, _HEAD)
            length = int.from_bytes(head[: _LENGTH.size], "little")
            if length > size - start or _digest(head[: _LENGTH.size], self._bytes(start, length)) != head[-_DIGEST:]:
                break
            self._starts.append(start + length + _HEAD)

    def restart(self) -> None:
        """Drop every record."""
        del self._starts[1:]
        os.ftruncate(self.descriptor, 0)
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        _write(self.descriptor, MAGIC)

    def append(self, payload: bytes) -> None:
        """Add a record; the operating system has all of it when this returns.

        Raises the `OSError` of a disk that takes no more; the journal then ends where it ended before.
        """
        length = _LENGTH.pack(len(payload))
        end = self._starts[-1] - _HEAD
        try:
            # Whatever an interrupted call left behind the last whole record is written over.
            os.ftruncate(self.descriptor, end)
            os.lseek(self.descriptor, end, os.SEEK_SET)
            _write(self.descriptor, length + _digest(length, payload))
            _write(self.descriptor, payload)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self.descriptor, end)
            raise
        self._starts.append(end + _HEAD + len(payload) + _HEAD)

    def close(self) -> None:
        """Close the file, which stays; one that nothing refers to is closed as well."""
        self._closing()

    def remove(self) -> None:
        """Remove the file and close it."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.close()

    def _bytes(self, start: int, count: int) -> bytes:
        """Return `count` bytes of the file, fewer where it ends."""
        os.lseek(self.descriptor, start, os.SEEK_SET)
        found = os.read(self.descriptor, count)
        while len(found) < count and (more := os.read(self.descriptor, count - len(found))):
            found += more
        return found


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


def _is_open(path: Path) -> bool:
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # Some network file systems have no locks.
        return True
    finally:
        os.close(descriptor)
    return False


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file is the one that has the name `path` now."""
    try:
        named, opened = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _digest(length: bytes, payload: bytes) -> bytes:
    digest = hashlib.blake2b(length, digest_size=_DIGEST)
    digest.update(payload)
    return digest.digest()


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def target_of(path: Path) -> Path:
    """Return the result file that a name stands for, itself or by its journal."""
    found = _NAME.fullmatch(path.name)
    return path.with_name(found["name"]) if found else path


def journals_of(path: Path) -> Iterator[Path]:
    """Yield the names of the journals of a result file, in order."""
    for name in sorted(path.parent.glob(f".{_literally(path.name)}*.partial")):
        if target_of(name) == path and name.is_file() and not name.is_symlink():
            yield name


def is_written(path: Path) -> bool:
    """Return whether a process writes the result file `path` now; True of each that has a journal where locks lack."""
    return any(_is_open(name) for name in journals_of(path))


def journal_name(path: Path, number: int) -> Path:
    """Return the name of the journal `number`, from 1, of a result file."""
    return path.with_name(f".{path.name}{'' if number == 1 else f'.{number}'}.partial")


def _literally(name: str) -> str:
    """Return a file name with what glob reads as a pattern taken literally."""
    return re.sub(r"([*?[])", r"[\1]", name)
