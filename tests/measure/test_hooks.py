"""A watched model can be copied and saved, and neither needs propscope afterwards."""

import copy
import pickle

import torch
from torch import nn

import propscope
from propscope.measure.hooks import Hook


def test_a_copied_hook_does_nothing():
    calls = []
    hook = Hook(lambda *arguments: calls.append(arguments), 1)
    hook(2)
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert twin("module", "inputs", "output") is None
    assert calls == [(1, 2)]


def test_a_model_saved_while_watched_does_not_name_propscope():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with propscope.track(model):
        saved, twin = pickle.dumps(model), copy.deepcopy(model)
    assert b"propscope" not in saved
    x = torch.randn(2, 3)
    for other in (pickle.loads(saved), twin):
        assert torch.equal(other(x), model(x))
