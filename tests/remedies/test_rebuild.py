"""Networks of the grid made again with remedies: which, in which order, and with what came of it."""

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

import propscope
from propscope.diagnosis import diagnose
from propscope.errors import InputError
from propscope.experiments import profile_mlp
from propscope.records import Diagnosis, Finding, NetworkProfile, ProfileSet, Remedy
from propscope.records.activations import NORMED_SUMS
from propscope.remedies import RemedyTrials, State, Trial, verify
from propscope.remedies.candidates import candidates
from propscope.remedies.rebuild import names_outside, rebuilt, request_of, with_options
from propscope.report.remedies import outcome, trials_text
from propscope.store import load

BROKEN = Diagnosis((Finding("vanishing", "broken", ("a",), "fades", "small", direction="backward"),))
STRAINED = Diagnosis((replace(BROKEN.findings[0], severity="strained"),))
HEALTHY = Diagnosis()


def grid(**options):
    settings = {"depth": 12, "width": 32, "activation": "relu", "initializer": "normal:std=0.01", "seeds": [3, 5]}
    return profile_mlp(**{**settings, "batch": 32, "histogram_limit": 64, **options})


@cache
def one_network():
    return grid(seeds=[3])


@pytest.mark.slow
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


def test_each_broken_network_is_repaired_and_healthy_ones_are_left_out():
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


@pytest.mark.slow
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
    assert "cannot be applied: width must be the same" in " ".join(text.split())
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


def test_an_advised_initializer_is_not_scaled_as_the_broken_one_was():
    request = request_of(grid(initializer="normal", weight_variance=0.1, bias_variance=0.2))
    he = with_options(request, {"initializer": "he_normal"})
    assert (he["gain"], he["weight_variance"], he["bias_variance"]) == (1.0, None, 0.2)
    assert with_options(request, {"initializer": "critical"})["bias_variance"] is None
    assert with_options(request, {"initializer": "he_normal", "bias": 0.0})["bias_variance"] is None
    assert with_options(request, {"norm": "layer"})["weight_variance"] == 0.1


@pytest.mark.parametrize("variance", [{"gain": 0.3}, {"weight_variance": 0.18}], ids=str)
def test_weights_that_were_scaled_down_are_healed(variance):
    profiles = grid(depth=20, initializer="he_normal", activation="relu", width=32, **variance)
    request = request_of(profiles)
    listed = list(candidates(diagnose(profiles, notes=False), request))
    # The same initializer, unscaled, is a remedy.
    assert {"initializer": "he_normal"} in [dict(remedy.options) for remedy in listed]
    scaled = next(remedy for remedy in listed if remedy.action == "scale")
    assert float(scaled.options["initializer"].split("scale=")[1].split(":")[0]) == pytest.approx(2, rel=0.2)
    (found,) = verify(profiles)
    assert found.trials[-1].healed


def test_a_spec_that_describes_many_networks_is_refused():
    (profile,) = one_network()
    for value in ("0.5..2:1000", [0.5, 1.0], "0.5..2:1000000000"):
        spec = json.loads(profile.provenance.spec)
        spec["network"]["gain"] = value
        forged = replace(profile, provenance=replace(profile.provenance, spec=json.dumps(spec)))
        (found,) = verify(ProfileSet.of([forged]))
        assert found.trials == ()
        assert "describes" in found.reason or "more than 1,000,000 values" in found.reason


def test_a_network_that_its_profile_does_not_tell_is_not_tried():
    profiles = grid()
    stripped = ProfileSet.of(replace(one, provenance=replace(one.provenance, spec="{}")) for one in profiles)
    for spec in ("{}", "no json", "[]", '{"network": 3}'):
        stripped = ProfileSet.of(replace(one, provenance=replace(one.provenance, spec=spec)) for one in profiles)
        (found,) = verify(stripped)
        assert found.trials == ()
        assert "not a network of the grid" in trials_text(found)
    assert outcome(found) == "broken"


def with_spec(profiles, **changes):
    """The profiles with a spec that says something else; "network" is merged into the network that it says."""
    spec = json.loads(profiles[0].provenance.spec)
    text = json.dumps({**spec, **changes, "network": spec["network"] | changes.get("network", {})})
    return ProfileSet.of(
        replace(one, provenance=replace(one.provenance, spec=text, seed=one.provenance.seed)) for one in profiles
    )


def relabelled(profiles, **labels):
    return ProfileSet.of(replace(one, labels={**one.labels, **labels}) for one in profiles)


def test_a_missing_file_and_an_unknown_loss_are_reasons():
    profiles = one_network()
    missing = relabelled(with_spec(profiles, input="gone.npy"), input="gone.npy")
    with pytest.warns(UserWarning, match=r"input gone\.npy"):
        (found,) = verify(missing, trust=True)
    assert found.trials
    assert found.trial is None
    assert all("gone.npy" in trial.reason for trial in found.trials)
    assert outcome(found) == "still broken: no remedy helped"
    (found,) = verify(with_spec(profiles, loss="unknown"))
    assert (found.trial, found.trials) == (None, ())
    assert "unknown" in found.reason


@pytest.fixture
def pwn(tmp_path, monkeypatch):
    """A module in the working directory that leaves a mark when it is imported."""
    monkeypatch.chdir(tmp_path)
    body = "import pathlib, torch\npathlib.Path('mark').touch()\nact = torch.relu\ndef fill(weight): weight.normal_()\n"
    (tmp_path / "pwn.py").write_text(body)
    yield tmp_path / "pwn.py"
    sys.modules.pop("pwn", None)


