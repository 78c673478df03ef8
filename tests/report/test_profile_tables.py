"""The two tables that people read, by value."""

import dataclasses
import math
from dataclasses import replace

import pytest
from building.records import layered, signal

from propscope.records import Expected, NetworkProfile, Parent, ProfileSet, Site, TensorSummary
from propscope.records.expectations import theory_note
from propscope.records.finding import Diagnosis, Finding
from propscope.records.pair_summary import PairName
from propscope.report import profile_tables
from propscope.report.profile_tables import judged_table, profile_table


def grid_table(profiles, *args, **options):
    return profile_tables.grid_table(profiles.pairs(), *args, **options)


FIGURES = {"flat_fraction": 0.5, "dead_units": 1, "symmetric_units": 2, "mean_cosine": 0.3, "effective_rank": 1.5}


def cells(table, row=0):
    return dict(
        zip((name.replace("-\n", "").replace("\n", " ") for name in table.columns), table.rows[row], strict=True)
    )


def pair(initializer, seed, **labels):
    return layered(
        [2.0, 4.0],
        [3.0, 12.0],
        figures=FIGURES,
        initializer=initializer,
        activation="relu",
        depth=2,
        seed=seed,
        **labels,
    )


def test_a_row_of_the_grid():
    table = grid_table(ProfileSet.of(pair(name, seed) for name in ("he_normal", "zeros") for seed in range(2)))
    assert table.title == "2 pairs, activation relu, depth 2, 2 seeds"
    assert cells(table) == {
        "initializer": "he_normal",
        "forward a layer": "2.00",
        "forward over depth": "2.00",
        "backward a layer": "0.250",
        "backward over depth": "0.250",
        "std first": "1.00",
        "std last": "2.00",
        "flat": "50%",
        "dead": "50%",
        "cosine": "0.30",
    }
    assert table.left == {"initializer"}


def test_pairs_without_a_row_are_in_title_columns_and_a_note():
    profiles = ProfileSet.of(pair("he_normal", seed) for seed in range(2))
    more = [PairName({"initializer": "zeros", "activation": "relu", "depth": depth}, 3) for depth in (2, 9)]
    table = grid_table(profiles, more=more)
    assert table.title == "3 pairs, activation relu, 2 to 3 seeds"
    assert table.columns[:2] == ("initializer", "depth")
    assert [row[:2] for row in table.rows] == [("he_normal", "2")]
    assert table.notes[0].startswith("and 2 more pairs: propscope show")


def test_the_verdict_stands_behind_the_names():
    profiles = ProfileSet.of(pair(name, seed) for name in ("he_normal", "zeros") for seed in range(2))
    table = grid_table(profiles, ["healthy", "broken: vanishing backward"])
    assert [row[:2] for row in table.rows] == [("he_normal", "healthy"), ("zeros", "broken: vanishing backward")]
    assert table.columns[:2] == ("initializer", "verdict")
    assert table.left == {"initializer", "verdict"}
    assert table.legend[0].startswith("verdict: ")
    assert grid_table(profiles[:2], ["healthy"]).rows[0][0] == "healthy"
    plain = grid_table(profiles)
    assert not any("verdict" in text for text in (*plain.columns, *plain.legend, *plain.brief))


def test_the_set_prints_its_verdicts():
    profiles = ProfileSet.of(layered([1e6**i for i in range(3)], initializer=name, seed=0) for name in "ab")
    assert str(profiles).count("broken: exploding forward") == 2
    assert "broken: exploding forward" in profiles._repr_html_()
    assert str(ProfileSet(())).startswith("0 pairs")


def test_the_interval_stands_behind_the_factor():
    profiles = ProfileSet.of([layered([1.0, 2.0], seed=0), layered([1.0, 2.2], seed=1)])
    assert cells(grid_table(profiles))["forward over depth"] == "2.10 [1.1, 3.8]"
    assert cells(grid_table(profiles, intervals=False))["forward over depth"] == "2.10"
    assert cells(grid_table(profiles[:1]))["forward over depth"] == "2.00"


def test_a_vanished_and_an_overflowed_seed():
    profiles = ProfileSet.of(layered([1.0, last], seed=seed) for seed, last in enumerate([0.0, 2.0]))
    assert cells(grid_table(profiles))["forward over depth"] == "0 [0, 2.0]"
    profiles = ProfileSet.of(layered([1.0, last], seed=seed) for seed, last in enumerate([math.inf, 2.0]))
    assert cells(grid_table(profiles))["forward over depth"] == "inf [2.0, inf]"
    assert cells(grid_table(profiles))["nonfinite"] == "4"


def test_what_is_not_there_is_a_dash():
    row = cells(grid_table(ProfileSet.of([layered([1.0, 1.0])])))
    assert (row["backward over depth"], row["flat"], row["dead"], row["cosine"]) == ("-", "-", "-", "-")


