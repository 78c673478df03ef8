"""Loops as people write them: each is bit for bit what it is alone, and its gradients are those of the optimizer."""

import copy
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from building.trainings import MODELS, training
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import propscope

STEPS = 5


@dataclass
class Loop:
    """A loop before its first update, which calls `see` when the gradients of a part of the model are whole.

    `truth`: the norms of the gradients by name, before they are clipped.
    """

    model: nn.Module
    optimizers: list[torch.optim.Optimizer]
    batch: Callable[[], torch.Tensor]
    truth: dict[str, float] = field(default_factory=dict)
    losses: list[torch.Tensor] = field(default_factory=list)
    scaler: torch.amp.GradScaler | None = None
    extra: dict = field(default_factory=dict)

    @property
    def optimizer(self):
        return self.optimizers[0]

    def loss(self, model=None):
        batch = self.batch()
        logits = (model or self.model)(batch)
        targets = batch if batch.dtype == torch.int64 else torch.arange(len(batch)) % logits.shape[-1]
        return F.cross_entropy(logits.flatten(0, -2), targets.flatten())

    def see(self, part="", scale=1.0):
        self.truth |= {
            name: float(one.grad.norm()) / scale
            for name, one in self.model.named_parameters()
            if name.startswith(part) and one.grad is not None
        }

    def step(self):
        for one in self.optimizers:
            one.step()
            one.zero_grad()

    @property
    def stepped(self):
        """The names of the parameters that an optimizer has."""
        own = {id(one) for each in self.optimizers for group in each.param_groups for one in group["params"]}
        return {name for name, one in self.model.named_parameters() if id(one) in own}

    def state(self):
        found = [torch.random.get_rng_state(), *self.model.state_dict().values()]
        found += [one.grad for one in self.model.parameters()]
        for optimizer in self.optimizers:
            for state in optimizer.state_dict()["state"].values():
                found += [value for value in state.values() if isinstance(value, torch.Tensor)]
        return found


def of(name="gpt2", optimizer="AdamW", **options):
    run = training(name, optimizer, **options)
    return Loop(run.model, [run.optimizer], run.batch)


class Loops(dict):
    """The loops by name: how each is made, and its update."""

    def of(self, *arguments, **options):
        def keep(update):
            name = update.__name__.replace("_", " ")
            self[name] = (lambda model: of(model, *arguments, **options)), update
            return update

        return keep

    def made_by(self, make):
        def keep(update):
            self[update.__name__.replace("_", " ")] = (lambda model: make()), update
            return update

        return keep


loops = Loops()


@loops.of()
def plain(loop, step):
    loss = loop.loss()
    loss.backward()
    loop.see()
    loop.step()
    return loss


@loops.of("SGD", momentum=0.9)
def three_micro_batches(loop, step):
    for _ in range(3):
        loss = loop.loss() / 3
        loss.backward()
    loop.see()
    loop.step()
    return loss


@loops.of("SGD")
def clipped_by_norm(loop, step):
    loss = loop.loss()
    loss.backward()
    loop.see()
    clip_grad_norm_(loop.model.parameters(), 0.01)
    loop.step()
    return loss


@loops.of()
def clipped_by_value(loop, step):
    loss = loop.loss()
    loss.backward()
    loop.see()
    clip_grad_value_(loop.model.parameters(), 1e-3)
    loop.step()
    return loss


def scaled(loop, *, clip, factor=1.0):
    if loop.scaler is None:
        loop.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1)
    loss = loop.loss()
    loop.scaler.scale(loss * factor).backward()
    loop.see(scale=loop.scaler.get_scale())
    if clip:
        loop.scaler.unscale_(loop.optimizer)
        clip_grad_norm_(loop.model.parameters(), 0.01)
    loop.scaler.step(loop.optimizer)
    loop.scaler.update()
    loop.optimizer.zero_grad()
    return loss


@loops.of()
def scaled_and_unscaled_by_the_scaler(loop, step):
    return scaled(loop, clip=False)


@loops.of("SGD")
def scaled_and_clipped(loop, step):
    return scaled(loop, clip=True)


