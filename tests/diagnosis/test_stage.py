"""Whether weights are as they were drawn or trained, told by what the profile of a model shows."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import propscope
from propscope.diagnosis.stage import guessed_stage
from propscope.errors import InputError
from propscope.remedies import try_remedies
from propscope.report.inspection import inspection


def mlp(bias=True):
    return nn.Sequential(nn.Linear(16, 64, bias=bias), nn.ReLU(), nn.Linear(64, 64, bias=bias), nn.ReLU(),
                         nn.Linear(64, 4, bias=bias))  # fmt: skip


def glorot():
    """Weights drawn anew, with torch's own biases, as many training scripts have it."""
    net = mlp()
    for layer in net[::2]:
        nn.init.xavier_normal_(layer.weight)
    return net


def usual_of_transformers():
    net = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 32), nn.LayerNorm(32),
                        nn.Linear(32, 4))  # fmt: skip
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return net


class Reshaped(nn.Module):
    """An image network that takes the rows of 16 values."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 32, 3, bias=False), nn.BatchNorm2d(32), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.conv(x.reshape(-1, 1, 4, 4)))).mean((2, 3)))


class InTime(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.head = kind(4, 32, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.rnn(x.reshape(-1, 4, 4))[0][:, -1])


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Linear(4, 32), nn.LayerNorm(32)
        self.attention, self.head = nn.MultiheadAttention(32, 2, batch_first=True), nn.Linear(32, 4)

    def forward(self, x):
        x = self.norm(self.enter(x.reshape(-1, 4, 4)))
        return self.head(self.attention(x, x, x)[0].mean(1))


NETWORKS = {
    "mlp": mlp,
    "weights drawn by Glorot's rule": glorot,
    "zero biases and norms": usual_of_transformers,
    "convolution": Reshaped,
    "lstm": lambda: InTime(nn.LSTM),
    "gru": lambda: InTime(nn.GRU),
    "attention": Attending,
}


def example():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


def train(net, steps=150, rate=1e-2, parameters=None):
    x, y = example()
    optimizer = torch.optim.Adam(net.parameters() if parameters is None else parameters, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net


def seen(net):
    x, y = example()
    return propscope.profile(net, x, lambda out: F.cross_entropy(out, y))


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_as_libraries_draw_them_are_an_initialization(name):
    torch.manual_seed(0)
    assert propscope.diagnose(seen(NETWORKS[name]())).stage == "initialized"


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_training_makes_it_a_trained_network(name):
    torch.manual_seed(0)
    assert propscope.diagnose(seen(train(NETWORKS[name]()))).stage == "trained"


@pytest.mark.parametrize("make", [mlp, usual_of_transformers])
def test_moments_alone_tell_it_too(make):
    torch.manual_seed(0)
    x, _ = example()
    net = make()
    assert guessed_stage([propscope.profile(net, x, stats="moments")]) == "initialized"
    assert guessed_stage([propscope.profile(train(net), x, stats="moments")]) == "trained"


def test_half_precision_rounds_the_ends_of_what_was_drawn():
    torch.manual_seed(0)
    assert guessed_stage([propscope.profile(mlp().bfloat16(), example()[0].bfloat16())]) == "initialized"


def test_normal_weights_without_a_bias_or_norm_could_be_either():
    torch.manual_seed(0)
    net = mlp(bias=False)
    for layer in net[::2]:
        nn.init.normal_(layer.weight, std=0.1)
    assert guessed_stage([seen(net)]) == "unknown"
    assert guessed_stage([seen(train(net))]) == "unknown"


def test_new_layers_on_a_trained_network_could_be_either():
    class Adapter(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner.requires_grad_(False)
            self.down, self.up = nn.Linear(inner.in_features, 4, bias=False), nn.Linear(4, inner.out_features, False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.inner(x) + self.up(self.down(x))

    torch.manual_seed(0)
    base = train(mlp())
    assert guessed_stage([seen(nn.Sequential(*(Adapter(m) if isinstance(m, nn.Linear) else m for m in base)))]) == (
        "unknown"
    )


def test_a_constant_that_gets_no_gradient_says_nothing():
    """The bias before a batch norm never moves, so its zeros are no sign of an initialization."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 4))
    nn.init.zeros_(net[0].bias)
    assert guessed_stage([seen(net)]) == "initialized"
    train(net, parameters=[p for name, p in net.named_parameters() if name != "0.bias"])
    net[0].bias.requires_grad_(False)
    assert guessed_stage([seen(net)]) == "trained"


