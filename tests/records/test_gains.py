"""Gains along the graph: parallel branches, gates and skip connections are no jumps."""

import math

import pytest
import torch
from building.records import signal
from torch import nn

import propscope
from propscope.diagnosis.evidence import LN_ZERO, Evidence
from propscope.records import UNKNOWN, NetworkProfile, Parent, Site
from propscope.records.gains import gains_of_seeds, input_rms, site_gains


def site(name, rms, parents, *, gradient=1.0, operations=(), role="pre-activation"):
    edges = None if parents is None else tuple(Parent(parent, operations) for parent in parents)
    return Site(
        name, "Linear", role, (4, 8), activation="relu", forward=signal(rms), backward=signal(gradient), parents=edges
    )


def network(*sites):
    return NetworkProfile(sites)


# A site feeds two branches, and their ends are summed: the second branch ran last.
BRANCHES = network(
    site("in", 2.0, [], gradient=5.0),
    site("left", 4.0, ["in"], gradient=3.0),
    site("right", 8.0, ["in"], gradient=4.0),
    site("sum", 10.0, ["left", "right"], role="residual"),
)


def test_a_branch_is_measured_against_what_feeds_it():
    left, right = (site_gains(BRANCHES)[at] for at in (1, 2))
    assert (left.forward, left.step, left.before) == (2.0, 2.0, 0)
    assert (right.forward, right.step, right.before) == (4.0, 4.0, 0)
    assert BRANCHES.forward_gains.tolist() == [2.0, 4.0]
    assert BRANCHES.backward_gains.tolist() == [pytest.approx(5 / 3), 1.25]


def test_gradients_of_branches_add_up():
    first = site_gains(BRANCHES)[0]
    assert first.after == (1, 2)
    assert first.backward == pytest.approx(5 / math.hypot(3, 4))
    assert first.forward is None


def test_several_inputs_count_as_independent_summands_or_as_factors():
    assert input_rms(BRANCHES, 3) == pytest.approx(math.hypot(4, 8))
    gated = network(site("a", 2.0, []), site("b", 3.0, []), site("c", 12.0, ["a", "b"], operations=("mul",)))
    assert input_rms(gated, 2) == 6.0
    assert site_gains(gated)[2].step == 2.0
    assert input_rms(gated, 0) is None
    stacked = network(*(site(name, 3.0, []) for name in "abcd"), site("e", 3.0, "abcd", operations=("mul", "stack")))
    assert input_rms(stacked, 4) == 6.0


def test_what_is_not_known_has_no_gain():
    profile = network(site("a", 2.0, []), site("b", 4.0, [UNKNOWN]), site("c", 4.0, ["a", UNKNOWN]))
    assert [gain.step for gain in site_gains(profile)] == [None, None, None]
    assert [gain.forward for gain in site_gains(profile)] == [None, None, 2.0]


def test_an_old_file_is_read_in_execution_order():
    profile = network(site("a", 2.0, None), site("b", 4.0, None), site("c", 2.0, None))
    assert [gain.step for gain in site_gains(profile)] == [None, 2.0, 0.5]
    assert profile.forward_gains.tolist() == [2.0, 0.5]


