"""The table of rules is the one that docs/monitoring.md shows, and says of each rule what an engineer must know."""

from pathlib import Path

import pytest

from propscope.monitoring.rules import RULES, STEP_RULES

DOCS = Path(__file__).parents[2] / "docs/monitoring.md"


def table() -> list[list[str]]:
    lines = DOCS.read_text().splitlines()
    begin = lines.index("| alarm | severity | raised when | judged at | healthy runs reach |")
    rows = lines[begin + 2 : lines.index("", begin)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_docs_list_each_rule_with_its_limit_its_place_and_its_evidence():
    listed = [(rule, rule.where) for rule in RULES] + [(rule, "every step") for rule in STEP_RULES.values()]
    expected = [
        [rule.kind, rule.severity, rule.when, where, f"{rule.healthy:.0%}" if rule.healthy else "-"]
        for rule, where in listed
    ]
    assert table() == expected


@pytest.mark.parametrize("rule", [*RULES, *STEP_RULES.values()], ids=lambda rule: rule.kind)
def test_healthy_runs_stay_below_each_limit(rule):
    assert 0 <= rule.healthy < 0.9


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_a_rule_says_in_words_what_its_fields_say(rule):
    lasting = {1: "", 2: "for two samples", 3: "for three samples"}[rule.lasting]
    assert lasting in rule.when
    assert (rule.at == "jump") == ("high for two steps" in rule.when)
    assert (rule.names == "first") == ("the first such site is named" in rule.when)
    assert "{place}" in rule.message
    assert "{others}" in rule.message
    assert (rule.least > 1) == ("at two sites or more" in rule.when)


@pytest.mark.parametrize("rule", STEP_RULES.values(), ids=lambda rule: rule.kind)
def test_a_rule_of_steps_says_for_how_many(rule):
    assert (rule.lasting > 1) == ("for two steps" in rule.when)