def test_every_label_that_varies_is_a_column():
    profiles = ProfileSet.of(
        layered([1.0], initializer="a", activation=activation, width=width, seed=0)
        for activation in ("relu", "tanh")
        for width in (4, "8-4")
    )
    table = grid_table(profiles)
    assert table.columns[:2] == ("activation", "width")
    assert [row[:2] for row in table.rows] == [("relu", "4"), ("relu", "8-4"), ("tanh", "4"), ("tanh", "8-4")]
    assert table.title == "4 pairs, initializer a, 1 seed"


def test_a_label_that_only_some_have_is_a_column():
    table = grid_table(ProfileSet.of([pair("he_normal", 0), pair("he_normal", 1), pair("he_normal", 0, norm="batch")]))
    assert table.title == "2 pairs, initializer he_normal, activation relu, depth 2, 1 to 2 seeds"
    assert [row[0] for row in table.rows] == ["", "batch"]
    assert table.columns[0] == "norm"


def test_no_pairs():
    assert grid_table(ProfileSet(())).title == "0 pairs, 0 seeds"
    assert grid_table(ProfileSet(())).rows == ()


def test_rows_of_a_network():
    table = profile_table(pair("he_normal", 3))
    assert table.title == "initializer he_normal, activation relu, depth 2, seed 3: 4 sites, 1 parameter"
    assert cells(table) == {
        "layer": "1",
        "site": "layers.0.linear",
        "kind": "Linear",
        "role": "pre-activation",
        "forward mean": "0",
        "forward std": "2.00",
        "forward rms": "2.00",
        "gain": "",
        "backward rms": "3.00",
        "backward gain": "0.250",
        "E[h²]/E[z²] (theory)": "",
        "flat": "50%",
        "dead": "1/2",
        "equal": "2/2",
        "cosine": "0.30",
        "rank": "1.50",
    }
    assert [row[3] for row in table.rows] == ["pre-activation", "activation"] * 2
    last = cells(table, 2)
    assert (last["gain"], last["backward gain"]) == ("2.00", "")
    activation = cells(table, 1)
    assert (activation["gain"], activation["flat"], activation["dead"], activation["backward rms"]) == ("", "", "", "-")


def test_a_network_is_printed_with_its_verdict_and_its_marks():
    worst = Finding("exploding", "broken", (), "it grows", "large " * 40, marks={"layers.1.linear": "x9"})
    other = Finding("stagnant", "strained", (), "no gradient", "", marks={"layers.1.linear": "no gradient"})
    table = profile_table(pair("he_normal", 3), Diagnosis((worst, other)))
    lines = table.title.splitlines()
    assert (lines[0], lines[-1][:21]) == ("broken: exploding: it grows", "initializer he_normal")
    assert max(map(len, table.to_text(width=120).splitlines())) <= 120
    assert [row[-1] for row in table.rows] == ["", "", "x9, no gradient", ""]
    assert table.columns[-1] == "marks"
    assert "marks" in table.left
    assert any("x: " in note for note in table.notes)
    healthy = profile_table(pair("he_normal", 3), Diagnosis())
    assert healthy.title.splitlines()[0] == "healthy: no problem found at 4 sites"
    assert "marks" not in healthy.columns


def test_a_profile_prints_its_verdict():
    profile = layered([1e6**i for i in range(3)])
    assert str(profile).startswith("broken: ")


def test_columns_of_what_is_rare_are_there_where_anything_is_in_them():
    lost = layered([1.0, math.inf], seed=0)
    assert "non-\nfinite" in grid_table(ProfileSet.of([lost])).columns
    assert "non-\nfinite" not in grid_table(ProfileSet.of([pair("he_normal", 0)])).columns
    assert {"non-\nfinite"} == set(profile_table(lost).columns) - set(profile_table(layered([1.0, 1.0])).columns)
    assert "equal" in profile_table(pair("he_normal", 0)).columns


def test_a_network_that_overflows_leaves_the_grid_in_one_piece_of_80_columns():
    healthy = pair("he_normal", 0)
    networks = [replace(layered([1.0, math.inf]), labels={**healthy.labels, "initializer": "ones"}), healthy]
    text = judged_table(ProfileSet.of([each]) for each in networks).to_text(width=80)
    assert "broken: non-finite forward" in text
    assert text.count("initializer") == 1
    assert "dead" in text


def predicted(seed=0, scale=1.0):
    expected = [
        Expected(forward_rms=2.0, forward_log_std=0.1, backward_rms=1.0, backward_log_std=0.5),
        Expected(forward_rms=math.sqrt(2.0)),
        Expected(forward_rms=4.0 / scale, forward_log_std=0.5),
    ]
    return layered([2.0, 4.0], [math.e, 12.0], expected=expected, initializer="he_normal", activation="relu", seed=seed)


def test_what_was_seen_over_what_was_expected_in_the_grid():
    table = grid_table(ProfileSet.of([predicted(), predicted(1, math.e)]))
    row = cells(table)
    assert (row["forward / theory"], row["backward / theory"]) == ("1.6 (+1.0)", "2.7 (+2.0)")
    assert any(text.startswith("/ theory: ") for text in table.legend)


def test_without_any_expectation_there_is_no_column_of_it():
    plain = grid_table(ProfileSet.of([pair("he_normal", 0)]))
    assert not any("theory" in text for text in (*plain.columns, *plain.legend))


