from dataclasses import replace

import pytest
import torch
from building.networks import Made
from building.records import evidence, geometric, network
from torch import nn

import propscope
from propscope.diagnosis.unmeasured import insufficient_in_grid, insufficient_in_model
from propscope.records import CoverageNote, ProfileSet
from propscope.remedies import try_remedies
from propscope.report.documents import diagnosis_document
from propscope.report.findings import verdict_lines

UNRECORDED = "its gradient was put in place without a backward hook, as FSDP does: not recorded"


def without_gradient(profile, *indices, reason):
    parameters = list(profile.parameters)
    for index in indices:
        parameters[index] = replace(parameters[index], gradient=None)
    notes = tuple(CoverageNote(parameters[index].name, "parameter", reason) for index in indices)
    return replace(profile, parameters=tuple(parameters), coverage=notes)


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
        wide = [network(geometric(factor), seed=seed) for seed, factor in enumerate((1e-4, 2.2e-4, 6e-4))]
        (message,) = self.messages(*wide)
        assert "with 3 seeds" in message
        assert "above the limit of 3e-4" in message
        narrow = [network(geometric(factor), seed=seed) for seed, factor in enumerate((0.20, 0.21, 0.22))]
        assert self.messages(*narrow) == []

    def test_a_single_seed_wanders_as_far_as_theory_has_it(self):
        # 19 layers of 64 units: sqrt(5 * 19 / 64) / 2 = 0.61, twice that on either side of ln 5e-4 reaches 2.5e-4.
        (message,) = self.messages(network(geometric(5e-4)))
        assert message.startswith("forward factor 5e-4; with one seed it could be below the limit of 3e-4")
        assert self.messages(network(geometric(0.3))) == []


MODEL = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
BATCH = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))


def tracked(run):
    with propscope.track(MODEL) as recorder:
        run(MODEL)
    return recorder.profile()


UNMEASURED = {
    "an empty recording": (lambda: tracked(lambda model: None), "no site was recorded: Sequential was never called"),
    "filters": (lambda: propscope.profile(MODEL, BATCH, include=["none"]), "no site was recorded"),
    "a scripted model": (lambda: propscope.profile(torch.jit.script(MODEL), BATCH), "TorchScript calls no hooks"),
    "a forward pass": (lambda: tracked(lambda model: model(BATCH)), "run a backward pass"),
    "an empty batch": (lambda: tracked(lambda model: model(BATCH[:0]).sum().backward()), "the batch is empty"),
    "classes for an output": (
        lambda: propscope.profile(Made(lambda m, x: m.body(x).argmax(-1), body=MODEL), BATCH),
        "no gradient was seen",
    ),
    "a loss without a gradient": (
        lambda: propscope.profile(MODEL, BATCH, lambda output: output.detach().sum()),
        "the loss requires no gradient",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("name", UNMEASURED)
def test_what_shows_too_little_is_not_healthy(name):
    make, reason = UNMEASURED[name]
    profile = make()
    diagnosis = propscope.diagnose(profile)
    assert diagnosis.verdict == "not measured"
    assert reason in diagnosis.not_measured
    for text in (str(diagnosis), "\n".join(verdict_lines(profile, diagnosis))):
        assert text.startswith(f"not measured: {diagnosis.not_measured[:40]}")
    assert diagnosis_document(diagnosis)["not_measured"] == diagnosis.not_measured
    both = propscope.diagnose(ProfileSet.of([replace(profile, labels={"depth": depth}) for depth in (1, 2)]))
    assert both.verdict == "not measured"
    assert "2 networks: 2 not measured" in str(both)


@pytest.mark.slow
def test_an_exported_model_is_not_measured():
    exported = torch.export.export(MODEL, (BATCH,)).module()
    diagnosis = propscope.diagnose(propscope.profile(exported, BATCH))
    assert (diagnosis.verdict, "exported" in diagnosis.not_measured) == ("not measured", True)


def test_a_forward_pass_may_show_that_a_network_is_broken():
    spoiled = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    nn.init.constant_(spoiled[0].bias, float("nan"))
    with propscope.track(spoiled) as recorder:
        spoiled(BATCH)
    diagnosis = propscope.diagnose(recorder.profile())
    assert (diagnosis.verdict, bool(diagnosis.not_measured)) == ("broken", True)


def test_nothing_is_fixed_where_nothing_was_measured():
    trials = try_remedies(Made(lambda m, x: m.body(x).argmax(-1), body=MODEL), BATCH)
    assert trials.trials == ()
    assert "no gradient was seen" in str(trials)
