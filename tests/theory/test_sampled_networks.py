"""What `predict` expects against networks that were built and measured: 320 wide, 20 deep, 12 seeds.

Depth / width, by which every band grows, is that of 30 layers 500 wide, and one network has a quarter of the weights.

The band is `log_std`, the scatter of ln rms of one network about ln of the prediction and its drift. Over 12 of them
the mean of ln rms lies within 4 log_std / sqrt(12) of that, and their own scatter agrees with log_std as a sample of 12
can tell, by chi-square at 1e-4 on either side.
"""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from propscope.experiments import profile_mlp
from propscope.networks import MLPSpec
from propscope.theory.mlp_bands import mlp_bands
from propscope.theory.mlp_signal import mlp_variances

pytestmark = pytest.mark.slow

WIDTH, DEPTH, SEEDS, BATCH = 320, 20, 12, 32

NETWORKS = {
    "tanh": {"activation": "tanh", "initializer": "xavier_normal", "bias": 0.1},
    "selu": {"activation": "selu", "initializer": "lecun_normal"},
    # He's variance loses GELU's signal, and an unstable q amplifies its own noise beyond first order.
    "gelu": {"activation": "gelu", "initializer": "critical"},
    "sigmoid": {"activation": "sigmoid", "initializer": "xavier_normal"},
    "relu": {"activation": "relu", "initializer": "he_normal"},
    "relu, LayerNorm": {"activation": "relu", "initializer": "he_normal", "norm": "layer"},
    "relu, residual": {"activation": "relu", "initializer": "he_normal", "residual": True},
    "relu, LayerNorm, residual": {"activation": "relu", "initializer": "he_normal", "norm": "layer", "residual": True},
    "tanh, orthogonal": {"activation": "tanh", "initializer": "orthogonal"},
    "relu, residual by 1/sqrt(L)": {"activation": "relu", "initializer": "he_normal", "residual": "1/sqrt(L)"},
    "tanh, gain, scaled branches": {
        "activation": "tanh",
        "initializer": "xavier_normal",
        "gain": 1.3,
        "residual": 0.3,
        "bias": 0.5,
        "norm": "rms",
    },
    "tanh, variances": {
        "activation": "tanh",
        "initializer": "normal",
        "weight_variance": 1.8,
        "bias_variance": 0.05,
    },
    "relu, dropout": {"activation": "relu", "initializer": "he_normal", "dropout": 0.1},
}


@pytest.fixture(scope="module", params=NETWORKS)
def sampled(request):
    found = profile_mlp(DEPTH, WIDTH, batch=BATCH, seeds=SEEDS, histogram_limit=64, **NETWORKS[request.param])
    return [profile.without_inputs for profile in found]


def logs(profiles, name, direction):
    """Return ln(measured / expected) of each network less the drift, and log_std."""
    sites = [profile[name] for profile in profiles]
    found = [
        math.log(getattr(site, direction).rms / getattr(site.expected, f"{direction}_rms"))
        - np.nan_to_num(getattr(site.expected, f"{direction}_log_drift"))
        for site in sites
    ]
    return np.array(found), getattr(sites[0].expected, f"{direction}_log_std")


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sampled_networks_lie_within_the_band(sampled, direction):
    """At every site: pre-activations, branches and sums, norms, activations, dropouts."""
    low, high = chi2.ppf([1e-4, 1 - 1e-4], SEEDS - 1) / (SEEDS - 1)
    for site in sampled[0].sites:
        found, log_std = logs(sampled, site.name, direction)
        if math.isnan(log_std):
            # Norms give what they are there for; square orthogonal weights keep the norm of the inputs.
            assert np.abs(found).max() < 1e-4, site.name
            continue
        assert abs(found.mean()) < 4 * log_std / math.sqrt(SEEDS), site.name
        assert low < found.var(ddof=1) / log_std**2 < high, site.name


