"""Functional operations, filters, loss scales, attention and residual figures, as a recorder sees them."""

import math
from contextlib import nullcontext, suppress
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

import propscope
from propscope.errors import InputError
from propscope.measure import kernel
from propscope.measure.attention import projected, sampled_logits, softmax_figures
from propscope.measure.function_mode import _mean_square as mean_square
from propscope.measure.functions import BY_FUNCTION, OPERATIONS, Operation, index


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.function = function

    def forward(self, x):
        return self.function(self.linear(x))


def names(model, x, **options):
    return [site.name for site in propscope.profile(model, x, **options).without_inputs.sites]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (lambda x: x.relu(), "relu"),
        (torch.relu_, "relu"),
        (lambda x: F.relu(x, inplace=True), "relu"),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu"),
        (torch.tanh, "tanh"),
        (lambda x: x.sigmoid(), "sigmoid"),
        (lambda x: F.leaky_relu(x, 0.2), "leaky_relu"),
        (F.softplus, "softplus"),
        (F.silu, "silu"),
    ],
)
def test_functional_nonlinearities_are_sites(function, name):
    profile = propscope.profile(Functional(function), torch.randn(6, 8))
    assert [(site.name, site.role) for site in profile.without_inputs.sites] == [
        ("linear", "pre-activation"),
        (f"linear.{name}", "activation"),
    ]
    assert profile["linear"].activation == name
    assert profile["linear"].flat_fraction is not None
    assert profile["linear"].backward is not None


def test_a_functional_nonlinearity_is_as_flat_as_its_module():
    x = torch.randn(500, 8) * 3
    torch.manual_seed(0)
    functional = propscope.profile(Functional(lambda z: F.hardtanh(z, -0.5, 0.5)), x)["linear"]
    torch.manual_seed(0)
    module = propscope.profile(Functional(nn.Hardtanh(-0.5, 0.5)), x)["linear"]
    assert functional.flat_fraction == module.flat_fraction > 0
    assert functional.dead_units == module.dead_units


def test_operations_inside_modules_that_are_sites_are_not_recorded_again():
    assert names(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.GELU()), torch.randn(3, 4)) == list(
        "0123"
    )


def test_an_operation_named_like_a_child_is_told_from_it():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Linear(8, 8), nn.Linear(8, 8), nn.Identity()

        def forward(self, x):
            return F.relu(self.a(x) + self.b(x))

    assert names(Sum(), torch.randn(3, 8)) == ["a", "b", "add", "relu()"]


def test_nothing_outside_the_model_is_recorded():
    model = nn.Linear(4, 4)
    with propscope.track(model) as recorder:
        F.relu(model(torch.randn(3, 4))).sum().backward()
    assert [site.name for site in recorder.profile().without_inputs.sites] == [""]


class Residual(nn.Module):
    def __init__(self, scale, inplace):
        super().__init__()
        self.stem, self.branch = nn.Linear(16, 16), nn.Linear(16, 16)
        self.scale, self.inplace = scale, inplace

    def forward(self, x):
        stream = self.stem(x)
        branch = self.branch(stream) * self.scale
        if self.inplace:
            branch += stream
            return branch
        return stream + branch


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("scale", [0.1, 30.0])
def test_a_branch_has_its_share_of_the_stream(scale, inplace):
    model, x = Residual(scale, inplace), torch.randn(64, 16)
    with torch.no_grad():
        stream = model.stem(x)
        branch = model.branch(stream) * scale
    expected = float(branch.double().square().mean() / (branch.double().square() + stream.double().square()).mean())
    site = propscope.profile(model, x)["add"]
    assert site.role == "residual"
    # A square is rounded to 2^-24, and no sum to more; both means have such an error.
    assert site.branch_share == pytest.approx(expected, rel=2.0**-22)


def test_the_share_of_many_equal_numbers():
    # A float32 sum of a million squares of 0.1 may be off by 7e-4, and by less for numbers that differ.
    model, x = Functional(lambda z: z + torch.full_like(z, 0.1)), torch.randn(1 << 17, 8)
    with torch.no_grad():
        square = float(model.linear(x).double().square().mean())
    site = propscope.profile(model, x)["add"]
    assert site.branch_share == pytest.approx(0.01 / (0.01 + square), rel=2.0**-21)


