from dataclasses import replace

import pytest
from building.records import evidence, geometric, network, summary

from propscope.diagnosis.missing_gradients import insufficient_in_grid, insufficient_in_model, stagnant
from propscope.records import CoverageNote

UNRECORDED = "its gradient was put in place without a backward hook, as FSDP does: not recorded"


def without_gradient(profile, *indices, zero=False, reason="no gradient reached it"):
    parameters = list(profile.parameters)
    for index in indices:
        parameters[index] = replace(parameters[index], gradient=summary(0.0) if zero else None)
    notes = tuple(CoverageNote(parameters[index].name, "parameter", reason) for index in indices)
    return replace(profile, parameters=tuple(parameters), coverage=notes)


class TestStagnant:
    @pytest.mark.parametrize("zero", [False, True])
    def test_some_without_a_gradient_strain_all_break(self, zero):
        some = list(stagnant(evidence(without_gradient(network([1.0] * 3), 1, zero=zero))))
        assert [(each.severity, each.sites) for each in some] == [("strained", ("layers.1.linear",))]
        every = list(stagnant(evidence(without_gradient(network([1.0] * 3), 0, 1, 2, zero=zero))))
        assert [each.severity for each in every] == ["broken"]

    def test_what_is_frozen_is_a_note(self):
        reason = "frozen: requires_grad was False when tracking began"
        (found,) = stagnant(evidence(without_gradient(network([1.0] * 3), 0, 1, reason=reason)))
        assert (found.severity, found.first) == ("note", "layers.0.linear")
        assert "frozen" in found.message

    def test_a_gradient_that_was_not_recorded_may_be_there(self):
        seen = evidence(without_gradient(network([1.0] * 3), 0, 1, 2, reason=UNRECORDED))
        assert list(stagnant(seen)) == []

    def test_a_gradient_in_one_seed_is_a_gradient(self):
        one, other = without_gradient(network([1.0] * 3, seed=0), 1), network([1.0] * 3, seed=1)
        assert list(stagnant(evidence(one, other))) == []

    def test_without_a_backward_pass_nothing_is_said(self):
        assert list(stagnant(evidence(without_gradient(network([1.0] * 2, gradients=False), 0, 1)))) == []


class TestInsufficient:
    @staticmethod
    def messages(*members):
        seen = evidence(*members)
        found = list((insufficient_in_grid if seen.subject == "grid" else insufficient_in_model)(seen))
        assert {each.severity for each in found} <= {"note"}
        return [each.message for each in found]

    def test_a_whole_profile_says_nothing(self):
        assert self.messages(network([1.0] * 5)) == []

    def test_no_site_one_layer_no_gradient_few_samples(self):
        assert "no site" in self.messages(replace(network([1.0]), sites=()))[0]
        assert "one layer" in self.messages(network([1.0]))[0]
        assert "no gradient" in self.messages(network([1.0, 1.0], gradients=False))[0]
        assert "15 samples" in self.messages(network([1.0, 1.0], samples=15))[0]

    def test_gradients_that_were_not_recorded_are_not_judged(self):
        (message,) = self.messages(without_gradient(network([1.0] * 3), 0, 1, 2, reason=UNRECORDED))
        assert message == "the gradient of layers.0.linear.weight, and those of 2 more, is not judged"

    def test_an_interval_about_a_limit_asks_for_more_seeds(self):
        wide = [network(geometric(factor), seed=seed) for seed, factor in enumerate((0.02, 0.05, 0.12))]
        (message,) = self.messages(*wide)
        assert "with 3 seeds" in message
        assert "above the limit of 0.050" in message
        narrow = [network(geometric(factor), seed=seed) for seed, factor in enumerate((0.20, 0.21, 0.22))]
        assert self.messages(*narrow) == []

    def test_a_single_seed_wanders_as_far_as_theory_has_it(self):
        # 19 layers of 64 units: sqrt(5 * 19 / 64) / 2 = 0.61, twice that on either side of ln 0.1 reaches e^-3.
        (message,) = self.messages(network(geometric(0.1)))
        assert message.startswith("forward factor 0.10; with one seed it could be below the limit of 0.050")
        assert self.messages(network(geometric(0.3))) == []
