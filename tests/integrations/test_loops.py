"""Loops of one's own, as the docs write them: plain ones, and those with containers of optimizers and schedulers."""

import pytest
import torch
from building.snippets import snippets
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

import propscope

PLAIN, CONTAINERS = snippets("trainers.md", "Your own loop")


class Optimizers(torch.optim.Optimizer):
    """A container of optimizers, which torchtitan makes an optimizer itself so that hooks may be set on it."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers
        every = [parameter for one in optimizers for group in one.param_groups for parameter in group["params"]]
        super().__init__(every, {"lr": 7.0})

    def __iter__(self):
        return iter(self.optimizers)

    def step(self, *arguments, **options):
        for one in self.optimizers:
            one.step(*arguments, **options)

    def zero_grad(self, *arguments, **options):
        for one in self.optimizers:
            one.zero_grad(*arguments, **options)


class Schedulers:
    def __init__(self, optimizers):
        self.schedulers = [LambdaLR(one, lambda step: 1 / (1 + step)) for one in optimizers]

    def step(self):
        for one in self.schedulers:
            one.step()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))


def batches(count):
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(4, 3, generator=generator) for _ in range(count)]
    return [(one, one[:, :2].flip(1)) for one in values]


def test_a_loop_with_containers_is_recorded_as_what_its_optimizers_did(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"propscope": propscope, "torch": torch}
    exec(CONTAINERS, names)
    model, other = network(), network()
    optimizers = Optimizers(torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.AdamW(model[2].parameters(), 0.2))
    made = names["Trainer"](model, optimizers, Schedulers(optimizers), nn.functional.mse_loss)
    first, second = batches(4)[:2], batches(4)[2:]
    made.train_step(first)
    sample = made.monitor.profile
    made.train_step(second)
    made.close()
    losses = [nn.functional.mse_loss(other(inputs), labels) for inputs, labels in first]
    (sum(losses) / 2).backward()
    truth = {name: float(one.grad.norm()) for name, one in other.named_parameters()}
    assert {one.name: one.step_gradient_norm for one in sample.parameters} == pytest.approx(truth, rel=1e-5)
    assert [one.first_moment_norm is not None for one in sample.parameters] == [False, False, True, True]
    steps = propscope.load("run.propscope").steps
    assert steps.loss[0] == pytest.approx(float(sum(losses).detach()) / 2)
    assert steps.learning_rate.tolist() == [0.2, 0.1]
    assert steps.skipped.tolist() == [0, 0]
    hooks = [one._optimizer_step_pre_hooks or one._optimizer_step_post_hooks for one in (optimizers, *optimizers)]
    assert not any(hooks)


def test_a_plain_loop_runs_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = network()
    names = {"propscope": propscope, "torch": torch, "model": model, "loader": batches(3)}
    names |= {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "loss_of": nn.functional.mse_loss}
    exec(PLAIN, names)
    run = propscope.load("run.propscope")
    assert run.steps.number.tolist() == [0, 1, 2]
    assert run.select(step=0)["2"].samples == 4
