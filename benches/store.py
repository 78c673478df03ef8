"""The cost of a result file: `python benches/store.py` prints a table and writes outputs/store.json, in two minutes.

It writes, reads and merges 132 profiles of depth 20, then loads one profile out of 10,000. Each summary is that of its
own 16384 numbers, whose size grows or decays with the layer, so that no two histograms agree. The commands run on
20,000 profiles of depth 3, 200 seeds of 100 networks, one seed after the other; their rows are CPU seconds and the
peak of the memory of the process.
"""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from propscope.records import NetworkProfile, Parameter, ProfileSet, Provenance, Site, TensorSummary
from propscope.store import load, merge, pack, save
from propscope.store.atomic import new_file
from propscope.store.schema import TABLES, TRAINING
from propscope.store.table_reader import open_tables
from propscope.store.table_writer import TableWriter

GRID, MANY, DEPTH, WIDTH, SAMPLES = 132, 10_000, 20, 256, 16384
NETWORKS, SEEDS, SHALLOW = 100, 200, 3
OUTPUT = Path(__file__).parents[1] / "outputs" / "store.json"


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity's median and range over repeated runs, and its promised limit (None for no promise)."""

    what: str
    unit: str
    median: float
    low: float
    high: float
    promise: float | None = None


class Sampler:
    """Summaries of fresh windows of a long normal sample, scaled."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._pool = self.random.standard_normal(1 << 23).astype(np.float32)

    def summary(self, scale: float, *, rectified: bool = False) -> TensorSummary:
        """Return the summary of SAMPLES normal numbers, or of their positive parts."""
        start = int(self.random.integers(self._pool.size - SAMPLES))
        values = self._pool[start : start + SAMPLES] * np.float32(scale * math.exp(self.random.normal(0, 0.05)))
        return TensorSummary.of(np.maximum(values, 0) if rectified else values)

    def profile(self, number: int, depth: int = DEPTH) -> NetworkProfile:
        """Return a profile of 2 * depth sites and parameters with gains like those of a poor initializer."""
        forward, backward = np.exp(self.random.normal(-0.1, 0.2, 2))
        sites: list[Site] = []
        parameters: list[Parameter] = []
        for layer in range(1, depth + 1):
            out, back = forward**layer, backward ** (depth - layer)
            for kind, role in (("Linear", "pre-activation"), ("ReLU", "activation")):
                sites.append(
                    Site(
                        f"layers.{layer - 1}.{kind.lower()}",
                        kind,
                        role,  # type: ignore[arg-type]
                        (256, WIDTH),
                        layer=layer,
                        activation="relu" if kind == "Linear" else "",
                        forward=self.summary(out, rectified=kind == "ReLU"),
                        backward=self.summary(back),
                        samples=256,
                        units=WIDTH,
                        dead_units=int(self.random.integers(20)),
                        symmetric_units=0,
                        flat_fraction=self.random.random(),
                        mean_cosine=self.random.random(),
                        effective_rank=256 * self.random.random(),
                    )
                )
            for name, shape in (("weight", (WIDTH, WIDTH)), ("bias", (WIDTH,))):
                value, gradient = self.summary(forward / 16), self.summary(out * back)
                parameters.append(Parameter(f"layers.{layer - 1}.{name}", shape, value, gradient))
        labels = {"initializer": f"initializer_{number % 22}", "activation": f"activation_{number // 22}"}
        spec = json.dumps(labels | {"depth": depth, "width": WIDTH, "batch": 256, "input": "normal", "loss": "random"})
        provenance = Provenance(
            spec, 0, "0.1.0", "2.13.0", "3.11.7", "0" * 40, wall_seconds=0.1, samples=256, batches=1
        )
        return NetworkProfile(
            tuple(sites), tuple(parameters), {**labels, "depth": depth, "width": WIDTH, "seed": 0}, provenance
        )


def seconds(run: Callable[[int], object], repeats: int) -> list[float]:
    taken = []
    for number in range(repeats):
        start = time.perf_counter()
        run(number)
        taken.append(time.perf_counter() - start)
    return taken


def measured(what: str, unit: str, values: list[float], promise: float | None = None) -> Measured:
    return Measured(what, unit, statistics.median(values), min(values), max(values), promise)


def grid_figures(grid: ProfileSet, directory: Path) -> list[Measured]:
    path, merged = directory / "grid.h5", directory / "merged.h5"
    written = seconds(lambda _: save(path, grid, overwrite=True), 7)
    return [
        measured(f"write {GRID} profiles", "s", written, 0.5),
        measured(f"size of {GRID} profiles", "MB", [path.stat().st_size / 1e6], 20),
        measured(f"read {GRID} profiles", "s", seconds(lambda _: load(path), 5)),
        measured(
            f"merge {GRID} and {GRID} profiles", "s", seconds(lambda _: merge([path, path], merged, overwrite=True), 3)
        ),
    ]


def many_figures(grid: ProfileSet, directory: Path) -> list[Measured]:
    path = directory / "many.h5"
    copies = range(math.ceil(MANY / GRID))
    many = ProfileSet.of(replace(p, labels={**p.labels, "seed": seed}) for seed in copies for p in grid)[:MANY]
    written = seconds(lambda _: save(path, many), 1)

    def load_one(number: int) -> None:
        labels = many[(number * 197 + 31) % MANY].labels
        found = load(path, **labels)
        assert len(found) == 1
        assert found[0].labels == labels

    load_one(0)
    # An ordinary reader has neither a million records in its garbage collector nor a file still on its way to disk.
    gc.freeze()
    os.sync()
    return [
        measured(f"write {MANY} profiles", "s", written),
        measured(f"size of {MANY} profiles", "MB", [path.stat().st_size / 1e6]),
        measured(f"load one of {MANY} profiles", "ms", [1e3 * taken for taken in seconds(load_one, 101)], 50),
    ]


def repeated(source: Path, out: Path, times: int) -> None:
    """Write the profiles of a file so many times to another one, each time with another seed, by whole columns."""
    with open_tables(source) as tables, new_file(out, overwrite=False) as (file, check):
        writer = TableWriter(file, check)
        rows = {
            table: {column.name: tables.array(table, column.name, 0, tables.rows(table)) for column in columns}
            for table, columns in TABLES.items()
            if table not in TRAINING
        }
        labels = [json.loads(text) for text in rows["profile"]["labels"].tolist()]
        for seed in range(times):
            rows["profile"]["labels"] = np.array(
                [json.dumps(each | {"seed": seed}).encode() for each in labels], object
            )
            rows["profile"]["seed"][:] = seed
            # A profile with the time of another one would be the same measurement.
            rows["profile"]["created"][:] = f"seed {seed}".encode()
            first = dict(writer.rows)
            for table, columns in rows.items():
                moved = {c.name: first[c.refers] if c.refers else 0 for c in TABLES[table] if c.refers}
                writer.append(
                    table,
                    {
                        name: np.where(values < 0, values, values + moved[name]) if name in moved else values
                        for name, values in columns.items()
                    },
                )


def command_figures(directory: Path) -> list[Measured]:
    """Return CPU seconds and MB of the commands that read all of a large file, or one network out of it."""
    sampler, source, path = Sampler(1), directory / "source.h5", directory / "networks.h5"
    save(source, ProfileSet.of(sampler.profile(number, SHALLOW) for number in range(NETWORKS)))
    repeated(source, path, SEEDS)
    one = ["--act", "activation_1", "--init", "initializer_3"]
    profiles = NETWORKS * SEEDS
    figures = [measured(f"size of {profiles} profiles, depth {SHALLOW}", "MB", [path.stat().st_size / 1e6])]
    for what, line, promise in (
        (f"show {profiles} profiles", ["show", path], (4, 300)),
        (f"show {SEEDS} seeds of one network", ["show", path, *one], (1, None)),
        (f"diagnose {SEEDS} seeds of one network", ["diagnose", path, *one], (None, None)),
        (
            f"merge {profiles} profiles",
            ["merge", path, source, "-o", directory / "joined.h5", "--overwrite"],
            (15, None),
        ),
    ):
        used = [_used(list(map(str, line))) for _ in range(3)]
        for unit, values, limit in zip(("CPU s", "MB"), zip(*used, strict=True), promise, strict=True):
            figures.append(measured(what, unit, list(values), limit))
    return figures


_RUN = """
import json, pickle, resource, sys
from pathlib import Path
from propscope.store import begin
def memory(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) / 1024
def seconds():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
source, path, networks = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
packed = pickle.loads(Path(source).read_bytes())
before = memory("VmRSS")
with begin([path], {}, lambda _: None, networks=networks, overwrite=True, resume=False, named=True) as file:
    for number in range(networks):
        file.add(number, packed[number % len(packed)])
    kept, start = memory("VmRSS"), seconds()
    Path("/proc/self/clear_refs").write_text("5")
    file.save(unfinished=False)