def test_scatter_of_means_and_deviations(sampled):
    low, high = chi2.ppf([1e-4, 1 - 1e-4], SEEDS - 1) / (SEEDS - 1)
    for index, site in enumerate(sampled[0].sites):
        if math.isnan(site.expected.forward_mean_std):
            assert site.name.endswith("norm")
            continue
        sites = [profile.sites[index] for profile in sampled]
        means = np.array([one.forward.mean for one in sites]) / site.expected.forward_mean_std
        assert low < means.var(ddof=1) < high, site.name
        if not math.isnan(site.expected.forward_std_log_std):
            # Each seed has inputs of its own, whose size square orthogonal weights pass on.
            stds = np.log([one.forward.std / one.expected.forward_std for one in sites])
            stds /= site.expected.forward_std_log_std
            assert low < stds.var(ddof=1) < high, site.name


def test_means_deviations_and_cosines(sampled):
    """To 5 standard errors, 4.5 of the usual ones where 12 seeds happen to agree, and what a finite width shifts."""
    sites = [[profile.sites[index] for profile in sampled] for index in range(len(sampled[0].sites))]
    expected = [group[0].expected for group in sites]
    log_std = np.array([one.forward_log_std for one in expected])

    def deviation(read, prediction, scale):
        found = np.array([[read(site) for site in group] for group in sites]) / scale[:, None]
        error = found.std(axis=1, ddof=1) / math.sqrt(SEEDS)
        away = np.abs(found.mean(axis=1) - prediction / scale)
        return away, np.maximum(5 * error, 4.5 * np.median(error))

    rms = np.array([one.forward_rms for one in expected])
    away, allowed = deviation(lambda site: site.forward.mean, np.array([one.forward_mean for one in expected]), rms)
    shifts = 2 * np.nan_to_num(log_std).max() ** 2
    assert (away < allowed + shifts + 0.001).all()
    away, allowed = deviation(lambda site: site.forward.std, np.array([one.forward_std for one in expected]), rms)
    assert (away < allowed + shifts + 0.001).all()
    # Of 496 cosines of 320 numbers the mean is off by 1 / 320 or so.
    cosines = np.array([one.mean_cosine for one in expected])
    away, allowed = deviation(lambda site: site.mean_cosine, cosines, np.ones(len(sites)))
    assert (away < allowed + 0.004).all()


def test_the_band_is_that_of_the_plain_theory():
    """The same as `finite_width`, which was worked out on its own, but for the chance correlation of the inputs."""
    from building.finite_width import finite_width

    for name, initializer, weight in (("relu", "he_normal", 2.0), ("tanh", "lecun_normal", 1.0)):
        known = finite_width(
            name, widths=[128] * 20, weight_variance=weight, q0=weight, c0=0.0, gradient_correlation=0.0, samples=32
        )
        chain = mlp_variances(MLPSpec(20, width=128, activation=name, initializer=initializer), mean_square=1.0)
        found = mlp_bands(chain, mean_square=1.0, cosine=0.0, samples=32, squared_gradient=0.0)
        assert found.stream.variance == pytest.approx(known.forward_variance, rel=0.2, abs=0.002)
        assert found.gradient.variance == pytest.approx(known.backward_variance, rel=0.05)
        assert found.stream.mean == pytest.approx(known.forward_mean, abs=0.002)
        assert found.gradient.mean == pytest.approx(known.backward_mean, abs=0.003)


def test_widths_that_change_inputs_that_agree_and_a_readout():
    profiles = profile_mlp(
        6, [(240, 60)], activation="relu", initializer="xavier_normal", input_size=120,
        output_size=10, seeds=40, batch=16, histogram_limit=64, input="uniform:low=0:high=1",
    )  # fmt: skip
    assert profiles[0].sites[-1].name == "output"
    for site in profiles[0].without_inputs.sites:
        for direction in ("forward", "backward"):
            found, log_std = logs(profiles, site.name, direction)
            assert abs(found.mean()) < 4 * log_std / math.sqrt(40) + 1.5 * log_std**2, (site.name, direction)
            assert 0.65 < found.std(ddof=1) / log_std < 1.45, (site.name, direction)