def test_the_mean_square_of_what_the_kernel_does_not_read():
    values = torch.randn(5, 30)
    expected = values.square().mean(1)
    # Inside a transform of torch.func a tensor has no memory of its own.
    torch.testing.assert_close(torch.func.vmap(mean_square)(values).float(), expected)
    # Its square leaves the range of float32.
    assert float(mean_square(values.double() * 1e100)) == pytest.approx(float(expected.mean()) * 1e200, rel=1e-6)
    with mock.patch.object(kernel, "AVAILABLE", False):
        assert float(mean_square(values)) == pytest.approx(float(expected.mean()), rel=1e-6)


def test_sums_of_other_kinds_are_no_residuals():
    def sums(x):
        return (x + 1.0) + torch.ones(8)

    assert names(Functional(sums), torch.randn(3, 8)) == ["linear", ""]


def test_softmax_shows_entropy_and_largest_logit():
    x = torch.randn(2, 5, 8)
    model = Functional(lambda z: torch.softmax(z, -1))
    with torch.no_grad():
        logits = model.linear(x)
        weights = logits.softmax(-1)
    site = propscope.profile(model, x)["linear.softmax"]
    assert site.role == "attention"
    assert site.attention_entropy == pytest.approx(float(-(weights * weights.log()).sum(-1).mean()), rel=1e-5)
    assert site.largest_logit == pytest.approx(float(logits.max()), rel=1e-6)


def test_entropy_is_between_certainty_and_indifference():
    assert float(softmax_figures(torch.eye(5), torch.eye(5)).entropy) == 0
    even = torch.full((3, 8), 1 / 8)
    assert float(softmax_figures(even, even).entropy) == pytest.approx(math.log(8))


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_rows_lie_along_the_axis_of_the_softmax(dim):
    logits = 3 * torch.randn(4, 6, 5)
    weights = logits.softmax(dim)
    found = softmax_figures(logits, weights, dim)
    assert float(found.entropy) == pytest.approx(float(-(weights * weights.log()).sum(dim).mean()), rel=1e-5)
    assert float(found.square_spread) == pytest.approx(float(logits.var(dim, unbiased=False).mean()), rel=1e-5)


@pytest.mark.parametrize("masked", [-math.inf, torch.finfo(torch.float32).min, -1e4])
def test_masked_logits_have_no_part_in_the_spread(masked):
    logits = torch.randn(64, 8)
    hidden = torch.ones(64, 8).triu(1).bool()
    given = logits.masked_fill(hidden, masked)
    found = softmax_figures(given, given.softmax(-1))
    rows = [row[~gone] for row, gone in zip(logits, hidden, strict=True)]
    spreads = [float(row.var(unbiased=False)) for row in rows if len(row) > 1]
    assert float(found.square_spread) == pytest.approx(sum(spreads) / len(spreads), rel=1e-5)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 12])
def test_attention_modules_show_the_logits_of_their_heads(batch_first, kdim):
    module = nn.MultiheadAttention(16, 2, batch_first=batch_first, kdim=kdim)
    query, key = torch.randn(3, 5, 16), torch.randn(3, 7, kdim or 16)
    value = torch.randn(3, 7, 16)
    given = [x if batch_first else x.transpose(0, 1) for x in (query, key, value)]
    _, weights = module(*given, average_attn_weights=False)
    q, k = projected(module, *given[:2])
    logits = q @ k.transpose(-1, -2) / math.sqrt(8)
    torch.testing.assert_close(logits.softmax(-1), weights)


