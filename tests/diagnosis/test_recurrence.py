"""Recurrent layers over time: default ones are healthy, those that grow, forget at once or saturate are named."""

import math

import pytest
import torch
from torch import nn

from propscope.diagnosis import diagnose
from propscope.measure import profile
from propscope.remedies import try_remedies


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Net(nn.Module):
    """A recurrent layer and a readout of its last step."""

    def __init__(self, kind, hidden=32, **options):
        super().__init__()
        self.rnn, self.head = kind(8, hidden, batch_first=True, **options), nn.Linear(hidden, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Loop(nn.Module):
    """A cell that the model itself runs step by step."""

    def __init__(self, cell, hidden=32):
        super().__init__()
        self.cell, self.head, self.hidden = cell(8, hidden), nn.Linear(hidden, 4), hidden

    def forward(self, x):
        state = x.new_zeros(len(x), self.hidden)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state)


class Custom(nn.Module):
    """The same out of linear layers."""

    def __init__(self, hidden=32):
        super().__init__()
        self.new, self.old, self.head = nn.Linear(8, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 4)
        self.hidden = hidden

    def forward(self, x):
        state = x.new_zeros(len(x), self.hidden)
        for step in x.unbind(1):
            state = torch.tanh(self.new(step) + self.old(state))
        return self.head(state)


def scaled(net, factor, part="weight_hh"):
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if part in name:
                parameter.mul_(factor)
    return net


def orthogonal(net, gain=1.0):
    for name, parameter in net.named_parameters():
        if "weight_hh" in name:
            for gate in parameter.data.split(parameter.shape[1]):
                nn.init.orthogonal_(gate, gain)
    return net


def forgetting(net, bias):
    with torch.no_grad():
        net.rnn.bias_hh_l0[32:64] = bias
    return net


def sequences(steps):
    return torch.randn(16, steps, 8)


HEALTHY = {
    "rnn": lambda: Net(nn.RNN),
    "relu": lambda: Net(nn.RNN, nonlinearity="relu"),
    "lstm": lambda: Net(nn.LSTM),
    "gru": lambda: Net(nn.GRU),
    "wide lstm": lambda: Net(nn.LSTM, 128),
    "two layers, both ways": lambda: nn.LSTM(8, 16, 2, bidirectional=True, batch_first=True),
    "forget gate open": lambda: forgetting(Net(nn.LSTM), 2.0),
    "orthogonal": lambda: orthogonal(Net(nn.RNN)),
    "orthogonal relu": lambda: orthogonal(Net(nn.RNN, nonlinearity="relu")),
    "orthogonal lstm": lambda: orthogonal(Net(nn.LSTM)),
    "cell": lambda: Loop(nn.GRUCell),
    "custom": Custom,
}
EXPLODING = {
    "relu": (lambda: scaled(Net(nn.RNN, 64, nonlinearity="relu"), 4.5), "rnn"),
    "chaos": (lambda: scaled(Net(nn.RNN), 6), "rnn"),
    "lstm": (lambda: scaled(Net(nn.LSTM), 20), "rnn"),
    "gru": (lambda: scaled(Net(nn.GRU), 12), "rnn"),
    "cell": (lambda: scaled(Loop(nn.RNNCell), 6), "cell"),
    "custom": (lambda: scaled(Custom(), 6, "old.weight"), "old"),
}


@pytest.mark.parametrize("steps", [20, 100])
@pytest.mark.parametrize("name", HEALTHY)
def test_usual_recurrences_are_healthy(name, steps):
    assert diagnose(profile(HEALTHY[name](), sequences(steps))).verdict == "healthy"


@pytest.mark.parametrize("name", EXPLODING)
def test_growth_over_the_steps_is_found_with_its_factor(name):
    make, place = EXPLODING[name]
    found = diagnose(profile(make(), sequences(60)))
    finding = found.worst
    assert found.verdict in ("strained", "broken")
    assert (finding.kind, finding.first) == ("exploding", place)
    assert finding.evidence["factor_per_step"] > 1.05
    assert finding.evidence["factor"] == pytest.approx(finding.evidence["factor_per_step"] ** 59, rel=1e-6)
    assert "a step" in finding.message


def test_weight_hh_is_held_against_what_keeps_the_state():
    finding = diagnose(profile(EXPLODING["relu"][0](), sequences(60))).worst
    # 4.5 / sqrt(3), where a rectifier leaves half of a mean square.
    ((name, factor),) = finding.remedy.factors.items()
    assert name == "rnn.weight_hh_l0"
    assert 1 / factor == pytest.approx(4.5 / math.sqrt(3) / math.sqrt(2), rel=0.05)
    assert "1.8 times too large" in finding.cause


@pytest.mark.parametrize("name", ["relu", "chaos", "cell"])
def test_the_factor_on_weight_hh_is_tried(name):
    trial = try_remedies(EXPLODING[name][0](), sequences(60)).trial
    assert trial.healed
    assert "weight_hh" in trial.lines[0]


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: scaled(Net(nn.RNN), 0.02), "weight_hh"),
        (lambda: forgetting(Net(nn.LSTM), -10.0), "forget gate"),
    ],
)
def test_a_state_that_one_step_forgets_is_found(make, word):
    found = diagnose(profile(make(), sequences(30)))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("strained", "vanishing", "rnn")
    assert word in found.worst.remedy.text


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.GRUCell])
def test_a_memory_shorter_than_the_sequence_is_a_note(kind):
    make = Loop if issubclass(kind, nn.RNNCellBase) else Net
    found = diagnose(profile(make(kind), sequences(100)))
    (note,) = [finding for finding in found.findings if "one step passes on" in finding.message]
    assert note.severity == "note"
    assert "it remembers about" in note.cause
    assert not [f for f in diagnose(profile(make(kind), sequences(6))).findings if "one step" in f.message]


def test_gates_that_weights_of_the_input_saturate_are_found():
    found = diagnose(profile(scaled(Net(nn.RNN), 60, "weight_ih"), sequences(20)))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("strained", "saturated", "rnn")
    assert list(found.worst.remedy.factors) == ["rnn.weight_ih_l0"]


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_gates_that_biases_saturate_are_found(kind):
    net = Net(kind)
    nn.init.constant_(net.rnn.bias_ih_l0, 10.0)
    found = diagnose(profile(net, sequences(20)))
    assert (found.verdict, found.worst.kind, found.worst.first) == ("strained", "saturated", "rnn")
    assert found.worst.remedy.factors == {"rnn.bias_ih_l0": 0.0}


def test_layers_that_share_their_weights_are_no_steps():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)

        def forward(self, x):
            for _ in range(24):
                x = x + self.down(torch.relu(self.up(self.norm(x))))
            return x

    net = Shared()
    with torch.no_grad():
        net.up.weight.mul_(3)
    assert not [f for f in diagnose(profile(net, torch.randn(16, 8))).findings if "a step" in f.message]


def test_what_a_trained_network_does_over_time_is_a_note():
    taken = profile(EXPLODING["chaos"][0](), sequences(60))
    findings = [f for f in diagnose(taken, stage="trained").findings if "a step" in f.message]
    assert {finding.severity for finding in findings} == {"note"}
