"""`predict` has the sites of a measured profile, and says no where theory does."""

import itertools
import math
import sys

import numpy as np
import pytest
from building.normalized_mean_field import NormalizedMeanField
from building.records import plain

from propscope.errors import InputError
from propscope.experiments import profile_mlp
from propscope.networks import MLPSpec
from propscope.records.expectations import reason_without_theory
from propscope.theory import MeanField, NoCriticalPoint, predict
from propscope.theory.elementwise import Elementwise
from propscope.theory.moment_tables import moment_table

KINDS = [
    {},
    {"residual": True},
    {"norm": "layer", "residual": True, "output_size": 3},
    {"norm": "rms"},
    {"norm": "batch", "output_size": 3},
    {"dropout": 0.2},
    {"dropout": 0.2, "output_size": 3},
    {"width": (8, 4), "input_size": 5},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_the_sites_are_those_of_a_measurement(options):
    options = {"width": 8, "activation": "tanh", "initializer": "lecun_normal"} | options
    (measured,) = profile_mlp(3, **{**options, "width": [options["width"]]}, seeds=1, batch=6)
    measured = measured.without_inputs
    found = predict(MLPSpec(3, **options), batch=6)
    for field in ("name", "kind", "role", "layer", "shape", "activation"):
        assert [getattr(s, field) for s in found.sites] == [getattr(s, field) for s in measured.sites], field
    assert all(site.forward is None and site.backward is None for site in found.sites)
    assert found.labels == {name: measured.labels[name] for name in found.labels}
    for site in (*found.sites, *measured.sites):
        for field in ("forward_mean", "forward_std", "forward_rms", "backward_rms", "mean_cosine"):
            assert math.isfinite(getattr(site.expected, field)), (site.name, field)


def test_plain_networks_follow_the_mean_field():
    field = MeanField("tanh", weight_variance=1.0)
    run = field.propagate(0.7, depth=19, c0=0.25)
    found = predict(
        MLPSpec(20, activation="tanh", initializer="lecun_normal"),
        input_mean_square=0.7,
        input_cosine=0.25,
        output_gradient_rms=2.0,
    ).with_role("pre-activation")
    assert [site.expected.forward_rms for site in found] == pytest.approx(run.q**0.5)
    assert [site.expected.mean_cosine for site in found] == pytest.approx(run.correlation, abs=0.002)
    backward = 2 * (run.gradient * run.gradient_factor[-1]) ** 0.5
    assert [site.expected.backward_rms for site in found] == pytest.approx(backward)


@pytest.mark.parametrize("norm, residual", [("layer", False), ("layer", True), ("none", True), ("batch", False)])
def test_norms_and_residuals_follow_theirs(norm, residual):
    run = NormalizedMeanField("relu", weight_variance=2.0, norm=norm, residual=residual).propagate(2.0, depth=9, c0=0)
    found = predict(MLPSpec(10, norm=norm, residual=residual), batch=None)
    names = [f"layers.{layer}.{'add' if residual and layer else 'linear'}" for layer in range(10)]
    sites = [found[name].expected for name in names]
    assert [site.forward_rms for site in sites] == pytest.approx(run.q**0.5, rel=1e-4)
    assert [site.mean_cosine for site in sites] == pytest.approx(run.correlation, abs=1e-4)
    ratios = [before.backward_rms**2 / after.backward_rms**2 for before, after in itertools.pairwise(sites)]
    assert ratios == pytest.approx(run.gradient_factor[:-1], rel=1e-4)


def test_widths_that_change_scale_the_gradient():
    # E|delta_l|^2 of a unit grows by n_{l+1} / n_l; He counts fan_in, so that q stays.
    found = predict(MLPSpec(3, width=(100, 50, 25), initializer="he_normal")).with_role("pre-activation")
    assert [site.expected.forward_rms**2 for site in found] == pytest.approx([2, 2, 2])
    assert [site.expected.backward_rms**2 for site in found] == pytest.approx([1 / 8, 1 / 4, 1 / 2])


def test_torchs_default_has_biases_and_critical_its_own_first_layer():
    first, second = predict(MLPSpec(2, width=50, initializer="default")).with_role("pre-activation")
    assert first.expected.forward_rms**2 == pytest.approx(1 / 3 + 1 / 150)
    assert second.expected.forward_rms**2 == pytest.approx((1 / 3 + 1 / 150) / 6 + 1 / 150)
    gelu = predict(MLPSpec(3, activation="gelu", initializer="critical"), input_mean_square=0.4)
    settled = ((3 + math.sqrt(17)) / 2) ** 0.5
    assert [s.expected.forward_rms for s in gelu.with_role("pre-activation")] == pytest.approx([settled] * 3)


def test_beyond_the_numbers_there_are():
    found = predict(MLPSpec(60, width=4, initializer="normal:std=1e8")).sites[-1].expected
    assert math.isinf(found.forward_rms)
    assert math.isnan(found.forward_log_std)
    nothing = predict(MLPSpec(300, width=4, initializer="normal:std=1e-3")).sites[0].expected
    assert nothing.backward_rms == 0


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (MLPSpec(2, initializer="zeros"), {}, 'initializer "zeros": every weight has the same value'),
        (MLPSpec(2, initializer="identity"), {}, 'initializer "identity": the weights are not random'),
        (MLPSpec(2, alpha_dropout=0.1), {}, "alpha_dropout"),
        (MLPSpec(2), {"batch": 0}, "batch must .* got 0"),
        (MLPSpec(2), {"input_mean_square": -1.0}, "input_mean_square must .* got -1"),
        (MLPSpec(2), {"input_cosine": 1.5}, "input_cosine must .* got 1.5"),
        (MLPSpec(2), {"output_gradient_rms": math.nan}, "output_gradient_rms must .* got nan"),
    ],
)
def test_what_theory_does_not_cover(spec, options, message):
    with pytest.raises(InputError, match=message):
        predict(spec, **options)