class Parallel(nn.Module):
    """A block as Phi's: attention's output and a far larger MLP's, side by side behind one norm."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.values, self.up, self.down = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        with torch.no_grad():
            self.up.weight.mul_(50)

    def forward(self, x):
        h = self.norm(x)
        return x + torch.tanh(self.values(h)) + self.down(torch.tanh(self.up(h)))


class Gate(nn.Module):
    """Squeeze and excitation: a gate of small values between two layers of the main way."""

    def __init__(self):
        super().__init__()
        self.body, self.squeeze, self.open = nn.Linear(16, 16), nn.Linear(16, 4), nn.Linear(4, 16)
        with torch.no_grad():
            self.squeeze.weight.mul_(1e-3)

    def forward(self, x):
        x = torch.tanh(self.body(x))
        return x * torch.sigmoid(self.open(torch.tanh(self.squeeze(x))))


def profiled(model):
    torch.manual_seed(0)
    return propscope.profile(model, torch.randn(32, 16, generator=torch.Generator().manual_seed(1)))


def gains_of(profile):
    return {
        site.name: (gain, None if gain.before is None else profile.sites[gain.before].name)
        for site, gain in zip(profile.sites, site_gains(profile), strict=True)
    }


def test_parallel_branches_are_no_jump():
    torch.manual_seed(0)
    found = gains_of(profiled(nn.Sequential(Parallel(), Parallel())))
    gain, before = found["1.values"]
    # The MLP of this block ran after attention, and attention of this block did not feed it.
    assert found["1.up"][1] == before == "0.up"
    assert gain.step == pytest.approx(found["1.values"][0].step)
    assert found["1.up"][0].step == pytest.approx(50 * gain.step, rel=0.5)


def test_lines_of_a_chain_do_not_cross_parallel_branches():
    torch.manual_seed(0)
    profile = profiled(nn.Sequential(Parallel(), Parallel()))
    chains = [[profile.sites[at].name for at in chain.indices] for chain in Evidence.of([profile]).chains]
    tanh = [names for names in chains if any("values" in name or "up" in name for name in names)]
    assert all(len({name.partition(".")[0] for name in names}) == len(names) for names in tanh)


def test_a_gate_is_fed_by_what_it_gates():
    torch.manual_seed(0)
    found = gains_of(profiled(nn.Sequential(Gate(), nn.Linear(16, 16), nn.Tanh())))
    assert found["0.squeeze"][1] == "0.body"
    assert found["0.open"][0].forward is None or found["0.open"][1] == "0.squeeze"


def chains_of(model, batch):
    torch.manual_seed(0)
    profile = propscope.profile(model, batch)
    evidence = Evidence.of([profile])
    return {tuple(evidence.sites[at].name for at in chain.indices) for chain in evidence.chains}


class Gated(nn.Module):
    """A residual network of gated blocks, with a ReLU in the gates and on the stream."""

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))
        self.squeeze = nn.ModuleList(nn.Linear(16, 4) for _ in range(3))
        self.open = nn.ModuleList(nn.Linear(4, 16) for _ in range(3))

    def forward(self, x):
        for body, squeeze, opened in zip(self.body, self.squeeze, self.open, strict=True):
            h = body(x)
            x = torch.relu(x + h * torch.sigmoid(opened(torch.relu(squeeze(h)))))
        return x


def test_a_chain_keeps_to_the_stream():
    stream, gates = ["add#0", "add#1", "add#2"], [f"squeeze.{at}" for at in range(3)]
    assert chains_of(Gated(), torch.randn(32, 16)) == {tuple(stream)}
    found = {name for chain in chains_of(Gated(), torch.randn(32, 16)) for name in chain}
    assert found.isdisjoint(gates)


class Rotated(nn.Module):
    """A transformer whose queries are turned by angles, and whose words and places are summed up."""

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(11, 16), nn.Embedding(6, 16)
        self.query, self.out = (nn.ModuleList(nn.Linear(16, 16) for _ in range(3)) for _ in range(2))

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(6)).expand(4, 6, 16)
        angles = torch.outer(torch.arange(6.0), torch.ones(16))
        for query, out in zip(self.query, self.out, strict=True):
            q = query(x)
            q = q * angles.cos() + q.flip(-1) * angles.sin()
            x = x + out(torch.softmax(q @ x.transpose(-1, -2), -1) @ x)
        return x


def test_sums_of_embeddings_and_of_rotated_parts_are_not_the_stream():
    (stream,) = chains_of(Rotated(), torch.randint(11, (4, 6)))
    assert len(stream) == 3
    assert all(name.startswith("add") for name in stream)


def test_names_do_not_tell_what_a_chain_is():
    encoder, decoder = (nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()) for _ in range(2))
    whole = nn.Sequential()
    whole.encoder, whole.decoder = encoder, decoder
    assert chains_of(whole, torch.randn(32, 16)) == {("encoder.0", "encoder.2", "decoder.0", "decoder.2")}


def test_a_zero_is_gone_around_only_where_a_way_of_sites_does():
    def network(shortcut):
        def forward(x):
            h = torch.tanh(layers[0](x))
            h = h * shortcut + layers[1](h)
            return layers[3](torch.tanh(layers[2](torch.tanh(h))))

        layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        nn.init.zeros_(layers[1].weight)
        nn.init.zeros_(layers[1].bias)
        whole = nn.Module()
        whole.layers, whole.forward = layers, forward
        return whole

    torch.manual_seed(0)
    for shortcut in (0.0, 1.0):
        seen = Evidence.of([propscope.profile(network(shortcut), torch.randn(32, 16))])
        # The biases bring a signal back, which knows nothing of the input.
        assert any((chain.forward == LN_ZERO).any() for chain in seen.chains) == (shortcut == 0)


def test_the_gains_of_seeds_are_those_of_each_and_their_ways_are_found_once():
    def seed(scale, *, own="left"):
        return network(
            site("x", 1.0, [], role="input"),
            site("in", 2.0 * scale, ["x"], gradient=5.0),
            site("left", 4.0 / scale, ["in"], gradient=0.0),
            site("right", 0.0, ["in"], gradient=math.inf),
            site("gate", 3.0, [own, "in"], operations=("mul",), role="activation"),
            site("sum", 10.0, ["left", "right"], gradient=math.nan),
        )

    seeds = [seed(1.0), seed(3.0), seed(0.5, own="right")]
    for index, gains in enumerate(gains_of_seeds(seeds)):
        each = [site_gains(member)[index] for member in seeds]
        for direction in ("forward", "backward", "step"):
            assert getattr(gains, direction) == tuple(getattr(one, direction) for one in each)
        assert (gains.before, gains.after) == (each[0].before, each[0].after)
    first, second, other = Evidence.of(seeds).members
    assert first.inputs == ()
    assert second.graph is first.graph
    assert other.graph is not first.graph
