"""Whether random numbers may decide which modules a pass runs."""

import random
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from propscope.measure.random_choices import ChoiceWatch
from propscope.measure.skipped import torch_states

X = torch.arange(24.0).reshape(4, 6)
OWN = torch.Generator()


def found_in(run, model=None):
    model = nn.Linear(6, 6) if model is None else model
    torch.manual_seed(0)
    watch = ChoiceWatch(model.modules(), torch_states(model))
    with torch.no_grad(), watch:
        run(model)
    return watch.found


def scattered(coin):
    numbers = torch.zeros(3)
    numbers[1] = coin
    return numbers


def written_through_a_view(value):
    memory = torch.zeros(4)
    memory[:2].uniform_()
    return memory[1]


def out_of_sight():
    with torch._C.DisableTorchFunction():
        return bool(torch.rand(()) < 0.5)


CHOICES = {
    "a comparison": lambda _: bool(torch.rand(()) < 0.5),
    "a number": lambda _: float(torch.rand(())) < 0.5,
    "one of several": lambda _: torch.rand(5)[3].item(),
    "one that is rare": lambda _: bool(torch.rand(()) < 0.1),
    "drawn in place": lambda _: bool(torch.empty(()).uniform_() < 0.5),
    "a whole number": lambda _: int(torch.randint(0, 3, ())),
    "put together": lambda _: bool(torch.stack([torch.rand(()), torch.rand(())]).sum() > 1),
    "written to an element": lambda _: bool(scattered(torch.rand(()))[1] > 0.5),
    "written through a view": lambda _: bool(written_through_a_view(X) > 0.5),
    "a list": lambda _: torch.rand(2).tolist(),
    "an array": lambda _: torch.rand(2).numpy(),
    "of many": lambda model: bool(model(F.dropout(torch.ones(40, 6))).mean() > 1e9),
    "where it is not zero": lambda _: F.dropout(X).nonzero(),
    "where alone": lambda _: torch.where(F.dropout(X)),
    "a mask": lambda _: X[F.dropout(X) > 0],
    "different elements": lambda _: torch.unique(F.dropout(X)),
    "by a generator of its own": lambda _: bool(torch.rand((), generator=OWN) < 0.5),
    "python": lambda _: random.random() < 0.5,
    "numpy": lambda _: np.random.rand() < 0.5,  # noqa: NPY002  the global one is what models draw from
    "out of sight": lambda _: out_of_sight(),
    "out of sight, before others": lambda _: (out_of_sight(), X + 1),
}
NONE = {
    "nothing drawn": lambda model: bool(model(X).mean() > 0),
    "dropout": lambda model: model(F.dropout(X)).relu(),
    "of what is not random": lambda model: (F.dropout(X), bool(X.mean() > 0), X[X > 0], X.nonzero()),
    "never": lambda _: bool(torch.rand(()) < 0.0),
    "always": lambda _: bool(torch.rand(5)[1] < 1.0),
    "a draw of one": lambda _: int(torch.randint(0, 1, ())),
    "shapes": lambda _: (F.dropout(X).shape, F.dropout(X).size(0), len(F.dropout(X)), F.dropout(X).dtype),
    "a mask that is filled": lambda _: X.masked_fill(F.dropout(X) > 0, 0.0),
    "a part": lambda _: F.dropout(X)[1:, None],
}


@pytest.mark.parametrize("name", CHOICES)
def test_what_python_reads_of_random_numbers_may_be_a_choice(name):
    assert found_in(CHOICES[name])


@pytest.mark.parametrize("name", NONE)
def test_what_python_does_not_read_or_what_never_changes_is_none(name):
    assert not found_in(NONE[name])


@pytest.mark.parametrize("generator", [random.Random(0), np.random.default_rng(0), np.random.RandomState(0), OWN])
def test_a_generator_of_the_models_own_may_choose(generator):
    model = nn.Linear(6, 6)
    model.generator = generator
    assert found_in(lambda model: F.dropout(model(X)), model)


def test_what_cannot_be_followed_may_be_a_choice(monkeypatch):
    monkeypatch.setattr("propscope.measure.random_choices.operation_name", lambda function: 1 / 0)
    assert found_in(lambda model: F.dropout(model(X)))


def test_no_tensor_is_kept():
    model, tensors = nn.Linear(6, 6), []

    def run(model):
        hidden = F.dropout(model(torch.randn(40, 6)))
        tensors.append(weakref.ref(hidden))
        del hidden
        assert tensors[0]() is None

    assert not found_in(run, model)
