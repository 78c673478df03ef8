"""Networks of known exponents: perceptrons and a small GPT-2, standard, in muP and in the NTK parametrization."""

import random
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from building.widening import Gpt2, Perceptron, mup_adam, mup_sgd
from torch import nn

import propscope
from propscope.errors import InputError

WIDTHS = (32, 64, 128)
BATCH = torch.randn(64, 16, generator=torch.Generator().manual_seed(1))
# Few tokens: in a batch of many, the sums over the units of a narrow layer do not add up in one direction.
TOKENS = torch.randint(48, (2, 8), generator=torch.Generator().manual_seed(1))
TRAININGS = {
    ("standard", "adam"): ("adam", 1e-4),
    ("standard", "sgd"): ("sgd", 1e-3),
    ("ntk", "adam"): ("adam", 1e-3),
    ("ntk", "sgd"): ("sgd", 1e-2),
    ("mup", "adam"): (mup_adam, 1e-2),
    ("mup", "sgd"): (mup_sgd, 1e-2),
}


def perceptrons(style, family, **options):
    optimizer, lr = TRAININGS[style, family]
    return propscope.width_check(lambda width: Perceptron(width, style), WIDTHS, BATCH, optimizer, lr, **options)


def exponents(check, quantity):
    return {row.name: row.exponent().center for row in check.rows if row.quantity == quantity and not row.parameter}


@pytest.mark.slow
@pytest.mark.parametrize(("style", "family"), TRAININGS)
def test_a_perceptron_has_the_exponents_of_its_parametrization_and_of_no_other(style, family):
    check = perceptrons(style, family, expect=style)
    fits = check.fits
    # Layers: size, change and the part of the weights.
    assert sum(map(len, fits.values())) - len(fits["not judged"]) == 12
    assert (len(fits["as expected"]), check.exit_code) == (12, 0)
    for other in {"standard", "mup", "ntk"} - {style}:
        held = perceptrons(style, family, expect=other)
        # What is measured does not depend on what is expected.
        assert [row.sizes.tobytes() for row in held.rows] == [row.sizes.tobytes() for row in check.rows]
        assert held.exit_code == 1, other


@pytest.mark.slow
def test_the_hidden_layers_of_a_standard_perceptron_change_by_n_under_adam():
    check = perceptrons("standard", "adam")
    parts = exponents(check, "weights_part")
    assert parts["layers.0"] == pytest.approx(0, abs=0.1)
    assert parts["layers.1"] == pytest.approx(1, abs=0.15)
    assert parts["layers.2"] == pytest.approx(1, abs=0.15)
    inputs = exponents(check, "input_part")
    # What the first hidden layer is given comes from the input layer, whose change does not grow.
    assert inputs["layers.1"] == pytest.approx(0, abs=0.1)
    assert inputs["layers.2"] > 0.6
    assert np.isnan(inputs.get("layers.0", np.nan))
    updates = {row.name: row.exponent().center for row in check.rows if row.quantity == "update"}
    assert set(updates) == {f"layers.{number}.weight" for number in range(4)}
    # Adam changes every weight by its learning rate.
    assert list(updates.values()) == pytest.approx([0] * 4, abs=0.05)
    gradients = exponents(check, "gradient")
    assert gradients["layers.1"] == pytest.approx(-0.5, abs=0.15)
    assert gradients["layers.3"] == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_a_small_gpt2_passes_in_mup_and_fails_in_the_standard_parametrization():
    check = propscope.width_check(lambda width: Gpt2(width, "mup"), WIDTHS, TOKENS, mup_adam, 1e-3, expect="mup")
    assert (len(check.fits["as expected"]), check.exit_code) == (64, 0)
    roles = {row.name: row.role for row in check.rows if not row.parameter}
    assert (roles["tokens"], roles["places"], roles["head"], roles["norm"]) == ("input", "input", "output", "vector")
    assert {roles[f"blocks.1.{name}"] for name in ("query", "project", "up", "down")} == {"hidden"}
    assert roles["blocks.0"] == ""
    standard = propscope.width_check(Gpt2, WIDTHS, TOKENS, "adam", 1e-3, expect="mup")
    assert standard.exit_code == 1
    failing = {(row.name, row.quantity) for row in standard.fits["not as expected"]}
    assert {(f"blocks.{n}.{of}", "weights_part") for n in (0, 1) for of in ("query", "value", "down")} <= failing
    assert ("tokens", "change") not in failing


