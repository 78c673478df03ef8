"""Batches drawn by sizes, as torchinfo takes them: one, several, by name, with dtypes."""

import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.networks import seeded_generator
from propscope.networks.random_batch import drawn, sized

MODEL = nn.Embedding(7, 4)
FLOAT, LONG, INT, BOOL, HALF = torch.float32, torch.int64, torch.int32, torch.bool, torch.float16


def batch(size, dtypes=None):
    arguments = sized(size, dtypes)
    return drawn(arguments, MODEL, seeded_generator(0, "test"), dtype=torch.float32, device=torch.device("cpu"))


def described(value):
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.dtype
    return {k: described(v) for k, v in value.items()} if isinstance(value, dict) else [described(v) for v in value]


@pytest.mark.parametrize(
    ("size", "dtypes", "expected"),
    [
        ((2, 3), None, ((2, 3), FLOAT)),
        ([2, 3], None, ((2, 3), FLOAT)),
        (torch.Size((2, 3)), HALF, ((2, 3), HALF)),
        ((2, 3), [LONG], ((2, 3), LONG)),
        ([(2, 3), (2,)], None, [((2, 3), FLOAT), ((2,), FLOAT)]),
        (((2, 3), (2, 5)), [LONG, FLOAT], [((2, 3), LONG), ((2, 5), FLOAT)]),
        ([(2, 3), (2, 5)], INT, [((2, 3), INT), ((2, 5), INT)]),
        ([(2, 3)], None, [((2, 3), FLOAT)]),
        ({"x": (2, 3)}, None, {"x": ((2, 3), FLOAT)}),
        (
            {"input_ids": (2, 3), "attention_mask": (2, 3), "x": (2, 4)},
            None,
            {"input_ids": ((2, 3), LONG), "attention_mask": ((2, 3), LONG), "x": ((2, 4), FLOAT)},
        ),
        (
            {"input_ids": (2, 3), "attention_mask": (2, 3)},
            {"attention_mask": BOOL},
            {"input_ids": ((2, 3), LONG), "attention_mask": ((2, 3), BOOL)},
        ),
        ({"a": (2,), "b": (3,)}, [LONG, HALF], {"a": ((2,), LONG), "b": ((3,), HALF)}),
    ],
)
def test_sizes(size, dtypes, expected):
    assert described(batch(size, dtypes)) == expected


def test_what_is_drawn():
    assert batch((64, 64)).std().item() == pytest.approx(1.0, abs=0.1)
    ids = batch((64, 64), LONG)
    assert (int(ids.min()), int(ids.max())) == (0, 6)
    assert bool(batch((3, 3), BOOL).all())
    assert bool((batch({"attention_mask": (3, 3)})["attention_mask"] == 1).all())


@pytest.mark.parametrize(
    ("size", "dtypes", "said"),
    [
        (
            "8,3",
            None,
            'input_size must be the size of a batch, a list of sizes or a dict of them by argument, got "8,3"',
        ),
        (8, None, r"input_size must be .* got 8"),
        ((), None, r"input_size must be .* got \(\)"),
        ({}, None, r"input_size must be .* got \{\}"),
        ({1: (2,)}, None, "input_size must be"),
        ((2, 0), None, "input_size must be a whole number of at least 1, got 0"),
        ((2, -1), None, "input_size must be a whole number of at least 1, got -1"),
        ((2, 1.5), None, "got 1.5"),
        ([(2, 3), 4], None, r"input_size\[1\] must be .* got 4"),
        ({"x": 4}, None, r"input_size\[x\] must be .* got 4"),
        ((10**9, 10**9), None, "this machine has"),
        ((2, 3), [FLOAT, FLOAT], "dtypes must be one dtype for all inputs or one for each of the 1, got 2"),
        ((2, 3), "float32", 'dtypes must be torch dtypes, got "float32"'),
        ([(2,), (3,)], [FLOAT], "one for each of the 2, got 1"),
    ],
)
def test_wrong_sizes(size, dtypes, said):
    with pytest.raises(InputError, match=said) as raised:
        sized(size, dtypes)
    assert raised.value.hint
