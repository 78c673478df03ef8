"""A diagnosis in few words, on records made by hand."""

import pytest
from building.records import layered

from propscope.records import NetworkProfile
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.report.verdict import by_labels, faults, mark_rules, note_lines, site_marks, verdict_lines, verdict_word

PROFILE = layered([1.0, 2.0], [1.0, 1.0])
LAYERS = ("layers.0.linear", "layers.1.linear")


def finding(kind, severity="broken", sites=LAYERS[1:], message="it fades", **fields):
    return Finding(kind, severity, sites, message, "small weights", **fields)


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ((), "healthy"),
        ((finding("precision", "note"),), "healthy"),
        ((finding("vanishing", direction="backward"), finding("collapse", "strained")), "broken: vanishing backward"),
        ((finding("non-finite", direction="forward"),), "broken: non-finite forward"),
        ((finding("non-finite"),), "broken: non-finite"),
        ((finding("saturated", "strained", direction="backward"),), "strained: saturated"),
    ],
)
def test_the_word_of_a_cell(found, word):
    assert verdict_word(Diagnosis(found)) == word


def test_the_first_lines_name_the_fault_its_cause_and_what_to_do():
    worst = finding("vanishing", direction="backward", remedy=Remedy("scale", "multiply by 2"))
    assert verdict_lines(PROFILE, Diagnosis((worst,))) == (
        "broken: it fades",
        "cause: small weights",
        "remedy: multiply by 2",
    )
    others = (finding("collapse", "strained", LAYERS), finding("stagnant", "strained", ("",)), finding("symmetric"))
    note = finding("precision", "note")
    assert verdict_lines(PROFILE, Diagnosis((worst, *others, note)))[-1] == (
        "3 more findings: strained: collapse from layers.0.linear; strained: stagnant at (model); "
        "broken: symmetric at layers.1.linear"
    )
    alike = [finding("exploding", "strained", (str(number),), direction="forward") for number in range(4)]
    assert verdict_lines(PROFILE, Diagnosis((worst, *alike, finding("inactive", sites=()))))[-1] == (
        "5 more findings: strained: exploding forward at 0, at 1, at 2, ...; broken: inactive"
    )


def test_the_first_site_is_named_where_the_message_names_another():
    worst = finding("saturated", "strained", LAYERS, "60% of the input of Tanh at layers.1.linear are flat")
    assert verdict_lines(PROFILE, Diagnosis((worst,)))[0] == (
        "strained: 60% of the input of Tanh at layers.1.linear are flat (2 sites, the first layers.0.linear)"
    )
    worst = finding("stagnant", sites=("head",), message="no gradient")
    assert verdict_lines(PROFILE, Diagnosis((worst,)))[0] == "broken: no gradient (at head)"


def test_a_sound_network_is_healthy_as_far_as_it_was_seen():
    assert verdict_lines(PROFILE, Diagnosis()) == ("healthy: no problem seen at 4 sites",)
    assert verdict_lines(layered([1.0]), Diagnosis()) == ("healthy: no problem seen at 2 sites, forward alone",)
    assert verdict_lines(NetworkProfile(()), Diagnosis()) == ("no verdict: no site was seen",)


def test_notes_are_no_faults_and_the_precision_is_said_elsewhere():
    few = finding("insufficient evidence", "note", (), "8 samples were seen", remedy=Remedy("measure", "show 16"))
    found = Diagnosis((finding("symmetric"), few, finding("precision", "note"), finding("stagnant", "note")))
    assert [fault.kind for fault in faults(found)] == ["symmetric"]
    assert note_lines(found) == ("note: 8 samples were seen; show 16", "note: it fades")


def test_marks_stand_at_their_sites_once():
    mark = {"layers.1.linear": "zero"}
    found = Diagnosis(
        (
            finding("symmetric", marks=mark),
            finding("vanishing", marks={**mark, "layers.0.linear": "vanishing", "elsewhere": "x9"}),
            finding("stagnant", marks={"layers.1.linear": "no gradient"}),
            finding("stagnant", "note", marks={"layers.0.linear": "frozen"}),
        )
    )
    assert site_marks(PROFILE, found) == {0: ("vanishing",), 2: ("zero", "no gradient")}


def test_each_network_is_found_by_its_labels():
    one, two = (Diagnosis(labels={"initializer": name, "depth": 2}) for name in "ab")
    both = by_labels(Diagnosis(networks=(one, two)))
    assert both[frozenset({("depth", 2), ("initializer", "b")})] is two
    assert list(by_labels(one)) == [frozenset({("initializer", "a"), ("depth", 2)})]


def test_rules_are_given_for_the_words_alone():
    assert mark_rules(["good"]) == ()
    assert [rule.split(":")[0] for rule in mark_rules(["grad x0.1", "no gradient"])] == ["x", "grad", "no gradient"]
    assert [rule.split(":")[0] for rule in mark_rules(["zero"])] == ["zero, symmetric"]
    assert [rule.split(":")[0] for rule in mark_rules(["no gradient"])] == ["no gradient"]
