"""One cause is said once, with what it explains; two causes that have nothing to do with each other both stay."""

from itertools import pairwise, permutations

import pytest
import torch
from building.records import evidence, model, site
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import propscope
from propscope.diagnosis.explain import explained
from propscope.diagnosis.rules import RULES
from propscope.records import Parent
from propscope.records.finding import Finding

RULE = {rule.name: rule for rule in RULES}
CAUSE, SEEN = RULE["weights"], RULE["exploding"]


def parents(*names):
    return tuple(Parent(name, ()) for name in names)


def chain(*names, **kinds):
    before = ((), *((name,) for name in names))
    return [
        site(name, kinds.get(name, "Linear"), parents=parents(*fed)) for name, fed in zip(names, before, strict=False)
    ]


FLAT = evidence(model(chain("a", "b", "c", "d")))
# The ways of the signal part after a and meet in e: a - b - c - e and a - d - e.
FORKED = evidence(model([*chain("a", "b", "c"), site("d", parents=parents("a")), site("e", parents=parents("c", "d"))]))


def finding(kind, severity, *sites, direction="forward", **numbers):
    said = f"{kind} {direction} at {' '.join(sites)}"
    return Finding(kind, severity, sites, said, "", direction=direction, evidence=numbers)


def messages(found):
    return [each.message for each in found]


def severity(cause, *effects, rule=CAUSE):
    return next(
        each.severity
        for each in explained(FLAT, [(rule, cause), *((SEEN, effect) for effect in effects)])
        if each.message == cause.message
    )


def test_a_cause_is_as_severe_as_what_is_behind_it():
    cause = finding("vanishing", "strained", "b")
    assert severity(cause, finding("exploding", "broken", "b", "c")) == "broken"
    assert severity(cause, finding("exploding", "broken", "c", "d")) == "broken"


def test_what_begins_before_it_is_none_of_its_effects():
    assert severity(finding("vanishing", "strained", "b"), finding("exploding", "broken", "a", "b")) == "strained"


def test_the_gradient_is_changed_before_it():
    cause = finding("vanishing", "strained", "b")
    assert severity(cause, finding("exploding", "broken", "b", "a", direction="backward")) == "broken"
    behind = chain("a", "b", "norm", "d", norm="LayerNorm")
    pair = [(CAUSE, cause), (SEEN, finding("exploding", "broken", "d", direction="backward"))]
    assert len(explained(evidence(model(behind)), pair)) == 2


def test_notes_explain_nothing_and_are_kept():
    found = explained(FLAT, [(SEEN, finding("exploding", "broken", "c")), (CAUSE, finding("vanishing", "note", "b"))])
    assert [(each.severity, each.effects) for each in found] == [("broken", ()), ("note", ())]


def test_a_note_on_the_signal_is_an_effect():
    cause, collapse = finding("vanishing", "strained", "b", ratio=0.0), finding("collapse", "note", "c")
    read, short = finding("collapse", "note", "c", "d"), finding("insufficient evidence", "note", "c")
    found = explained(FLAT, [(CAUSE, cause), (SEEN, collapse), (CAUSE, read), (SEEN, short)])
    assert messages(found) == [cause.message, read.message, short.message]
    assert found[0].effects == (collapse.message,)


def test_what_has_no_site_is_no_effect():
    assert severity(finding("vanishing", "strained", "b"), finding("exploding", "broken")) == "strained"


def test_an_effect_is_listed_with_its_own_effects():
    found = explained(
        FLAT,
        [
            (SEEN, finding("collapse", "strained", "d")),
            (SEEN, finding("exploding", "strained", "c", ratio=10.0)),
            (CAUSE, finding("exploding", "strained", "b", ratio=50.0)),
        ],
    )
    assert messages(found) == ["exploding forward at b"]
    assert found[0].effects == ("exploding forward at c", "collapse forward at d")


