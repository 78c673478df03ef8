import math

import pytest
import torch
from scipy import stats

from propscope.networks import fills
from propscope.networks.randomness import seeded_generator


def test_cut_variance_is_that_of_the_truncated_normal():
    assert math.isclose(fills.CUT_VARIANCE, stats.truncnorm(-2, 2).var(), rel_tol=1e-9)
    assert math.isclose(math.sqrt(fills.CUT_VARIANCE), 0.87962566103423978, rel_tol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5), (6, 4, 3), (6, 4, 3, 2), (6, 4, 3, 2, 5)])
def test_fans_count_as_torch_does(shape):
    weight = torch.empty(shape)
    assert fills.fans(weight) == torch.nn.init._calculate_fan_in_and_fan_out(weight)


def test_truncated_draw_has_the_whole_distribution():
    weight = torch.empty(200_000)
    fills.draw_truncated(weight, seeded_generator(0), 1.0)
    std = 1 / math.sqrt(fills.CUT_VARIANCE)
    assert weight.abs().max() <= 2 * std
    assert weight.abs().max() > 1.999 * std
    assert stats.kstest(weight.double().numpy(), stats.truncnorm(-2, 2, scale=std).cdf).pvalue > 0.01


def test_normal_draw_is_normal():
    weight = torch.empty(200_000)
    fills.draw_normal(weight, seeded_generator(0), 4.0)
    assert stats.kstest(weight.double().numpy(), stats.norm(scale=2).cdf).pvalue > 0.01


@pytest.mark.parametrize("rows, columns, sparsity", [(40, 7, 0.5), (10, 300, 0.33), (7, 3, 1.0), (7, 3, 0.0)])
def test_sparse_has_torchs_zeros_in_each_column(rows, columns, sparsity):
    weight, reference = torch.empty(rows, columns), torch.empty(rows, columns)
    fills.sparse(weight, seeded_generator(0), sparsity=sparsity, std=1.0)
    with torch.random.fork_rng():
        torch.nn.init.sparse_(reference, sparsity)
    zeros = (weight == 0).sum(0)
    assert torch.equal(zeros, (reference == 0).sum(0))
    assert torch.equal(zeros, torch.full((columns,), math.ceil(sparsity * rows)))


def test_sparse_puts_its_zeros_anywhere():
    weight = torch.empty(8, 20_000)
    fills.sparse(weight, seeded_generator(1), sparsity=0.25, std=1.0)
    share = (weight == 0).double().mean(1)
    assert share.sub(0.25).abs().max() < 0.015
    kept = weight[weight != 0].double().numpy()
    assert stats.kstest(kept, "norm").pvalue > 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_same_draw_rounded(dtype):
    narrow, wide = torch.empty(30, 40, dtype=dtype), torch.empty(30, 40)
    for weight in (narrow, wide):
        fills.draw_into(weight, g := seeded_generator(2), lambda target, g=g: fills.draw_normal(target, g, 1.0))
    assert torch.equal(narrow, wide.to(dtype))


def test_a_weight_in_another_layout_gets_the_same_numbers():
    plain, turned = torch.empty(6, 9), torch.empty(9, 6).t()
    for weight in (plain, turned):
        fills.draw_into(weight, g := seeded_generator(2), lambda target, g=g: fills.draw_normal(target, g, 1.0))
    assert torch.equal(plain, turned)