@loops.of("SGD", momentum=0.5)
def scaled_with_an_overflow(loop, step):
    return scaled(loop, clip=True, factor=1e38 if step == 1 else 1.0)


@loops.of(fused=True)
def scaled_for_a_fused_optimizer_with_an_overflow(loop, step):
    return scaled(loop, clip=False, factor=1e38 if step == 1 else 1.0)


def closure(loop):
    def work():
        loop.optimizer.zero_grad()
        loss = loop.loss()
        loss.backward()
        loop.see()
        return loss

    return work


@loops.of("LBFGS", max_iter=3)
def a_closure_that_runs_often(loop, step):
    return loop.optimizer.step(closure(loop))


@loops.of("SGD")
def a_closure_by_keyword(loop, step):
    return loop.optimizer.step(closure=closure(loop))


@loops.of("SGD")
def sharpness_aware(loop, step):
    loop.loss().backward()
    with torch.no_grad():
        length = torch.stack([one.grad.norm() for one in loop.model.parameters()]).norm()
        kept = [one.clone() for one in loop.model.parameters()]
        for one in loop.model.parameters():
            one += 0.05 * one.grad / length
    loop.optimizer.zero_grad()
    loss = loop.loss()
    loss.backward()
    loop.see()
    with torch.no_grad():
        for one, before in zip(loop.model.parameters(), kept, strict=True):
            one.copy_(before)
    loop.step()
    return loss


class SharpnessAware(torch.optim.Optimizer):
    """The SAM that people copy: an optimizer around another one, whose own `step` may never be called."""

    def __init__(self, params, base):
        super().__init__(params, {})
        self.base_optimizer = base
        self.param_groups = base.param_groups

    @torch.no_grad()
    def first_step(self):
        self.kept = [one.clone() for group in self.param_groups for one in group["params"]]
        for one in (one for group in self.param_groups for one in group["params"]):
            one += 0.05 * one.grad

    @torch.no_grad()
    def second_step(self):
        every = [one for group in self.param_groups for one in group["params"]]
        for one, before in zip(every, self.kept, strict=True):
            one.copy_(before)
        self.base_optimizer.step()

    def step(self, closure=None):
        raise RuntimeError("call first_step and second_step")


def make_wrapped():
    loop = of(optimizer="SGD")
    loop.optimizers = [SharpnessAware(loop.model.parameters(), loop.optimizer)]
    return loop


@loops.made_by(make_wrapped)
def an_optimizer_around_another(loop, step):
    loop.loss().backward()
    loop.optimizer.first_step()
    loop.optimizer.zero_grad()
    loss = loop.loss()
    loss.backward()
    loop.see()
    loop.optimizer.second_step()
    loop.optimizer.zero_grad()
    return loss


