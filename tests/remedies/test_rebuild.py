"""Networks of the grid made again with remedies: which, in which order, and with what came of it."""

import json
from dataclasses import replace

import pytest

from propscope.diagnosis import diagnose
from propscope.errors import InputError
from propscope.experiments import profile_mlp
from propscope.records import Diagnosis, Finding, NetworkProfile, ProfileSet, Remedy
from propscope.records.activations import NORMED_SUMS
from propscope.remedies import RemedyTrials, State, Trial, verify
from propscope.remedies.candidates import candidates
from propscope.remedies.rebuild import rebuilt, request_of, with_options
from propscope.report.remedies import outcome, trials_text

BROKEN = Diagnosis((Finding("vanishing", "broken", ("a",), "fades", "small", direction="backward"),))
STRAINED = Diagnosis((replace(BROKEN.findings[0], severity="strained"),))
HEALTHY = Diagnosis()


def grid(**options):
    settings = {"depth": 12, "width": 32, "activation": "relu", "initializer": "normal:std=0.01", "seeds": [3, 5]}
    return profile_mlp(**{**settings, "batch": 32, "histogram_limit": 64, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"input": "digits", "scale": "zscore", "loss": "cross-entropy", "output_size": 10},
        {"width": [(32, 16)], "bias": 0.1, "dropout": 0.1, "dtype": "float64"},
        {"norm": "layer", "residual": True, "initializer": "default", "activation": "leaky_relu:negative_slope=0.3"},
        {"loss": "mse", "initializer": "critical", "activation": "gelu"},
    ],
)
def test_a_network_is_made_again_to_the_bit(options):
    first = grid(**options)
    again = rebuilt(request_of(first))
    assert [profile.labels for profile in again] == [profile.labels for profile in first]
    for one, other in zip(first, again, strict=True):
        assert one.provenance.spec == other.provenance.spec
        for site, same in zip(one.sites, other.sites, strict=True):
            assert (site.name, site.forward, site.backward) == (same.name, same.forward, same.backward)


def test_each_broken_network_is_mended_and_healthy_ones_are_left_out():
    profiles = grid(initializer=["normal:std=0.01", "he_normal", "zeros"])
    found = verify(profiles)
    assert [trials.labels["initializer"] for trials in found] == ["normal", "zeros"]
    for trials in found:
        assert trials.before.diagnosis.verdict == "broken"
        assert len(trials.trials) == 1
        assert trials.trial.helped
        assert trials.trial.remedy.options == {"initializer": "he_normal"}
        assert "; or" not in trials.trial.remedy.text
        assert trials.trial.after.diagnosis.verdict == "healthy"
        assert trials.trial.after.backward == pytest.approx(1, rel=0.8)
    # What is profiled after is what the option gives, with the same seeds.
    he = profiles.subset(initializer="he_normal")
    assert found[0].trial.after.diagnosis == diagnose(he, notes=False)


def test_what_does_not_help_is_withdrawn_and_the_next_is_tried():
    # Sigmoid is advised residual sums, which unequal widths forbid.
    found = verify(grid(activation="sigmoid", initializer="default", width=[(48, 32)], depth=16))[0]
    assert found.trials[0].after is None
    assert "width must be the same" in found.trials[0].reason
    assert found.trial.after.diagnosis.verdict == "strained"
    assert found.trial is next(trial for trial in found.trials if trial.helped)
    assert not any(trial.healed for trial in found.trials)
    text = trials_text(found)
    assert text.startswith("sigmoid + default, depth 16, width 48-32, batch 32: broken -> ")
    assert "cannot be carried out: width must be the same" in " ".join(text.split())
    assert text.count("  withdrawn  ") == sum(not trial.helped for trial in found.trials)
    assert text.count("  set aside  ") == sum(trial.helped for trial in found.trials) - 1
    assert text.count("  remedy     ") == 1


def test_what_helps_in_part_does_not_end_the_search(monkeypatch):
    offered = (Remedy("initializer", "a", {"initializer": "critical"}), Remedy("residual", "b", NORMED_SUMS))
    monkeypatch.setattr("propscope.remedies.rebuild.candidates", lambda *arguments: iter(offered))
    (found,) = verify(grid(activation="sigmoid", initializer="default", width=64, depth=16))
    assert [trial.after.diagnosis.verdict for trial in found.trials] == ["strained", "healthy"]
    assert found.trial is found.trials[1]
    assert "  set aside  a: better, but still strained" in trials_text(found)


def test_the_candidates_come_in_order_and_none_twice():
    profiles = grid(activation="tanh", depth=20)
    listed = list(candidates(diagnose(profiles, notes=False), request_of(profiles)))
    assert [remedy.action for remedy in listed] == [
        "initializer",
        "scale",
        "initializer",
        "initializer",
        "norm",
        "residual",
        "residual",
    ]
    assert "variance 1.76 / fan_in and biases with bias_std 0.22" in listed[3].text
    assert listed[1].options["bias"] == 0
    # 0.01 sqrt(32) a layer: the weights' variance is 1 / fan_in again.
    scale = float(listed[1].options["initializer"].split("scale=")[1].split(":")[0])
    assert scale == pytest.approx(1, rel=0.1)
    assert len({json.dumps(dict(remedy.options), sort_keys=True) for remedy in listed}) == len(listed)
    already = with_options(request_of(profiles), {"norm": "layer", "residual": True})
    assert {"norm": "layer"} not in [
        dict(remedy.options) for remedy in candidates(diagnose(profiles, notes=False), already)
    ]


