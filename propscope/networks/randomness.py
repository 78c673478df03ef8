"""Random streams of their own, so that what propscope draws never depends on, or disturbs, torch's global generator."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch


def seeded_generator(seed: int, *names: str) -> torch.Generator:
    """Return a CPU generator that depends only on `seed` and `names`; different names give independent streams."""
    digest = hashlib.blake2b(repr((int(seed), *names)).encode(), digest_size=8).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


@contextmanager
def global_stream(generator: torch.Generator | None, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Let code that draws from torch's global generators draw from `generator`, then put them back as they were.

    For code that takes no generator: torch's own `reset_parameters`, a user's callable. Covers the CPU and the CUDA
    `devices`; numpy's and Python's generators are not torch's and stay as they are. Without a generator nothing
    changes.
    """
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    cuda = sorted({device.index or 0 for device in devices if device.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        # torch.manual_seed would reseed every CUDA device, also those that fork_rng does not put back.
        torch.default_generator.manual_seed(seed)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield
