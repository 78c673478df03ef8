"""Kills `propscope profile` 25 times with SIGKILL at random moments: what is left, and whether the next run goes on.

python benches/kills.py [KILLS]. A kill that comes before the first network is finished has nothing to lose. The moments
are drawn over the bytes that the journal comes to, so that writing is hit as well as computing.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from propscope.store import load
from propscope.store.journal import Journal

NETWORKS = 40
LINE = ["-m", "propscope", "profile", "--depth", "10", "--width", "64", "--init", "he_normal", "--plots", "none"]
LINE += ["--seeds", str(NETWORKS), "-o", "run.h5"]


def main() -> None:
    """Print one line for each kill, then the counts."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    draw, kept, lost, stray = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        journal = Path(place) / ".run.h5.partial"
        before = 0
        for number in range(kills):
            running = subprocess.Popen(
                [sys.executable, *LINE], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            start = journal.stat().st_size if journal.exists() else 0
            wanted = start + draw.randrange(0, 600_000)
            while running.poll() is None and not (journal.exists() and journal.stat().st_size > wanted):
                time.sleep(0.0005)
            running.kill()
            running.wait()
            if (Path(place) / "run.h5").exists():
                # It was quicker than the kill; the next one starts anew.
                finished = len(load(Path(place) / "run.h5"))
                (Path(place) / "run.h5").unlink()
                lost += finished != NETWORKS
                kept += finished == NETWORKS
                before = 0
            else:
                opened = Journal.open(journal)
                assert opened is not None
                finished = len(opened) - 1
                opened.close()
                lost += finished < before
                kept += finished >= before
                before = finished
            stray += len([path for path in Path(place).iterdir() if path != journal])
            print(f"kill {number + 1}: {finished} of {NETWORKS} networks on disk")
    print(f"{kills} kills: {kept} kept all that was finished, {lost} lost some, {stray} stray files")


if __name__ == "__main__":
    main()
