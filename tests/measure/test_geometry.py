"""Mean cosine and effective rank against their definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import propscope
from propscope.measure.geometry import _TOGETHER, _packed, _unpacked, geometries, gram, rows_in_memory, sample_rows
from propscope.measure.sampling import stride_for


def mean_cosine(products):
    return geometries([products])[0][0]


def effective_rank(products):
    return geometries([products])[0][1]


def test_many_matrices_at_once_give_the_bits_of_each_alone():
    random, grams = np.random.default_rng(0), []
    for number in range(3 * _TOGETHER):
        rows = random.normal(size=(random.choice([2, 3, 5, 32]), 7)).astype(np.float32)
        rows[random.integers(len(rows))] *= random.choice([0, 1, 1e-12])
        products = rows @ rows.T
        if number % 7 == 0:
            products[0] = products[:, 0] = random.choice([np.nan, np.inf])
        grams.append(None if number % 50 == 0 else products)
    assert geometries(grams) == [geometries([one])[0] for one in grams]
    assert geometries([]) == []


def test_mean_cosine_over_all_pairs():
    rows = np.random.default_rng(0).normal(size=(7, 5))
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pairs = [unit[i] @ unit[j] for i in range(7) for j in range(7) if i != j]
    assert mean_cosine(rows @ rows.T) == pytest.approx(np.mean(pairs))


def test_equal_rows_have_cosine_one_and_rank_one():
    rows = np.ones((4, 3))
    assert mean_cosine(rows @ rows.T) == pytest.approx(1)
    assert effective_rank(rows @ rows.T) == pytest.approx(1)


def test_orthogonal_rows_have_full_rank():
    assert mean_cosine(np.eye(6)) == pytest.approx(0)
    assert effective_rank(3 * np.eye(6)) == pytest.approx(6)


def test_effective_rank_is_the_entropy_of_the_spectrum():
    share = np.array([0.5, 0.3, 0.2])
    assert effective_rank(np.diag(share)) == pytest.approx(np.exp(-(share * np.log(share)).sum()))


def test_zero_and_non_finite_vectors_are_left_out():
    products = np.diag([1.0, 1.0, 0.0, np.nan])
    products[3] = products[:, 3] = np.nan
    assert mean_cosine(products) is None
    assert mean_cosine(np.eye(2)) == pytest.approx(0)
    assert effective_rank(np.zeros((3, 3))) is None


@pytest.mark.parametrize(
    ("shape", "unit_axis", "expected"),
    [
        ((256, 512), -1, (32, 512)),
        ((4, 16, 8), -1, (32, 8)),
        ((8, 3, 5, 5), 1, (8, 75)),
        ((2, 10_000), -1, (2, 1024)),
        ((3, 1025), -1, (3, 1024)),
        ((1, 5), -1, None),
        ((5,), -1, None),
        ((0, 5), -1, None),
    ],
)
def test_rows_sampled(shape, unit_axis, expected):
    rows = sample_rows(torch.zeros(shape), unit_axis)
    assert (None if rows is None else tuple(rows.shape)) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_products_are_exact_to_the_bound_of_float64(dtype):
    tensor = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    rows = tensor[::2].double().numpy()
    exact = [[math.fsum(a * b) for b in rows] for a in rows]
    lengths = np.linalg.norm(rows, axis=1)
    assert (np.abs(gram(tensor, -1).numpy() - exact) <= 1000 * 2.0**-53 * np.outer(lengths, lengths)).all()


@pytest.mark.parametrize("scale", [1e200, 1e-200])
def test_the_scale_of_float64_does_not_matter(scale):
    tensor = torch.randn(6, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert mean_cosine(gram(tensor * scale, -1)) == pytest.approx(mean_cosine(gram(tensor, -1)), rel=1e-12)


@pytest.mark.parametrize(
    ("count", "limit", "period"), [(131072, 8192, 512), (1000, 10, 7), (5, 0, 5), (10**7, 8192, 3 * 2**10)]
)
def test_strides_share_no_factor_with_the_row(count, limit, period):
    stride = stride_for(count, limit, period)
    assert np.gcd(stride, period) == 1
    assert -(-count // stride) <= (limit or count)


@pytest.mark.parametrize(("shape", "axis"), [((8, 1), -1), ((8, 5, 1), -1), ((8, 1, 1, 1), 1)])
def test_numbers_have_no_direction(shape, axis):
    assert gram(torch.randn(shape), axis) is None
    assert rows_in_memory(torch.randn(shape), axis) is None


def test_the_output_of_one_unit_has_no_cosine():
    site = propscope.profile(torch.nn.Sequential(torch.nn.Linear(4, 1)), torch.randn(8, 4)).sites[-1]
    assert (site.mean_cosine, site.effective_rank) == (None, None)


@given(st.lists(st.lists(st.floats(width=32), min_size=4, max_size=4), min_size=1, max_size=5))
def test_rows_that_are_packed_for_other_ranks_come_back_to_the_27th_bit(rows):
    rows = np.array(rows, np.float64)
    sizes, packed = _packed(rows)
    assert packed.shape == (len(rows), 2)
    assert (packed < 2**52).all()
    back = _unpacked(sizes[:, None], packed[:, None])[:, 0]
    for row, size, found in zip(rows, sizes, back, strict=True):
        if np.isfinite(row).all():
            assert size == np.abs(row).max()
            assert np.abs(found - row).max() <= size * 2**-25
        else:
            assert np.isnan(found).all()


def test_rows_that_nobody_sent_are_zeros():
    assert (_unpacked(np.zeros((2, 1)), np.zeros((2, 1, 3))) == 0).all()