def test_the_change_is_the_sum_of_its_parts_for_every_layer():
    class Mixed(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed = nn.Embedding(7, width)
            self.conv = nn.Conv1d(width, width, 3, padding=1)
            self.norm = nn.BatchNorm1d(width)
            self.attend = nn.MultiheadAttention(width, 2, dropout=0.5, batch_first=True)
            self.state = nn.LSTM(width, width, batch_first=True)
            self.scaled = nn.utils.parametrizations.weight_norm(nn.Linear(width, width, bias=False))
            self.head = nn.Linear(width, 3)

        def forward(self, tokens):
            x = self.norm(self.conv(self.embed(tokens).transpose(1, 2))).transpose(1, 2)
            x = self.attend(x, x, x)[0]
            x = torch.relu_(self.scaled(self.state(x)[0]))
            return 0.5 * self.head(F.dropout(x))

    tokens = torch.arange(24).reshape(4, 6) % 7
    check = propscope.width_check(lambda width: Mixed(width), (4, 8), tokens, "sgd", 0.5, seeds=2, steps=2)
    roles = {row.name: row.role for row in check.rows if not row.parameter and row.role}
    assert roles == {
        "embed": "input",
        "conv": "hidden",
        "norm": "vector",
        "attend": "hidden",
        "state": "hidden",
        "scaled": "hidden",
        "head": "output",
    }
    for name in roles:
        change, weights, inputs = (
            check.row(name, quantity).sizes[:, :, 1:] for quantity in ("change", "weights_part", "input_part")
        )
        # By the triangle: neither side is longer than the others together.
        assert (change <= (weights + inputs) * (1 + 1e-6)).all()
        assert (weights <= (change + inputs) * (1 + 1e-6)).all()
        assert (weights > 0).all()
        assert np.isnan(check.row(name, "change").sizes[:, :, 0]).all()
    # Nothing came before the embedding.
    assert (check.row("embed", "input_part").sizes[:, :, 1:] == 0).all()
    assert np.array_equal(check.row("embed", "change").sizes, check.row("embed", "weights_part").sizes, equal_nan=True)


def test_the_parts_of_a_layer_by_hand():
    def made(width):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, width), nn.Tanh(), nn.Linear(width, 4))

    def loss(output):
        return output.square().mean()

    check = propscope.width_check(made, (4, 6), BATCH, "sgd", 0.1, steps=1, seeds=1, loss=loss)
    net, start = made(6), made(6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    loss(net(BATCH)).backward()
    optimizer.step()
    with torch.no_grad():
        before, after = start[:2](BATCH), net[:2](BATCH)
        weights = net[2](before) - start[2](before)
        inputs = net[2](after) - net[2](before)
    for quantity, wanted in (("weights_part", weights), ("input_part", inputs), ("change", weights + inputs)):
        measured = check.row("2", quantity).sizes[0, 1, 1]
        assert measured == pytest.approx(float(wanted.square().mean().sqrt()), rel=1e-4)
    update = (net[2].weight - start[2].weight).detach().square().mean().sqrt()
    assert check.row("2.weight", "update").sizes[0, 1, 1] == pytest.approx(float(update), rel=1e-4)
    gradient = net[2].weight.grad.square().mean().sqrt()
    assert check.row("2.weight", "gradient").sizes[0, 1, 0] == pytest.approx(float(gradient), rel=1e-4)


class Counting(nn.Linear):
    """A layer whose output grows with the number of its calls, which is a buffer."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.calls * super().forward(x)


def test_the_training_is_that_of_a_plain_loop():
    def made(width):
        torch.manual_seed(5)
        return nn.Sequential(Counting(16, width), nn.BatchNorm1d(width), nn.ReLU(), Counting(width, 3))

    def loss(output):
        return output.square().mean()

    check = propscope.width_check(made, (4, 6), BATCH, "sgd", 0.01, steps=3, seeds=1, loss=loss)
    net = made(6)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for step in range(4):
        output = net(BATCH)
        size = float(output.detach().square().mean().sqrt())
        assert check.row("3", "size").sizes[0, 1, step] == pytest.approx(size, rel=1e-5)
        optimizer.zero_grad()
        loss(output).backward()
        optimizer.step()
    # What answers the same input in another way has no parts.
    assert {row.name for row in check.rows if row.quantity == "weights_part"} == {"1"}


class Scaled(nn.Module):
    """A readout that is divided by the width after it, before it, inside the module, or in place."""

    def __init__(self, width, where):
        super().__init__()
        self.width, self.where = width, where
        self.lift, self.norm, self.head = nn.Linear(16, width), nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x):
        x = self.norm(self.lift(x))
        x = x / self.width if self.where == "before" else x
        x = self.head(x)
        if self.where == "in place":
            x /= self.width
        elif self.where == "reversed":
            x = (1 / self.width) * x
        else:
            x = x / self.width if self.where == "after" else x
        return x


@pytest.mark.parametrize("where", ["after", "in place", "reversed"])
def test_a_factor_after_a_layer_belongs_to_the_layer(where):
    def sizes(where, quantity):
        check = propscope.width_check(
            lambda width: Scaled(width, where), (8, 16), BATCH, "sgd", 0.0625, seeds=1, steps=2
        )
        assert {row.name for row in check.rows if not row.parameter} == {"lift", "norm", "head"}
        return check.row("head", quantity).sizes

    plain = sizes("nowhere", "size")
    widths = np.array([8, 16])[None, :]
    assert sizes(where, "size")[:, :, 0] == pytest.approx(plain[:, :, 0] / widths)
    assert sizes(where, "gradient")[:, :, 0] == pytest.approx(sizes("nowhere", "gradient")[:, :, 0])
    change, weights, inputs = (
        sizes(where, quantity)[:, :, 1:] for quantity in ("change", "weights_part", "input_part")
    )
    assert (change <= (weights + inputs) * (1 + 1e-4)).all()
    assert (weights <= (change + inputs) * (1 + 1e-4)).all()


def test_a_factor_before_a_layer_belongs_to_no_norm():
    def of(where):
        check = propscope.width_check(lambda width: Scaled(width, where), (8, 16), BATCH, lr=0.01, seeds=1, steps=1)
        return check.row("norm", "size").sizes[:, :, 0]

    assert of("before") == pytest.approx(of("nowhere"))


def test_a_layer_that_is_called_again_and_what_returns_a_site_as_it_is():
    class Twice(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.lift, self.mix = nn.Linear(16, width), nn.Sequential(nn.Linear(width, width), nn.Identity())

        def forward(self, x):
            return {"out": self.mix(self.mix(self.lift(x)))}

    check = propscope.width_check(lambda width: Twice(width), (4, 8), BATCH, "sgd", 0.1, seeds=1, steps=1)
    assert list(dict.fromkeys(row.name for row in check.rows if not row.parameter)) == ["lift", "mix.0", "mix.0#2"]


def test_weights_that_two_layers_share_are_not_held_against_a_random_readout():
    class Tied(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, width), nn.Linear(width, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.embed(tokens)) / self.embed.embedding_dim

    tokens = torch.arange(8).reshape(2, 4)
    check = propscope.width_check(lambda width: Tied(width), (16, 64), tokens, lr=0.01, expect="mup", seeds=2)
    assert check.row("head", "size").expected == (-0.5, 0.0)
    assert check.row("embed", "size").expected == (0.0, 0.0)


def test_the_caller_finds_everything_as_it_was():
    kept = {}

    def made(width):
        # A factory that keeps its models and hands them out again.
        if width not in kept:
            kept[width] = nn.Sequential(nn.Linear(16, width), nn.BatchNorm1d(width), nn.Dropout(), nn.Linear(width, 2))
        return kept[width]

    torch.manual_seed(3)
    for width in (4, 8):
        made(width)
    before = {width: {name: value.clone() for name, value in net.state_dict().items()} for width, net in kept.items()}
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    first = propscope.width_check(made, (4, 8), BATCH, lr=0.1, seeds=1, steps=2)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    for width, net in kept.items():
        assert all(torch.equal(value, before[width][name]) for name, value in net.state_dict().items())
        assert all(parameter.grad is None for parameter in net.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    with torch.no_grad():
        second = propscope.width_check(made, (4, 8), BATCH, lr=0.1, seeds=1, steps=2)
    assert [row.sizes.tobytes() for row in first.rows] == [row.sizes.tobytes() for row in second.rows]


def test_a_seed_draws_the_same_whatever_other_widths_and_seeds_there_are():
    few = propscope.width_check(Perceptron, (8, 16), BATCH, lr=0.1, seeds=1, steps=1)
    many = propscope.width_check(Perceptron, (8, 12, 16), BATCH, lr=0.1, seeds=2, steps=1)
    for row in few.rows:
        assert np.array_equal(row.sizes[0], many.row(row.name, row.quantity).sizes[0, [0, 2]], equal_nan=True)
    sizes = many.row("layers.0", "size").sizes
    assert sizes[0, 0, 0] != sizes[1, 0, 0]


def test_a_factory_may_draw_from_any_global_generator_and_finds_it_seeded():
    def drawn(width):
        made = Perceptron(width)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.mul_(random.random() + np.random.rand())  # noqa: NPY002
        return made

    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    checks = [propscope.width_check(drawn, (8, 16), BATCH, lr=0.1, seeds=2, steps=1) for _ in range(2)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states  # noqa: NPY002
    first, second = ([row.sizes.tobytes() for row in check.rows] for check in checks)
    assert first == second


def test_weights_that_are_the_same_with_every_seed_are_fine_for_one_seed():
    assert propscope.width_check(seeded, (8, 16), BATCH, lr=0.1, seeds=1, steps=1).seeds == 1


def test_random_numbers_are_the_same_at_every_step():
    def made(width):
        return nn.Sequential(nn.Dropout(0.5), nn.Linear(16, width))

    check = propscope.width_check(lambda width: made(width), (8, 16), BATCH, "sgd", 0.1, seeds=1, steps=3)
    assert (check.row("0", "change").sizes[:, :, 1:] == 0).all()


def test_a_model_loss_and_a_named_one():
    class Losing(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.lift = nn.Linear(16, width)

        def forward(self, x):
            out = self.lift(x)
            return {"loss": 0 * out.sum(), "logits": out}

    with pytest.raises(InputError, match="no parameter of the model changed"):
        propscope.width_check(Losing, (4, 8), BATCH, "sgd", 0.1, seeds=1, steps=1)
    check = propscope.width_check(
        Losing, (4, 8), (BATCH,), "sgd", 0.1, seeds=1, steps=1, loss=lambda out: out["logits"].sum()
    )
    assert (check.row("lift", "change").sizes[:, :, 1] > 0).all()
    named = propscope.width_check(Perceptron, (4, 8), BATCH.numpy(), seeds=1, steps=1, loss="cross-entropy")
    assert (named.loss, named.learning_rate) == ("cross-entropy", 1e-3)


class Masking(nn.Module):
    """Scores of which a module sets some to -Inf, as attention does."""

    def __init__(self, width):
        super().__init__()
        self.lift, self.mask = nn.Linear(16, width), nn.Identity()
        self.mask.forward = lambda scores: scores.masked_fill(torch.arange(scores.shape[-1]) > 2, -torch.inf)

    def forward(self, x):
        return torch.softmax(self.mask(self.lift(x)), -1)


def test_masked_scores_are_no_fault_and_no_size():
    check = propscope.width_check(Masking, (4, 8), BATCH, "sgd", 0.1, seeds=1, steps=1)
    assert {row.name for row in check.rows if not row.parameter} == {"lift", "(model)"}


def test_a_class_of_optimizers_gets_the_parameters():
    found = propscope.width_check(plain, (8, 16), BATCH, torch.optim.SGD, 0.1, seeds=1, steps=1)
    named = propscope.width_check(plain, (8, 16), BATCH, "sgd", 0.1, seeds=1, steps=1)
    assert [row.sizes.tobytes() for row in found.rows] == [row.sizes.tobytes() for row in named.rows]
    assert found.optimizer == "SGD"


def plain(width):
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))


def frozen(width):
    return plain(width).requires_grad_(False)


class Skipping(nn.Module):
    """A layer that runs every other time."""

    def __init__(self, width):
        super().__init__()
        self.lift, self.more, self.times = nn.Linear(16, width), nn.Linear(width, width), 0

    def forward(self, x):
        self.times += 1
        return self.more(self.lift(x)) if self.times % 2 else self.lift(x)


def seeded(width):
    torch.manual_seed(0)
    return plain(width)


def spoiled(width):
    made = nn.Sequential(nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 2))
    with torch.no_grad():
        made[1].weight[0, 0] = torch.nan
    return made


class Overflowing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Exploding(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.low, self.middle, self.high = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.high(Overflowing.apply(self.middle(self.low(x))))


class Strange(torch.optim.Optimizer):
    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    def step(self):
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter -= self.defaults["lr"] * parameter.grad.sign()


REFUSED = [
    ({"widths": (8,)}, "widths must be two or more different numbers in ascending order, got 8"),
    ({"widths": (16, 8)}, "widths must be two or more different numbers in ascending order, got 16, 8"),
    ({"widths": (8, 8)}, "widths must be two or more different numbers in ascending order, got 8, 8"),
    ({"widths": (0, 8)}, "widths must be a whole number of at least 1, got 0"),
    ({"widths": 8}, "widths must be one or more whole numbers of at least 1, got 8"),
    ({"widths": "8,16"}, "widths must be one or more whole numbers of at least 1"),
    ({"steps": 0}, "steps must be a whole number of at least 1, got 0"),
    ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
    ({"lr": 0}, "lr must be a finite number above 0, got 0"),
    ({"lr": float("nan")}, "lr must be a finite number above 0, got nan"),
    ({"tolerance": -1}, "tolerance must be a finite number of at least 0, got -1"),
    ({"expect": "mean-field"}, 'expect must be "standard", "mup" or "ntk", got "mean-field"'),
    ({"loss": "nll"}, 'loss must be "cotangent", "cross-entropy", "mse" or "sum", got "nll"'),
    ({"loss": None}, "loss must be .*, got None"),
    ({"loss": lambda out: out}, r"loss must return a tensor with one element, got shape \(64, 2\)"),
    ({"loss": lambda out: out.sum() / 0}, "the loss has NaN or infinite values at width 8, seed 0, step 0"),
    ({"loss": lambda out: 1.0}, "loss must return a tensor with one element, got a float"),
    ({"optimizer": "adma"}, 'unknown optimizer "adma"'),
    ({"optimizer": 3}, "optimizer must be a name, a class of torch's, or a function of the model and lr, got 3"),
    ({"optimizer": lambda model, lr: None}, "optimizer must be a function that returns an optimizer of torch"),
    ({"optimizer": lambda model: None}, "optimizer failed at width 8: TypeError"),
    ({"optimizer": Strange, "expect": "ntk"}, 'expect="ntk" needs SGD, Adam or one of their kind'),
    ({"make_model": plain(8)}, "make_model must be a function that returns a model of a given width, got a Sequential"),
    ({"make_model": 3}, "make_model must be a function that returns a model of a given width, got a int"),
    ({"make_model": lambda width: 3}, "make_model must return a torch.nn.Module, got a int at width 8"),
    ({"make_model": lambda: plain(8)}, "make_model failed at width 8: TypeError"),
    ({"make_model": lambda width: plain(8)}, "make_model ignores width: every site has the same shape at width 8 as"),
    ({"make_model": lambda width: nn.Sequential(*plain(width), *[nn.Linear(2, 2)] * (width // 16))},
     'the sites must be the same at every width; "3" is there at width 16, not at 8'),
    ({"make_model": lambda width: nn.LazyLinear(width)}, "the model has lazy modules"),
    ({"make_model": frozen}, "loss must depend on a parameter that requires a gradient"),
    ({"make_model": Skipping}, 'the model must run the same sites at every step; "more" ran at step 0 or 1 only'),
    ({"batch": torch.ones(2, 3)}, "the model stopped at width 8 on input 2,3 float32: RuntimeError"),
    ({"batch": torch.full((2, 16), torch.nan)}, "0 has NaN or infinite values at width 8, seed 0, step 0"),
    ({"lr": 1e30}, "has NaN or infinite values at width 8, seed 0, step 1"),
    # What is named is where it begins, and what is wrong there.
    ({"make_model": spoiled}, "^1 has NaN or infinite values at width 8, seed 0, step 0"),
    ({"make_model": Exploding}, "^the gradient at middle has NaN or infinite values at width 8, seed 0, step 0"),
    ({"make_model": seeded}, "make_model returns the same weights with seed 1 as with seed 0"),
    ({"make_model": cache(plain)}, "make_model returns the same weights with seed 1 as with seed 0"),
    ({"optimizer": lambda model, lr: torch.optim.SGD(plain(8).parameters(), lr)},
     "no parameter of the model changed in training"),
    ({"loss": lambda out: 0 * out.sum()}, "no parameter of the model changed in training"),
    ({"batch": "text"}, "batch must be"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=lambda each: each if isinstance(each, str) else "")
def test_what_is_refused(given, said):
    arguments = {"make_model": plain, "widths": (8, 16), "batch": BATCH, "lr": 0.1, "optimizer": "sgd"} | given
    with pytest.raises(InputError, match=said) as refused:
        propscope.width_check(**arguments)
    assert "\n" not in str(refused.value)


def test_an_unknown_argument_names_the_nearest():
    with pytest.raises(InputError, match='has no argument "seed"'):
        propscope.width_check(plain, (8, 16), BATCH, seed=3)


def test_the_optimizer_of_a_user_is_called_with_the_model_and_the_rate():
    seen = []

    def mine(model, lr):
        seen.append((type(model), lr))
        return Strange(model.parameters(), lr)

    check = propscope.width_check(plain, (8, 16), BATCH, mine, 0.3, seeds=1, steps=1, expect="mup")
    assert set(seen) == {(nn.Sequential, 0.3)}
    updates = [row for row in check.rows if row.quantity == "update"]
    assert all(row.sizes[:, :, 1] == pytest.approx(0.3, rel=1e-3) for row in updates if row.name == "2.bias")
    assert (check.optimizer, check.title) == ("mine", "plain")