def test_a_change_beyond_what_a_cause_can_do_has_another_cause():
    small, large = finding("exploding", "strained", "b", ratio=30.0), finding("exploding", "strained", "c", ratio=1e6)
    assert len(explained(FLAT, [(CAUSE, small), (SEEN, large)])) == 2
    assert len(explained(FLAT, [(CAUSE, large), (SEEN, finding("exploding", "broken", "c", "d", factor=30.0))])) == 1


def test_a_size_is_explained_up_to_the_next_norm_and_a_dead_layer_explains_what_is_behind_norms_too():
    behind = evidence(model(chain("a", "b", "norm", "d", norm="LayerNorm")))
    late = finding("exploding", "strained", "d")
    assert len(explained(behind, [(CAUSE, finding("exploding", "strained", "b")), (SEEN, late)])) == 2
    dead = finding("inactive", "strained", "b", direction=None, dead_share=1.0)
    assert messages(explained(behind, [(SEEN, late), (SEEN, dead)])) == [dead.message]


def test_what_another_way_feeds_too_is_not_explained_by_a_dead_layer():
    dead = finding("inactive", "strained", "b", direction=None, dead_share=1.0)
    inside, after, beside = (finding("collapse", "strained", at) for at in "ced")
    assert messages(explained(FORKED, [(SEEN, dead), (SEEN, inside)])) == [dead.message]
    assert len(explained(FORKED, [(SEEN, dead), (SEEN, after)])) == 2
    assert len(explained(FORKED, [(SEEN, dead), (SEEN, beside)])) == 2


def test_a_nan_explains_all_behind_it_and_every_gradient():
    nan = finding("non-finite", "broken", "b")
    others = [finding("collapse", "strained", "c"), finding("vanishing", "strained", "d", "a", direction="backward")]
    assert messages(explained(FORKED, [*((SEEN, each) for each in others), (SEEN, nan)])) == [nan.message]
    assert (
        len(explained(FORKED, [(SEEN, nan), (SEEN, finding("saturated", "strained", "d", direction="backward"))])) == 2
    )


def test_what_is_not_registered_explains_nothing_and_nothing_explains_it():
    other = finding("exploding", "broken", "a", "b", "c")
    assert len(explained(FLAT, [(CAUSE, other), (SEEN, finding("unregistered", "strained", "b", direction=None))])) == 2


KINDS = st.sampled_from(["exploding", "vanishing", "collapse", "saturated", "inactive", "stagnant", "symmetric"])
DRAWN = st.builds(
    lambda rule, kind, severity, sites, direction: (rule, finding(kind, severity, *sites, direction=direction)),
    st.sampled_from([CAUSE, SEEN]),
    KINDS,
    st.sampled_from(["broken", "strained"]),
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=3, unique=True),
    st.sampled_from(["forward", "backward"]),
)


@given(st.lists(DRAWN, max_size=5, unique_by=lambda pair: pair[1].message))
def test_each_finding_is_said_once_in_whatever_order_the_rules_run(found):
    first = explained(FORKED, found)
    assert all(explained(FORKED, order) == first for order in list(permutations(found))[:24])
    said = [text for each in first for text in (each.message, *each.effects)]
    assert len(said) == len(set(said)) <= len(found)
    assert bool(first) == bool(found)
    grave = [each.severity for _, each in found]
    assert ("broken" in grave) == ("broken" in [each.severity for each in first])


def linear(*sizes, act=nn.ReLU):
    return [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), act())]


