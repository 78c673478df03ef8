"""Where a measurement was made: versions, commit, time."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from functools import lru_cache

import torch

from propscope._version import __version__
from propscope.measure.sampling import HISTOGRAM_LIMIT
from propscope.measure.saturation import FLAT_THRESHOLD
from propscope.records.network import Provenance


@lru_cache(maxsize=1)
def commit() -> str:
    """Return the commit of the working directory's repository, with "+" at the end if files differ; "" outside one."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def provenance(
    *,
    spec: str = "{}",
    seed: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    wall_seconds: float = float("nan"),
    samples: int = 0,
    batches: int = 0,
    histogram_limit: int = HISTOGRAM_LIMIT,
) -> Provenance:
    """Return the provenance of a measurement made now."""
    return Provenance(
        spec=spec,
        seed=seed,
        propscope_version=__version__,
        torch_version=torch.__version__,
        python_version=platform.python_version(),
        commit=commit(),
        device=device,
        dtype=dtype,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        wall_seconds=wall_seconds,
        samples=samples,
        batches=batches,
        histogram_limit=histogram_limit,
        flat_threshold=FLAT_THRESHOLD,
    )
