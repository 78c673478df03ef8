"""What becomes of damaged and hostile result files: `python benches/fuzz.py [--count 2000]` prints a table of counts.

A file of six profiles is changed in one place: a bit is flipped, its end cut off, a range zeroed, or, by HDF5 itself
and with a right seal, an attribute, a value or a column replaced. Each file goes through load, show, diagnose, check
and plot in a process that may take 10 s of CPU time and 4 GB. Counted are how these end:

refused: an error of one line and exit code 2; same: the output of the whole file; different: another output with exit
code 0 (a hostile file may hold another valid value, so for those it is called accepted); traceback; hang; died: the
process was ended by a signal or by a lack of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

KINDS = ("flip", "cut", "zeroed", "hostile")
ENDS = ("refused", "same", "different", "accepted", "traceback", "hang", "died")
SECONDS, BYTES = 10, 4 << 30
# What waits instead of computing is ended after this time, which a loaded machine may need for an honest file.
WAIT = 120.0
COMMANDS = (("show", "--json"), ("diagnose", "--json"), ("check", "--json"), ("plot", "--plots", "overview"))

_NUMBERS = {
    "i": (-(2**63), -2, -1, 0, 1, 10**12, 2**40, 2**62, 2**63 - 1),
    "u": (0, 1, 2041, 2048, 4095, 2**16 - 1, 2**32, 2**63, 2**64 - 1),
    "f": (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e308, 5e-324, 1e300),
}
_TEXTS = (
    *(b"", b"\xff\xfe", b"null", b"[]", b"{}", b"[-1]", b"[1e999]", b"[[1]]", b"[null]", b'{"seed": [1]}'),
    *(b'{"seed": NaN}', b"\x1b]0;owned\x07", b"\x9b2J", b"nobody", b"9" * 5000, b"[" * 5000, b'{"a": "\\ud800"}'),
    *(b"$x$\\frac$", b"../../up"),
)


def mutation(whole: bytes, kind: str, generator: np.random.Generator, path: Path) -> None:
    """Write a file that differs from `whole` in one place to `path`."""
    at = int(generator.integers(len(whole)))
    if kind == "flip":
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(generator.integers(8))]) + whole[at + 1 :])
    elif kind == "cut":
        path.write_bytes(whole[:at])
    elif kind == "zeroed":
        stop = min(at + (1 << int(generator.integers(1, 16))), len(whole))
        # Where there are zeros already, up to the next byte that is none.
        while stop < len(whole) and not any(whole[at:stop]):
            stop += 1
        path.write_bytes(whole[:at] + bytes(stop - at) + whole[stop:])
    else:
        path.write_bytes(whole)
        with h5py.File(path, "r+") as file:
            _make_hostile(file, generator)
        _seal(path)


def _make_hostile(file: h5py.File, generator: np.random.Generator) -> None:
    names: list[str] = []
    file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
    name = names[generator.integers(len(names))]
    column, dtype, rows = file[name], file[name].dtype, file[name].shape[0]
    values: Sequence[float | bytes] = _TEXTS if dtype.kind == "O" else _NUMBERS.get(dtype.kind, (0,))
    value: Any = values[int(generator.integers(len(values)))]
    if dtype.kind == "u":
        value = int(value) % 2 ** (8 * dtype.itemsize)
    how = int(generator.integers(8))
    if how < 5 and rows:
        column[int(generator.integers(rows))] = value
    elif how == 5:
        with contextlib.suppress(ValueError, TypeError):
            column.resize((int(generator.choice([0, 1, rows + 1, 2**40])),))
    elif how == 6:
        del file[name]
        other = [None, np.zeros(rows, np.float32), np.zeros((rows, 2)), np.zeros(rows, "S3"), np.float64(1)]
        if (data := other[generator.integers(len(other))]) is not None:
            file.create_dataset(name, data=data)
    else:
        attribute = ("format", "schema_version", "propscope_version")[generator.integers(3)]
        file.attrs[attribute] = [value, 99, -1, np.zeros(3), "\x1b[31m"][generator.integers(5)]


def _seal(path: Path) -> None:
    # An earlier propscope knows no seal.
    with contextlib.suppress(ImportError):
        from propscope.store.seal import seal_of

        with path.open("rb+") as stream:
            seal = seal_of(stream)
            stream.seek(0, os.SEEK_END)
            stream.write(seal)


def outcome(path: Path, directory: Path, *, plots: bool) -> tuple[str, str]:
    """Return how the commands end on a file, the worst of them, and what they print and, with `plots`, draw."""
    from propscope.cli import main
    from propscope.store import load

    ends, printed = [], []
    for command in ("load", *COMMANDS[: None if plots else -1]):
        out, err = io.StringIO(), io.StringIO()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                if command == "load":
                    try:
                        code = 0 * len(load(path))
                    except (OSError, ValueError) as error:
                        code = 2 if hasattr(error, "hint") else 70
                else:
                    where = ["-o", str(directory), "--overwrite"] if command[0] == "plot" else []
                    code = main([command[0], str(path), *command[1:], *where])
        except MemoryError:
            return "died", ""
        except Exception as error:
            return "traceback", f"{command}: {error!r}"
        if code == 70 or "Traceback" in err.getvalue():
            return "traceback", f"{command}"
        # `check` says with 1 that a network is broken.
        ends.append("refused" if code == 2 else "read")
        printed.append(f"{code} {out.getvalue().replace(str(path), 'FILE')}")
        if command[0] == "plot" and code == 0:
            printed += [hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in out.getvalue().splitlines()]
        if ends[0] == "refused" and len(ends) == 2:
            break
    return ("refused" if "refused" in ends else "read"), "\n".join(printed)


def work(*, plots: bool) -> None:
    """Answer each path that comes on stdin with a JSON line on stdout."""
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    answers = os.fdopen(os.dup(1), "w")
    with tempfile.TemporaryDirectory() as directory:
        for line in sys.stdin:
            used = resource.getrusage(resource.RUSAGE_SELF)
            resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + SECONDS, -1))
            answers.write(json.dumps(outcome(Path(line.strip()), Path(directory), plots=plots)) + "\n")
            answers.flush()


class Worker:
    """A process that is used again for the next file, unless it hangs or dies."""

    def __init__(self, *, plots: bool) -> None:
        self._plots = plots
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, path: Path) -> tuple[str, str]:
        """Return how a file ends in the process, and what is printed."""
        if self._process is None:
            line = [sys.executable, __file__, "--work", *["--no-plots"] * (not self._plots)]
            self._process = subprocess.Popen(
                line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], WAIT)
        answer = self._process.stdout.readline() if ready else ""
        if answer:
            end, printed = json.loads(answer)
            return end, printed
        code = self.close()
        return ("hang" if not ready or code == -signal.SIGXCPU else "died"), ""

    def close(self) -> int:
        """End the process, unless it has ended, and return its exit code."""
        ended, self._process = self._process, None
        if ended is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            # It has closed its output, or is waiting for a file.
            ended.wait(1.0)
        ended.kill()
        ended.communicate()
        return ended.returncode


def run(
    whole: bytes, directory: Path, *, count: int, seed: int = 0, plots: bool = True
) -> Iterator[tuple[str, str, str]]:
    """Yield the kind, the end and a remark for each of `count` changed files."""
    generator, worker = np.random.default_rng(seed), Worker(plots=plots)
    path = directory / "run.h5"
    path.write_bytes(whole)
    end, expected = worker(path)
    assert end == "read", (end, expected)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        mutation(whole, kind, generator, path)
        end, printed = worker(path)
        if end == "read":
            end = "same" if printed == expected else "accepted" if kind == "hostile" else "different"
        yield kind, end, printed if end == "traceback" else f"file {number}"
    worker.close()


def whole_file(directory: Path) -> bytes:
    """Return the bytes of a file of six profiles of MLPs of depth 3."""
    from propscope import profile_mlp, save

    save(
        directory / "whole.h5",
        profile_mlp(depth=3, width=8, batch=8, activation="relu", initializer=["he_normal", "zeros"], seeds=3),
    )
    return (directory / "whole.h5").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--no-plots", action="store_true", help="leave out plot, which takes most of the time")
    options = parser.parse_args()
    if options.work:
        work(plots=not options.no_plots)
        return
    start, counts, remarks = time.perf_counter(), Counter[tuple[str, str]](), []
    with tempfile.TemporaryDirectory() as directory:
        whole = whole_file(Path(directory))
        chosen = {"count": options.count, "seed": options.seed, "plots": not options.no_plots}
        for kind, end, remark in run(whole, Path(directory), **chosen):
            counts[kind, end] += 1
            if end in ENDS[-3:] or end == "different":
                remarks.append(f"{kind}: {end}: {remark}")
    print("\n".join(dict.fromkeys(remarks)))
    print(f"{'':10}" + "".join(f"{end:>11}" for end in ENDS))
    for kind in KINDS:
        print(f"{kind:10}" + "".join(f"{counts[kind, end]:11}" for end in ENDS))
    print(f"{options.count} files in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
