"""NetworkProfile: gains and factors in every odd case, counts of what is not finite, sites by name."""

import copy
import dataclasses
import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from building.records import connected_profile, layered, signal, trained, with_gradient

from propscope.diagnosis import diagnose
from propscope.errors import InputError
from propscope.records import NetworkProfile, Parameter, ProfileSet, Provenance, Site, TensorSummary, TrainingSet

INF, NAN = math.inf, math.nan


def test_gains_between_pre_activations():
    profile = layered([2.0, 1.0, 4.0], [8.0, 2.0, 1.0])
    assert [site.name for site in profile.signal_sites] == [f"layers.{number}.linear" for number in range(3)]
    assert profile.forward_gains.tolist() == [0.5, 4.0]
    assert profile.backward_gains.tolist() == [4.0, 2.0]
    assert profile.factor("forward") == 2.0
    assert profile.factor("backward") == 8.0


@pytest.mark.parametrize(
    ("rms", "gains", "factor"),
    [
        ([1.0, 0.0, 0.0], [0.0, NAN], 0.0),
        ([0.0, 0.0, 0.0], [NAN, NAN], 0.0),
        ([0.0, 1.0, 2.0], [INF, 2.0], NAN),
        ([1.0, 2.0, INF], [2.0, INF], INF),
        ([INF, 1.0, 1.0], [0.0, 1.0], INF),
        ([1.0, INF, NAN], [INF, NAN], INF),
        ([NAN, NAN, NAN], [NAN, NAN], INF),
        ([1.0, None, 4.0], [NAN, NAN], 4.0),
        ([None, 2.0, 4.0], [NAN, 2.0], NAN),
        ([None, 2.0, 0.0], [NAN, 0.0], NAN),
        ([1.0, 2.0, None], [2.0, NAN], NAN),
        ([None, None, None], [NAN, NAN], NAN),
        ([1e-30, 1e-34, 1e-38], [1e-4, 1e-4], 1e-8),
    ],
    ids=str,
)
def test_signals_that_vanish_overflow_or_were_not_seen(rms, gains, factor):
    np.testing.assert_allclose(layered(rms).forward_gains, gains, rtol=1e-12)
    assert layered(rms).factor("forward") == pytest.approx(factor, rel=1e-12, nan_ok=True)
    back = layered([1.0] * 3, rms[::-1])
    np.testing.assert_allclose(back.backward_gains, gains[::-1], rtol=1e-12)
    assert back.factor("backward") == pytest.approx(factor, rel=1e-12, nan_ok=True)


def test_a_direction_that_was_not_seen():
    profile = layered([1.0, 2.0])
    assert np.isnan(profile.signal_rms("backward")).all()
    assert np.isnan(profile.backward_gains).all()
    assert math.isnan(profile.factor("backward"))


def test_an_overflow_is_no_small_number():
    # Finite elements of rms 1 beside the Inf and the NaN must not be taken for the signal.
    assert layered([1.0, INF]).signal_rms("forward").tolist() == [1.0, INF]
    assert layered([1.0, NAN]).signal_rms("forward").tolist() == [1.0, INF]


def test_one_layer_keeps_its_signal():
    profile = layered([3.0], [5.0])
    assert len(profile.signal_sites) == 1
    assert profile.factor("forward") == profile.factor("backward") == 1.0
    assert profile.forward_gains.size == profile.backward_gains.size == 0
    assert layered([0.0], [0.0]).factor("forward") == 0.0
    assert layered([INF], [NAN]).factor("backward") == INF


def test_no_sites_at_all():
    empty = NetworkProfile(())
    assert empty.signal_sites == ()
    assert math.isnan(empty.factor("forward"))
    assert empty.forward_gains.size == 0
    assert empty.nonfinite_count == 0
    assert "0 sites, 0 parameters" in str(empty)


def test_without_layers_every_site_counts_where_there_are_not_two_pre_activations():
    sites = [Site("fc", "Linear", "pre-activation", (2, 2), forward=signal(1.0))]
    sites.append(Site("act", "ReLU", "activation", (2, 2), forward=signal(0.5)))
    sites.append(Site("out", "Linear", "output", (2, 2), forward=signal(2.0)))
    assert NetworkProfile(tuple(sites)).factor("forward") == 2.0
    assert NetworkProfile(tuple(sites[1:])).forward_gains.tolist() == [4.0]
    second = dataclasses.replace(sites[0], name="fc2", forward=signal(8.0))
    assert NetworkProfile((*sites, second)).factor("forward") == 8.0