@pytest.mark.parametrize("make", [lambda: nn.Softmax(-1), lambda: nn.Sequential(nn.Softmax(-1))])
def test_a_softmax_module_shows_what_the_function_shows(make):
    x = torch.randn(4, 8)
    function = propscope.profile(Functional(lambda z: torch.softmax(z, -1)), x)["linear.softmax"]
    assert function.logit_spread > 0
    module = propscope.profile(nn.Sequential(nn.Identity(), make()), x).sites[-1]
    assert module.attention_entropy == pytest.approx(
        float(-(x.softmax(-1) * x.log_softmax(-1)).sum(-1).mean()), rel=1e-5
    )
    assert module.logit_spread == pytest.approx(float(x.var(-1, unbiased=False).mean().sqrt()), rel=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_sampled_logits_are_those_of_attention(kv_heads, causal):
    q, k = torch.randn(1, 4, 6, 8), torch.randn(1, kv_heads, 6, 8)
    full = q.double() @ k.double().repeat_interleave(4 // kv_heads, 1).transpose(-1, -2) / math.sqrt(8)
    if causal:
        full = full.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    found = sampled_logits(q, k, (), {"is_causal": causal})
    assert torch.allclose(found, full[0], rtol=0, atol=1e-13)


def test_masks_are_followed_and_strange_ones_left():
    q = k = torch.randn(2, 3, 4, 8)
    mask = torch.ones(4, 4).tril().bool()
    found = sampled_logits(q, k, (mask,), {})
    assert torch.isinf(found[0, 0, 1:]).all()
    assert sampled_logits(q, k, (torch.ones(7, 4).bool(),), {}) is None
    assert sampled_logits(q[0, 0], k[0, 0], (), {}) is None


def test_scaled_dot_product_attention_is_a_site():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(8, 24)

        def forward(self, x):
            q, k, v = (part.unsqueeze(1) for part in self.qkv(x).chunk(3, -1))
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    site = propscope.profile(Attention(), torch.randn(2, 6, 8))["scaled_dot_product_attention"]
    assert site.role == "attention"
    assert 0 < site.attention_entropy < math.log(6)


def test_filters():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Tanh())), torch.randn(3, 4)
    assert names(model, x) == ["0", "1", "2.0", "2.1"]
    assert names(model, x, include=r"^2\.") == ["2.0", "2.1"]
    assert names(model, x, include=nn.Linear) == ["0", "2.0"]
    assert names(model, x, exclude=[nn.Tanh, "^0$"]) == ["1", "2.0"]
    assert names(model, x, kinds=["ReLU", "Tanh"]) == ["1", "2.1"]
    assert names(model, x, depth=1) == ["0", "1", "2"]
    profile = propscope.profile(model, x, include="^0")
    assert [parameter.name for parameter in profile.parameters] == ["0.weight", "0.bias"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"include": "("}, r'include .*got "\("'),
        ({"exclude": [3]}, "exclude .*got 3"),
        ({"depth": -1}, "depth .*got -1"),
        ({"loss_scale": 0}, "loss_scale .*got 0"),
        ({"loss_scale": "2"}, 'loss_scale .*got "2"'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError, match=message):
        propscope.track(nn.Linear(2, 2), **options)


@pytest.mark.parametrize("scale", [65536.0, SimpleNamespace(get_scale=lambda: 65536.0, _scale=torch.tensor(65536.0))])
def test_gradients_are_recorded_without_the_loss_scale(scale):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), torch.randn(5, 8)
    found = []
    for factor, given in ((1.0, None), (65536.0, scale)):
        model.zero_grad()
        with propscope.track(model, loss_scale=given) as recorder:
            (model(x).sum() * factor).backward()
        found.append(recorder.profile())
    for a, b in zip(found[0].without_inputs.sites, found[1].without_inputs.sites, strict=True):
        assert a.backward.rms == pytest.approx(b.backward.rms, rel=1e-6)
    assert found[0].parameters[0].gradient_norm == pytest.approx(found[1].parameters[0].gradient_norm, rel=1e-6)


def test_coverage_says_what_was_not_seen():
    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

        def forward(self, x):
            return torch.exp(self.used(x) * self.frozen), x.argmax(1)

    notes = {(note.what, note.name): note.reason for note in propscope.profile(Partial(), torch.randn(3, 4)).coverage}
    assert "did not run in this pass" in notes["module", "unused"]
    assert "int64" in notes["output", "[1]"]
    assert "not recorded" in notes["operation", "mul"]
    # The model's output shows it.
    assert ("operation", "exp") not in notes
    assert "no gradient" in notes["parameter", "unused.weight"]
    assert "frozen" in notes["parameter", "frozen"]


