import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.remedies.calibration.weights import Ledger, digest, put_back


def test_restores_the_first_copy_bit_for_bit():
    parameter = nn.Parameter(torch.tensor([-0.0, 1e-40, float("nan"), 3.0]))
    before = digest(parameter)
    ledger = Ledger()
    for _ in range(2):
        ledger.keep("w", parameter)
        with torch.no_grad():
            parameter.mul_(3).add_(1)
    assert digest(parameter) != before
    ledger.restore()
    assert digest(parameter) == before


def test_puts_back_all_or_none():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    ledger = Ledger()
    with torch.no_grad():
        for name, parameter in (("first", first), ("second", second)):
            ledger.keep(name, parameter)
            parameter.mul_(2)
    saved = ledger.close()
    with torch.no_grad():
        second[1] = 2.5
    with pytest.raises(InputError, match="weights of 'second' are no longer") as caught:
        put_back(saved)
    assert "undo before training" in caught.value.hint
    assert torch.equal(first, torch.full((3,), 2.0))
    with torch.no_grad():
        second[1] = 2.0
    put_back(saved)
    assert torch.equal(first, torch.ones(3))
    assert torch.equal(second, torch.ones(3))


def test_digest_tells_shape_dtype_and_sign_apart():
    zeros = torch.zeros(2, 2)
    others = [torch.zeros(4), torch.zeros(2, 2, dtype=torch.int32), -zeros, zeros.bfloat16()]
    assert digest(zeros) == digest(zeros.t()) == digest(torch.zeros(2, 2))
    assert len({digest(tensor) for tensor in (zeros, *others)}) == 5
    assert digest(torch.empty(0)) == digest(torch.empty(0))
