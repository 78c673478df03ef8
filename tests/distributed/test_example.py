"""The example of several ranks runs as it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import propscope

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "distributed.py"


def test_the_example_runs_under_torchrun(tmp_path):
    # The host's own name may lead nowhere.
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    run = subprocess.run(
        [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", str(EXAMPLE)],
        cwd=tmp_path,
        env=os.environ | interface | {"PROPSCOPE_QUICK": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("2 ranks, 2 samples of 64 rows each in distributed-2.propscope\n")
    assert run.stderr.count("propscope: 2 samples") == 1
    assert len(propscope.load(tmp_path / "outputs" / "quick" / "distributed-2.propscope")) == 2
