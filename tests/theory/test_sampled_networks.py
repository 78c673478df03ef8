"""What `predict` expects against networks that were built and measured: 500 wide, 30 deep, 12 seeds.

The band is `log_std`, the scatter of ln rms of one network. Over 12 of them the mean of ln rms lies within 4 log_std /
sqrt(12) of the prediction, whose drift (ln rms of a finite network lies below that of its mean second moment) is known;
and their own scatter agrees with log_std as a sample of 12 can tell, by chi-square at 1e-4 on either side.
"""

import math

import numpy as np
import pytest
from scipy.stats import chi2

from propscope.networks import MLPSpec
from propscope.sweep import profile_mlp
from propscope.theory.chain import chain_of
from propscope.theory.chain_width import chain_width

WIDTH, DEPTH, SEEDS, BATCH = 500, 30, 12, 32

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
    "relu, dropout": {"activation": "relu", "initializer": "he_normal", "dropout": 0.1},
}


@pytest.fixture(scope="module", params=NETWORKS)
def sampled(request):
    options = NETWORKS[request.param]
    return options, profile_mlp(DEPTH, WIDTH, batch=BATCH, seeds=SEEDS, histogram_limit=64, **options)


def logs(profiles, name, direction):
    """Return ln(measured / expected) of each network, and log_std."""
    sites = [profile[name] for profile in profiles]
    ratios = [getattr(site, direction).rms / getattr(site.expected, f"{direction}_rms") for site in sites]
    return np.log(ratios), getattr(sites[0].expected, f"{direction}_log_std")


def drifts(options, direction):
    spec = MLPSpec(DEPTH, width=WIDTH, **options)
    width = chain_width(chain_of(spec, mean_square=1.0), mean_square=1.0, cosine=0.0, samples=BATCH, gradients=0.0)
    return (width.stream_mean if direction == "forward" else width.gradient_mean) / 2


def streams(options):
    part = "add" if options.get("residual") else "linear"
    return ["layers.0.linear", *(f"layers.{layer}.{part}" for layer in range(1, DEPTH))]


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_sampled_networks_lie_within_the_band(sampled, direction):
    options, profiles = sampled
    drift = drifts(options, direction)
    low, high = chi2.ppf([1e-4, 1 - 1e-4], SEEDS - 1) / (SEEDS - 1)
    for layer, name in enumerate(streams(options)):
        found, log_std = logs(profiles, name, direction)
        if math.isnan(log_std):
            # Square orthogonal weights on inputs of known norm.
            assert np.abs(found).max() < 1e-4
            continue
        assert abs(found.mean() - drift[layer]) < 4 * log_std / math.sqrt(SEEDS), name
        assert low < found.var(ddof=1) / log_std**2 < high, name


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_other_sites_too(sampled, direction):
    """Of activations, norms, branches: their scatter, and their mean within 4 standard errors and the band."""
    options, profiles = sampled
    low, high = chi2.ppf([1e-4, 1 - 1e-4], SEEDS - 1) / (SEEDS - 1)
    largest = np.abs(drifts(options, direction)).max()
    for site in profiles[0].sites:
        found, log_std = logs(profiles, site.name, direction)
        if math.isnan(log_std):
            assert np.abs(found).max() < 1e-3 or site.role == "other"
            continue
        assert abs(found.mean()) < 4 * log_std / math.sqrt(SEEDS) + 1.5 * largest, site.name
        assert low < found.var(ddof=1) / log_std**2 < high, site.name


def test_means_deviations_and_cosines(sampled):
    """To 5 standard errors, 4.5 of the usual ones where 12 seeds happen to agree, and what a finite width shifts."""
    _, profiles = sampled
    sites = [[profile.sites[index] for profile in profiles] for index in range(len(profiles[0].sites))]
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
    # Of 496 cosines of 500 numbers the mean is off by 1 / 500 or so.
    cosines = np.array([one.mean_cosine for one in expected])
    away, allowed = deviation(lambda site: site.mean_cosine, cosines, np.ones(len(sites)))
    assert (away < allowed + 0.004).all()


def test_the_band_is_that_of_the_plain_theory():
    """The same as `finite_width`, which was worked out on its own, but for the chance correlation of the inputs."""
    from propscope.theory import finite_width

    for name, initializer, weight in (("relu", "he_normal", 2.0), ("tanh", "lecun_normal", 1.0)):
        known = finite_width(
            name, widths=[128] * 20, weight_variance=weight, q0=weight, c0=0.0, gradient_correlation=0.0, samples=32
        )
        chain = chain_of(MLPSpec(20, width=128, activation=name, initializer=initializer), mean_square=1.0)
        found = chain_width(chain, mean_square=1.0, cosine=0.0, samples=32, gradients=0.0)
        assert found.stream == pytest.approx(known.forward_variance, rel=0.2, abs=0.002)
        assert found.gradient == pytest.approx(known.backward_variance, rel=0.05)
        assert found.stream_mean == pytest.approx(known.forward_mean, abs=0.002)
        assert found.gradient_mean == pytest.approx(known.backward_mean, abs=0.003)


def test_widths_that_change_inputs_that_agree_and_a_readout():
    profiles = profile_mlp(
        6, [(240, 60)], activation="relu", initializer="xavier_normal", input_size=120,
        output_size=10, seeds=40, batch=16, histogram_limit=64, input="uniform:low=0:high=1",
    )  # fmt: skip
    assert profiles[0].sites[-1].name == "output"
    for site in profiles[0].sites:
        for direction in ("forward", "backward"):
            found, log_std = logs(profiles, site.name, direction)
            assert abs(found.mean()) < 4 * log_std / math.sqrt(40) + 1.5 * log_std**2, (site.name, direction)
            assert 0.65 < found.std(ddof=1) / log_std < 1.45, (site.name, direction)
