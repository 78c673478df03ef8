"""The file of a monitored run: its size, and what it takes to write, close and read it.

    python benches/monitored_file.py [--samples 10000] [--sites 60]

As many parameters as sites; each number of a sample differs from those of the others. Seconds are of CPU time, memory
is the peak of a process without what its imports take.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from store import Sampler
from timing import write

from propscope.monitoring.cadence import Cadence
from propscope.records import MonitoredRun, NetworkProfile, TensorSummary
from propscope.records.kept_sample import kept_sample
from propscope.records.monitored import Steps
from propscope.store import MonitoredFile

_PROCESS = """
import json, pathlib, sys, time, warnings
import propscope, propscope.store.run_file
from propscope.store import FollowedRun, compact
warnings.simplefilter("ignore")
def peak():
    # The peak that getrusage knows is that of the parent, where it is larger.
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
before, found, path = peak(), {}, sys.argv[1]
def taken(what, ask):
    started = time.process_time()
    result = ask()
    found[what] = time.process_time() - started
    return result
if sys.argv[2] == "growing":
    with FollowedRun(path) as run:
        taken("follow all, s", run.read)
        taken("follow nothing new, s", run.read)
    taken("close, s", lambda: compact(pathlib.Path(path)))
    found["close, MB"] = peak() - before
else:
    run = taken("load, s", lambda: propscope.load(path))
    taken("one sample, s", lambda: run.select(step=len(run) // 2))
    taken("a quantity over steps, s", lambda: run.over_steps("forward_rms"))
    found["load, MB"] = peak() - before
print(json.dumps(found))
"""


def varied(profile: NetworkProfile, step: int, random: np.random.Generator) -> NetworkProfile:
    """Return a sample whose numbers differ from those of the profile by some percent."""

    def summary(one: TensorSummary) -> TensorSummary:
        mean, std = random.uniform(0.9, 1.0, 2).tolist()
        # Extremes are numbers of the tensor.
        least, most = random.uniform(1.0, 1.5, 2).astype(np.float32).tolist()
        return replace(one, mean=one.mean * mean, std=one.std * std, min=one.min * least, max=one.max * most)

    def maybe(one: TensorSummary | None) -> TensorSummary | None:
        return None if one is None else summary(one)

    sites = tuple(
        replace(
            site,
            forward=maybe(site.forward),
            backward=maybe(site.backward),
            dead_units=int(random.integers(20)),
            flat_fraction=random.random(),
            mean_cosine=random.random(),
            effective_rank=random.random(),
        )
        for site in profile.sites
    )
    names = ("step_gradient_norm", "update_norm", "update_ratio", "first_moment_norm", "second_moment_norm")
    parameters = tuple(
        replace(
            parameter,
            value=summary(parameter.value),
            gradient=maybe(parameter.gradient),
            **dict(zip(names, random.random(5).tolist(), strict=True)),
        )
        for parameter in profile.parameters
    )
    return replace(profile, sites=sites, parameters=parameters, labels={"step": step})


def written(path: Path, samples: int, sites: int) -> float:
    """Write the journal of a run, a sample at each step, and return the CPU seconds that a sample took."""
    random, base = np.random.default_rng(0), Sampler(0).profile(0, sites // 2)
    cadence, file, taken = Cadence(1, start=0, stop=None, budget=1.0), MonitoredFile(path), 0.0
    for step in range(samples):
        cadence.due(step)
        profile = varied(base, step, random)
        loss, norm, share = random.random(3).tolist()
        row = {"number": step, "loss": loss, "gradient_norm": norm, "clip_factor": 1.0, "loss_scale": 1.0}
        row |= {"learning_rate": 1e-3, "nonfinite_gradients": 0, "skipped": 0, "superseded": 0, "seconds": share}
        row |= {"monitor_share": share, "judged": 1, "error": ""}
        started = time.process_time()
        kept = kept_sample(profile, histograms=cadence.full)
        file.add(MonitoredRun((kept,), Steps.of([row])))
        taken += time.process_time() - started
        cadence.end(seconds=1e-6, own=0.0, sampled=True)
    return taken / samples


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--sites", type=int, default=60)
    given = parser.parse_args()
    with TemporaryDirectory() as directory:
        path = Path(directory) / "run.propscope"
        # In a process of its own, which ends without closing the file.
        line = "import monitored_file as bench, os, pathlib, sys; "
        line += "print(bench.written(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])), flush=True); os._exit(0)"
        command = [sys.executable, "-c", line, str(path), str(given.samples), str(given.sites)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent)
        found = {"add a sample, s": float(done.stdout)}
        found["journal, kB a sample"] = path.with_name(f".{path.name}.partial").stat().st_size / given.samples / 1e3
        for state in ("growing", "closed"):
            command = [sys.executable, "-c", _PROCESS, str(path), state]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found |= json.loads(done.stdout)
        found["file, MB"] = path.stat().st_size / 1e6
    print(f"{given.samples} samples of {given.sites} sites and parameters")
    for what, value in found.items():
        print(f"{what:28} {value:9.4g}")
    print(write("monitored_file", found))


if __name__ == "__main__":
    main()
