"""Modules that a pass skips at random are told from those that never run."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import propscope

WIDTH = 8
DRAWS = {
    "torch": lambda: float(torch.rand(())),
    "python": random.random,
    "numpy": lambda: float(np.random.rand()),  # noqa: NPY002  the global generator is what models draw from
}


class Skipping(nn.Module):
    """Residual layers of which each is skipped with a probability; `used`: how many of them are called at all."""

    def __init__(self, draw, probability=0.5, *, used=6):
        super().__init__()
        self.draw, self.probability, self.used = draw, probability, used
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(6))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.end = nn.Linear(WIDTH, 3)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        for layer in self.layers[: self.used]:
            if self.draw() >= self.probability:
                x = x + F.gelu(layer(x))
        return self.end(self.norm(x))


def seeded():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002


def reasons(profile):
    return {note.name: note.reason for note in profile.coverage if note.what == "module"}


def batch():
    return torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", DRAWS)
def test_a_layer_that_is_skipped_at_random_is_a_note(name):
    seeded()
    model = Skipping(DRAWS[name])
    profile = propscope.profile(model, batch())
    idle = reasons(profile)
    assert idle
    assert all("skipped at random" in reason for reason in idle.values())
    diagnosis = propscope.diagnose(profile)
    assert diagnosis.verdict == "healthy", diagnosis.findings
    assert any("was skipped in this pass" in finding.message for finding in diagnosis.findings)


def test_a_layer_that_no_run_calls_is_strained_beside_others_that_are_skipped():
    seeded()
    profile = propscope.profile(Skipping(DRAWS["torch"], used=5), batch())
    assert reasons(profile)["layers.5"] == "Linear did not run in this pass"
    diagnosis = propscope.diagnose(profile)
    assert (diagnosis.verdict, diagnosis.worst.first) == ("strained", "layers.5")


def test_a_layer_that_is_forgotten_is_strained_though_dropout_draws():
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), nn.Linear(WIDTH, 3))
    model[0].forgotten = nn.Linear(WIDTH, WIDTH)
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(module))
    diagnosis = propscope.diagnose(propscope.profile(model, batch()))
    assert (diagnosis.verdict, diagnosis.worst.first) == ("strained", "0.forgotten")
    # Once more tells that nothing is chosen.
    assert len(calls) == 2


def test_it_runs_again_only_where_random_numbers_were_drawn_and_a_layer_did_not_run():
    seeded()
    for model, calls in (
        (Skipping(lambda: 1.0), 1),
        (Skipping(lambda: 1.0, used=5), 1),
        (Skipping(DRAWS["torch"], probability=0.0), 1),
    ):
        propscope.profile(model, batch())
        assert model.calls == calls


def test_the_model_and_the_random_states_stay_as_they_were():
    seeded()
    model = Skipping(DRAWS["torch"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    propscope.profile(model, batch())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_run_that_raises_the_second_time_is_left_alone():
    class Once(Skipping):
        def forward(self, x):
            if self.calls:
                raise RuntimeError("again")
            return super().forward(x)

    seeded()
    profile = propscope.profile(Once(DRAWS["torch"]), batch())
    assert all("did not run in this pass" in reason for reason in reasons(profile).values())