class Adversaries(nn.Module):
    def __init__(self):
        super().__init__()
        self.make = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4))
        self.judge = nn.Sequential(nn.Linear(4, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def forward(self, noise):
        return self.judge(self.make(noise))


def adversaries():
    torch.manual_seed(0)
    model = Adversaries()
    optimizers = [torch.optim.Adam(part.parameters(), 1e-2) for part in (model.judge, model.make)]
    return Loop(model, optimizers, lambda: torch.randn(6, 3))


def adversary(loop, step, toggle=False):
    model, (judging, making) = loop.model, loop.optimizers
    if toggle:
        model.judge.requires_grad_(True)
        model.make.requires_grad_(False)
    judging.zero_grad()
    loss = F.softplus(-model.judge(torch.randn(6, 4) + 2)).mean()
    loss = loss + F.softplus(model.judge(model.make(loop.batch()).detach())).mean()
    loss.backward()
    loop.see("judge")
    clip_grad_norm_(model.judge.parameters(), 0.01)
    judging.step()
    if toggle:
        model.judge.requires_grad_(False)
        model.make.requires_grad_(True)
    making.zero_grad()
    F.softplus(-model(loop.batch())).mean().backward()
    loop.see("make")
    making.step()
    return loss


@loops.made_by(adversaries)
def two_optimizers_one_after_the_other(loop, step):
    return adversary(loop, step)


@loops.made_by(adversaries)
def two_optimizers_and_parts_that_are_frozen_in_turns(loop, step):
    return adversary(loop, step, toggle=True)


def make_two():
    loop = of("resnet")
    head = list(loop.model.head.parameters())
    rest = [one for name, one in loop.model.named_parameters() if not name.startswith("head")]
    loop.optimizers = [torch.optim.SGD(head, 0.1), torch.optim.AdamW(rest, 1e-3)]
    return loop


@loops.made_by(make_two)
def two_optimizers_of_one_pass(loop, step):
    loss = loop.loss()
    loss.backward()
    loop.see()
    clip_grad_norm_(loop.model.parameters(), 0.01)
    loop.step()
    return loss


def make_in_backward():
    loop = of()
    by = {one: torch.optim.SGD([one], 0.1, momentum=0.9) for one in loop.model.parameters()}
    loop.optimizers = list(by.values())
    names = {one: name for name, one in loop.model.named_parameters()}

    def step(parameter):
        loop.truth[names[parameter]] = float(parameter.grad.norm())
        by[parameter].step()
        by[parameter].zero_grad()

    for one in by:
        one.register_post_accumulate_grad_hook(step)
    return loop


@loops.made_by(make_in_backward)
def optimizers_that_step_in_the_backward_pass(loop, step):
    loss = loop.loss()
    loss.backward()
    return loss


@loops.of()
def a_copy_of_the_weights_in_the_middle(loop, step):
    loss = loop.loss()
    mean = loop.extra.setdefault("mean", copy.deepcopy(loop.model))
    loss.backward()
    loop.see()
    loop.step()
    with torch.no_grad():
        for one, other in zip(mean.parameters(), loop.model.parameters(), strict=True):
            one.lerp_(other, 0.1)
    return loss + loop.loss(mean)


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant
        self.parts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.Tanh()) for _ in range(3))

    def forward(self, value):
        for part in self.parts:
            value = checkpoint(part, value, use_reentrant=self.reentrant)
        return value


def checkpointed(reentrant):
    def make():
        torch.manual_seed(0)
        model = Checkpointed(reentrant)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        return Loop(model, [optimizer], lambda: torch.randn(5, 4, requires_grad=True))

    return make


@loops.made_by(checkpointed(True))
def parts_that_a_reentrant_checkpoint_runs_again(loop, step):
    return plain(loop, step)


@loops.made_by(checkpointed(False))
def parts_that_a_checkpoint_runs_again(loop, step):
    return plain(loop, step)


@loops.of()
def autocast(loop, step):
    with torch.autocast("cpu", torch.bfloat16):
        loss = loop.loss()
    loss.backward()
    loop.see()
    loop.step()
    return loss


@loops.of("SGD")
def gradients_that_are_zeroed_and_stay(loop, step):
    loop.optimizer.zero_grad(set_to_none=False)
    loss = loop.loss()
    loss.backward()
    loop.see()
    clip_grad_norm_(loop.model.parameters(), 0.01)
    loop.optimizer.step()
    return loss


@loops.of()
def parameters_frozen_and_trained_again(loop, step):
    for one in loop.model.head.parameters():
        one.requires_grad_(step != 2)
    return plain(loop, step)


def make_half():
    loop = of()
    del loop.optimizer.param_groups[0]["params"][2:]
    return loop


@loops.made_by(make_half)
def a_group_that_is_added(loop, step):
    if step == 2:
        known = {id(one) for one in loop.optimizer.param_groups[0]["params"]}
        rest = [one for one in loop.model.parameters() if id(one) not in known]
        loop.optimizer.add_param_group({"params": rest, "lr": 1e-3})
    return plain(loop, step)


def make_lazy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(4))
    return Loop(model, [torch.optim.SGD(model.parameters(), 0.1)], lambda: torch.randn(6, 3))


