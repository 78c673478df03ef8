"""Sizes against the same place in other blocks, and gates that stand side by side."""

import math

import pytest
from building.records import evidence, model, network, scaled, site, weight

from propscope.diagnosis import limits
from propscope.diagnosis.outlier_layers import odd_layers_of_grid, odd_layers_of_model

ABOVE, BELOW = math.exp(limits.ODD) * 1.01, math.exp(limits.ODD) * 0.99


def found(profile):
    seen = evidence(profile)
    rule = odd_layers_of_grid if seen.subject == "grid" else odd_layers_of_model
    return [(finding.kind, finding.first) for finding in rule(seen)]


def blocks(*sizes, follower=1.0, place="give", kind="Custom", **figures):
    """Return blocks of two sites; what stands between them differs in each, so that no steps can be compared."""
    sites = []
    for number, size in enumerate(sizes):
        sites += [site(f"between{chr(97 + number)}.b", f"Kind{number}")]
        sites += [site(f"h.{number}.{place}", kind, rms=size, **figures)]
        sites += [site(f"h.{number}.take", f"Other{number if follower else ''}", rms=follower or size)]
    return model(sites)


@pytest.mark.parametrize(
    ("factor", "kind"), [(ABOVE, "exploding"), (BELOW, None), (1 / ABOVE, "vanishing"), (1 / BELOW, None)]
)
def test_a_size_is_held_against_the_same_place_in_other_blocks(factor, kind):
    said = [each for each in found(blocks(1.0, factor, 1.0, 1.0)) if each[1].endswith("give")]
    assert said == ([(kind, "h.1.give")] if kind else [])


def test_the_first_of_a_run_stands_for_it():
    assert ("exploding", "h.1.take") not in found(blocks(1.0, 100.0, 1.0, 1.0, follower=None))
    assert ("exploding", "h.1.give") in found(blocks(1.0, 100.0, 1.0, 1.0, follower=None))


def test_a_stack_that_fades_evenly_has_no_odd_layer():
    assert found(blocks(*(0.3**n for n in range(6)))) == []


def test_three_blocks_are_too_few():
    assert found(blocks(1.0, 100.0, 1.0)) == []


def test_sums_follow_what_they_add():
    assert found(blocks(1.0, 100.0, 1.0, 1.0, branch_share=0.5, kind="add")) == []


def gates(activation="Sigmoid", *, calls=2):
    """Return two recurrent layers whose gates are of unlike size."""
    sites, parameters = [], []
    for layer in range(2):
        for call in range(calls):
            for name, size in (("input", 0.01), ("forget", 1.0)):
                tag = f"#{call}" if calls > 1 else ""
                sites.append(
                    site(f"layers.{layer}.{name}{tag}", rms=size, role="pre-activation", activation=activation)
                )
        parameters += [weight(f"layers.{layer}.{name}.weight", 1.0) for name in ("input", "forget")]
    return model(sites, parameters)


def test_the_gates_of_a_recurrent_layer_are_no_chain():
    assert found(gates()) == []
    assert found(gates(calls=1)) != []


def test_each_place_of_a_recurrent_stack_is_a_chain_over_its_layers():
    chains = [[evidence(gates()).sites[i].name for i in chain.indices] for chain in evidence(gates()).chains]
    assert chains == [["layers.0.input#0", "layers.1.input#0"], ["layers.0.forget#0", "layers.1.forget#0"]]


def test_steps_in_time_are_taken_together():
    profile = gates()
    (first, *_) = evidence(profile).chains
    assert first.forward[0].tolist() == pytest.approx([math.log(0.01)] * 2)


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_size_of_the_loss_changes_nothing(factor):
    profile = blocks(1.0, 100.0, 1.0, 1.0)
    assert found(scaled(profile, factor)) == found(profile) != []


def test_an_even_network_of_numbered_layers_has_none():
    assert found(network([1.0] * 6)) == []
