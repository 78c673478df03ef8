"""`propscope.jacobian`: its sites and records, what it leaves undone, what it refuses."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from propscope.errors import InputError
from propscope.measure import profile
from propscope.networks import MLPSpec
from propscope.spectra import jacobian


def mlp(depth=3, width=8, **options):
    return MLPSpec(depth, width=width, activation="tanh", initializer="lecun_normal", **options).build(seed=0)


@pytest.mark.parametrize("options", [{}, {"norm": "layer"}, {"residual": True}, {"output_size": 4}])
def test_sites_are_the_pre_activations_and_the_output(options):
    net, x = mlp(**options), torch.randn(5, 8)
    found, seen = jacobian(net, x), profile(net, x)
    expected = [site.name for site in seen.signal_sites] + [seen.sites[-1].name]
    assert [site.name for site in found.sites] == expected
    assert [site.role for site in found.sites[:-1]] == ["pre-activation"] * 3
    assert [site.layer for site in found.sites[:3]] == [1, 2, 3]
    assert all(site.jacobian is not None and site.forward is None for site in found.sites)


def test_include_and_exclude_choose_sites():
    net, x = mlp(), torch.randn(5, 8)
    assert [site.name for site in jacobian(net, x, include="activation$").sites] == [
        f"layers.{layer}.activation" for layer in range(3)
    ]
    assert [site.name for site in jacobian(net, x, include=nn.Linear, exclude=r"\.0\.").sites] == [
        "layers.1.linear",
        "layers.2.linear",
    ]


def test_the_first_samples_are_differentiated():
    net, x = mlp(), torch.randn(9, 8)
    for samples, rows in ((2, 2), (8, 8), (9, 9), (50, 9)):
        found, expected = jacobian(net, x, samples=samples), jacobian(net, x[:rows].clone(), samples=rows)
        assert [site.jacobian for site in found.sites] == [site.jacobian for site in expected.sites]
        assert found.sites[0].samples == found.provenance.samples == rows
        assert found.sites[0].jacobian.count == rows * 8


def test_samples_that_see_each_other_keep_the_batch():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), torch.randn(6, 4)
    found = jacobian(net, x, samples=2, include="1")
    assert "samples depend on each other" in found.coverage[-1].reason

    def first(one):
        return net(torch.cat([one[None], x[1:]]))[0]

    def second(one):
        return net(torch.cat([x[:1], one[None], x[2:]]))[1]

    expected = [torch.autograd.functional.jacobian(of, x[row]) for row, of in enumerate((first, second))]
    largest = max(float(torch.linalg.svdvals(matrix)[0]) for matrix in expected)
    assert found["1"].jacobian.max == pytest.approx(largest, rel=1e-4)
    assert found["1"].jacobian.count == 8
    assert not any(note.name == "" for note in jacobian(net.eval(), x).coverage)


def test_a_model_that_takes_no_part_of_its_batch_gets_all_of_it():
    class Five(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x).reshape(5, 4)

    torch.manual_seed(0)
    net, x = Five(), torch.randn(5, 4)
    found = jacobian(net, x, samples=2, include="linear")
    assert found["linear"].jacobian.count == 8
    assert found["linear"].jacobian.max == pytest.approx(
        float(torch.linalg.svdvals(net.linear.weight.detach())[0]), rel=1e-5
    )


def test_arguments_may_be_positional_or_named():
    class Gated(nn.Module):
        def forward(self, kinds, x, *, gate=1.0):
            return x * kinds[:, None] * gate

    x, kinds = torch.randn(3, 4), torch.tensor([1, 2, 3])
    for given in ((kinds, x), [kinds, x], {"kinds": kinds, "x": x, "gate": 2.0}):
        found = jacobian(Gated(), given, samples=2, include=".*").sites[0].jacobian
        assert (found.min, found.max) == ((2.0, 4.0) if isinstance(given, dict) else (1.0, 2.0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_mode_does_not_matter(mode):
    net, x = mlp(), torch.randn(3, 8)
    with mode():
        assert jacobian(net, x.clone()).sites == jacobian(net, x).sites
        assert not torch.is_grad_enabled()


def test_provenance_says_what_was_done():
    found = jacobian(mlp(), torch.randn(5, 8), samples=3, seed=7)
    spec = json.loads(found.provenance.spec)["jacobian"]
    assert spec["samples"] == 3
    assert spec["sites"]["layers.0.linear"] == {"method": "exact"}
    assert (found.provenance.seed, found.provenance.samples, found.provenance.dtype) == (7, 3, "float32")
    by_products = jacobian(mlp(), torch.randn(5, 8), method="iterative", probes=3)
    described = json.loads(by_products.provenance.spec)["jacobian"]["sites"]["layers.2.linear"]
    assert (described["method"], described["probes"]) == ("iterative", 3)
    assert 0 < described["mean_square_relative_error"] < 1
    assert "4 of 4 sites" in by_products.coverage[-1].reason


def test_auto_goes_by_the_size_of_each_site():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(600, 600), nn.Tanh(), nn.Linear(600, 20), nn.Tanh(), nn.Linear(20, 2))
    spec = json.loads(jacobian(net, torch.randn(1, 600), probes=1).provenance.spec)["jacobian"]["sites"]
    assert {name: site["method"] for name, site in spec.items()} == {"0": "iterative", "2": "exact", "4": "exact"}


class Watched(nn.Module):
    """Has everything that a run can disturb: running statistics, draws, a buffer of its own, a hook of the user's."""

    def __init__(self, fails=False):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.dropout = nn.Dropout(0.3)
        self.frozen = nn.Linear(6, 6)
        self.frozen.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1))
        self.fails = fails

    def forward(self, x):
        self.calls += 1
        np.random.random()  # noqa: NPY002  what a model may do
        h = self.dropout(torch.tanh(self.norm(self.linear(x))))
        if self.fails:
            raise RuntimeError("in the middle")
        return self.frozen(h)


