"""What a page draws: the numbers of the record, how much of it, and in how many bytes."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from building.records import (
    connected_profile,
    course,
    few_examples,
    grid,
    layered,
    mixed_sites,
    mlp,
    model,
    monitored,
    network,
    profile_sets,
    sampled_at,
    small_monitored,
    small_training,
    training_sets,
)
from hypothesis import given

from propscope import diagnose
from propscope.errors import InputError
from propscope.records import (
    Alarm,
    Diagnosis,
    Expected,
    LogHistogram,
    MonitoredRun,
    ProfileSet,
    TensorSummary,
    TrainingSet,
)
from propscope.records.expectations import seed_band
from propscope.records.figures import PARAMETER_FIELDS, SITE_FIELDS
from propscope.records.pooling import pooled_seeds
from propscope.records.rows import parameter_row, site_row
from propscope.report.findings import site_marks, verdict_lines
from propscope.report.page import networks, page_document, page_html, runs
from propscope.report.page.thinning import evenly, rounded, with_extremes


def of_one(profile):
    (found,) = page_document(profile)["networks"]
    return found


def strict(document):
    """The document as a page reads it: only what JSON has."""
    return json.loads(json.dumps(document, allow_nan=False))


@pytest.mark.parametrize("profile", [connected_profile(), model(12), layered([1.0, 2.0], [3.0, 4.0])])
def test_every_figure_of_a_profile_is_on_the_page_as_it_was_recorded(profile):
    found = of_one(profile)
    numbers = {each.name for each in (*SITE_FIELDS, *PARAMETER_FIELDS) if each.dtype in ("int64", "float64")}
    columns = {"sites": found["sites"]["columns"], "parameters": found["parameters"]}
    rows = {
        "sites": [site_row(site, at) for at, site in enumerate(profile.sites)],
        "parameters": [parameter_row(parameter, at) for at, parameter in enumerate(profile.parameters)],
    }
    compared = 0
    for table, own in rows.items():
        for at, row in enumerate(own):
            for name in numbers & row.keys():
                there = columns[table].get(name, [None] * len(own))[at]
                value = row[name]
                missing = value == -1 if isinstance(value, int) else math.isnan(value)
                assert there == (None if missing else value if math.isfinite(value) else str(value)), (table, name)
                compared += not missing
    assert compared > 20
    assert columns["sites"]["name"] == [site.name for site in profile.sites]


def test_the_verdict_its_lines_and_marks_are_those_of_the_diagnosis():
    profile = network([1.0, 1.0, 3e6, 3e6], [1e-9, 1e-6, 1e-3, 1.0])
    diagnosis, found = diagnose(profile), of_one(profile)
    assert (found["verdict"], found["first_bad"]) == (diagnosis.verdict, diagnosis.first_bad)
    assert found["verdict"] == "broken"
    assert found["lines"] == list(verdict_lines(profile, diagnosis))
    assert [each["message"] for each in found["findings"]] == [finding.message for finding in diagnosis.findings]
    marks = site_marks(profile, diagnosis)
    assert found["sites"]["columns"]["marks"] == [list(marks.get(at, ())) for at in range(len(profile.sites))]
    assert [bool(each) for each in found["sites"]["columns"]["severity"]] == [
        at in marks for at in range(len(profile.sites))
    ]


def test_a_site_has_the_worst_severity_of_what_marks_it():
    profile = network([1.0] * 3)
    strained, broken = (
        replace(diagnose(network([1.0, 1e9, 1e18])).findings[0], severity=word, marks=marks)
        for word, marks in (
            ("strained", {"layers.0.linear": "a", "layers.1.linear": "b"}),
            ("broken", {"layers.1.linear": "c"}),
        )
    )
    found = networks.site_severities(profile, Diagnosis((broken, strained)))
    named = dict(zip((site.name for site in profile.sites), found, strict=True))
    assert (named["layers.0.linear"], named["layers.1.linear"], named["layers.2.linear"]) == ("strained", "broken", "")


def test_theory_and_its_band_stand_beside_what_was_measured():
    expected = Expected(forward_rms=2.0, forward_log_std=0.25, forward_log_drift=-0.1, backward_rms=0.5)
    columns = of_one(layered([1.0, 2.0], [1.0, 1.0], activations=False, expected=[expected, None]))["sites"]["columns"]
    low, high = seed_band(np.array([2.0]), np.array([0.25]), np.array([-0.1]))
    assert columns["expected_forward_rms"] == [2.0, None]
    assert columns["forward_expected_low"] == [pytest.approx(low[0]), None]
    assert columns["forward_expected_high"] == [pytest.approx(high[0]), None]
    assert columns["backward_expected_low"] == [None, None], "no band without a scatter"


def test_seeds_are_one_network_with_an_interval():
    profiles = grid(("he_normal",), seeds=3, depths=(4,), width=16, batch=8)
    document = page_document(profiles)
    assert document["kind"] == "network"
    (found,) = document["networks"]
    columns, one = found["sites"]["columns"], pooled_seeds(profiles)
    assert found["seeds"] == 3
    assert columns["forward_rms"] == [site.forward.rms for site in one.sites]
    for at, site in enumerate(one.sites):
        mean = math.exp(np.mean([math.log(profile.sites[at].forward.rms) for profile in profiles]))
        assert columns["forward_center"][at] == pytest.approx(mean), site.name
        assert columns["forward_low"][at] < mean < columns["forward_high"][at]


def test_what_is_not_finite_is_told_from_what_is_not_known():
    profile = layered([1.0, math.nan, None], [math.inf, 1.0, None], activations=False)
    columns = strict(page_document(profile))["networks"][0]["sites"]["columns"]
    assert columns["forward_center"] == [1.0, "inf", None]
    assert columns["forward_nan_count"][1] > 0


def test_parents_and_operations_are_the_edges_of_the_graph():
    profile = connected_profile()
    assert of_one(profile)["sites"]["columns"]["parents"] == [
        [[parent.name, list(parent.operations), parent.gradient] for parent in site.parents] for site in profile.sites
    ]


def test_parents_that_no_file_held_are_not_said_to_be_none():
    assert "parents" not in of_one(model(3))["sites"]["columns"]


@pytest.mark.parametrize("values", [[0.0, 0.0], [1.5] * 3, [-1.0, 2.0, 3.0], [math.nan, 1.0], [1e38, -1e38], []])
def test_the_bars_and_what_lies_beyond_them_are_all_values(values):
    bars = networks._bars(LogHistogram.of(np.array(values, np.float32)))
    if not values:
        assert bars is None
    else:
        assert sum(bars["shares"]) + bars["below"] + bars["above"] == pytest.approx(1.0, abs=0.01)
        assert bars["low"] <= bars["high"]


def test_bars_show_the_shape_and_not_the_stray_values():
    values = np.concatenate([np.random.default_rng(0).normal(size=100_000), [1e6]]).astype(np.float32)
    bars = networks._bars(LogHistogram.of(values))
    assert -4 < bars["low"] < -3 < 3 < bars["high"] < 4
    edges = np.linspace(bars["low"], bars["high"], networks.BARS + 1)
    counts = np.histogram(values, edges)[0] / len(values)
    # A bin is a range of up to an eighth of its value.
    assert np.abs(np.array(bars["shares"]) - counts).max() < 0.15 * counts.max()
    assert bars["above"] >= 1 / len(values)


def test_several_networks_are_a_grid_of_pairs():
    profiles = grid(("he_normal", "zeros"), ("relu", "tanh"), seeds=2, depths=(3,), width=8, batch=4)
    document = page_document(profiles, title="run.h5")
    assert (document["kind"], document["title"]) == ("grid", "run.h5")
    assert [each["labels"]["initializer"] for each in document["networks"]] == ["he_normal", "zeros"] * 2
    assert [pair["forward_factor"]["center"] for pair in document["pairs"]] == [
        pytest.approx(pair.forward_factor.center) for pair in profiles.pairs()
    ]
    assert [each["verdict"] for each in document["networks"]] == [each.verdict for each in diagnose(profiles).networks]


def test_of_a_large_grid_the_worst_networks_keep_their_sites(monkeypatch):
    monkeypatch.setattr(networks, "SITES", 13)
    profiles = grid(("he_normal", "zeros"), seeds=1, depths=(6,), width=8, batch=4)
    document = page_document(profiles)
    assert ["sites" in each for each in document["networks"]] == [False, True]
    assert any("1 network only the verdict" in text for text in document["thinned"])
    assert len(document["pairs"]) == 2


def test_histograms_are_thinned_and_the_marked_sites_keep_theirs(monkeypatch):
    monkeypatch.setattr(networks, "HISTOGRAMS", 5)
    sites = mixed_sites(40)
    sites = (*sites[:17], replace(sites[17], forward=TensorSummary.of([math.nan, 1.0])), *sites[18:])
    document = page_document(model(sites))
    kept = [at for at, bars in enumerate(document["networks"][0]["sites"]["histograms"]["forward"]) if bars]
    assert {0, 17, 39} <= set(kept)
    assert len(kept) < 10
    assert any(f"kept for {len(kept)} of 40 sites" in text for text in document["thinned"])


@pytest.mark.slow
def test_five_hundred_sites_take_less_than_three_megabytes():
    rng = np.random.default_rng(0)
    values = [TensorSummary.of(rng.normal(0, 1 + at, 4000).astype(np.float32)) for at in range(5)]
    sites = [
        replace(site, forward=values[at % 5], backward=values[-at % 5], units=10, dead_units=1,
                flat_fraction=1 / (3 + at), mean_cosine=1 / (7 + at), effective_rank=1 / (9 + at),
                parents=(), parameters=(f"{site.name}.weight",))
        for at, site in enumerate(mixed_sites(500))
    ]  # fmt: skip
    parameters = [
        replace(connected_profile().parameters[0], name=f"{site.name}.weight", value=values[0]) for site in sites
    ]
    assert 1e5 < len(page_html(model(sites, parameters))) < 3e6


@pytest.mark.slow
def test_a_run_of_a_thousand_samples_takes_less_than_five_megabytes():
    steps = range(0, 50_000, 50)
    run = sampled_at(
        steps, sites=40, rms=lambda step, place: 1 + step / 7 + place, mean_cosine=1 / 3, flat_fraction=1 / 7
    )
    every = monitored([1 / (1 + step) for step in range(50_000)])
    whole = MonitoredRun(run.profiles, every.steps, (Alarm(700, 650, "collapse", "fc.3", message="alike"),))
    page = page_html(whole)
    assert 1e5 < len(page) < 5e6
    document = page_document(whole)
    assert {0, 650, 700, 49_950} <= set(document["run"]["maps"]["steps"])
    assert len(document["run"]["maps"]["steps"]) < 1000
    assert len(document["run"]["step_table"]["loss"]) < 3000
    assert sum("of 1000 samples" in text for text in document["thinned"]) == 2
    assert any("of 50000 steps" in text for text in document["thinned"])


def test_the_maps_of_a_run_hold_what_was_recorded():
    run = small_monitored()
    document = strict(page_document(run))
    assert document["kind"] == "run"
    maps = document["run"]["maps"]
    assert maps["steps"] == [0, 2]
    for each in maps["quantities"]:
        if each["quantity"] != "nonfinite":
            over = run.over_steps(each["quantity"], table=each["of"])
            assert each["names"] == list(over.names)
            there = [[math.nan if value is None else float(value) for value in row] for row in each["values"]]
            np.testing.assert_allclose(np.array(there).T, over.values, rtol=10.0 ** (1 - runs.DIGITS))
    assert [alarm["step"] for alarm in document["run"]["alarms"]] == [1, 3]
    assert document["run"]["step_table"]["gradient_norm"][1] == "inf"
    assert [each["labels"]["step"] for each in document["networks"]] == [0, 2]


def test_a_run_shows_its_first_sample_that_of_the_first_alarm_and_the_last():
    run = sampled_at(range(0, 100, 10), sites=2, alarms=(Alarm(34, 30, "collapse", "fc.0"), Alarm(80, 80, "collapse")))
    whole = replace(run, steps=monitored([1.0] * 100).steps)
    assert [each["labels"]["step"] for each in page_document(whole)["networks"]] == [0, 30, 90]


def test_a_run_without_a_sample_or_with_steps_taken_again():
    document = strict(page_document(monitored([3.0, 2.0, 1.0], superseded=[1, 0, 0])))
    assert document["run"]["step_table"]["loss"] == [2.0, 1.0]
    assert document["networks"] == []
    assert "1 step that was taken again: left out" in document["thinned"]


def test_trainings_have_their_curves_and_the_network_before_the_first_step():
    trainings = small_training()
    document = strict(page_document(trainings))
    assert document["kind"] == "trainings"
    # What all of them share is not said of each.
    assert {drawn["name"] for drawn in document["trainings"]} == {"relu + he_normal", "relu + zeros"}
    for run, drawn in zip(trainings, document["trainings"], strict=True):
        loss = [None if math.isnan(value) else float(f"{value:.6g}") for value in run.train_loss.tolist()]
        assert drawn["train_loss"] == [value if value is None or math.isfinite(value) else str(value) for value in loss]
        assert drawn["stability"] == run.stability
    assert len(document["trained_pairs"]) == len(trainings.groups("seed"))


def test_each_parameter_has_the_histograms_of_its_values_and_its_gradient():
    profile = mlp("he_normal", "relu", depth=3, width=8, batch=8, seed=0)
    found = of_one(profile)["parameter_histograms"]
    compared = 0
    for part in ("value", "gradient"):
        for parameter, bars in zip(profile.parameters, found[part], strict=True):
            summary = getattr(parameter, part)
            assert bars == networks._bars(None if summary is None else summary.histogram)
            compared += bars is not None
    assert compared > 1


def test_of_too_many_parameters_some_keep_their_histograms(monkeypatch):
    monkeypatch.setattr(networks, "HISTOGRAMS", 4)
    one = connected_profile().parameters[0]
    profile = replace(connected_profile(), parameters=tuple(replace(one, name=f"p{at}") for at in range(10)))
    document = page_document(profile)
    kept = [at for at, bars in enumerate(document["networks"][0]["parameter_histograms"]["value"]) if bars]
    assert kept == [0, 3, 6, 9]
    assert "histograms are kept for 4 of 10 parameters of a network, evenly" in document["thinned"]


def test_recurrent_layers_have_their_factors_a_step():
    one = course()
    (found,) = strict(of_one(replace(model(3), time_courses=(one,)))["time_courses"])
    assert found["label"] == one.label
    assert found["cell"]["forward"] == list(one.cell.forward)
    gains = (one.forward_gain.gain, one.backward_gain.gain, one.step_gain)
    assert (found["forward_gain"], found["backward_gain"], found["step_gain"]) == pytest.approx(gains)
    assert found["forward_gain"] == pytest.approx(0.9)


@pytest.mark.parametrize("empty", [ProfileSet(()), TrainingSet(()), MonitoredRun(())])
def test_nothing_is_refused(empty):
    with pytest.raises(InputError, match="the set holds nothing to report"):
        page_document(empty)


@pytest.mark.slow
@given(profile_sets | training_sets)
@few_examples
def test_any_record_becomes_a_page(record):
    if len(record):
        assert strict(page_document(record))["version"] == 1


def test_the_methods_of_records_write_the_page():
    profile = model(3)
    assert profile.to_html(title="x") == page_html(profile, title="x")
    assert ProfileSet((profile,)).to_html() == page_html(profile)
    trainings = small_training()
    assert trainings.to_html() == page_html(trainings)
    assert trainings[0].to_html() == page_html(TrainingSet(trainings.runs[:1]))


def test_thinning_keeps_ends_peaks_and_what_is_asked_for():
    assert evenly(3, 5).tolist() == [0, 1, 2]
    assert evenly(101, 3, [7]).tolist() == [0, 7, 50, 100]
    losses = np.ones(1000)
    losses[[321, 654]] = 9.0, -9.0
    losses[800] = math.inf
    losses[801:900] = math.nan
    kept = with_extremes([losses], 10)
    assert {0, 321, 654, 800, 999} <= set(kept.tolist())
    assert len(kept) <= 32
    assert (rounded(1.23456, 3), rounded(math.inf, 3), rounded(7, 3), rounded("a", 3)) == (1.23, math.inf, 7, "a")


def test_a_comparison_names_each_site_and_what_is_left_out(monkeypatch):
    from propscope import compare

    first = sampled_at([0], sites=12)[0]
    second = replace(first, sites=tuple(replace(each, name=f"other.{each.name}") for each in first.sites))
    found = compare(first, second)
    document = page_document(second, against=found)
    assert document["against"]["lines"][0].startswith("the same")
    assert [each["renamed"] for each in document["against"]["sites"]] == [each.name for each in first.sites]
    monkeypatch.setattr("propscope.report.page.against.ROWS", 5)
    thinned = page_document(second, against=found)
    assert len(thinned["against"]["sites"]) == 5
    assert "of 12 sites of the comparison 5 are here" in thinned["thinned"]
    assert "against" not in page_document(second)
    assert second.to_html(against=first).count("the same: 12 sites agree") >= 1
