"""`new_file`: a sealed HDF5 file that appears whole under its name or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from propscope.errors import PropscopeError, StoreError
from propscope.store.journal import CAN_LOCK, is_at, lock
from propscope.store.seal import seal_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_TEMPORARY, _ENDING = ".propscope-", ".tmp"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Sink(io.RawIOBase):
    """The file that HDF5 writes to: it accepts every write, keeps the first failure and drops all later writes.

    HDF5 cannot close a file whose writes fail: it raises, retries when Python ends, and may crash the process
    (h5py issues 914 and 1775). Here a full disk is an ordinary `OSError`, raised by `check` between HDF5's calls.
    """

    def __init__(self, descriptor: int) -> None:
        self._file = io.FileIO(descriptor, "r+")
        self.failure: BaseException | None = None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        done = self._file.readinto(view) or 0
        view[done:] = bytes(len(view) - done)
        return len(view)

    def write(self, data: ReadableBuffer) -> int:
        view = memoryview(data).cast("B")
        done = 0 if self.failure is None else len(view)
        try:
            while done < len(view):
                done += self._file.write(view[done:])
        except BaseException as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            if self.failure is None:
                self._file.truncate(size)
        except BaseException as error:
            self.failure = error
        return self.tell() if size is None else size

    def flush(self) -> None:
        """Do nothing: `finish` flushes once, at the end."""

    def check(self) -> None:
        """Raise the first failure, if any."""
        if self.failure is not None:
            raise self.failure

    def finish(self) -> None:
        """Append the seal, flush everything to the disk and close; raise the first failure, if any."""
        self.check()
        self.write(seal_of(self._file))
        self.check()
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        self._file.close()
        super().close()


class NameTakenError(StoreError):
    """A file of that name exists, and nobody asked to replace it."""


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise the `StoreError` that `save` would raise, before any work is done; make the directory if it is missing.

    Temporary files of propscope that a killed process left in the directory are removed.
    """
    _, descriptor, probe = _open_beside(path, overwrite)
    os.close(descriptor)
    probe.unlink()


def check_output(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Do what `check_target` does for a name that was typed: a missing directory and a dangling link are errors."""
    for part in (Path(path), *Path(path).parents):
        if part.is_symlink() and not part.exists():
            raise StoreError(
                f"cannot write {path}: {part} is a link to {os.readlink(part)}, which does not exist",
                hint="remove the link, or make what it points to",
            )
    directory = Path(path).parent
    # What lies below a file is told as that.
    if not directory.exists() and not any(parent.is_file() for parent in directory.parents):
        raise StoreError(f"cannot write {path}: there is no directory {directory}", hint=f"mkdir -p {directory}")
    check_target(path, overwrite=overwrite)


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield an HDF5 file that takes the name `path` when the block ends; a missing directory is made.

    The second value is a function that raises the first failure of the disk so far, since HDF5 does not report it. When
    the block or the disk fails, nothing is left behind and an earlier file of that name is untouched. Raises
    `StoreError` when the file exists and `overwrite` is false, or when it cannot be written; KeyboardInterrupt passes.
    """
    target, descriptor, temporary = _open_beside(path, overwrite)
    # The lock lasts until the last descriptor is closed, and must until the file has its name.
    locked = os.dup(descriptor)
    sink = _Sink(descriptor)
    try:
        # Readable since HDF5 1.10 (2016); the indexes of that format find a chunk of a long column faster.
        with h5py.File(sink, "w", libver=("v110", "v110")) as file:
            yield file, sink.check
        sink.finish()
        _publish(temporary, target, overwrite)
    except BaseException as error:
        cause = sink.failure or error
        if isinstance(cause, (OSError, RuntimeError)) and not isinstance(cause, PropscopeError):
            raise _unwritable(path, cause) from cause
        if cause is not error:
            raise cause from error
        raise
    finally:
        sink.close()
        temporary.unlink(missing_ok=True)
        os.close(locked)


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool) -> None:
    """Write a text, in UTF-8, that appears whole under its name or not at all; raises `StoreError` as `new_file`."""
    target, descriptor, temporary = _open_beside(path, overwrite)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
            _publish(temporary, target, overwrite)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _open_beside(path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, int, Path]:
    try:
        # A link is followed, so that the file it points to is replaced and not the link.
        target = Path(os.path.realpath(path))
        _refuse(path, target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target, *temporary_beside(target)
    except StoreError:
        raise
    except FileExistsError as error:
        raise _unwritable(path, NotADirectoryError(errno.ENOTDIR, f"{target.parent} is not a directory")) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def temporary_beside(target: Path) -> tuple[int, Path]:
    """Return a new file in the directory of `target`, open and locked, and its name.

    Files of this kind whose process was killed are removed first: nobody has them locked.
    """
    _sweep(target.parent)
    while True:
        temporary = target.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}{_ENDING}")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        # Another process that starts now may take it for a left one before it is locked.
        if lock(descriptor) and is_at(temporary, descriptor):
            return descriptor, temporary
        os.close(descriptor)


def _sweep(directory: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    if not CAN_LOCK:
        return
    with suppress(OSError):
        for entry in os.scandir(directory):
            if entry.name.startswith(_TEMPORARY) and entry.name.endswith(_ENDING):
                with suppress(OSError):
                    descriptor = os.open(entry.path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
                    try:
                        if stat.S_ISREG(os.fstat(descriptor).st_mode) and lock(descriptor):
                            os.unlink(entry.path)
                    finally:
                        os.close(descriptor)


def _refuse(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise StoreError(f"cannot write {path}: it is a directory", hint=f"name a file, such as {target / 'run.h5'}")
    if target.exists() and not target.is_file():
        what = "a FIFO" if target.is_fifo() else "not a regular file"
        raise StoreError(f"cannot write {path}: it is {what}", hint="name a file that propscope may create")
    if target.exists() and not overwrite:
        raise _taken(path)


def _publish(temporary: Path, target: Path, overwrite: bool) -> None:
    if not overwrite:
        # A link fails, unlike a rename, when another run has taken the name in the meantime.
        try:
            os.link(temporary, target)
            return
        except FileExistsError as error:
            raise _taken(target) from error
        except OSError:
            if target.exists():
                raise _taken(target) from None
    os.replace(temporary, target)


def _taken(path: str | os.PathLike[str]) -> NameTakenError:
    hint = "choose another name, or replace it with --overwrite (in Python: overwrite=True)"
    return NameTakenError(f"{path} exists and is kept", hint=hint)


def _unwritable(path: str | os.PathLike[str], error: BaseException) -> StoreError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in _FULL
    hint = "free some space, or write to another disk" if full else "name a file in a directory that can be written"
    return StoreError(f"cannot write {path}: {cause}", hint=hint)