def test_weights_whose_variance_is_below_all_numbers_pass_nothing_on():
    options = {"activation": "tanh", "initializer": "lecun_normal", "seeds": 1, "batch": 8, "output_size": 2}
    (plain,) = profile_mlp(3, 8, gain=1e-300, dtype="float64", **options)
    passed_on = [site.expected for site in plain.sites if site.name == "layers.1.linear"]
    assert [(each.forward_rms, each.backward_rms) for each in passed_on] == [(0.0, 0.0)]
    (residual,) = profile_mlp(3, 8, residual=1e-300, dtype="float64", **options)
    first, *others = (site.expected for site in residual.sites if site.name in ("layers.0.linear", "layers.1.add"))
    assert first.backward_rms > 0.1
    assert [(each.forward_rms, each.backward_rms) for each in others] == [(first.forward_rms, first.backward_rms)]


def test_no_critical_point():
    with pytest.raises(NoCriticalPoint):
        predict(MLPSpec(2, activation="softplus", initializer="critical"))


def test_a_measurement_says_why_it_has_no_prediction():
    zeros, he = profile_mlp(2, 8, initializer="zeros,he_normal", seeds=1, batch=4)
    assert reason_without_theory(zeros).startswith("every weight has the same value")
    assert all(site.expected is None for site in zeros.sites)
    assert reason_without_theory(he) == ""


@pytest.mark.parametrize("loss", ["mse", "cross-entropy"])
def test_other_losses_start_from_the_gradient_that_was_measured(loss):
    (profile,) = profile_mlp(3, 64, activation="tanh", initializer="lecun_normal", seeds=1, batch=32, loss=loss)
    last = profile.sites[-1]
    assert last.expected.backward_rms == pytest.approx(last.backward.rms)
    for site in profile.without_inputs.sites:
        assert site.backward.rms == pytest.approx(site.expected.backward_rms, rel=0.5), site.name


def test_the_prediction_is_of_the_inputs_that_there_were():
    (profile,) = profile_mlp(2, 32, seeds=1, batch=64, input="uniform:low=0:high=2", initializer="orthogonal")
    # Square orthogonal weights keep the norm of each input, so that nothing is left to chance.
    first = profile.without_inputs.sites[0]
    assert first.forward.rms == pytest.approx(first.expected.forward_rms, rel=1e-5)
    assert first.mean_cosine == pytest.approx(first.expected.mean_cosine, abs=0.02)
    assert math.isnan(first.expected.forward_log_std)


def forget_all():
    """Empty the caches of theory, which hold what was found of activations."""
    for name, module in list(sys.modules.items()):
        if name.startswith("propscope.theory"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


@pytest.mark.parametrize("activation", ["gelu", "tanh", "relu6", "sigmoid", "softsign"])
def test_no_bit_depends_on_what_was_predicted_before(activation):
    def predicted(initializer, options):
        found = predict(MLPSpec(6, width=16, activation=activation, initializer=initializer, **options), batch=8)
        return [plain(site.expected) for site in found.sites]

    asked = [("he_normal", {"norm": "layer"}), ("he_normal", {}), ("xavier_normal", {"residual": True, "bias": 0.1})]
    forget_all()
    first = [predicted(*each) for each in asked]
    forget_all()
    moment_table(Elementwise.of(activation)).log_moments(np.linspace(-8, 8, 50))
    predicted("normal:std=3", {"bias": 0.5})
    assert [predicted(*each) for each in reversed(asked)] == first[::-1]


def test_a_signal_whose_square_underflows_is_predicted():
    # tanhshrink is x^3 / 3 near 0, so its mean square falls below the smallest double within a few layers.
    found = predict(MLPSpec(20, width=8, activation="tanhshrink", initializer="xavier_normal"), batch=6)
    states = [site.expected.forward_rms for site in found.with_role("pre-activation")]
    assert all(math.isfinite(rms) for rms in states)
    assert states == sorted(states, reverse=True)
    assert states[-1] < 1e-100