HOSTILE = [
    {"network": {"activation": "subprocess:Popen:args=touch mark:shell=true"}},
    {"network": {"activation": "pwn:act"}},
    {"network": {"activation": "PWN.py:act"}},
    {"network": {"activation": " pwn : act "}},
    {"network": {"activation": "pwn:act:x=1"}},
    {"network": {"activation": ["pwn:act"]}},
    {"network": {"initializer": "pwn:fill"}},
    {"network": {"initializer": "PWN.py:fill"}},
    {"input": "PWN.npy"},
    {"input": "mnist:path=PWN"},
    {"input": "PWN.pt"},
    {"input": ["normal"]},
    {"input": {"name": "normal"}},
    {"device": "cuda"},
    {"device": "meta"},
    {"device": None},
    {"device": "privateuseone:0"},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", HOSTILE, ids=str)
@pytest.mark.parametrize("labelled", [False, True])
def test_nothing_that_a_file_names_is_imported_or_opened(pwn, monkeypatch, changes, labelled):
    changes = json.loads(json.dumps(changes).replace("PWN", str(pwn.with_suffix(""))))
    profiles = with_spec(one_network(), **changes)
    if labelled:
        named = {name: str(value) for part in (changes, changes.get("network", {})) for name, value in part.items()}
        named.pop("network", None)
        profiles = relabelled(profiles, **named)
    propscope.save("run.h5", profiles)
    opened = []
    monkeypatch.setattr("propscope.networks.inputs.npy_file", lambda path: opened.append(path))
    (found,) = verify(load("run.h5"))
    assert found.trials == ()
    named = next(iter(changes.get("network", changes)))
    assert named in found.reason
    assert "--trust" in found.reason
    assert not Path("mark").exists()
    assert "pwn" not in sys.modules
    assert not opened


def test_a_label_cannot_name_what_the_spec_may_not(pwn):
    for label in ("critical:act", "critical.pwn:act", "criticalpwn:fill"):
        (found,) = verify(relabelled(one_network(), initializer=label))
        assert found.trials == ()
        assert f"initializer {label}" in found.reason


def test_what_is_trusted_is_said_and_imported(pwn):
    profiles = relabelled(with_spec(one_network(), network={"activation": "pwn:act"}), activation="pwn:act")
    assert names_outside(profiles) == ("activation pwn:act",)
    with pytest.warns(UserWarning, match="activation pwn:act"):
        (found,) = verify(profiles, trust=True)
    assert Path("mark").exists()
    assert found.trial.after.diagnosis.verdict == "healthy"


def test_a_remedy_cannot_name_what_the_spec_may_not(pwn, monkeypatch):
    offered = (Remedy("initializer", "a", {"initializer": "pwn:fill"}),)
    monkeypatch.setattr("propscope.remedies.rebuild.candidates", lambda *arguments: iter(offered))
    (found,) = verify(one_network())
    assert "initializer pwn:fill" in found.trials[0].reason
    assert not Path("mark").exists()
    with pytest.raises(InputError, match="pwn:fill"):
        rebuilt(with_options(request_of(one_network()), {"initializer": "pwn:fill"}))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"depth": 10**9}},
        {"network": {"depth": 10**9, "width": [2, 1]}, "batch": 1},
        {"network": {"depth": 10**400}},
        {"network": {"width": 10**12}},
        {"network": {"input_size": 10**12}},
        {"network": {"output_size": 10**12}},
        {"batch": 10**12},
        {"network": {"depth": "12"}},
        {"network": {"depth": [12]}},
        {"network": {"depth": None}},
        {"network": {"depth": -1}},
        {"network": {"depth": 1e300}},
        {"network": {"width": {"a": 1}}},
        {"network": {"width": [[1, 2], 3]}},
        {"network": {"norm": ["none"]}},
        {"network": {"bias": "x"}},
        {"network": {"dropout": 7}},
        {"network": {"activation": ""}},
        {"network": {"activation": "relu:relu=a:"}},
        {"network": {"seeds": 10**9}},
        {"network": {"device": "cuda"}},
        {"seed": -1},
        {"seed": "0"},
        {"seed": [0]},
        {"scale": ["zscore"]},
        {"scale": "log"},
        {"dtype": "int8"},
        {"loss": {}},
        {"batch": 2.5},
    ],
    ids=str,
)
def test_a_spec_that_makes_no_sense_is_a_reason_at_once(monkeypatch, changes):
    profiles = with_spec(one_network(), **changes)
    labels = {**{name: value for name, value in changes.items() if name != "network"}, **changes.get("network", {})}
    profiles = relabelled(profiles, **{name: value for name, value in labels.items() if isinstance(value, int)})
    monkeypatch.setattr("propscope.remedies.rebuild.profiled", lambda grid, workers: pytest.fail("something was built"))
    (found,) = verify(profiles)
    assert found.trials == ()
    assert found.reason


@pytest.mark.parametrize("name", ["activation", "initializer", "depth", "width", "batch"])
def test_labels_that_disagree_with_the_spec_are_a_reason(name):
    profiles = one_network()
    other = {"activation": "tanh", "initializer": "zeros", "depth": 13, "width": 33, "batch": 33}[name]
    (found,) = verify(relabelled(profiles, **{name: other}))
    assert found.trials == ()
    assert f"labelled {name} {other}" in found.reason
    assert f"spec says {name} " in found.reason


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
        "  withdrawn  put a norm: cannot be applied: no room",
        "  advice     draw it anew",
    ]


def test_a_profile_without_sites_has_nothing_to_repair():
    assert verify(ProfileSet((NetworkProfile(()),))) == ()
