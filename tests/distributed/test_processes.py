"""The harness of the tests on several processes shows what happens on each of them."""

import pytest
import torch
import torch.distributed as dist
from building.processes import on_ranks

pytestmark = pytest.mark.slow

FACTOR = 10


def gathered(value):
    total = torch.tensor([float(value + FACTOR * dist.get_rank())])
    dist.all_reduce(total)
    return dist.get_rank(), total


def test_a_function_runs_on_each_rank_of_one_group():
    assert on_ranks(gathered, 1, ranks=3) == [(rank, torch.tensor([33.0])) for rank in range(3)]


def stops(where):
    print(f"here is {dist.get_rank()}")
    if dist.get_rank() == where:
        raise LookupError("lost on the way")
    dist.barrier()


@pytest.mark.parametrize("where", [0, 1])
def test_the_traceback_of_the_rank_that_raised_comes_first(where):
    with pytest.raises(AssertionError, match=rf"^\nrank {where}: Traceback") as failure:
        on_ranks(stops, where)
    text = str(failure.value)
    assert 'LookupError("lost on the way")' in text
    assert all(f"rank {rank} printed:\nhere is {rank}" in text for rank in range(2))


def dies():
    import os

    os._exit(3)


def test_a_process_that_dies_fails_the_test():
    with pytest.raises(AssertionError, match=r"rank \d: its process died"):
        on_ranks(dies)


def warns():
    import warnings

    warnings.warn("not expected", UserWarning, stacklevel=1)


def test_a_warning_on_a_rank_fails_the_test():
    with pytest.raises(AssertionError, match="UserWarning: not expected"):
        on_ranks(warns)