def state_of(model):
    return copy.deepcopy(
        (
            {name: value.clone() for name, value in model.state_dict().items()},
            {name: (p.requires_grad, p.grad) for name, p in model.named_parameters()},
            {name: module.training for name, module in model.named_modules()},
            {name: getattr(module, "track_running_stats", None) for name, module in model.named_modules()},
            {
                (path, name): len(hooks)
                for path, module in model.named_modules()
                for name, hooks in vars(module).items()
                if name.endswith("_hooks")
            },
            torch.get_rng_state(),
            np.random.get_state(),  # noqa: NPY002
        )
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("method", ["exact", "iterative"])
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(training, method, fails):
    torch.manual_seed(0)
    model = Watched(fails).train(training)
    model.linear.weight.grad = torch.ones(6, 6)
    model.linear.register_forward_hook(lambda module, inputs, output: None)
    x = torch.randn(4, 6, requires_grad=True)
    x.grad = torch.ones_like(x)
    before, kept = state_of(model), x.detach().clone()
    if fails:
        with pytest.raises(InputError, match="in the middle") as caught:
            jacobian(model, x, method=method)
        assert isinstance(caught.value.__cause__, RuntimeError)
    else:
        jacobian(model, x, method=method)
    assert same(state_of(model), before)
    assert torch.equal(x.detach(), kept)
    assert torch.equal(x.grad, torch.ones_like(x))
    assert x.requires_grad


def test_it_is_the_same_every_time():
    net, x = mlp(), torch.randn(3, 8)
    for method in ("exact", "iterative"):
        found = [jacobian(net, x, method=method, seed=1).sites for _ in range(2)]
        assert str(found[0]) == str(found[1])


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_a_sample_that_is_not_finite_is_counted(method):
    torch.manual_seed(0)
    net, x = nn.Sequential(Root(), nn.Linear(8, 8)), torch.rand(4, 8) + 0.1
    x[1, 0] = 0.0
    found, clean = (jacobian(net, given, method=method, include="1")["1"] for given in (x, x[[0, 2, 3]]))
    assert (found.jacobian.nan_count, found.jacobian.count) == (8, 32)
    assert found.jacobian.histogram.nan_count == 8
    assert found.jacobian.max == pytest.approx(clean.jacobian.max, rel=1e-4)
    if method == "exact":
        assert found.jacobian_condition == pytest.approx(clean.jacobian_condition, rel=1e-4)
        assert found.jacobian.rms == pytest.approx(clean.jacobian.rms, rel=1e-6)
        assert found.jacobian_square_variance == pytest.approx(clean.jacobian_square_variance, rel=1e-6)
    reasons = {note.reason for note in jacobian(net, x, method=method).coverage}
    assert "the Jacobian of 1 of 4 samples is not finite" in reasons


class Root(nn.Module):
    """Has an infinite derivative at 0."""

    def forward(self, x):
        return x.sqrt()


@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_nothing_finite_is_no_figure(method):
    broken = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        broken[0].weight[0, 0] = math.nan
    site = jacobian(broken, torch.randn(2, 4), method=method, include="0").sites[0]
    assert site.jacobian.nan_count == site.jacobian.count == 8
    assert math.isnan(site.jacobian.max)
    assert site.jacobian_condition is None
    assert site.jacobian_square_variance is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "iterative"])