def test_an_empty_summary_was_not_seen():
    profile = NetworkProfile((Site("a", "Linear", "other", (0, 2), forward=TensorSummary.empty()),))
    assert np.isnan(profile.signal_rms("forward")).all()


def test_sites_by_name_and_role():
    profile = layered([1.0, 2.0])
    assert profile["layers.1.linear"].layer == 2
    assert [site.name for site in profile.with_role("activation")] == ["layers.0.activation", "layers.1.activation"]
    assert profile.with_role("norm") == ()


@pytest.mark.parametrize(
    ("name", "near"), [("layer1", "layers.1.linear"), ("layers.0.Linear", "layers.0.linear"), ("nothing", "layers.0")]
)
def test_a_name_that_no_site_has_is_answered_with_the_nearest(name, near):
    with pytest.raises(KeyError) as caught:
        layered([1.0, 2.0])[name]
    assert isinstance(caught.value, InputError)
    assert f'got "{name}"' in str(caught.value)
    assert f'"{near}' in str(caught.value)
    assert "4 sites" in str(caught.value)


def test_a_profile_without_sites_has_no_names_to_offer():
    with pytest.raises(InputError, match=r'0 sites .* none, got "a"'):
        NetworkProfile(())["a"]


def test_each_record_is_one_short_line_in_a_list():
    profile = with_gradient(layered([1.0] * 50, [2.0] * 50, initializer="he_normal", seed=3), [NAN, 1.0])
    lines = {
        repr(profile): ("100 sites", "1 parameter,", "he_normal", "seed 3"),
        repr(ProfileSet((profile,) * 9)): ("9 profiles", "initializer 1", "seed 1"),
        repr(profile.sites[2]): ("'layers.1.linear'", "Linear", "pre-activation", "(2, 2)", "forward rms 1", "rms 2"),
        repr(profile.parameters[0]): ("'layers.0.linear.weight'", "value rms 2.5", "gradient rms 1"),
        repr(profile.parameters[0].gradient): ("2 elements", "mean 1", "1 not finite"),
        repr(trained([3.0, 2.0, 1.0], seed=4)): ("2 epochs", "final loss 1", "seed 4"),
        repr(TrainingSet((trained([2.0, 1.0], seed=4),))): ("(1 run:", "seed 1"),
        repr(diagnose(profile)): ("Diagnosis(", "findings"),
    }
    for line, parts in lines.items():
        assert len(line) < 120
        assert all(part in line for part in parts), line


def test_records_pickle_and_compare_as_before():
    profile = replace(layered([1.0], seed=0), provenance=Provenance(wall_seconds=1.0, flat_threshold=0.5))
    both = ProfileSet((profile, profile))
    assert pickle.loads(pickle.dumps(both)) == both == copy.deepcopy(both)


def test_everything_that_is_not_finite_is_counted():
    profile = layered([1.0, INF], [NAN, 1.0], activations=False)
    assert profile.nonfinite_count == 4
    assert with_gradient(profile, [1.0, NAN, INF, -INF]).nonfinite_count == 7


def test_norms_of_a_parameter():
    weight = with_gradient(layered([1.0]), [3.0, -4.0, 0.0, 0.0]).parameters[0]
    assert weight.value_norm == pytest.approx(5.0)
    assert weight.gradient_norm == pytest.approx(5.0)
    # Two backward passes: the root mean square of their norms, not the norm of both together.
    twice = dataclasses.replace(weight, gradient=weight.gradient + TensorSummary.of([0.0] * 4))
    assert twice.gradient_norm == pytest.approx(5 / math.sqrt(2))
    assert layered([1.0]).parameters[0].gradient_norm is None
    broken = Parameter("w", (2,), TensorSummary.of([3.0, NAN]))
    assert broken.value_norm == pytest.approx(3.0)


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        layered([1.0]).sites = ()


def test_it_prints_as_a_table():
    profile = layered([1.0, 2.0], seed=3)
    first, second, *_ = str(profile).splitlines()
    assert first.startswith("not measured: no gradient was seen")
    assert second == "seed 3: 4 sites, 1 parameter"
    assert profile._repr_html_().count("<tr>") == 5


def test_the_parameters_of_a_site_are_those_that_are_listed():
    profile = connected_profile(1)
    site = profile.sites[1]
    (parameter,) = profile.parameters_of(site)
    assert (parameter.name, site.parameters) == ("layers.0.weight", ("layers.0.weight",))
    assert profile.parameters_of(replace(site, parameters=("elsewhere",))) == []