class Branches(nn.Module):
    """Two stacks of layers side by side, whose outputs are added."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = (
            nn.Sequential(*linear(16, 32, 32, 32)),
            nn.Sequential(*linear(16, 32, 32, 32)),
            nn.Linear(32, 4),
        )

    def forward(self, x):
        return self.head(self.left(x) + self.right(x))


def wrong(net, *shape, scale=1.0):
    batch = scale * torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    return [each for each in propscope.diagnose(propscope.profile(net, batch)).findings if each.severity != "note"]


def test_faults_in_two_branches_are_two_findings():
    torch.manual_seed(0)
    net = Branches()
    nn.init.constant_(net.left[2].bias, -50.0)
    assert [each.first for each in wrong(net, 128, 16)] == ["left.2"]
    with torch.no_grad():
        net.right[2].weight.mul_(200.0)
    assert sorted(each.first for each in wrong(net, 128, 16)) == ["left.2", "right.2"]


@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_dead_layer_is_the_only_finding(at):
    torch.manual_seed(0)
    net = nn.Sequential(*linear(*[64] * 7), nn.Linear(64, 10))
    nn.init.constant_(net[at].bias, -50.0)
    (found,) = wrong(net, 256, 64)
    assert (found.severity, found.first) == ("broken", str(at))
    assert "no gradient" in found.message


def test_a_dead_layer_behind_a_small_one_leaves_that_one_alone():
    torch.manual_seed(0)
    net = nn.Sequential(*linear(*[64] * 6), nn.Linear(64, 10))
    nn.init.constant_(net[4].bias, -20.0)
    (found,) = wrong(net, 64, 64)
    assert found.first == "4"
    assert "its values are all about -20" in found.cause


def test_what_gives_only_zeros_explains_that_samples_are_alike_behind_it():
    torch.manual_seed(0)
    net = nn.Sequential(*linear(64, 64), nn.Dropout(1.0), *linear(64, 64), nn.Linear(64, 10))
    found = propscope.diagnose(propscope.profile(net, torch.randn(64, 64)))
    assert [each.kind for each in found.findings if each.kind != "precision"] == ["stagnant"]
    assert any("hardly differ" in effect for effect in found.findings[0].effects)


def test_what_the_message_says_is_not_said_again_as_an_effect():
    torch.manual_seed(0)
    net = nn.Sequential(*linear(64, 64, 64, act=nn.Tanh), nn.Linear(64, 10))
    (found,) = wrong(net, 64, 64, scale=100.0)
    assert found.kind == "input"
    assert "of the inputs of Tanh at 0" in found.message
    assert not any("of the inputs of Tanh at 0" in effect for effect in found.effects)


class Gated(nn.Module):
    """Values that a gate multiplies: where they are zero, what comes by the gate reaches nothing either."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({n: nn.Linear(16, 16) for n in ("gate", "value")}) for _ in range(4))
        self.end = nn.Linear(16, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer["gate"](x)) * torch.tanh(layer["value"](x))
        return self.end(x)


def test_zeros_that_are_multiplied_explain_that_samples_are_alike_behind_them():
    torch.manual_seed(0)
    net = Gated()
    for parameter in net.layers[1]["value"].parameters():
        nn.init.zeros_(parameter)
    (found,) = wrong(net, 64, 16)
    assert (found.kind, found.first) == ("vanishing", "layers.1.value")
    assert any("hardly differ" in effect for effect in found.effects)


def test_large_weights_and_a_dead_layer_behind_them_are_two_findings():
    torch.manual_seed(0)
    net = nn.Sequential(*linear(*[64] * 9), nn.Linear(64, 4))
    with torch.no_grad():
        net[4].weight.mul_(100)
        net[10].bias.fill_(-50)
    assert sorted(each.first for each in wrong(net, 64, 64)) == ["10", "4"]


def test_weights_that_overflow_explain_the_inf():
    torch.manual_seed(0)
    net = nn.Sequential(*linear(*[64] * 5), nn.Linear(64, 4))
    with torch.no_grad():
        net[2].weight.mul_(1e30)
        net[4].weight.mul_(1e30)
    found = wrong(net, 64, 64)
    assert sorted(each.first for each in found) == ["2", "4"]
    assert all(each.severity == "broken" or not each.effects for each in found)
    assert any("Inf" in text for each in found for text in each.effects)


def test_a_cause_is_kept_beside_what_shows_it_in_the_same_words():
    cause, seen = finding("collapse", "strained", "b"), finding("collapse", "broken", "b", "c", "d")
    (found,) = explained(FLAT, [(SEEN, seen), (CAUSE, cause)])
    assert (found.message, found.severity, found.effects) == (cause.message, "broken", (seen.message,))
