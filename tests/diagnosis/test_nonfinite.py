import math
from dataclasses import replace

import numpy as np
from building.records import evidence, network

from propscope.diagnosis.nonfinite import nonfinite, precision
from propscope.records import TensorSummary

NAN = math.nan


def with_weight(profile, values, index=1):
    parameters = list(profile.parameters)
    parameters[index] = replace(parameters[index], value=TensorSummary.of(np.array(values)))
    return replace(profile, parameters=tuple(parameters))


def test_the_first_site_forward_is_named_and_all_after_it_marked():
    (found,) = nonfinite(evidence(network([1.0, NAN, NAN], [NAN, NAN, NAN])))
    assert (found.severity, found.direction, found.first, found.last) == (
        "broken",
        "forward",
        "layers.1.linear",
        "layers.2.linear",
    )
    assert found.marks == {"layers.1.linear": "NaN", "layers.2.linear": "NaN"}
    assert "1 NaN of 8192 values" in found.message


def test_a_gradient_alone_is_named_where_it_starts_going_back():
    (found,) = nonfinite(evidence(network([1.0] * 3, [NAN, NAN, 1.0])))
    assert (found.direction, found.first, found.last) == ("backward", "layers.1.linear", "layers.0.linear")
    assert found.marks["layers.1.linear"] == "grad NaN"


def test_a_weight_is_named_as_the_cause():
    (found,) = nonfinite(evidence(with_weight(network([1.0, NAN, NAN]), [NAN, 1.0])))
    assert "layers.1.linear.weight itself" in found.cause
    (found,) = nonfinite(evidence(with_weight(network([1.0] * 3), [math.inf, 1.0])))
    assert found.sites == ("layers.1.linear",)
    assert found.severity == "broken"


def test_overflow_asks_for_smaller_weights():
    profile = network([1.0, 1.0])
    overflown = replace(profile.sites[1], forward=TensorSummary.of(np.array([1.0, math.inf])))
    (found,) = nonfinite(evidence(replace(profile, sites=(profile.sites[0], overflown))))
    assert found.remedy.action == "calibrate"
    assert found.marks == {"layers.1.linear": "Inf"}


def test_one_seed_of_two_lowers_the_confidence():
    (found,) = nonfinite(evidence(network([1.0, 1.0], seed=0), network([1.0, NAN], seed=1)))
    assert found.confidence == 0.5


def test_finite_values_find_nothing():
    assert list(nonfinite(evidence(network([1.0, 1e300, 0.0])))) == []


def test_values_that_fp16_would_lose_are_a_note():
    profile = network([1.0, 1.0])
    far = replace(profile.sites[1], forward=TensorSummary.of(np.array([1.0, 1e6])))
    found = list(precision(evidence(replace(profile, sites=(profile.sites[0], far)))))
    assert [(each.severity, each.first) for each in found] == [("note", "layers.1.linear")]
    assert found[0].evidence["overflow"] == 0.5
    assert list(precision(evidence(profile))) == []
