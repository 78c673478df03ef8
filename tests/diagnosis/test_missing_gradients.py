from dataclasses import replace

import pytest
from building.records import evidence, network, summary

from propscope.diagnosis.missing_gradients import stagnant
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
