"""One thread for the zoo, whose tensors are too small for two; what its models started is ended."""

import pytest
import torch
import torch.distributed as dist


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()
