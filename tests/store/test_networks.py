"""The networks of a file, read by the columns that a table shows, have the numbers and verdicts of the whole file."""

import ast
import dataclasses
from pathlib import Path

import pytest
from building.command_line import Command
from building.records import (
    DATA,
    connected_profile,
    mlp,
    model,
    plain,
    predicted,
    predicted_profile,
    small_profile,
    small_set,
    without_theory,
)

import propscope
from propscope.diagnosis import diagnose
from propscope.records import NetworkProfile, ProfileSet, Site
from propscope.records.figures import TABLES
from propscope.report.profile_tables import judged
from propscope.store import SCHEMA_VERSION, StoredNetworks, entries, load, merge, open_networks, read, save


def other_sites() -> ProfileSet:
    seeds = [small_profile(seed=seed) for seed in range(3)]
    seeds[1] = dataclasses.replace(seeds[1], sites=seeds[1].sites[:1])
    return ProfileSet.of(seeds)


def labels_of_several_types() -> ProfileSet:
    labels = ({"width": "8-4", "depth": 2, "rate": 0.5, "seed": 0}, {"width": 8, "depth": "2", "seed": 0}, {})
    return ProfileSet.of(dataclasses.replace(small_profile(), labels=each) for each in labels)


def nothing_finite() -> ProfileSet:
    lost = Site("layers.0", "Linear", "pre-activation", (4, 2), layer=1)
    return ProfileSet.of([NetworkProfile((lost,)), NetworkProfile(()), mlp("normal:std=1", depth=60)])


SETS = {
    "interleaved seeds and mixed depth": lambda: ProfileSet.of(
        mlp(name, act, depth=depth, seed=seed)
        for seed in range(3)
        for act, depth in (("relu", 3), ("tanh", 6))
        for name in ("zeros", "he_normal")
    ),
    "theory": lambda: ProfileSet.of(
        [predicted(mlp(depth=3)), without_theory(mlp("zeros", depth=3), "the weights are equal"), mlp(depth=4)]
    ),
    "labels of several types": labels_of_several_types,
    "seeds with other sites": other_sites,
    "models": lambda: ProfileSet.of([model(seed=1), connected_profile(1), connected_profile(2)]),
    "what is not finite or missing": nothing_finite,
    "nothing": lambda: ProfileSet(()),
    "singular values": lambda: small_set() + ProfileSet((predicted_profile(),)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_networks_give_the_numbers_and_verdicts_of_the_whole_file(tmp_path, name):
    save(tmp_path / "run.h5", SETS[name]())
    same_as_whole(tmp_path / "run.h5")


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_so_they_do_in_a_file_of_any_version(version):
    same_as_whole(DATA / f"schema-{version}.h5")


def test_so_they_do_among_the_profiles_of_many_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "_BATCH", 5)
    monkeypatch.setattr(entries, "_MADE", 3)
    save(tmp_path / "run.h5", SETS["interleaved seeds and mixed depth"]())
    same_as_whole(tmp_path / "run.h5")


def same_as_whole(path: Path) -> None:
    whole = load(path)
    assert isinstance(whole, ProfileSet)
    with open_networks(path) as shown:
        assert isinstance(shown, StoredNetworks)
        found = [*judged(shown)]
        # Once more: networks are made anew each time.
        assert [len(members) for members in shown] == [pair.seeds for pair, _ in found]
        assert (len(shown), shown.profiles) == (len(found), len(whole))
        for most in (0, 1, len(found)):
            first, others = shown.split(most)
            assert plain([*judged(first)]) == plain(found[:most])
            assert [(name.labels, name.seeds) for name in others] == [
                (pair.labels, pair.seeds) for pair, _ in found[most:]
            ]
    assert plain([pair for pair, _ in found]) == plain([*whole.pairs()])
    expected = [diagnose(members, notes=False) for members in whole.groups("seed").values()]
    assert plain([diagnosis for _, diagnosis in found]) == plain(expected)


def test_no_rule_looks_at_what_a_table_leaves_out():
    hidden = {
        field.part or field.attribute
        for table, fields in TABLES.items()
        for field in fields
        if (table, field.name) in read._DETAILS
    } - {"labels", "provenance"}
    assert {"jacobian", "jacobian_condition", "expected_gradient_norm", "largest_logit"} <= hidden
    root = Path(propscope.__file__).parent
    # What compares two files reads them whole.
    files = {*(root / "diagnosis").glob("*.py")} - {root / "diagnosis" / name for name in ("compare.py", "check.py")}
    files |= {root / "records" / f"{name}.py" for name in ("gains", "graph", "pair_summary")}
    assert len(files) > 10
    for file in files:
        looked_at = {node.attr for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Attribute)}
        texts = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not (looked_at | texts) & hidden, file.name


def test_labels_select_networks(tmp_path):
    save(tmp_path / "run.h5", small_set())
    with open_networks(tmp_path / "run.h5", initializer="zeros", seed=[0, 2]) as networks:
        (members,) = networks
    assert [profile.labels["seed"] for profile in members] == [0, 2]


def test_show_prints_what_the_whole_file_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save("run.h5", SETS["theory"]())
    # A table of the records themselves.
    assert Command(capsys)("show", "run.h5").out.strip() == str(load("run.h5")).strip()


def test_profiles_beside_those_of_runs_are_not_shown(tmp_path):
    merge([DATA / "schema-3.h5", DATA / "schema-3-training.h5"], tmp_path / "both.h5")
    with open_networks(tmp_path / "both.h5") as found:
        assert not isinstance(found, StoredNetworks)
