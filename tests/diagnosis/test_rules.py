"""Every word in the margin has a line that explains it, and that line states the limits that the rules apply."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from building.records import UNITS, geometric, model, network, site, weight, with_mean

from propscope import diagnose
from propscope.diagnosis import limits
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.rules import RULES
from propscope.records import CoverageNote, Parameter, Parent, TensorSummary
from propscope.records.time_course import StateCourse, TimeCourse
from propscope.report.findings import mark_legend
from propscope.report.profile_tables import GRID_NOTE


def numbers(word):
    """The numbers in the rule of a mark."""
    return [float(text) for text in re.findall(r"(?<!e\^)\d+(?:\.\d+)?", mark_legend([word])[0])]


def test_the_limits_of_the_marks():
    beyond, below = numbers("x98")
    assert round(math.exp(limits.ODD)) == beyond
    assert 1 / beyond == below
    assert numbers("vanishing") == [round(math.exp(limits.STRAINED))]
    assert numbers("saturated") == [100 * limits.SATURATED]
    assert numbers("inactive") == [100 * limits.INACTIVE]
    assert numbers("dead") == [100 * limits.DEAD]
    assert numbers("alike") == [round(100 * limits.COLLAPSING, 2)]


def test_the_limits_of_the_verdict():
    slow_from = [math.exp(limits.SLOWED * limit) for limit in (limits.EXPLODED, -limits.VANISHED)]
    (said,) = re.findall(r"grows by (\S+) or shrinks to ([^)]+)\)", GRID_NOTE)
    assert [float(text) for text in said] == [float(f"{factor:.2g}") for factor in slow_from]


def blocks(*middle, count=4, at=1):
    """Return blocks of a norm, a layer and an activation, with other sites in the place of those of block `at`."""
    sites = [site("stem")]
    for n in range(count):
        own = [site(f"h.{n}.norm", "LayerNorm", role="norm"), site(f"h.{n}.up"), with_mean(f"h.{n}.act", "ReLU", 0.7)]
        sites += own if n != at or not middle else middle
    return sites


def unlearned(profile, *, frozen=False):
    first, *rest = profile.parameters
    notes = (CoverageNote(first.name, "parameter", "frozen: requires_grad was False"),) * frozen
    return replace(profile, parameters=(replace(first, gradient=None), *rest), coverage=notes)


def stopped(profile, lost_by):
    first, *rest = profile.parameters
    lost = {"gradient_outlook": "never", "gradient_lost_at": first.name.removesuffix(".weight")}
    return replace(profile, parameters=(replace(first, gradient=None, gradient_lost_by=lost_by, **lost), *rest))


NAN = math.nan
NORM, UP, ACT = blocks()[4:7]
SUMS = [site(f"a.0.add#{n}", "add", role="residual", branch_share=0.5, rms=rms) for n, rms in enumerate((1.0, 1.84))]
IMAGE = replace(site("input", "input", role="input", rms=150.0), parents=())
FED = replace(site("0", rms=90.0), parents=(Parent("input", ("Linear",)),), parameters=("0.weight",))
TOKENS = replace(site("e", "Embedding", role="embedding"), parents=(), parameters=("e.weight",))
LOGITS = replace(
    site("h", rms=16.0, features=64), parents=(Parent("e", ("Linear",)),), parameters=("e.weight", "h.weight")
)
ACROSS = replace(site("s", "softmax", softmax_axis=0), parents=(Parent("0", ("softmax",)),))
BIAS, GAIN = (
    Parameter(name, (UNITS,), TensorSummary.of(np.full(UNITS, value)), TensorSummary.of([1.0]))
    for name, value in (("0.bias", 10.0), ("n.weight", 0.02))
)
NORMED = replace(site("n", "LayerNorm", role="norm", rms=0.02), parameters=("n.weight",))
POOLED = replace(site("n", "GroupNorm", role="norm", rms=1e-6, features=UNITS), parents=(Parent("0", ("GroupNorm",)),))
SHIFTED = replace(site("0", rms=10.0), parents=(), parameters=("0.bias",))
BEHIND = replace(site("1"), parents=(Parent("0", ("Linear",)),), parameters=("1.weight",))
GROWING = StateCourse((1.0, 1.0), (1.0, 1.0), (1.6, 1.6))
GIVEN = {
    "over time x1.6": replace(
        model([site("rnn"), site("end")]),
        time_courses=(TimeCourse("rnn", "RNN", length=60, steps=(1, 60), hidden=GROWING),),
    ),
    "one-hot": model([site("s", "softmax", attention_entropy=0.1, logit_spread=40.0), site("end")]),
    "logits x16": model([TOKENS, LOGITS], [weight("e.weight", 16.0, (64, 256))]),
    "wrong axis": model([IMAGE, FED, replace(ACROSS, shape=FED.shape)]),
    "masked rows": model([site("s", "softmax", masked_rows=0.1), site("end")]),
    "bias xinf": model([SHIFTED, BEHIND], [BIAS]),
    "gain x0.020": model([NORMED], [GAIN]),
    "single values": model([replace(site("0"), parents=()), POOLED]),
    "too large": model([IMAGE, FED], [weight("0.weight", 0.6)]),
    "NaN": network([1.0, NAN, NAN]),
    "Inf": model([replace(site("a"), forward=TensorSummary.of(np.array([1.0, math.inf])))]),
    "grad NaN": network([1.0] * 3, [NAN, 1.0, 1.0]),
    "weight x98": model([site("stem"), site("body"), site("end")], [weight("body.weight", 98.0)]),
    "zero weights": model([site("stem"), site("body"), site("end")], [weight("body.weight", 0.0, gradient=0.0)]),
    "not ReLU": model(blocks(NORM, UP, with_mean("h.1.act", "Sigmoid", 0.05))),
    "no norm": model(blocks(UP, ACT)),
    "added twice": model([site("a.0.up"), *SUMS, site("end")]),
    "zero": network([0.0] * 3, symmetric_units=UNITS),
    "symmetric": network([1.0] * 3, symmetric_units=UNITS),
    "x98": network([1.0, 1.0, 98.0, 98.0]),
    "grad x50": network([1.0] * 4, [50.0, 50.0, 1.0, 1.0]),
    "exploding": network(geometric(1e4)),
    "grad exploding": network([1.0] * 20, geometric(1e4, reverse=True)),
    "vanishing": network(geometric(1e-8)),
    "grad vanishing": network([1.0] * 20, geometric(1e-8, reverse=True)),
    "alike": network([1.0] * 4, mean_cosine=[0.1, 1 - 1e-4, 1 - 1e-4, 1 - 1e-4]),
    "saturated": network([1.0] * 3, activation="Tanh", flat_fraction=0.9),
    "inactive": network([1.0] * 3, flat_fraction=0.95),
    "dead": network([1.0] * 3, dead_units=UNITS),
    "no gradient": unlearned(network([1.0] * 3)),
    "stops": stopped(network([1.0] * 3), "detached"),
    "unused": stopped(replace(network([1.0] * 3), sites=network([1.0] * 3).sites[1:]), "not run"),
    "unregistered": replace(
        model([site("stem"), site("relu", "relu", parents=(Parent("stem", ("linear", "relu")),))]),
        coverage=(
            CoverageNote(
                "linear", "operation", "weights of 1 linear operation are not registered: trainable tensors (4,4) that"
            ),
        ),
    ),
    "frozen": unlearned(network([1.0] * 3), frozen=True),
}  # fmt: skip


@pytest.mark.parametrize("word", GIVEN)
def test_each_word_has_a_line_that_names_it(word):
    given = {mark for finding in diagnose(GIVEN[word]).findings for mark in finding.marks.values()}
    assert word in given
    named = word.removeprefix("grad ").split(" ")[0] if " x" in word or word.startswith(("not", "grad")) else word
    named = "x" if re.match(r"x\d", named) else named
    (line,) = [line for line in mark_legend([word]) if not line.startswith("grad:")]
    assert re.search(rf"\b{named}\b", line.partition(":")[0])
    assert ("grad: of the gradient" in mark_legend([word])) == word.startswith("grad ")
    assert all(mark_legend([each]) for each in given)


def test_a_rule_explains_the_words_that_it_gives_itself():
    for rule in RULES:
        for word, profile in GIVEN.items():
            for finding in rule.find(Evidence.of([profile])):
                for mark in finding.marks.values():
                    assert any(re.search(pattern, mark) for pattern, _ in rule.marks), (rule.name, word, mark)


def test_no_line_stands_for_a_word_that_no_rule_gives():
    given = {mark for each in GIVEN.values() for finding in diagnose(each).findings for mark in finding.marks.values()}
    for rule in RULES:
        for pattern, line in rule.marks:
            assert any(re.search(pattern, mark) for mark in given), line