def test_a_grid_says_itself_what_it_is():
    drawn = propscope.profile_mlp(3, 16, activation="relu", initializer=["constant", "normal:std=3"], seeds=1)
    assert propscope.diagnose(drawn).stage == "initialized"
    runs = propscope.train_mlp(2, 16, initializer="he_normal", seeds=1, data="moons", epochs=2, workers=1)
    assert [propscope.diagnose(runs.profiles(epoch)).stage for epoch in (0, -1)] == ["initialized", "trained"]


def test_what_is_given_is_not_guessed():
    torch.manual_seed(0)
    found = seen(mlp())
    assert propscope.diagnose(found, stage="trained").stage == "trained"
    with pytest.raises(InputError, match="stage must be one of initialized, trained, unknown, got 'young'"):
        propscope.diagnose(found, stage="young")


def test_a_network_without_parameters_could_be_either():
    assert guessed_stage([propscope.profile(nn.ReLU(), torch.randn(32, 4, requires_grad=True))]) == "unknown"


def test_the_diagnosis_says_what_it_was_judged_as():
    torch.manual_seed(0)
    net = mlp()
    assert "judged as an initialization" in str(propscope.diagnose(seen(net)))
    assert "judged as a trained network" in str(propscope.diagnose(seen(train(net))))
    assert "do not show whether they are trained" in str(propscope.diagnose(seen(net), stage="unknown"))


@pytest.mark.parametrize(("stage", "severe"), [("initialized", True), ("unknown", False), ("trained", None)])
def test_what_holds_for_weights_as_drawn_is_judged_by_the_stage(stage, severe):
    constant = propscope.profile_mlp(3, 16, activation="tanh", initializer="constant", seeds=1)
    found = propscope.diagnose(constant, stage=stage)
    alike = [finding.severity != "note" for finding in found.findings if finding.kind == "symmetric"]
    assert alike == ([] if severe is None else [severe])


def test_a_trained_network_is_not_told_to_draw_its_weights_anew():
    torch.manual_seed(0)
    net = mlp()
    with torch.no_grad():
        net[2].weight.mul_(100)
    drawn, trained = (propscope.diagnose(seen(net), stage=stage) for stage in ("initialized", "trained"))
    assert drawn.verdict == trained.verdict != "healthy"
    anew = {"initializer", "scale", "calibrate", "centre"}
    wrong = [[f.remedy.action for f in found.findings if f.severity != "note"] for found in (drawn, trained)]
    assert anew & set(wrong[0])
    assert "training" in wrong[1]
    assert not anew & set(wrong[1])


def test_remedies_that_change_the_weights_are_not_tried_on_a_trained_network():
    torch.manual_seed(0)
    net = mlp()
    with torch.no_grad():
        net[0].bias.fill_(-50)
    trials = try_remedies(net, example()[0], stage="trained")
    assert not trials.trials
    assert "throw away what it has learned" in trials.reason


def test_inspect_says_what_it_was_judged_as():
    torch.manual_seed(0)
    found = seen(mlp())
    for stage, said in (("initialized", "judged as an initialization\n"), ("trained", "judged as a trained network\n"),
                        ("unknown", "the weights do not show whether they are trained")):  # fmt: skip
        assert said in inspection(found, propscope.diagnose(found, stage=stage))
