"""`new_file`: a sealed HDF5 file that appears whole under its name or not at all."""

from __future__ import annotations

import errno
import io
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import h5py

from propscope.errors import PropscopeError, StoreError
from propscope.store.seal import seal_of

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

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


def check_target(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise the `StoreError` that `save` would raise, before any work is done; make the directory if it is missing."""
    _, descriptor, probe = _open_beside(path, overwrite)
    os.close(descriptor)
    probe.unlink()


@contextmanager
def new_file(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[tuple[h5py.File, Callable[[], None]]]:
    """Yield an HDF5 file that takes the name `path` when the block ends; a missing directory is made.

    The second value is a function that raises the first failure of the disk so far, since HDF5 does not report it. When
    the block or the disk fails, nothing is left behind and an earlier file of that name is untouched. Raises
    `StoreError` when the file exists and `overwrite` is false, or when it cannot be written; KeyboardInterrupt passes.
    """
    target, descriptor, temporary = _open_beside(path, overwrite)
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


def _open_beside(path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, int, Path]:
    try:
        # A link is followed, so that the file it points to is replaced and not the link.
        target = Path(os.path.realpath(path))
        _refuse(path, target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".propscope-{secrets.token_hex(8)}.tmp")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        return target, os.open(temporary, flags, 0o666), temporary
    except StoreError:
        raise
    except FileExistsError as error:
        raise _unwritable(path, NotADirectoryError(errno.ENOTDIR, f"{target.parent} is not a directory")) from error
    except OSError as error:
        raise _unwritable(path, error) from error


def _refuse(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise StoreError(f"cannot write {path}: it is a directory", hint=f"name a file, such as {target / 'run.h5'}")
    if target.exists() and not target.is_file():
        raise StoreError(f"cannot write {path}: it is not a regular file", hint="name a file that propscope may create")
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


def _taken(path: str | os.PathLike[str]) -> StoreError:
    hint = "choose another name, or replace it with --overwrite (in Python: overwrite=True)"
    return StoreError(f"{path} exists and is kept", hint=hint)


def _unwritable(path: str | os.PathLike[str], error: BaseException) -> StoreError:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    full = isinstance(error, OSError) and error.errno in _FULL
    hint = "free some space, or write to another disk" if full else "name a file in a directory that can be written"
    return StoreError(f"cannot write {path}: {cause}", hint=hint)