@loops.made_by(make_lazy)
def lazy_modules(loop, step):
    return plain(loop, step)


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(3, 5), nn.Linear(5, 2)
        self.memory = None

    def forward(self, value):
        memory = None if self.memory is None else tuple(one.detach() for one in self.memory)
        value, self.memory = self.cells(value, memory)
        return self.head(value)


def remembering():
    torch.manual_seed(0)
    model = Remembering()
    return Loop(model, [torch.optim.RMSprop(model.parameters(), 1e-2)], lambda: torch.randn(4, 2, 3))


@loops.made_by(remembering)
def a_state_that_is_carried_on(loop, step):
    loss = loop.model(loop.batch()).square().mean()
    loss.backward()
    loop.see()
    loop.step()
    return loss + loop.model.memory[0].detach().sum()


class Odd(nn.Module):
    """Weights that are tied, sparse, complex, parametrized, empty and single numbers."""

    def __init__(self):
        super().__init__()
        self.tokens, self.rare = nn.Embedding(16, 8), nn.Embedding(16, 8, sparse=True)
        self.turn = nn.Parameter(torch.randn(8, dtype=torch.cfloat))
        self.inner = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.empty, self.scale = nn.Parameter(torch.zeros(0)), nn.Parameter(torch.tensor(1.0))
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens):
        value = torch.tanh(self.inner(self.tokens(tokens) + self.rare(tokens)))
        return self.head((value * self.turn).real) * self.scale + self.empty.sum()


def make_odd():
    torch.manual_seed(0)
    model = Odd()
    return Loop(model, [torch.optim.SGD(model.parameters(), 0.1)], lambda: torch.randint(16, (8, 6)))


@loops.made_by(make_odd)
def odd_weights(loop, step):
    return plain(loop, step)


@loops.made_by(lambda: of(optimizer="Adam", lr=torch.tensor(1e-2)))
def a_schedule_of_a_rate_that_is_a_tensor(loop, step):
    schedule = loop.extra.setdefault("schedule", torch.optim.lr_scheduler.StepLR(loop.optimizer, 2))
    loss = plain(loop, step)
    schedule.step()
    return loss


@loops.of("Rprop")
def a_search_for_anomalies(loop, step):
    with torch.autograd.set_detect_anomaly(True):
        return plain(loop, step)


@loops.of()
def a_validation_within(loop, step):
    loop.model.eval()
    with torch.no_grad():
        found = loop.loss()
    loop.model.train()
    return plain(loop, step) + found


@loops.made_by(lambda: of("resnet"))
def other_recordings_within(loop, step):
    with propscope.track(loop.model) as recorder:
        loss = loop.loss()
        propscope.profile(loop.model, loop.batch(), loss=lambda output: output.square().sum())
        loss.backward()
    assert recorder.profile()["head"].backward is not None
    loop.see()
    loop.step()
    return loss


@loops.of()
def a_second_pass_forward_alone(loop, step):
    loss = loop.loss()
    other = loop.loss()
    loss.backward()
    loop.see()
    loop.step()
    return loss + other


@loops.of()
def one_graph_twice(loop, step):
    loss = loop.loss()
    loss.backward(retain_graph=True)
    (0.5 * loss).backward()
    loop.see()
    loop.step()
    return loss


@loops.of("SGD")
def gradients_of_a_function_put_in_place(loop, step):
    loss = loop.loss()
    found = torch.autograd.grad(loss, list(loop.model.parameters()))
    for one, gradient in zip(loop.model.parameters(), found, strict=True):
        one.grad = gradient
    loop.see()
    loop.optimizer.step()
    return loss


@loops.made_by(adversaries)
def a_penalty_on_the_gradient(loop, step):
    noise = loop.batch().requires_grad_()
    (slope,) = torch.autograd.grad(loop.model(noise).sum(), noise, create_graph=True)
    weights = torch.autograd.grad(loop.model(noise).sum(), list(loop.model.parameters()), allow_unused=True)
    loss = slope.square().sum() + loop.model(loop.batch()).square().mean()
    loss.backward()
    loop.see()
    loop.step()
    return loss + weights[0].sum()


