"""What is judged of one network at a time is found where most seeds show it, whichever is the first."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from propscope.diagnosis import diagnose
from propscope.diagnosis.evidence import succession
from propscope.measure import profile
from propscope.records import ProfileSet


def tanh_net():
    return nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))


def large_input(faulty):
    return tanh_net(), torch.randn(64, 16) * (100 if faulty else 1)


def large_bias(faulty):
    net = tanh_net()
    if faulty:
        nn.init.constant_(net[2].bias, 4.0)
    return net, torch.randn(64, 16)


class Recurrent(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.rnn, self.head = nn.RNN(8, 32, nonlinearity="relu", batch_first=True), nn.Linear(32, 2)
        nn.init.orthogonal_(self.rnn.weight_hh_l0, factor)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def growing_state(faulty):
    return Recurrent(2.0 if faulty else 1.0), torch.randn(16, 20, 8)


class Scores(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.q, self.head, self.factor = nn.Linear(32, 32), nn.Linear(32, 4), factor

    def forward(self, x):
        return self.head(F.softmax(self.factor * self.q(x) @ x.transpose(1, 2), -1) @ x)


def sharp_scores(faulty):
    return Scores(30.0 if faulty else 0.1), torch.randn(16, 8, 32)


def found_in(make, faults):
    profiles = []
    for seed, faulty in enumerate(faults):
        torch.manual_seed(seed)
        profiles.append(replace(profile(*make(faulty)), labels={"seed": seed}))
    return diagnose(ProfileSet.of(profiles))


KINDS = {large_input: "input", large_bias: "saturated", growing_state: "exploding", sharp_scores: "saturated"}


@pytest.mark.parametrize("make", KINDS)
def test_a_fault_of_one_seed_is_not_that_of_the_network(make):
    assert found_in(make, (True, False, False)).verdict == "healthy"


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("faults", [(False, True, True), (True, False, True), (True, True, True)])
def test_a_fault_of_most_seeds_is_found_with_how_many_show_it(make, faults):
    found = found_in(make, faults).worst
    assert (found.kind, found.severity == "note") == (KINDS[make], False)
    assert found.confidence == succession(sum(faults), 3)
    assert found.message.endswith("in 2 of 3 seeds") is not all(faults)
    assert found.evidence["seeds"] == 3


def test_an_input_with_nan_in_any_seed_is_found():
    def make(faulty):
        net, batch = large_input(False)
        batch[0, 0] = math.nan if faulty else 0.0
        return net, batch

    found = found_in(make, (False, False, True))
    assert (found.verdict, found.worst.kind) == ("broken", "non-finite")
    assert found.first_bad == "input"
