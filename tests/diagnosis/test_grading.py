"""A cause comes before what it brings about, and is as severe."""

from building.records import evidence, model, site

from propscope.diagnosis.diagnose import graded
from propscope.diagnosis.rules import RULES
from propscope.records.finding import Finding

LOCAL = next(rule for rule in RULES if rule.local)
GLOBAL = next(rule for rule in RULES if rule.name == "exploding")
SITES = evidence(model([site(name) for name in "abcd"]))


def finding(severity, *sites, direction="forward"):
    return Finding("exploding", severity, sites, "", "", direction=direction)


def severity(cause, *effects):
    return graded(SITES, [(LOCAL, cause), *((GLOBAL, effect) for effect in effects)])[0].severity


def test_a_cause_is_as_severe_as_what_is_behind_it():
    assert severity(finding("strained", "b"), finding("broken", "b", "c")) == "broken"
    assert severity(finding("strained", "b"), finding("broken", "c", "d")) == "broken"


def test_what_begins_before_it_is_none_of_its_effects():
    assert severity(finding("strained", "b"), finding("broken", "a", "b", "c")) == "strained"


def test_the_gradient_is_changed_before_it():
    assert severity(finding("strained", "b"), finding("broken", "b", "a", direction="backward")) == "broken"
    assert severity(finding("strained", "b"), finding("broken", "d", "c", direction="backward")) == "strained"


def test_notes_and_rules_on_the_whole_explain_nothing():
    assert severity(finding("note", "b"), finding("broken", "c")) == "note"
    pair = [(GLOBAL, finding("strained", "b")), (GLOBAL, finding("broken", "c"))]
    assert graded(SITES, pair)[0].severity == "strained"


def test_what_has_no_site_is_no_effect():
    assert severity(finding("strained", "b"), finding("broken")) == "strained"
