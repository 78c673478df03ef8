"""The report on a diagnosis, from hand-built records."""

import math
import subprocess
import sys

import pytest
from building.records import network

from propscope.diagnosis import diagnose
from propscope.records import Diagnosis, Finding, ProfileSet, Remedy
from propscope.report.diagnosis import diagnosis_blocks, diagnosis_text, explanation, finding_text
from propscope.report.findings import verdict_line

LABELS = {"activation": "relu", "initializer": "default", "depth": 20}
FADING = [0.4**layer for layer in range(20)]


def _seeds(backward, count=3, **labels):
    one = {**LABELS, **labels}
    return [network([1.0] * 20, backward[::-1], labels=one, seed=seed) for seed in range(count)]


def test_the_verdict_line_is_verdict_fault_and_place():
    found = diagnose(ProfileSet.of(_seeds(FADING)))
    line = verdict_line(found)
    assert line.startswith("broken: vanishing backward: ")
    assert "3e-8 from layer 20 to layer 1 (x0.40 per layer)" in line
    collapsed = Finding("collapse", "broken", ("layers.4.linear", "layers.9.linear"), "nothing is told apart", "")
    assert verdict_line(Diagnosis((collapsed,), labels=LABELS)) == (
        "broken: collapse at layers.4.linear to layers.9.linear (2 sites): nothing is told apart"
    )


@pytest.mark.parametrize("width", [1, 60, 80, 300])
def test_paragraphs_are_as_wide_as_the_terminal(width):
    growing = _seeds([3.0**layer for layer in range(20)], initializer="normal:std=1")
    for profiles in (_seeds(FADING), [*_seeds(FADING), *growing]):
        found = diagnose(ProfileSet.of(profiles))
        paragraphs = [block for block in diagnosis_blocks(found, width=width) if isinstance(block, str)]
        lines = [line for block in paragraphs for line in block.splitlines()]
        assert lines
        assert max(map(len, lines)) <= min(max(width, 40), 116)
        assert {word for line in lines for word in line.split()} <= set(diagnosis_text(found).split())


def test_a_finding_says_what_where_why_what_to_change_and_how_sure():
    text = diagnosis_text(diagnose(ProfileSet.of(_seeds(FADING))))
    lines = text.splitlines()
    assert lines[1] == "relu + default, depth 20"
    for heading in ("seen", "where", "why", "change", "confidence"):
        assert sum(line.startswith(f"  {heading:10} ") for line in lines) == 1
    flat = " ".join(text.split())
    assert "broken below 1e-6" in flat
    assert "95% interval 3e-8 to 3e-8" in flat
    assert "where layers 20 to 2 why" in flat
    assert (
        "initialize the weights with he_normal (He et al. 2015); or multiply the weight std of layers 2 to 20 by 2.50"
        in flat
    )
    assert "confidence 0.80: " in flat
    assert "layers." not in text
    assert max(map(len, lines)) <= 116


def test_a_healthy_network_says_what_was_looked_for():
    found = diagnose(network([1.0] * 6, [1.0] * 6), notes=False)
    assert found.verdict == "healthy"
    assert verdict_line(found).startswith("healthy: no problem found (")
    assert "vanishing" in verdict_line(found)
    # Rules that only give notes do not count as checks.
    assert "precision" not in verdict_line(found)


def test_a_note_is_no_fault():
    note = Finding("insufficient evidence", "note", (), "8 samples", "", remedy=Remedy("measure", "profile more"))
    text = diagnosis_text(Diagnosis((note,)))
    assert text.startswith("healthy: ")
    assert text.endswith("note: 8 samples; profile more")


def test_several_networks_are_ranked_and_grouped():
    profiles = ProfileSet.of(
        [
            *_seeds([1.0] * 20, initializer="he_normal"),
            *_seeds(FADING),
            *_seeds([0.3**layer for layer in range(20)], activation="tanh"),
            *_seeds([3.0**layer for layer in range(20)], initializer="normal:std=1"),
        ]
    )
    text = diagnosis_text(diagnose(profiles))
    assert text.startswith("4 networks: 3 broken, 1 healthy\n")
    rows = [line.split("  ")[0].strip() for line in text.splitlines()[4:8]]
    assert rows == ["relu + default", "tanh + default", "relu + normal:std=1", "relu + he_normal"]
    assert "broken: vanishing backward: relu + default; tanh + default\n" in text
    assert "the worst of these is tanh + default:" in text
    assert "with relu: initialize the weights with he_normal" in text
    assert text.count("  seen ") == 2
    assert "\nhealthy: relu + he_normal: no problem found" in text
    # What all have in common names none of them.
    assert "depth 20" not in text


def test_many_faults_are_cut_with_a_way_to_the_rest():
    kinds = ("non-finite", "symmetric", "exploding", "vanishing", "collapse", "saturated", "inactive", "stagnant")
    networks = tuple(
        Diagnosis((Finding(kind, "broken", ("a",), "seen", "why", labels={"width": n}),), labels={"width": n})
        for n, kind in enumerate(kinds)
    )
    text = diagnosis_text(Diagnosis((), networks=networks))
    assert "2 more faults; " in text


def test_numbers_that_are_none_are_not_said():
    bare = Finding("vanishing", "broken", ("a", "b"), "gone", "", evidence={"factor": 0.0, "factor_low": math.nan})
    text = "\n".join(explanation(bare))
    assert "nan" not in text
    assert "interval" not in text
    assert "change" not in text
    assert "a to b (2 sites)" in text


def test_a_finding_is_said_by_itself():
    note = Finding("insufficient evidence", "note", (), "8 samples", "")
    assert finding_text(note) == str(note) == "note: 8 samples"
    worst = diagnose(ProfileSet.of(_seeds(FADING))).worst
    first, *rest = finding_text(worst).splitlines()
    assert first == "broken: vanishing backward"
    assert rest == explanation(worst)[0].splitlines() + [
        line for part in explanation(worst)[1:] for line in part.splitlines()
    ]


def test_words_need_no_torch():
    code = "import sys, propscope.report.diagnosis, propscope.cli.diagnose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