def test_a_pair_without_theory_says_why_under_the_table():
    zeros = dataclasses.replace(pair("zeros", 0), coverage=(theory_note("the weights are all equal"),))
    table = grid_table(ProfileSet.of([predicted(), zeros]))
    assert cells(table, 1)["forward / theory"] == "-"
    assert table.notes[-1] == "no theory for zeros: the weights are all equal"
    assert grid_table(ProfileSet.of([zeros])).notes[-1] == "no theory for zeros: the weights are all equal"
    assert profile_table(zeros).notes[-1] == "no theory for zeros: the weights are all equal"


@pytest.mark.parametrize(
    ("log_ratio", "text"),
    [
        (-0.004, "1.0 (0.0)"),
        (-0.99, "0.37 (-9.9)"),
        (1.2, "3.3 (+12)"),
        (110.0, "6e47 (>999)"),
        (-110, "2e-48 (<-999)"),
    ],
)
def test_deviations_are_spelled_in_few_characters(log_ratio, text):
    profile = layered([math.exp(log_ratio)], expected=[Expected(forward_rms=1.0, forward_log_std=0.1)])
    assert cells(profile_table(profile))["forward / theory"] == text


def test_rows_of_a_network_against_theory():
    table = profile_table(predicted())
    first, activation, last = (cells(table, row) for row in range(3))
    assert (first["forward / theory"], first["backward / theory"]) == ("1.0 (0.0)", "2.7 (+2.0)")
    assert (activation["forward / theory"], activation["backward / theory"]) == ("0.71", "-")
    assert activation["E[h²]/E[z²] (theory)"] == "0.250 (0.500)"
    assert first["E[h²]/E[z²] (theory)"] == ""
    assert last["forward / theory"] == "1.0 (0.0)"
    assert cells(table, 3)["E[h²]/E[z²] (theory)"] == "0.250"
    assert any(text.startswith("/ theory: ") for text in table.legend)


def test_a_network_without_pairs_has_no_ratio_of_them():
    table = profile_table(layered([1.0], activations=False))
    assert not any("E[" in text for text in (*table.columns, *table.legend))


def test_the_model_itself_has_a_name_and_no_layer():
    site = Site("", "Net", "output", (1, 1), forward=TensorSummary.of([1.0, math.nan, math.inf]))
    row = cells(profile_table(NetworkProfile((site,))))
    assert (row["site"], row["nonfinite"], row["forward rms"]) == ("(model)", "2", "1.00")
    assert "layer" not in row
    assert profile_table(NetworkProfile((site,))).title == "1 site, 0 parameters"


def test_gains_of_branches_stand_beside_the_sites_that_they_belong_to():
    def site(name, rms, gradient, *parents):
        edges = tuple(map(Parent, parents))
        return Site(
            name, "Linear", "pre-activation", (4, 8), forward=signal(rms), backward=signal(gradient), parents=edges
        )

    branches = site("in", 2.0, 5.0), site("left", 4.0, 3.0, "in"), site("right", 8.0, 4.0, "in")
    table = profile_table(NetworkProfile(branches))
    found = [(cells(table, row)["gain"], cells(table, row)["backward gain"]) for row in range(3)]
    # The gradients of both branches add up in what feeds them: 5 / sqrt(9 + 16).
    assert found == [("", "1.00"), ("2.00", ""), ("4.00", "")]


def test_at_80_columns_a_grid_shows_its_verdicts_and_factors():
    profiles = ProfileSet.of(
        dataclasses.replace(predicted(seed), labels=predicted(seed).labels | {"initializer": name})
        for name in ("he_normal", "xavier_normal", "default")
        for seed in range(2)
    )
    table = grid_table(profiles, ["healthy", "broken: vanishing backward", "strained"], intervals=False)
    text = table.to_text(width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    heads = text.splitlines()[3]
    assert heads.split()[:6] == ["initializer", "verdict", "over", "depth", "over", "depth"]
    assert " more columns with --wide" in text
    assert "broken: vanishing backward" in text
    assert len(text.splitlines()[-2]) <= 80
    # All of them, and what each means, where they are asked for.
    full = table.to_text(explain=True)
    assert "/ theory: rms of z at the last layer" in full
    assert "more columns" not in full


def test_at_80_columns_the_sites_keep_their_names_apart():
    sites = [f"transformer.h.{block}.attn.scaled_dot_product_attention#{call}" for block in (1, 11) for call in (0, 1)]
    profile = layered([1.0] * 4, expected=[Expected(forward_rms=1.0, forward_log_std=0.1)] * 4)
    named = dict(zip([site.name for site in profile.without_inputs.sites], sites, strict=False))
    profile = dataclasses.replace(
        profile, sites=tuple(dataclasses.replace(site, name=named.get(site.name, site.name)) for site in profile.sites)
    )
    lines = profile_table(profile).to_text(width=70).splitlines()
    assert max(map(len, lines[:-2])) <= 70
    rows = [line.split()[0] for line in lines if line.startswith(" transf")]
    assert len(set(rows)) == len(rows) == 4
