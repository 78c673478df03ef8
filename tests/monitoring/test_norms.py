"""Norms of tensors of every kind, in their order."""

import pytest
import torch

from propscope.monitoring.norms import NONE, norms


def test_norms_come_in_the_order_of_the_tensors_whatever_their_type():
    torch.manual_seed(0)
    dense, wide = torch.randn(5, 3), torch.randn(7, dtype=torch.float64) * 1e200
    half, sparse = torch.full((4096,), 600.0, dtype=torch.float16), torch.randn(4, 2).to_sparse()
    turned = torch.tensor([3 + 4j, 0])
    repeated = torch.sparse_coo_tensor([[1, 1]], [[1.0], [2.0]], (3, 1), check_invariants=True)
    given = [dense, None, wide, half, sparse, turned, repeated, torch.empty(0), torch.tensor([float("nan"), 1.0])]
    found = norms(given).tolist()
    assert found[0] == pytest.approx(float(dense.norm()))
    assert found[1] == NONE
    assert found[2] == pytest.approx(float(wide.norm()))
    assert found[3] == pytest.approx(600 * 64)
    assert found[4] == pytest.approx(float(sparse.to_dense().norm()))
    assert found[5:8] == [pytest.approx(5.0), pytest.approx(3.0), 0.0]
    assert found[8] != found[8]


def test_no_tensors_have_no_norms():
    assert norms([]).tolist() == []
    assert norms([None, None]).tolist() == [NONE, NONE]
