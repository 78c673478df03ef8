"""The kernel for CUDA devices against the float64 reference, in Triton's interpreter on the CPU."""

import importlib.util
import os
import subprocess
import sys

import pytest

# Triton decides when it is imported whether it interprets.
SCRIPT = """
import math
from unittest import mock

import torch

from propscope.measure import device_accumulator, fused
from propscope.records.summary import TensorSummary

torch.manual_seed(0)
normal = torch.randn(24, 96)
mixed, few = normal.clone(), torch.full((40, 70), math.nan)
mixed[0, :5] = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0])
mixed[1, :2] = torch.tensor([-1e-45, 3.4e38])
few[5, 5:8] = torch.tensor([3.0, 2.0, 5.0])
CASES = {
    "normal": normal, "relu": normal.relu(), "shifted": normal + 1e4, "far": 0.01 * normal - 1e4,
    "tiny": normal * 1e-30, "huge": normal * 1e30, "zeros": torch.zeros(7, 3), "mixed": mixed,
    "constant": torch.full((50, 3), 0.1), "few": few,
    "negative": -normal.abs(), "nothing finite": torch.full((5,), -math.inf), "one": torch.tensor(2.0),
    "more than the programs take at once": torch.randn(2500), "channels last": torch.randn(2, 3, 5, 7).movedim(1, 3),
}


def close(a, b, size, tolerance):
    return abs(a - b) <= tolerance * size or (math.isnan(a) and math.isnan(b))


fused._PROGRAMS = 2
with mock.patch.object(device_accumulator, "fused_on", lambda device: fused):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        # The interpreter flushes the smallest numbers of bfloat16; a device does not.
        smallest = 2.0**-126 if dtype is torch.bfloat16 else 0.0
        for name, case in CASES.items():
            value = case.to(dtype)
            value = value.masked_fill(value.float().abs() < smallest, 0.0)
            for passes in (1, 40) if name == "one" else (1,):
                seen = device_accumulator.DeviceAccumulator(limit=0)
                for _ in range(passes):
                    seen.add(value)
                assert not seen._memory.is_unfused, name
                found, one = seen.summary(), TensorSummary.of(value.float().numpy())
                counts = "count", "nan_count", "posinf_count", "neginf_count"
                assert all(getattr(found, key) == passes * getattr(one, key) for key in counts), (name, found, one)
                assert found.zero_fraction == one.zero_fraction, name
                assert (found.histogram.counts == passes * one.histogram.counts).all(), name
                assert (found.histogram.bins == one.histogram.bins).all(), name
                assert close(found.min, one.min, 0, 0) and close(found.max, one.max, 0, 0), (name, found, one)
                assert close(found.mean, one.mean, one.rms, 1e-9), (name, found, one)
                # Deviations from a mean in float64, whether the sum is about another center or not.
                assert close(found.std, one.std, max(one.std, 1e-9 * abs(one.mean)), 1e-9), (name, found, one)
    sampled = device_accumulator.DeviceAccumulator(limit=100)
    sampled.add(normal)
    every = normal.view(-1)[:: device_accumulator.stride_for(normal.numel(), 100, 96)]
    assert sampled.summary().histogram == TensorSummary.of(every.numpy()).histogram
    print("all agree")
"""


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="this system has no Triton")
def test_the_kernel_agrees_with_the_reference_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "all agree"
