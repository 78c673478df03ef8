import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.remedies.calibration.backup import WeightBackup, digest, restore_all


def test_restores_the_first_copy_bit_for_bit():
    parameter = nn.Parameter(torch.tensor([-0.0, 1e-40, float("nan"), 3.0]))
    before = digest(parameter)
    backup = WeightBackup()
    for _ in range(2):
        backup.keep("w", parameter)
        with torch.no_grad():
            parameter.mul_(3).add_(1)
    assert digest(parameter) != before
    backup.restore()
    assert digest(parameter) == before


def test_puts_back_all_or_none():
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    backup = WeightBackup()
    with torch.no_grad():
        for name, parameter in (("first", first), ("second", second)):
            backup.keep(name, parameter)
            parameter.mul_(2)
    saved = backup.close()
    with torch.no_grad():
        second[1] = 2.5
    with pytest.raises(InputError, match='weights of "second" have changed') as caught:
        restore_all(saved)
    assert "before training" in caught.value.hint
    assert torch.equal(first, torch.full((3,), 2.0))
    with torch.no_grad():
        second[1] = 2.0
    restore_all(saved)
    assert torch.equal(first, torch.ones(3))
    assert torch.equal(second, torch.ones(3))


def test_digest_tells_shape_dtype_and_sign_apart():
    zeros = torch.zeros(2, 2)
    others = [torch.zeros(4), torch.zeros(2, 2, dtype=torch.int32), -zeros, zeros.bfloat16()]
    assert digest(zeros) == digest(zeros.t()) == digest(torch.zeros(2, 2))
    assert len({digest(tensor) for tensor in (zeros, *others)}) == 5
    assert digest(torch.empty(0)) == digest(torch.empty(0))