def test_what_was_measured_brings_the_signal_back():
    profiles = grid(depth=20)
    request = request_of(profiles)
    scaled = next(r for r in candidates(diagnose(profiles, notes=False), request) if r.action == "scale")
    after = rebuilt(with_options(request, scaled.options))
    assert diagnose(after, notes=False).verdict == "healthy"


def test_biases_are_those_of_the_initializer_that_a_remedy_names():
    request = request_of(grid(bias=0.5))
    assert with_options(request, {"initializer": "critical"})["bias"] is None
    assert with_options(request, {"initializer": "he_normal"})["bias"] == 0.5
    assert with_options(request, {"norm": "layer"})["initializer"] == ["normal"]


def test_a_network_that_its_profile_does_not_tell_is_not_tried():
    profiles = grid()
    stripped = ProfileSet.of(replace(one, provenance=replace(one.provenance, spec="{}")) for one in profiles)
    for spec in ("{}", "no json", "[]", '{"network": 3}'):
        stripped = ProfileSet.of(replace(one, provenance=replace(one.provenance, spec=spec)) for one in profiles)
        (found,) = verify(stripped)
        assert found.trials == ()
        assert "not a network of the grid" in trials_text(found)
    assert outcome(found) == "broken"


def test_a_spec_of_another_version_or_a_missing_file_is_a_reason():
    profiles = grid()
    spec = json.loads(profiles[0].provenance.spec)
    for changed, reason in (({**spec, "input": "gone.npy"}, "gone.npy"), ({**spec, "loss": "unknown"}, "unknown")):
        text = json.dumps(changed)
        (found,) = verify(ProfileSet.of(replace(p, provenance=replace(p.provenance, spec=text)) for p in profiles))
        assert found.trial is None
        assert all(reason in trial.reason for trial in found.trials)
        assert outcome(found) == "still broken: no remedy helped"


def test_the_best_trial_counts_and_of_equals_the_first():
    remedy, before = Remedy("norm", "put a norm"), State(BROKEN, 1.0, 1.0)
    worse, first, second, best = (
        Trial(remedy, before, State(after, 1.0, 1.0)) for after in (BROKEN, STRAINED, STRAINED, HEALTHY)
    )
    assert RemedyTrials(before, (worse, first, second)).trial is first
    assert RemedyTrials(before, (worse, first, second, best)).trial is best
    assert RemedyTrials(before, (worse,)).trial is None


def test_nothing_to_verify():
    with pytest.raises(InputError, match="no profile"):
        verify(ProfileSet(()))
    assert verify(grid(initializer="he_normal")) == ()


def test_a_nan_is_tried_like_anything_else():
    (found,) = verify(grid(initializer="normal:std=1e15", depth=20))
    assert found.before.diagnosis.worst.kind == "non-finite"
    assert found.trial.after.diagnosis.verdict == "healthy"


def test_better_is_a_better_verdict():
    remedy = Remedy("norm", "put a norm")
    states = {"broken": BROKEN, "strained": STRAINED, "healthy": HEALTHY}
    ranks = {"broken": 0, "strained": 1, "healthy": 2}
    for first, before in states.items():
        for second, after in states.items():
            trial = Trial(remedy, State(before, 1.0, 1.0), State(after, 1.0, 1.0))
            assert trial.helped == (ranks[second] > ranks[first])
    assert not Trial(remedy, State(BROKEN, 1.0, 1.0), None).helped


def test_a_report_of_records_alone():
    before, after = State(BROKEN, 0.5, 3e-8), State(HEALTHY, 1.0, float("nan"))
    trial = Trial(Remedy("norm", "put a norm"), before, after, lines=("a()", "b()"))
    assert trials_text(RemedyTrials(before, (trial,))).splitlines() == [
        "broken -> healthy",
        "  before     broken: vanishing backward; forward x0.50, backward x3e-8",
        "  remedy     put a norm",
        "  after      healthy; forward x1.0",
        "  as Python  a()",
        "             b()",
    ]
    assert trials_text(RemedyTrials(after)) == "healthy: nothing to fix"
    # Where nothing helped, what the diagnosis says is left to do by hand.
    advised = Diagnosis((replace(BROKEN.findings[0], remedy=Remedy("repair", "draw it anew")),))
    stays = RemedyTrials(
        State(advised, 1.0, 1.0), (Trial(Remedy("norm", "put a norm"), before, None, reason="no room"),)
    )
    assert trials_text(stays).splitlines() == [
        "still broken: no remedy helped",
        "  before     broken: vanishing backward; forward x1.0, backward x1.0",
        "  withdrawn  put a norm: cannot be carried out: no room",
        "  advice     draw it anew",
    ]


def test_a_profile_without_sites_has_nothing_to_mend():
    assert verify(ProfileSet((NetworkProfile(()),))) == ()
