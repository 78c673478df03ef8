"""Faults that are planted between two steps of a training: where each can be, what it changes, what is a right place.

A fault changes a `Run`; nothing of propscope is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from planting import recast
from torch import Tensor, nn
from trainings import Decoder, Run, Twins

Places = Callable[[Run], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: `places` where it can be planted, "" for the whole step, and `plant`, which changes the run.

    `right`: the modules and parameters that an alarm may name; None where the whole step is the cause, and every place
    shows it. `held`: kept back while rules were developed.
    """

    places: Places
    plant: Callable[[Run, str], None]
    right: Callable[[Run, str], set[str]] | None = None
    held: bool = False


def here(run: Run, place: str) -> set[str]:
    return {place}


def above(run: Run, place: str) -> set[str]:
    """Return the module that holds a layer: what it scores or gates is a function there."""
    return {place.rpartition(".")[0] or place}


def following(run: Run, place: str) -> set[str]:
    """Return a layer, and the activation behind it: the next module, or a function in the module that holds both."""
    parent, _, name = place.rpartition(".")
    within = run.model.get_submodule(parent)
    if not isinstance(within, nn.Sequential):
        return {place, f"{parent}.relu", f"{parent}.gelu"}
    return {place, f"{parent}.{int(name) + 1}".lstrip(".")}


def whole(run: Run) -> Iterator[str]:
    yield ""


def matrices(module: nn.Module) -> list[nn.Parameter]:
    """Return the weight matrices that a module holds itself."""
    return [p for p in module.parameters(recurse=False) if p.ndim > 1 and p.requires_grad]


def layers(run: Run) -> Iterator[str]:
    for name, module in run.model.named_modules():
        if name and matrices(module) and not isinstance(module, nn.Embedding):
            yield name


def outputs(run: Run) -> Iterator[str]:
    """Yield the layers whose output is one tensor, other than the last one."""
    found = [name for name in layers(run) if not isinstance(run.model.get_submodule(name), nn.RNNBase)]
    # Inside torch's attention, the layer of the output is used as a bare weight.
    yield from (name for name in found[:-1] if "self_attn" not in name)


def last_layer(run: Run) -> Iterator[str]:
    if not run.training.spread:
        yield list(layers(run))[-1]


def rectified(run: Run) -> Iterator[str]:
    """Yield the layers and norms with a bias that a ReLU follows."""
    for parent, module in run.model.named_modules():
        if isinstance(module, nn.Sequential):
            for (name, one), (_, then) in pairwise(module.named_children()):
                if getattr(one, "bias", None) is not None and isinstance(then, (nn.ReLU, nn.LeakyReLU)):
                    yield f"{parent}.{name}".lstrip(".")
        elif hasattr(module, "bn1"):
            yield f"{parent}.bn1"


def queries(run: Run) -> Iterator[str]:
    for name, module in run.model.named_modules():
        if name.endswith((".mix", ".self_attn")):
            assert isinstance(module, (nn.Linear, nn.MultiheadAttention))
            yield name


def of(*kinds: type[nn.Module]) -> Places:
    return lambda run: iter([""] if isinstance(run.model, kinds) else [])


def named(*names: str) -> Places:
    return lambda run: iter([""] if run.training.name in names else [])


def with_labels(run: Run) -> Iterator[str]:
    if run.training.spread is None:
        yield ""


def real_inputs(run: Run) -> Iterator[str]:
    if not isinstance(run.model, Decoder):
        yield ""


def clipped(run: Run) -> Iterator[str]:
    if run.clip:
        yield ""


def with_norms(run: Run) -> Iterator[str]:
    if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in run.model.modules()):
        yield ""


def moments(run: Run) -> Iterator[str]:
    if any("exp_avg" in state for state in run.optimizer.state.values()):
        yield ""


def decayed(run: Run) -> Iterator[str]:
    if any(group["weight_decay"] for group in run.optimizer.param_groups):
        yield ""


def embeddings(run: Run) -> Iterator[str]:
    yield from (name for name, module in run.model.named_modules() if isinstance(module, nn.Embedding))


def rate(run: Run, place: str, *, by: float) -> None:
    run.rates = [by * one for one in run.rates]
    for group in run.optimizer.param_groups:
        group["lr"] *= by


def rising(run: Run, place: str) -> None:
    run.before = lambda: rate(run, place, by=1.1)


def decay(run: Run, place: str) -> None:
    for group in run.optimizer.param_groups:
        group["weight_decay"] *= 1000


@torch.no_grad()
def state(run: Run, place: str, *, of: str, by: float) -> None:
    for one in run.optimizer.state.values():
        one[of].mul_(by)


@torch.no_grad()
def weights(run: Run, place: str, *, by: float) -> None:
    for each in matrices(run.model.get_submodule(place)):
        each.mul_(by)


