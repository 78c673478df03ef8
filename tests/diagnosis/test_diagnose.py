"""A cause comes before what it brings about, and is as severe."""

from dataclasses import replace

import pytest
from building.records import UNITS, geometric, network, seeds

import propscope
from propscope.diagnosis.rules import RULES
from propscope.errors import InputError
from propscope.records import ProfileSet

HEALTHY = {
    "he relu": {"activation": "relu", "initializer": "he_normal"},
    "xavier tanh": {"activation": "tanh", "initializer": "xavier_normal"},
    "lecun selu": {"activation": "selu", "initializer": "lecun_normal"},
    "orthogonal tanh": {"activation": "tanh", "initializer": "orthogonal"},
}


def test_worst_first_and_a_cause_before_what_it_brings_about():
    profile = network([0.0] * 5, [0.0] * 5, symmetric_units=UNITS)
    found = propscope.diagnose(profile)
    assert found.verdict == "broken"
    assert found.findings[0].kind == "symmetric"
    assert found.first_bad == "layers.0.linear"
    order = [("broken", "strained", "note").index(each.severity) for each in found.findings]
    assert order == sorted(order)


def test_a_healthy_network_has_no_first_bad_site():
    found = propscope.diagnose(network([1.0] * 5))
    assert (found.verdict, found.first_bad, found.findings, found.worst) == ("healthy", None, (), None)


def test_notes_can_be_left_out():
    profile = network([1.0] * 5, gradients=False)
    assert [each.kind for each in propscope.diagnose(profile).findings] == ["insufficient evidence"]
    assert propscope.diagnose(profile, notes=False).findings == ()
    assert propscope.diagnose(profile).verdict == "not measured"


def test_several_networks_are_judged_apart():
    good = [network([1.0] * 5, seed=seed, labels={"initializer": "he"}) for seed in (0, 1)]
    bad = [network(geometric(1e-9, 5), seed=seed, labels={"initializer": "small"}) for seed in (0, 1)]
    found = propscope.diagnose(seeds(*good, *bad))
    assert [network.verdict for network in found.networks] == ["healthy", "broken"]
    assert [network.labels for network in found.networks] == [{"initializer": "he"}, {"initializer": "small"}]
    assert found.verdict == "broken"
    assert found.findings[0].labels == {"initializer": "small"}


def test_the_worst_of_several_networks_comes_first():
    strained = network(geometric(1e-4, 5), labels={"initializer": "a"})
    broken = network(geometric(1e-9, 5), labels={"initializer": "b"})
    assert [f.severity for f in propscope.diagnose(seeds(strained, broken)).findings[:2]] == ["broken", "strained"]


def test_seeds_with_other_sites_are_left_out():
    found = propscope.diagnose(seeds(network(geometric(1e-9, 5), seed=0), network([1.0] * 3, seed=1)))
    assert found.verdict == "broken"
    assert found.findings[0].confidence == pytest.approx(2 / 3)
    (note,) = [each for each in found.findings if "left_out" in each.evidence]
    assert (note.severity, dict(note.evidence)) == ("note", {"left_out": 1.0, "seeds": 2.0})
    assert note.message.startswith("1 of 2 seeds")
    assert "layers.3.linear" in note.message


def test_the_note_on_seeds_left_out_says_how_their_sites_differ():
    def note(*members):
        found = propscope.diagnose(seeds(*members)).findings
        return [each.message for each in found if "left_out" in each.evidence]

    small, large = (
        [network([1.0] * 3, seed=seed) for seed in (0, 1)],
        [network([1.0] * 4, seed=seed) for seed in (2, 3)],
    )
    assert note(*small) == []
    (message,) = note(*small, *large)
    assert message.startswith("2 of 4 seeds")
    assert "they have layers.3.linear" in message
    turned = replace(small[1], sites=small[1].sites[::-1])
    assert "in another order" in note(small[0], turned)[0]


def test_an_empty_set_is_refused_and_an_empty_profile_is_not():
    with pytest.raises(InputError, match="no profile to diagnose"):
        propscope.diagnose(ProfileSet(()))
    assert propscope.diagnose(replace(network([1.0]), sites=(), parameters=())).verdict == "not measured"


def test_every_network_is_judged_by_the_rules_for_it():
    grid, models = ({rule.find for rule in RULES if rule.is_for(subject)} for subject in ("grid", "model"))
    assert {rule.applies_to for rule in RULES} == {"grid", "model", "both"}
    assert grid | models == {rule.find for rule in RULES}
    assert {find.__name__ for find in grid - models} == {
        "symmetric_in_grid", "odd_layers_of_grid", "inactive_in_grid", "insufficient_in_grid",
    }  # fmt: skip


def test_rules_have_names_of_their_own_and_sources():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.limit and rule.source for rule in RULES)


@pytest.mark.slow
@pytest.mark.parametrize("name", HEALTHY)
@pytest.mark.parametrize(("width", "batch"), [(64, 32), (256, 128)])
def test_what_is_known_to_train_is_not_flagged(name, width, batch):
    profiles = propscope.profile_mlp(50, width, batch=batch, seeds=4, **HEALTHY[name])
    assert propscope.diagnose(profiles).verdict == "healthy"


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "initializer", "verdict", "kind"), [
    ("relu", "normal:std=0.01", "broken", "vanishing"),
    ("relu", "normal:std=1", "broken", "exploding"),
    ("tanh", "normal:std=1", "broken", "exploding"),
    ("sigmoid", "default", "broken", "vanishing"),
    ("relu", "constant", "broken", "symmetric"),
    ("relu", "zeros", "broken", "symmetric"),
    ("elu", "uniform:low=0:high=0.02", "broken", "collapse"),
    ("relu", "xavier_normal", "healthy", "vanishing"),
])  # fmt: skip
def test_what_is_known_not_to_is(activation, initializer, verdict, kind):
    profiles = propscope.profile_mlp(20, 128, batch=64, seeds=3, activation=activation, initializer=initializer)
    found = propscope.diagnose(profiles)
    assert (found.verdict, found.findings[0].kind) == (verdict, kind)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_verdict_does_not_depend_on_the_scale_of_the_loss(scale):
    def scaled(profile):
        sites = [replace(site, backward=site.backward and _times(site.backward, scale)) for site in profile.sites]
        return replace(profile, sites=tuple(sites))

    for initializer in ("default", "he_normal", "normal:std=0.2"):
        profiles = propscope.profile_mlp(20, 64, batch=32, seeds=2, activation="tanh", initializer=initializer)
        before = propscope.diagnose(profiles, notes=False)
        after = propscope.diagnose(ProfileSet.of(map(scaled, profiles)), notes=False)
        assert after.verdict == before.verdict
        assert [(f.kind, f.severity, f.sites) for f in after.findings] == [
            (f.kind, f.severity, f.sites) for f in before.findings
        ]


def _times(summary, scale):
    fields = {name: scale * getattr(summary, name) for name in ("mean", "std", "min", "max")}
    return replace(summary, histogram=None, **fields)
