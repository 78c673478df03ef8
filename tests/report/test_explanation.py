"""The explanations, from hand-built records alone."""

import math
import subprocess
import sys

import pytest
from building.records import network

from propscope.diagnosis import diagnose
from propscope.records import Diagnosis, Finding, ProfileSet, Remedy
from propscope.report.explanation import confidence, explained, explanation, fault, first_line, name_of

LABELS = {"activation": "relu", "initializer": "default", "depth": 20}
FADING = [0.4**layer for layer in range(20)]


def _seeds(backward, count=3, **labels):
    one = {**LABELS, **labels}
    return [network([1.0] * 20, backward[::-1], labels=one, seed=seed) for seed in range(count)]


def test_the_first_line_is_verdict_fault_and_place():
    found = diagnose(ProfileSet.of(_seeds(FADING)))
    line = first_line(found)
    assert line.startswith("broken: vanishing backward: ")
    assert "3e-8 from layer 20 to layer 1 (x0.40 per layer)" in line
    collapsed = Finding("collapse", "broken", ("layers.4.linear", "layers.9.linear"), "nothing is told apart", "")
    assert first_line(Diagnosis((collapsed,), labels=LABELS)).startswith(
        "broken: collapse, layers.4.linear to layers.9.linear: nothing"
    )


def test_a_finding_says_what_where_why_what_to_change_and_how_sure():
    text = explained(diagnose(ProfileSet.of(_seeds(FADING))))
    lines = text.splitlines()
    assert lines[1] == "relu + default, depth 20"
    for heading in ("seen", "where", "why", "change", "sure"):
        assert sum(line.startswith(f"  {heading:7} ") for line in lines) == 1
    flat = " ".join(text.split())
    assert "broken below 1e-6" in flat
    assert "95% interval 3e-8 to 3e-8" in flat
    assert "where since layer 20, back to layer 2: 19 places" in flat
    assert (
        "initialize the weights with he_normal (He et al. 2015); or multiply the weight std of layers 2 to 20 by 2.50"
        in flat
    )
    assert "sure very likely: one more seed would show it too with probability 0.80" in flat
    assert "layers." not in text
    assert max(map(len, lines)) <= 116


def test_a_healthy_network_says_what_was_looked_for():
    found = diagnose(network([1.0] * 6, [1.0] * 6), notes=False)
    assert found.verdict == "healthy"
    assert first_line(found).startswith("healthy: nothing wrong seen (")
    assert "vanishing" in first_line(found)
    # What is never wrong is not said to have been looked for.
    assert "precision" not in first_line(found)


def test_a_note_is_no_fault():
    note = Finding("insufficient evidence", "note", (), "8 samples", "", remedy=Remedy("measure", "profile more"))
    text = explained(Diagnosis((note,)))
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
    text = explained(diagnose(profiles))
    assert text.startswith("4 networks: 3 broken, 1 healthy\n")
    rows = [line.split("  ")[0].strip() for line in text.splitlines()[4:8]]
    assert rows == ["relu + default", "tanh + default", "relu + normal:std=1", "relu + he_normal"]
    assert "broken: vanishing backward: relu + default; tanh + default\n" in text
    assert "the worst of these is tanh + default:" in text
    assert "with relu: initialize the weights with he_normal" in text
    assert text.count("  seen ") == 2
    assert "\nhealthy: relu + he_normal: nothing wrong seen" in text
    # What all have in common names none of them.
    assert "depth 20" not in text


def test_many_faults_are_cut_with_a_way_to_the_rest():
    kinds = ("non-finite", "symmetric", "exploding", "vanishing", "collapse", "saturated", "inactive", "stagnant")
    networks = tuple(
        Diagnosis((Finding(kind, "broken", ("a",), "seen", "why", labels={"width": n}),), labels={"width": n})
        for n, kind in enumerate(kinds)
    )
    text = explained(Diagnosis((), networks=networks))
    assert "2 more faults; --act, --init" in text


def test_numbers_that_are_none_are_not_said():
    bare = Finding("vanishing", "broken", ("a", "b"), "gone", "", evidence={"factor": 0.0, "factor_low": math.nan})
    text = "\n".join(explanation(bare))
    assert "nan" not in text
    assert "interval" not in text
    assert "change" not in text
    assert "since a, to b: 2 places" in text


@pytest.mark.parametrize(
    ("probability", "word"), [(6 / 7, "very likely"), (0.8, "very likely"), (2 / 3, "likely"), (0.5, "uncertain")]
)
def test_how_sure(probability, word):
    assert confidence(probability).startswith(word)


def test_the_direction_is_named_where_it_says_something():
    assert fault(Finding("vanishing", "broken", (), "", "", direction="backward")) == "vanishing backward"
    assert fault(Finding("collapse", "broken", (), "", "", direction="forward")) == "collapse"


def test_names():
    assert name_of({}) == "the model"
    assert name_of({"activation": "relu", "initializer": "x", "depth": 3, "seed": 1}) == "relu + x, depth 3"
    assert name_of({"model": "a.py:b"}) == "model a.py:b"


def test_words_need_no_torch():
    code = "import sys, propscope.report.explanation, propscope.cli.diagnose; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