def test_a_run_that_stops_keeps_what_was_seen():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("in the middle\nof it")

    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(Fails()))
    with pytest.raises(RuntimeError, match="in the middle") as caught:
        propscope.profile(model, torch.randn(3, 4))
    profile = caught.value.partial_profile
    assert [site.name for site in profile.without_inputs.sites] == ["0"]
    assert ("1.0", "module") in [(note.name, note.what) for note in profile.coverage]


def test_a_compiled_model_is_measured_eagerly_and_says_so():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    compiled = torch.compile(model, backend="eager")
    profile = propscope.profile(compiled, torch.randn(3, 4))
    assert [site.name for site in profile.without_inputs.sites] == ["0", "1"]
    assert any("torch.compile" in note.reason for note in profile.coverage)


def test_one_callable_belongs_to_one_operation():
    assert len(BY_FUNCTION) == sum(len(operation.functions) for operation in OPERATIONS)
    with pytest.raises(InputError, match="both claim"):
        index((Operation("a", "norm", (F.relu,)), Operation("b", "norm", (F.relu,))))


class SideBySide(nn.Module):
    """Attention and MLP start from one norm, as Phi's: the MLP's output is there before the first sum is."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)
        with torch.no_grad():
            self.second.weight.mul_(10)

    def forward(self, x):
        attention, mlp = self.first(x), self.second(x)
        return x + attention + mlp


@pytest.mark.parametrize("passes", [1, 3])
def test_the_stream_is_what_the_branch_was_computed_from(passes):
    model, x = SideBySide(), torch.randn(64, 16)
    with torch.no_grad():
        branch = model.second(x).double().square().mean()
        stream = (x + model.first(x)).double().square().mean()
    with propscope.track(model) as recorder:
        for _ in range(passes):
            model(x)
    assert recorder.profile()["add#1"].branch_share == pytest.approx(float(branch / (branch + stream)), rel=1e-6)


class Asked(nn.Module):
    """A layer between functions, and how many modes torch would ask about a function inside of it."""

    def __init__(self, within=nullcontext, error=False):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.within, self.error = within, error
        self.linear.register_forward_hook(self.see)
        self.inside = []

    def see(self, *_):
        self.inside.append(torch._C._len_torch_function_stack())
        if self.error:
            raise RuntimeError("in the layer")

    def forward(self, x):
        with self.within():
            with suppress(RuntimeError):
                x = self.linear(x)
            return torch.tanh(x)


def test_torch_asks_nobody_about_the_functions_in_a_layer_of_its_own():
    model, x = Asked(), torch.randn(4, 8)
    with propscope.track(model) as recorder:
        for _ in range(3):
            model(x)
    assert model.inside == [0, 0, 0]
    assert [site.name for site in recorder.profile().sites] == ["input", "linear", "linear.tanh"]


def test_functions_are_seen_after_a_layer_that_raised():
    model = Asked(error=True)
    assert names(model, torch.randn(4, 8)) == ["tanh.input", "tanh"]


def test_a_mode_of_the_users_is_asked_about_the_functions_in_a_layer():
    asked = []

    class Mode(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            asked.append(func)
            return func(*args, **(kwargs or {}))

    model = Asked(within=Mode)
    assert names(model, torch.randn(4, 8)) == ["linear", "linear.tanh"]
    assert torch.nn.functional.linear in asked


def test_two_recorders_see_the_functions_around_a_layer():
    model, x = Asked(), torch.randn(4, 8)
    with propscope.track(model) as first, propscope.track(model) as second:
        model(x)
        model(x)
    for recorder in (first, second):
        assert [site.name for site in recorder.profile().sites] == ["input", "linear", "linear.tanh"]
    assert torch._C._len_torch_function_stack() == 0
