"""`RunFile`: the result file of a long run, kept safe entry by entry while the run goes on.

Each finished network is appended to a journal beside the file, `.NAME.partial`, and the file is written at the end.
After a kill the journal has all that was finished; the same command, or --resume, goes on from there. The attribute
`run` of a file says what its run had to do and whether it was stopped, so that a later run can go on from the file too.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import h5py

from propscope.errors import InputError, PropscopeError, StoreError
from propscope.printable import printable
from propscope.records.network import NetworkProfile
from propscope.records.profile_set import ProfileSet
from propscope.records.training import TrainingRun, TrainingSet
from propscope.store.atomic import NameTakenError, check_output
from propscope.store.journal import Journal
from propscope.store.packed import pack, unpack
from propscope.store.read import load
from propscope.store.schema import SCHEMA_VERSION
from propscope.store.seal import open_sealed
from propscope.store.write import save

Entry = NetworkProfile | TrainingRun
Description = Mapping[str, Any]

# HDF5 takes attributes of up to 64 kB.
_MOST_TEXT = 60_000
_JOURNAL = re.compile(r"\.(?P<name>.+?)(?:\.\d+)?\.partial")


@dataclass(frozen=True, slots=True)
class _Saved:
    """What an existing file says of the run that wrote it, and which file it is."""

    description: Description | None
    unfinished: bool
    identity: tuple[int, int, int]


class RunFile:
    """A result file in the making: `finished` entries by their number in the run, `add` keeps one more, `save` ends it.

    A context manager: what was added and not saved stays in the journal, which is removed when it holds nothing.
    """

    def __init__(self, path: Path, journal: Journal, description: Description, *, replaces: _Saved | bool) -> None:
        self.path = path
        self.finished: dict[int, Entry] = {}
        self._journal: Journal | None = journal
        self._text = json.dumps(description)
        self._replaces = replaces
        if not journal.records:
            journal.append(self._text.encode())
        for record in journal.records[1:]:
            self.finished[int.from_bytes(record[:8], "little")] = unpack(record[8:], journal.path)
        journal.records = []

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *_: object) -> None:
        if self._journal is not None:
            self._journal.close() if self.finished else self._journal.remove()
            self._journal = None

    def add(self, number: int, entry: Entry) -> None:
        """Keep the entry `number` of the run: when this returns, it survives the end of the process."""
        self.finished[number] = entry
        if self._journal is not None:
            try:
                self._journal.append(number.to_bytes(8, "little") + pack(entry))
            except OSError as error:
                cause = error.strerror or error
                print(
                    f"warning: cannot write {printable(str(self._journal.path))}: {cause}; the run goes on",
                    file=sys.stderr,
                )
                self._journal.close()
                self._journal = None

    def save(self, found: ProfileSet | TrainingSet, *, unfinished: bool, keep_journal: bool = False) -> Path:
        """Write the file and return its path, which is another one where another run has taken the name meanwhile.

        Raises `StoreError` when it cannot be written; what was added is then still in the journal.
        """
        run = json.dumps({"description": json.loads(self._text), "unfinished": unfinished})
        run = run if len(run) <= _MOST_TEXT else ""
        for path in _beside(self.path):
            replaces = self._replaces
            if isinstance(replaces, _Saved):
                # The unfinished file that this run goes on from, unless another run has replaced it.
                replaces = path == self.path and _identity(path) in (replaces.identity, None)
            try:
                save(path, found, overwrite=replaces, run=run)
            except NameTakenError:
                continue
            except StoreError as error:
                if self._journal is not None:
                    where = f"what is finished is kept in {self._journal.path}; the same command goes on from it"
                    raise StoreError(str(error), hint=f"{error.hint}; {where}") from error
                raise
            break
        if path != self.path:
            here, other = printable(str(path)), printable(str(self.path))
            print(f"another run has written {other} meanwhile; this one is saved as {here}", file=sys.stderr)
        if self._journal is not None and not keep_journal:
            self._journal.remove()
            self._journal = None
        return path


def begin(
    names: Iterable[Path],
    description: Description,
    number_of: Callable[[Entry], int | None],
    *,
    overwrite: bool,
    resume: bool,
    named: bool,
) -> RunFile:
    """Return the file of a run under the first of `names` that is free, or that an earlier run of the same kind left.

    `description`: what the run has to do, a JSON object that is compared as a whole. `number_of` returns the number in
    the run of an entry of a saved file. `named`: the user chose the name, so a run may begin while another one writes
    to it; the one that ends last is saved under another name.

    Raises `StoreError` when the last name is not free, when nothing can be resumed, and for a directory that is
    missing; and `InputError` when what is to be resumed is another run, naming the difference.
    """
    described = json.loads(json.dumps({**description, "schema": SCHEMA_VERSION}))
    taken: StoreError | None = None
    previous: Path | None = None
    for path in names:
        try:
            return _begin(path, described, number_of, overwrite=overwrite, resume=resume, named=named)
        except NameTakenError as error:  # noqa: PERF203  a few names are tried
            taken, previous = error, path
    raise taken or StoreError(f"every name up to {previous} is taken", hint="choose another name with --output")


def target_of(path: Path) -> Path:
    """Return the result file that --resume names, itself or by its journal."""
    found = _JOURNAL.fullmatch(path.name)
    return path.with_name(found["name"]) if found else path


def _begin(
    path: Path,
    described: Description,
    number_of: Callable[[Entry], int | None],
    *,
    overwrite: bool,
    resume: bool,
    named: bool,
) -> RunFile:
    check_output(path, overwrite=True)
    saved = _saved(path)
    mine = saved is not None and saved.description == described and (saved.unfinished or resume)
    if saved is not None and resume and not mine:
        if saved.description is None:
            raise StoreError(f"cannot resume {path}: it does not say which run wrote it", hint="leave --resume out")
        raise _another_run(path, saved.description, described)
    journal, unfinished, busy = None, None, False
    for name, found in _journals(path):
        if found is None:
            busy = True
            continue
        recorded = _description(found)
        if recorded is None and found.records:
            found.close()
            continue
        if saved is not None and not saved.unfinished and recorded is not None and saved.description == recorded:
            # Its process was killed after the file was complete, and before the journal was removed.
            found.remove()
        elif recorded == described or (recorded is not None and overwrite and not resume):
            if recorded != described:
                found.restart()
            journal = found
            break
        else:
            unfinished = (name, recorded)
            found.close()
    if journal is None and unfinished is not None and (of_another := unfinished[1]) is not None:
        if resume:
            raise _another_run(path, of_another, described)
        if saved is None:
            raise NameTakenError(
                f"{unfinished[0]} holds the finished networks of another run of {path}: "
                f"{_difference(of_another, described)}",
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
        made = RunFile(path, journal, described, replaces=saved if saved is not None and mine else overwrite)
    except BaseException:
        journal.close()
        raise
    if mine:
        for entry in load(path):
            number = number_of(entry)
            if number is not None and number not in made.finished:
                made.add(number, entry)
    return made


def _journals(path: Path) -> Iterator[tuple[Path, Journal | None]]:
    """Yield the journals of a result file, opened one after the other; None for one that another process writes."""
    for name in sorted(path.parent.glob(f".{_literally(path.name)}*.partial")):
        if target_of(name) == path and name.is_file() and not name.is_symlink():
            yield name, Journal.open(name)


def _literally(name: str) -> str:
    """Return a file name with what glob reads as a pattern taken literally."""
    return re.sub(r"([*?[])", r"[\1]", name)


def _new_journal(path: Path) -> Journal:
    for number in count(1):
        name = path.with_name(f".{path.name}{'' if number == 1 else f'.{number}'}.partial")
        try:
            journal = Journal.open(name)
        except OSError as error:
            raise StoreError(
                f"cannot write {name}: {error.strerror}", hint="name a file in a directory that can be written"
            ) from error
        if journal is not None and not journal.records:
            return journal
        if journal is not None:
            journal.close()
    raise AssertionError


def _description(journal: Journal) -> Description | None:
    with suppress(ValueError, IndexError):
        recorded = json.loads(journal.records[0])
        return recorded if isinstance(recorded, dict) else None
    return None


def _saved(path: Path) -> _Saved | None:
    """Return what the file `path` says of its run; None when there is no such file."""
    identity = _identity(path)
    if identity is None:
        return None
    description, unfinished = None, False
    with suppress(OSError, RuntimeError, ValueError, KeyError, TypeError, PropscopeError):
        if h5py.is_hdf5(path):
            with open_sealed(path) as file:
                run = json.loads(str(file.attrs["run"]))
            if isinstance(run["description"], dict):
                description, unfinished = run["description"], run["unfinished"] is True
    return _Saved(description, unfinished, identity)


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


def _another_run(path: Path, there: Description, here: Description) -> InputError:
    return InputError(
        f"cannot resume {path}: it is another run: {_difference(there, here)}",
        hint="give the options of the run that was stopped, or leave --resume out and choose another name",
    )


def _difference(there: Description, here: Description) -> str:
    return "; ".join(
        f"{name} {_short(there.get(name))} -> {_short(here.get(name))}"
        for name in dict.fromkeys([*there, *here])
        if there.get(name) != here.get(name)
    )


def _short(value: Any) -> str:
    text = ", ".join(map(_short, value)) if isinstance(value, list) else value if isinstance(value, str) else None
    text = json.dumps(value) if text is None else json.dumps(text)[1:-1]
    return text if len(text) <= 80 else text[:79] + "…"