def test_a_jacobian_of_zeros(method):
    net = MLPSpec(2, width=8, activation="tanh", initializer="zeros").build(seed=0)
    site = jacobian(net, torch.randn(3, 8), method=method).sites[-1]
    assert (site.jacobian.max, site.jacobian.zero_fraction, site.jacobian.rms) == (0.0, 1.0, 0.0)
    assert site.jacobian_condition == (math.inf if method == "exact" else None)
    assert site.jacobian_square_variance is None


def test_what_has_no_jacobian_is_named():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.constant, self.total, self.linear = Constant(), Total(), nn.Linear(4, 4)

        def forward(self, x):
            return self.linear(x) + self.constant(x) + self.total(x)

    found = jacobian(Mixed(), torch.randn(3, 4), include=".*")
    assert "linear" in [site.name for site in found.sites]
    reasons = {note.name: note.reason for note in found.coverage}
    assert "no gradient flows to it" in reasons["constant"]
    assert "has no row for each of the 3 samples" in reasons["total"]


class Constant(nn.Module):
    def forward(self, x):
        return torch.ones(len(x), 4)


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


@pytest.mark.parametrize(
    ("model", "x", "options", "message"),
    [
        (3, torch.randn(2, 8), {}, "model .*got a int"),
        (mlp(), "text", {}, "x must be .*got a str"),
        (
            mlp(),
            torch.randn(2, 5),
            {},
            r"the model rejects x, of shape \(2, 5\) and dtype float32 \(RuntimeError: mat1",
        ),
        (mlp(), torch.randn(2, 8).double(), {}, "the model rejects x, of shape .* and dtype float64"),
        (mlp(), torch.ones(2, 8).long(), {}, "x must .*got int64"),
        (mlp(), torch.ones(2, 8) + 0j, {}, "x must .*got complex64"),
        (mlp(), {}, {}, "x must .*got no tensor"),
        (mlp(), torch.randn(8), {}, r"x must have shape \(samples, ...\), .*got \(8,\)"),
        (mlp(), torch.randn(0, 8), {}, r"x must .*got \(0, 8\)"),
        (mlp(), torch.randn(2, 8), {"samples": 0}, "samples must .*at least 1, got 0"),
        (mlp(), torch.randn(2, 8), {"samples": 1.5}, "samples must .*got 1.5"),
        (mlp(), torch.randn(2, 8), {"probes": 0}, "probes must .*got 0"),
        (mlp(), torch.randn(2, 8), {"probes": 10**12, "method": "iterative"}, "1000000000000 probes needs .* GB"),
        (mlp(), torch.zeros(1, 8).expand(10**12, 8), {}, r"x of shape \(1000000000000, 8\) needs 32,000.0 GB"),
        (mlp(), torch.randn(2, 8), {"method": "svd"}, 'method must be "auto", "exact" or "iterative", got "svd"'),
        (mlp(), torch.randn(2, 8), {"dtype": "int64"}, 'dtype must .*got "int64"'),
        (mlp(), torch.randn(2, 8), {"include": "nothing"}, "no site has a Jacobian .*include and exclude"),
        (mlp(), torch.randn(2, 8), {"include": "("}, r'include .*got "\("'),
        (Constant(), torch.randn(2, 8), {}, "no site has a Jacobian .*no gradient flows to it from the input"),
        (nn.LazyLinear(4), torch.randn(2, 8), {}, "lazy modules"),
        (nn.Embedding(4, 4), torch.zeros(2, 8).long(), {}, "x must .*got int64"),
        (nn.Linear(2**14, 2**14, device="meta"), torch.randn(1, 2**14, device="meta"), {}, "no site has a Jacobian"),
    ],
)
def test_bad_input_is_one_clear_line(model, x, options, message):
    with pytest.raises(InputError, match=message) as caught:
        jacobian(model, x, **options)
    assert "\n" not in str(caught.value)


def test_a_matrix_that_is_too_large_to_write_down_is_refused():
    class Wide(nn.Module):
        def forward(self, x):
            return x.repeat(1, 20)

    x = torch.zeros(1, 20_000)
    with pytest.raises(InputError, match=r"400000 x 20000, 64.0 GB a sample") as caught:
        jacobian(Wide(), x, method="exact", include=".*")
    assert "iterative" in caught.value.hint
