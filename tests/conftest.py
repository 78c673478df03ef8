"""What holds in every test: a process group that a model started ends with the test that ran the model."""

import sys

import pytest


@pytest.fixture(autouse=True)
def no_process_group_left():
    yield
    # Most tests of the command line never import torch.
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