@loops.of()
def written_and_read_within(loop, step):
    loss = loop.loss()
    torch.save(loop.model, io.BytesIO())
    pickle.loads(pickle.dumps(loop.model))
    torch.save(loop.optimizer.state_dict(), io.BytesIO())
    loss.backward()
    loop.see()
    copy.deepcopy(loop.optimizer)
    loop.step()
    return loss


def make_loaded():
    loop = of("resnet")
    torch.manual_seed(5)
    data = TensorDataset(torch.randn(16, 2, 5, 5))
    batches = (one for _ in range(9) for (one,) in DataLoader(data, 8, shuffle=True, num_workers=1))
    loop.batch = lambda: next(batches)
    return loop


@loops.made_by(make_loaded)
def batches_from_a_worker(loop, step):
    return plain(loop, step)


@loops.of()
def a_forward_pass_that_is_interrupted(loop, step):
    if step in (1, 2):
        with pytest.raises(KeyboardInterrupt), interrupted(loop.model.head):
            loop.loss()
    return plain(loop, step)


@loops.of()
def a_backward_pass_that_fails(loop, step):
    if step in (1, 2):
        loss = loop.loss()

        def fail(gradient):
            raise ValueError("no gradient")

        handle = loop.model.norm.weight.register_hook(fail)
        with pytest.raises(ValueError, match="no gradient"):
            loss.backward()
        handle.remove()
        loop.optimizer.zero_grad()
    return plain(loop, step)


@loops.of()
def a_step_of_the_optimizer_that_fails(loop, step):
    loss = loop.loss()
    loss.backward()
    loop.see()
    if step in (1, 2):
        group = loop.optimizer.param_groups[0]
        kept, group["betas"] = group["betas"], None
        with pytest.raises(TypeError):
            loop.optimizer.step()
        group["betas"] = kept
    loop.step()
    return loss


class interrupted:
    def __init__(self, module):
        self.module = module

    def __enter__(self):
        def stop(*_):
            raise KeyboardInterrupt

        self.handle = self.module.register_forward_pre_hook(stop)

    def __exit__(self, *_):
        self.handle.remove()


# Each with one model, and the first ones with every model.
ALL = [(name, model) for name in loops for model in MODELS if model == "gpt2" or name in list(loops)[:9]]


@pytest.mark.parametrize(("name", "model"), ALL)
def test_a_loop_is_bit_for_bit_what_it_is_alone_and_its_gradients_are_those_of_the_step(name, model):
    make, update = loops[name]
    alone, watched = make(model), make(model)
    torch.manual_seed(2)
    expected = [update(alone, step) for step in range(STEPS)]
    left = alone.state()
    torch.manual_seed(2)
    found = []
    given = watched.optimizers if len(watched.optimizers) > 1 else watched.optimizer
    scaler = watched.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=1)
    scale = {"loss_scale": scaler} if alone.scaler else {}
    with propscope.monitor(watched.model, given, every=2, **scale) as monitor:
        for step in range(STEPS):
            watched.truth.clear()
            before = {name: one.detach().clone() for name, one in watched.model.named_parameters() if not is_lazy(one)}
            with monitor.step(step) as one:
                found.append(update(watched, step))
                one.loss(found[-1])
            if step % 2 == 0 and "overflow" not in name:
                assert monitor.profile.labels == {"step": step}
                seen = {one.name: one.step_gradient_norm for one in monitor.profile.parameters}
                assert {name for name, norm in seen.items() if norm is not None} == set(watched.truth)
                for part, norm in watched.truth.items():
                    assert seen[part] == pytest.approx(norm, rel=1e-4, abs=1e-12), part
                changes = {one.name: one.update_norm for one in monitor.profile.parameters}
                for part in watched.stepped & watched.truth.keys() & before.keys():
                    change = float((watched.model.get_parameter(part).detach() - before[part]).norm())
                    assert changes[part] == pytest.approx(change, rel=1e-3, abs=1e-9), part
    for a, b in zip([*found, *watched.state()], [*expected, *left], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a.to_dense(), b.to_dense())
