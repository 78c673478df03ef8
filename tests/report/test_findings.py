"""A diagnosis in few words, on records made by hand."""

from dataclasses import replace

import pytest
from building.records import layered

from propscope.diagnosis import diagnose
from propscope.records import NetworkProfile
from propscope.records.finding import Diagnosis, Finding, Remedy
from propscope.report.findings import (
    confidence,
    effects,
    expects_sentence,
    fault,
    faults,
    mark_legend,
    message,
    network_name,
    note_lines,
    place,
    site_marks,
    verdict_lines,
    verdict_word,
)

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
        "broken: vanishing backward: it fades",
        "cause: small weights",
        "remedy: multiply by 2",
    )
    explained = replace(worst, effects=("all are alike", "zeros", "more zeros"))
    assert verdict_lines(PROFILE, Diagnosis((explained,)))[-1] == "explains: all are alike; zeros; and 1 more"
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
        "strained: saturated at layers.0.linear to layers.1.linear (2 sites): "
        "60% of the input of Tanh at layers.1.linear are flat"
    )
    worst = finding("stagnant", sites=("head",), message="no gradient")
    assert verdict_lines(PROFILE, Diagnosis((worst,)))[0] == "broken: stagnant at head: no gradient"


@pytest.mark.parametrize(
    ("site", "said", "named"),
    [
        ("38", "the gradient shrinks from 38 to 0", True),
        ("5", "NaN, seen for 2 of 5 seeds", False),
        ("6", "6 parameters get no gradient", False),
        ("0", "0 is the first to give NaN", True),
        ("fc1", "gain 9 at fc1, not fc12", True),
        ("fc1", "gain 9 at fc12", False),
        ("body.fc", "gain 9 at body.fc.weight", False),
    ],
)
def test_a_site_that_the_message_names_is_not_named_again(site, said, named):
    assert (f" at {site}: " in message(finding("exploding", sites=(site,), message=said))) != named


def test_an_effect_says_where_it_is():
    cause = finding("inactive", effects=("4: the forward gain is 79", "the gradient shrinks from 2 to 0", "x", "y"))
    assert effects(cause) == "at 4 the forward gain is 79; the gradient shrinks from 2 to 0; and 2 more"


def test_what_adam_does_is_said_beside_a_fault():
    trains = {"expects": {"adam": "trains"}, "loads": {"adam": 0.25}}
    assert expects_sentence(Diagnosis((), **trains)).startswith("expect: Adam trains it (load 0.25)")
    fault = Diagnosis((finding("saturated", "strained"),), **trains)
    assert expects_sentence(fault).startswith("expect: all the same, Adam trains it (load 0.25)")
    slow = Diagnosis((finding("vanishing", "strained"),), expects={"adam": "slow"}, loads={"adam": 0.75})
    assert expects_sentence(slow).startswith("expect: Adam is slow (load 0.75)")


def test_the_place_of_a_finding():
    assert place(finding("collapse", sites=())) == ""
    assert place(finding("collapse", sites=("",))) == "(model)"
    assert place(finding("collapse", sites=("a", "b", "c"))) == "a to c (3 sites)"
    layers = tuple(f"layers.{layer}.linear" for layer in range(20))
    grid = {"labels": {"depth": 20}}
    assert place(finding("collapse", sites=layers, **grid), numbered=True) == "layers 1 to 20"
    assert place(finding("collapse", sites=layers[::-1], **grid), numbered=True) == "layers 20 to 1"
    assert place(finding("collapse", sites=layers[::2], **grid), numbered=True) == "layers 1 to 19 (10 sites)"
    assert place(finding("collapse", sites=layers[4:5], **grid), numbered=True) == "layer 5"
    assert place(finding("collapse", sites=layers[4:5]), numbered=True) == "layers.4.linear"
    one = finding("collapse", sites=("layers.1.activation", "layers.2.activation"), **grid)
    assert place(one, numbered=True) == "layer 2 (activation) to layer 3 (activation) (2 sites)"


def test_the_direction_is_named_where_it_says_something():
    assert fault(finding("vanishing", direction="backward")) == "vanishing backward"
    assert fault(finding("collapse", direction="forward")) == "collapse"


def test_the_confidence_is_a_number_with_its_meaning():
    assert confidence(finding("collapse", confidence=6 / 7)).startswith("0.86: how likely one more seed ")


def test_names_of_networks():
    assert network_name({}) == "the model"
    assert network_name({"activation": "relu", "initializer": "x", "depth": 3, "seed": 1}) == "relu + x, depth 3"
    assert network_name({"model": "a.py:b"}) == "model a.py:b"


def test_a_sound_network_is_healthy_as_far_as_it_was_seen():
    assert verdict_lines(PROFILE, Diagnosis()) == ("healthy: no problem found at 4 sites",)
    (line,) = verdict_lines(layered([1.0]), diagnose(layered([1.0])))
    assert line.startswith("not measured: no gradient was seen: the forward pass alone does not show")
    (line,) = verdict_lines(NetworkProfile(()), diagnose(NetworkProfile(())))
    assert line.startswith("not measured: no site was recorded")


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


def test_rules_are_given_for_the_words_alone():
    assert mark_legend(["good"]) == ()
    assert [rule.split(":")[0] for rule in mark_legend(["grad x0.1", "no gradient"])] == ["no gradient", "x", "grad"]
    assert [rule.split(":")[0] for rule in mark_legend(["zero"])] == ["zero, symmetric"]
    assert [rule.split(":")[0] for rule in mark_legend(["no gradient"])] == ["no gradient"]