print(json.dumps([kept - before, memory("VmHWM") - before, seconds() - start, path.stat().st_size / 1e6]))
"""


def run_figures(directory: Path, sizes: Sequence[int] = (1000, 5000)) -> list[Measured]:
    """Return what the file of a run of so many networks takes: memory beside that of the imports, CPU seconds, MB."""
    sampler, source = Sampler(2), directory / "packed"
    source.write_bytes(pickle.dumps([pack(sampler.profile(number, SHALLOW)) for number in range(NETWORKS)]))
    figures = []
    for networks in sizes:
        line = [sys.executable, "-c", _RUN, source, directory / "run.h5", networks]
        done = subprocess.run([*map(str, line)], check=True, capture_output=True, text=True)
        whats = ("kept", "written, peak", "written", "size of the file")
        for what, unit, value in zip(whats, ("MB", "MB", "CPU s", "MB"), json.loads(done.stdout), strict=True):
            figures.append(measured(f"run of {networks} networks: {what}", unit, [value]))
    return figures


def _used(line: list[str]) -> tuple[float, float]:
    """Return the CPU seconds and the peak memory in MB of a command in a process of its own."""
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run([sys.executable, '-m', 'propscope', *sys.argv[1:]], check=True, stdout=subprocess.DEVNULL)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], check=True, capture_output=True, text=True)
    seconds, memory = map(float, done.stdout.split())
    return seconds, memory


def occupied_bins(grid: ProfileSet) -> float:
    forward = [site.forward for profile in grid for site in profile.sites if site.role == "pre-activation"]
    return statistics.mean(s.histogram.bins.size for s in forward if s is not None and s.histogram is not None)


def main() -> None:
    if sys.argv[1:2] == ["--runs"]:
        with tempfile.TemporaryDirectory() as directory:
            for figure in run_figures(Path(directory), [*map(int, sys.argv[2:])] or (1000, 5000)):
                print(f"{figure.what} [{figure.unit}]: {figure.median:.3g}")
        return
    sampler = Sampler(0)
    grid = ProfileSet.of(sampler.profile(number) for number in range(GRID))
    bins = occupied_bins(grid)
    with tempfile.TemporaryDirectory() as directory:
        figures = [*grid_figures(grid, Path(directory)), *many_figures(grid, Path(directory))]
        figures += command_figures(Path(directory)) + run_figures(Path(directory))
    print(f"depth {DEPTH}: {2 * DEPTH} sites, {2 * DEPTH} parameters; {bins:.0f} bins per pre-activation")
    print(f"{'':48} {'median':>8} {'least':>8} {'most':>8} {'promise':>8}")
    for figure in figures:
        promise = "" if figure.promise is None else f"{figure.promise:g}"
        name = f"{figure.what} [{figure.unit}]"
        print(f"{name:48} {figure.median:8.3g} {figure.low:8.3g} {figure.high:8.3g} {promise:>8}")
    document = {"cpus": os.cpu_count(), "bins": bins, "figures": [asdict(figure) for figure in figures]}
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(document, indent=2) + "\n")
    kept = all(figure.promise is None or figure.median <= figure.promise for figure in figures)
    print(f"{'every promise kept' if kept else 'A PROMISE IS BROKEN'}; written to {OUTPUT}")


if __name__ == "__main__":
    main()
