"""`RunFile`: the result file of a long run, kept safe entry by entry while the run goes on.

Each finished network is appended to a journal beside the file, `.NAME.partial`, and the file is written at the end.
After a kill the journal has all that was finished; the same command, or --resume, goes on from there. The attribute
`run` of a file says what its run had to do and whether it was stopped, so that a later run can go on from the file too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import h5py

from propscope.errors import InputError, PropscopeError, StoreError
from propscope.printable import printable
from propscope.records.network import NetworkProfile
from propscope.records.training import TrainingRun
from propscope.store.atomic import NameTakenError, check_output
from propscope.store.journal import Journal, journal_name, journals_of, target_of
from propscope.store.packed import PackedRows, pack, save_rows
from propscope.store.read import entries_in
from propscope.store.run_journal import RunHeader, header_in, numbers_in_journal, record_of, rows_in_journal
from propscope.store.schema import SCHEMA_VERSION
from propscope.store.seal import open_sealed
from propscope.store.table_reader import TableReader, open_tables, reading
from propscope.store.write import Kept

Entry = NetworkProfile | TrainingRun
Description = Mapping[str, Any]

# HDF5 takes attributes of up to 64 kB.
_MOST_TEXT = 60_000


@dataclass(frozen=True, slots=True)
class _Saved:
    """What an existing file says of the run that wrote it, and which file it is."""

    header: RunHeader | None
    unfinished: bool
    identity: tuple[int, int, int]


class RunFile:
    """A result file in the making: `add` keeps one more entry by its number in the run, `save` ends it.

    A context manager: what was added and not saved stays in the journal, which is removed when it holds nothing. Of an
    entry that is kept, some 200 bytes are in memory.
    """

    def __init__(self, path: Path, journal: Journal, header: RunHeader, *, replaces: _Saved | bool) -> None:
        self.path = path
        self._journal: Journal | None = journal
        self._header = header
        self._replaces = replaces
        self._warned = False
        # The packed entries that the journal lacks, since the disk takes no more, by their numbers.
        self.waiting: dict[int, bytes] = {}
        if not len(journal):
            journal.append(header.text().encode())
        # The record of each entry in the journal; where that takes no more, the packed entry.
        self._kept: dict[int, int | bytes] = {**numbers_in_journal(journal)}

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close() if self._kept else self._journal.remove()
            self._journal = None

    @property
    def finished(self) -> Collection[int]:
        """The numbers of the entries that are kept."""
        return self._kept.keys()

    def add(self, number: int, entry: Kept | bytes) -> None:
        """Keep the entry `number` of the run, or what `pack` made of it: when this returns, it survives the process."""
        packed = entry if isinstance(entry, bytes) else pack(entry)
        journal = self._open
        self._kept[number] = self.waiting[number] = packed
        try:
            # What waits is tried again with each entry.
            for waiting, content in [*self.waiting.items()]:
                journal.append(record_of(waiting, content))
                self._kept[waiting] = len(journal) - 1
                del self.waiting[waiting]
        except OSError as error:
            if not self._warned:
                cause, path = error.strerror or error, printable(str(journal.path))
                print(f"warning: cannot write {path}: {cause}; the run goes on", file=sys.stderr)
                self._warned = True

    def entries(self, numbers: Iterable[int] | None = None) -> Iterator[Entry]:
        """Yield the entries of these numbers in this order (None: all, ascending); a few at a time are in memory."""
        rows = self._rows(numbers)
        return entries_in(TableReader(self._open.path, rows.tables()))

    def save(self, numbers: Iterable[int] | None = None, *, unfinished: bool, keep_journal: bool = False) -> Path:
        """Write the entries of these numbers in this order (None: all, in ascending order), and return the file's path.

        It is another one where another run has taken the name meanwhile. Memory does not grow with their number. Raises
        `StoreError` when the file cannot be written; what was added is then still in the journal.
        """
        rows = self._rows(numbers)
        run = self._header.text(unfinished=unfinished)
        run = run if len(run) <= _MOST_TEXT else ""
        for path in _beside(self.path):
            replaces = self._replaces
            if isinstance(replaces, _Saved):
                # The unfinished file that this run goes on from, unless another run has replaced it.
                replaces = path == self.path and _identity(path) in (replaces.identity, None)
            try:
                with reading(self._open.path):
                    save_rows(path, rows, overwrite=replaces, run=run, monitored=not self._header.has_end)
            except NameTakenError:
                continue
            except StoreError as error:
                where = f"what is finished is kept in {self._open.path}; {self._header.goes_on}"
                raise StoreError(str(error), hint=f"{error.hint}; {where}") from error
            break
        if path != self.path:
            here, other = printable(str(path)), printable(str(self.path))
            print(f"another run has written {other} meanwhile; this one is saved as {here}", file=sys.stderr)
        if not keep_journal:
            self._open.remove()
            self._journal = None
        return path

    @property
    def _open(self) -> Journal:
        assert self._journal is not None, "the run is saved"
        return self._journal

    def _rows(self, numbers: Iterable[int] | None) -> PackedRows:
        chosen = sorted(self._kept) if numbers is None else numbers
        return rows_in_journal(self._open, [self._kept[number] for number in chosen], self._kept.__getitem__)


def begin(
    names: Iterable[Path],
    description: Description,
    number_of: Callable[[Entry], int | None],
    *,
    networks: int,
    overwrite: bool,
    resume: bool,
    named: bool,
) -> RunFile:
    """Return the file of a run of so many networks under the first of `names` that is free.

    A name that an earlier run of the same kind left is as good: this one goes on with what it has finished.

    `description`: what the run has to do, a JSON object that is compared as a whole. `number_of` returns the number in
    the run of an entry of a saved file. `named`: the user chose the name, so a run may begin while another one writes
    to it; the one that ends last is saved under another name.

    Raises `StoreError` when the last name is not free, when nothing can be resumed, and for a directory that is
    missing; and `InputError` when what is to be resumed is another run, naming the difference.
    """
    header = RunHeader(json.loads(json.dumps({**description, "schema": SCHEMA_VERSION})), networks)
    taken: StoreError | None = None
    previous: Path | None = None
    for path in names:
        try:
            return _begin(path, header, number_of, overwrite=overwrite, resume=resume, named=named)
        except NameTakenError as error:  # noqa: PERF203  a few names are tried
            taken, previous = error, path
    raise taken or StoreError(f"every name up to {previous} is taken", hint="choose another name with --output")


def _begin(
    path: Path,
    header: RunHeader,
    number_of: Callable[[Entry], int | None],
    *,
    overwrite: bool,
    resume: bool,
    named: bool,
) -> RunFile:
    check_output(path, overwrite=True)
    saved = _saved(path)
    mine = saved is not None and saved.header == header and (saved.unfinished or resume)
    if saved is not None and resume and not mine:
        if saved.header is None:
            raise StoreError(f"cannot resume {path}: it does not say which run wrote it", hint="leave --resume out")
        raise _another_run(path, saved.header, header)
    journal, unfinished, busy = None, None, False
    for name, found in _journals(path):
        if found is None:
            busy = True
            continue
        recorded = _header(found)
        if recorded is None and len(found):
            found.close()
            continue
        if saved is not None and not saved.unfinished and recorded is not None and saved.header == recorded:
            # Its process was killed after the file was complete, and before the journal was removed.
            found.remove()
        elif recorded == header or (recorded is not None and overwrite and not resume):
            if recorded != header:
                found.restart()
            journal = found
            break
        else:
            unfinished = (name, recorded)
            found.close()
    if journal is None and unfinished is not None and (of_another := unfinished[1]) is not None:
        if resume:
            raise _another_run(path, of_another, header)
        if saved is None:
            raise NameTakenError(
                f"{unfinished[0]} holds the finished networks of another run of {path}: "
                f"{_difference(of_another, header)}",
                hint="choose another name, or drop them with --overwrite",
            )
    if saved is not None and not mine and not overwrite:
        if journal is not None:
            journal.close()
        check_output(path, overwrite=False)
    if journal is None and busy and (resume or not named):
        raise NameTakenError(f"another process is writing {path}", hint="wait until it has ended, or stop it")
    if journal is None and saved is None and resume:
        raise StoreError(
            f"cannot resume {path}: there is neither this file nor a journal of it",
            hint="leave --resume out to start the run",
        )
    if journal is None:
        journal = _new_journal(path)
    try:
        made = RunFile(path, journal, header, replaces=saved if saved is not None and mine else overwrite)
    except BaseException:
        journal.close()
        raise
    if mine:
        with open_tables(path) as tables:
            for entry in entries_in(tables):
                number = number_of(entry)
                if number is not None and number not in made.finished:
                    made.add(number, entry)
    return made


def compact(path: Path) -> Path:
    """Write the file of a run that ended without writing it, from its journal; return the file's path.

    `path`: of the file or of the journal, which is removed. Raises `StoreError` where there is no journal, or where the
    run still goes on.
    """
    target = target_of(path)
    for name, journal in _journals(target):
        if target != path and name != path:
            if journal is not None:
                journal.close()
            continue
        if journal is None:
            raise StoreError(f"another process is writing {target}", hint="wait until it has ended, or stop it")
        if (header := _header(journal)) is None:
            journal.close()
            continue
        saved = _saved(target)
        mine = saved is not None and saved.header == header
        if saved is not None and mine and not saved.unfinished:
            # The file is complete: its process was killed before the journal was removed, or when it began again.
            journal.remove()
            return target
        with RunFile(target, journal, header, replaces=saved if saved is not None and mine else False) as file:
            return file.save(unfinished=header.has_end)
    raise StoreError(f"there is no journal of {target}", hint="only a run that did not end leaves one, .NAME.partial")


def run_of(path: Path) -> Description | None:
    """Return the description of the run that wrote the file `path`; None of another file, or without one."""
    saved = _saved(path)
    return None if saved is None or saved.header is None else saved.header.description


def _journals(path: Path) -> Iterator[tuple[Path, Journal | None]]:
    """Yield the journals of a result file, opened one after the other; None for one that another process writes."""
    for name in journals_of(path):
        yield name, Journal.open(name)


def _new_journal(path: Path) -> Journal:
    for number in count(1):
        name = journal_name(path, number)
        try:
            journal = Journal.open(name)
        except OSError as error:
            raise StoreError(
                f"cannot write {name}: {error.strerror}", hint="name a file in a directory that can be written"
            ) from error
        if journal is not None and not len(journal):
            return journal
        if journal is not None:
            journal.close()
    raise AssertionError


def _header(journal: Journal) -> RunHeader | None:
    return header_in(journal[0]) if len(journal) else None


def _saved(path: Path) -> _Saved | None:
    """Return what the file `path` says of its run; None when there is no such file."""
    identity = _identity(path)
    if identity is None:
        return None
    header, unfinished = None, False
    with suppress(OSError, RuntimeError, ValueError, KeyError, TypeError, PropscopeError):
        if h5py.is_hdf5(path):
            with open_sealed(path) as file:
                run = str(file.attrs["run"])
            header, unfinished = header_in(run), json.loads(run)["unfinished"] is True
    return _Saved(header, unfinished, identity)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _beside(path: Path) -> Iterator[Path]:
    yield path
    for number in count(2):
        if not os.path.lexists(other := path.with_name(f"{path.stem}-{number}{path.suffix}")):
            yield other


def _another_run(path: Path, there: RunHeader, here: RunHeader) -> InputError:
    return InputError(
        f"cannot resume {path}: it is another run: {_difference(there, here)}",
        hint="give the options of the run that was stopped, or leave --resume out and choose another name",
    )


def _difference(there: RunHeader, here: RunHeader) -> str:
    one, other = there.description, here.description
    return "; ".join(
        f"{name} {_short(one.get(name))} -> {_short(other.get(name))}"
        for name in dict.fromkeys([*one, *other])
        if one.get(name) != other.get(name)
    )


def _short(value: Any) -> str:
    text = ", ".join(map(_short, value)) if isinstance(value, list) else value if isinstance(value, str) else None
    text = json.dumps(value) if text is None else json.dumps(text)[1:-1]
    return text if len(text) <= 80 else text[:79] + "…"