def grows(run: Run, place: str, *, by: float) -> None:
    run.before = lambda: weights(run, place, by=by)


@torch.no_grad()
def drawn_again(run: Run, place: str) -> None:
    for each in run.model.get_submodule(place).parameters(recurse=False):
        each.copy_(0.2 * torch.randn_like(each))


@torch.no_grad()
def biases(run: Run, place: str) -> None:
    run.model.get_parameter(f"{place}.bias").fill_(-10.0)


@torch.no_grad()
def random_biases(run: Run, place: str) -> None:
    bias = run.model.get_submodule(place).bias
    if isinstance(bias, nn.Parameter):
        bias.copy_(10 * torch.randn_like(bias))
    else:
        weights(run, place, by=10.0)


@torch.no_grad()
def half_of_the_units(run: Run, place: str) -> None:
    for each in run.model.get_submodule(place).parameters(recurse=False):
        each[: len(each) // 2] = 0


@torch.no_grad()
def not_a_number(run: Run, place: str) -> None:
    matrices(run.model.get_submodule(place))[0].view(-1)[0] = float("nan")


def attention(run: Run, place: str) -> list[Tensor]:
    """Return the weights and biases of queries and keys."""
    module = run.model.get_submodule(place)
    if isinstance(module, nn.MultiheadAttention):
        return [module.in_proj_weight[:64].detach(), module.in_proj_bias[:64].detach()]
    assert isinstance(module, nn.Linear)
    return [module.weight[:64].detach(), module.bias[:64].detach()]


def sharp(run: Run, place: str, *, by: float) -> None:
    for each in attention(run, place):
        each.mul_(by)


def sharpens(run: Run, place: str) -> None:
    run.before = lambda: sharp(run, place, by=1.05**0.5)


def once(run: Run, change: Callable[[], object]) -> Callable[[], None]:
    """Return what makes a change in the next step alone."""
    left = [change]

    def first() -> None:
        if left:
            left.pop()()

    return first


def given(run: Run, place: str, *, change: Callable[[Tensor], Tensor], first: bool = False) -> None:
    """Change what the model is given, from now on or in the next step alone."""
    sound, waiting = run.draw, [True]

    def drawn(generator: torch.Generator) -> Any:
        batch = sound(generator)
        if first and not waiting:
            return batch
        waiting.clear()
        return (change(batch[0]), *batch[1:])

    run.draw = drawn


def wanted(run: Run, place: str, *, change: Callable[[Tensor], Tensor]) -> None:
    sound = run.draw
    run.draw = lambda generator: ((batch := sound(generator))[0], change(batch[1]))


def shuffled(y: Tensor) -> Tensor:
    return y.flatten()[torch.randperm(y.numel())].view(y.shape)


def repeated(run: Run, place: str) -> None:
    one = run.draw(run.generator)
    run.draw = lambda generator: tuple(each[:1].expand(each.shape).clone() for each in one)


def of_one_class(run: Run, place: str) -> None:
    """Give batches of one class each, as a loader of sorted data does."""
    sound, calls = run.draw, count()

    def drawn(generator: torch.Generator) -> Any:
        x, y = map(torch.cat, zip(*(sound(generator) for _ in range(12)), strict=True))
        rows = (y == next(calls) // 10 % 10).nonzero()[:, 0]
        return x[rows], y[rows]

    run.draw = drawn


def classified(run: Run) -> Iterator[str]:
    if run.training.name in ("mlp", "resnet", "lstm", "half", "tanh", "gru", "viewer"):
        yield ""


def infinite(run: Run, place: str) -> None:
    def change() -> None:
        grad = matrices(run.model.get_submodule(place))[0].grad
        assert grad is not None
        grad.view(-1)[0] = float("inf")

    run.behind = once(run, change)


def steeper(run: Run, place: str) -> None:
    def change() -> None:
        for each in run.model.get_submodule(place).parameters(recurse=False):
            if each.grad is not None:
                each.grad.mul_(1000)

    run.behind = change


def output(run: Run, place: str, *, change: Callable[[Tensor], Tensor]) -> None:
    recast(run.model.get_submodule(place), change)


def one_hard_batch(run: Run, place: str) -> None:
    """Take the clipping away, and draw one batch whose loss counts a thousandfold."""
    run.clip = 0.0
    sound = run.loss

    def loss(output: Any, batch: Any) -> Tensor:
        run.loss = sound
        return 1000 * sound(output, batch)

    run.loss = loss


def negated(run: Run, place: str) -> None:
    sound = run.losses

    def losses(batch: Any) -> Tensor:
        loss = sound(batch)
        # The value is that of the loss, the gradient its negative.
        return 2 * loss.detach() - loss

    run.losses = losses  # type: ignore[method-assign]


def not_cleared(run: Run, place: str) -> None:
    run.clears = False


def no_stop(run: Run, place: str) -> None:
    assert isinstance(run.model, Twins)
    run.model.stopped = False


def no_predictor(run: Run, place: str) -> None:
    assert isinstance(run.model, Twins)
    run.model.predictor.forward = lambda x: x  # type: ignore[method-assign]


def no_noise(run: Run, place: str) -> None:
    generator = run.model.get_submodule("generator")
    inner = generator.forward
    generator.forward = lambda z: inner(0 * z)


def frozen_norms(run: Run, place: str) -> None:
    """Use running variances that are a hundred times too small, as where they were never filled."""
    for module in run.model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.mul_(0.01)
            module.eval()


def underflow(run: Run, place: str) -> None:
    set_scale(run, 2.0**-14)


def set_scale(run: Run, to: float) -> None:
    assert run.scaler is not None
    # A copy has no scale before it was used.
    run.scaler.scale(torch.zeros(()))
    run.scaler.update(to)


def overflow(run: Run, place: str) -> None:
    """Let the loss count four times as much in each step as in the one before."""
    # As where the batches overflow in turn: the scaler halves its scale, and finds no rest.
    run.losses = partial(_grown, run.losses, [1.0])  # type: ignore[method-assign]
    set_scale(run, 2.0**13)


def _grown(sound: Callable[[Any], Tensor], factor: list[float], batch: Any) -> Tensor:
    factor[0] *= 4
    loss = sound(batch)
    return loss.detach() + factor[0] * (loss - loss.detach())


def scaled(run: Run) -> Iterator[str]:
    if run.scaler is not None:
        yield ""


# fmt: off
FAULTS: dict[str, Fault] = {
    "rate x100": Fault(whole, partial(rate, by=100.0)),
    "rate x10": Fault(whole, partial(rate, by=10.0)),
    "second moments x1e-6": Fault(moments, partial(state, of="exp_avg_sq", by=1e-6)),
    "weights x30": Fault(layers, partial(weights, by=30.0), here),
    "weights zeroed": Fault(layers, partial(weights, by=0.0), here),
    "NaN in a batch": Fault(real_inputs, partial(given, change=lambda x: x.index_fill(0, torch.tensor([0]), torch.nan),
                                                 first=True)),
    "Inf in a gradient": Fault(layers, infinite, here),
    "dead units": Fault(rectified, biases, following),
    "no stop-gradient": Fault(of(Twins), no_stop),
    "no predictor": Fault(of(Twins), no_predictor),
    "queries x1.05 a step": Fault(queries, sharpens, above),
    "queries and keys x6": Fault(queries, partial(sharp, by=6.0), above),
    "detached": Fault(outputs, partial(output, change=Tensor.detach), here),
    "labels shuffled": Fault(with_labels, partial(wanted, change=shuffled)),
    "data x100": Fault(real_inputs, partial(given, change=lambda x: 100 * x)),
    "running variance x0.01": Fault(with_norms, frozen_norms),
    "underflow": Fault(scaled, underflow),
    "a hard batch, not clipped": Fault(clipped, one_hard_batch),
    "no noise": Fault(named("gan"), no_noise, lambda run, place: {"generator"}),
    "weight decay x1000": Fault(decayed, decay),
    "one sample repeated": Fault(whole, repeated),
    "embeddings x1.05 a step": Fault(embeddings, partial(grows, by=1.05), here),
    "gradients not cleared": Fault(whole, not_cleared),
    "loss negated": Fault(whole, negated, held=True),
    "rate x1.1 a step": Fault(whole, rising, held=True),
    "second moments x1e6": Fault(moments, partial(state, of="exp_avg_sq", by=1e6), held=True),
    "first moments x100": Fault(moments, partial(state, of="exp_avg", by=100.0), held=True),
    "output x30": Fault(outputs, partial(output, change=lambda x: 30 * x), here, held=True),
    "weights x1.05 a step": Fault(layers, partial(grows, by=1.05), here, held=True),
    "dropout of 0.95": Fault(outputs, partial(output, change=lambda x: F.dropout(x, 0.95)), here, held=True),
    "batches of one class": Fault(classified, of_one_class, held=True),
    "NaN weight": Fault(layers, not_a_number, here, held=True),
    "weights drawn again": Fault(layers, drawn_again, here, held=True),
    "random biases": Fault(last_layer, random_biases, here, held=True),
    "half of the units zeroed": Fault(rectified, half_of_the_units, following, held=True),
    "data of zeros": Fault(real_inputs, partial(given, change=torch.zeros_like), held=True),
    "targets x100": Fault(named("autoencoder", "vae"), partial(wanted, change=lambda y: 100 * y), held=True),
    "gradient x1000": Fault(layers, steeper, here, held=True),
    "loss scale too large": Fault(scaled, overflow, held=True),
}
# fmt: on
