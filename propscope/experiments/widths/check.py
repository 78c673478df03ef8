"""`width_check`: a network trained for a few steps at several widths, and how the sizes in it grow with the width.

Yang et al. 2022 (Tuning large neural networks via zero-shot hyperparameter transfer, Tensor Programs V), appendix D.1,
call this a coordinate check. The split of a layer's change into what its new weights and what its new input make of it
follows Everett et al. 2024 (Scaling exponents across parameterizations and optimizers).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from propscope.checks import count, counts, known_arguments, number, one_of, shown
from propscope.errors import InputError
from propscope.experiments.losses import LOSSES, Loss
from propscope.experiments.training.optimizers import parse_optimizer
from propscope.experiments.widths.roles import Shapes, Widening, widenings
from propscope.experiments.widths.run import MakeOptimizer, Run, Sizes, Training
from propscope.records.width_check import (
    PARAMETER_QUANTITIES,
    SITE_QUANTITIES,
    Quantity,
    WidthCheck,
    WidthRow,
    judged_step,
)
from propscope.theory.parametrizations import NAMES, PARAMETRIZATIONS, ExpectedExponents, Family, Parametrization


@known_arguments
def width_check(
    make_model: Callable[..., nn.Module],
    widths: Sequence[int],
    batch: Any,
    optimizer: str | type[Optimizer] | MakeOptimizer = "adam",
    lr: float | None = None,
    *,
    steps: int = 4,
    seeds: int = 3,
    loss: str | Loss = "cotangent",
    expect: str | None = None,
    tolerance: float = 0.25,
    title: str | None = None,
) -> WidthCheck:
    """Train a network for a few steps at several widths, and return how its sizes and changes grow with the width.

    `make_model(width=...)` returns the network; it draws its weights from the global generators of torch, numpy or
    Python, which start from the same seed at every width. `widths`: two or more, ascending. `batch`: what every step
    trains on, as `profile` takes it. `optimizer`: a name such as "adam" or "momentum:momentum=0.8", a class of torch's,
    or a function of the model and `lr` that returns torch's optimizer, for learning rates by layer. `lr`: None for the
    usual rate of a named optimizer. `steps`: how many steps. `seeds`: how many networks of each width, for the
    intervals. `loss`: "cotangent"; "cross-entropy" or "mse" with targets that are drawn once; "sum"; or a function of
    the model's output that returns a scalar tensor. "cotangent" is linear: the same N(0, 1) gradient enters the output
    at every step and width, so that no exponent depends on how far the network has learned; a field `loss` of the
    output wins. `expect`: "standard", "mup" or "ntk", whose exponents the network is held against; an exponent fits
    when it is within `tolerance` of them. `title`: the network's name in what is printed, None for that of
    `make_model`.

    Measured is the rms over all elements, after t = 0 to `steps` steps. Each module with a floating-point output has
    the size of the output x_t, of the change x_t - x_0 and of the gradient dL/dx_t. Where the caller of a layer f
    multiplies its output by a number, the product counts as the output. A layer with weights W and input x also has the
    two parts of its change, f(W_t; x_0) - f(W_0; x_0) and f(W_t; x_t) - f(W_t; x_0). Each parameter has its own size,
    that of its gradient and of W_t - W_0. Random numbers, as dropout draws them, are the same at every step.

    Raises `InputError` for an invalid argument; for a network that is the same at every width, has other sites at one
    width than at another, or cannot be run; for a `make_model` that returns the same weights with every seed, unless
    `seeds` is 1; where no parameter changes; and where a loss or a size is NaN or infinite. A model that `make_model`
    keeps and returns again is left as it was.
    """
    if isinstance(make_model, nn.Module) or not callable(make_model):
        raise InputError(
            f"make_model must be a function that returns a model of a given width, got a {type(make_model).__name__}",
            hint="for example make_model=lambda width: Net(width)",
        )
    given = ordered_widths(widths)
    repeats = count("seeds", seeds)
    if expect is not None:
        one_of("expect", expect, NAMES)
    allowed = number("tolerance", tolerance)
    make, rate = _optimizer(optimizer, lr)
    scored = loss if callable(loss) else LOSSES[one_of("loss", loss, LOSSES)](0)
    training = Training(make_model, batch, make, rate, scored, count("steps", steps))

    shapes: dict[int, Shapes] = {}
    family: Family | None = None
    for width in given:
        with Run.of(training, width=width, seed=0) as run:
            shapes[width], family = run.shapes(), run.family
    sites = widenings(shapes)
    parametrization = next((one for one in PARAMETRIZATIONS if one.name == expect), None)
    expected = {} if parametrization is None else _expected(parametrization, family, sites)
    sizes: dict[tuple[int, int], Sizes] = {}
    for seed in range(repeats):
        for width in given:
            with Run.of(training, width=width, seed=seed) as run:
                sizes[seed, width] = run.train()
        if seed and all(
            _start(sizes[seed, width], shapes[width]) == _start(sizes[0, width], shapes[width]) for width in given
        ):
            raise InputError(
                f"make_model returns the same weights with seed {seed} as with seed 0, so that seeds give no interval",
                hint="let it draw from torch's generator as it finds it, or take one seed",
            )

    if not any(each[-1] for run in sizes.values() for (_, quantity), each in run.items() if quantity == "update"):
        raise InputError(
            "no parameter of the model changed in training",
            hint="let the loss depend on the weights, and the optimizer step model.parameters()",
        )

    def row(name: str, quantity: Quantity, **of: Any) -> WidthRow:
        nothing = [math.nan] * (steps + 1)
        measured = [[sizes[seed, width].get((name, quantity), nothing) for width in given] for seed in range(repeats)]
        ranges = expected.get(name, {}) if not of.get("parameter") else {}
        return WidthRow(
            name,
            quantity=quantity,
            widths=given,
            sizes=np.array(measured),
            judged=judged_step(quantity, steps),
            expected=ranges.get(quantity),
            **of,
        )

    rows = [
        row(name, quantity, kind=site.kind, role=site.role, widens=site.widens)
        for name, site in sites.items()
        for quantity in SITE_QUANTITIES
    ]
    narrow, wide = shapes[given[0]].parameters, shapes[given[-1]].parameters
    rows += [
        row(name, quantity, kind="", role="", widens=narrow[name] != wide[name], parameter=True)
        for name in narrow
        for quantity in PARAMETER_QUANTITIES
    ]
    return WidthCheck(
        title=title or _name(make_model),
        widths=given,
        seeds=repeats,
        steps=steps,
        optimizer=_name(optimizer),
        learning_rate=rate,
        loss=_name(loss),
        rows=tuple(one for one in rows if not np.isnan(one.sizes).all()),
        expect=expect or "",
        source="" if parametrization is None else parametrization.source,
        tolerance=allowed,
    )


def _start(sizes: Sizes, shapes: Shapes) -> list[float]:
    """Return the size of each parameter before the first step, by which networks of two seeds are told apart."""
    return [sizes[name, "size"][0] for name in shapes.parameters]


def ordered_widths(widths: Any) -> tuple[int, ...]:
    """Return two or more different widths in ascending order; raises `InputError`."""
    found = counts("widths", widths)
    if len(found) < 2 or list(found) != sorted(set(found)):
        raise InputError(
            f"widths must be two or more different numbers in ascending order, got {', '.join(map(str, found))}",
            hint="for example 64,128,256: an exponent is a slope over widths",
        )
    return found


def _optimizer(optimizer: Any, lr: Any) -> tuple[MakeOptimizer, float]:
    """Return the function of a model and a learning rate that makes the optimizer, and the learning rate."""
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        kind: Any = optimizer
        return (lambda model, rate: kind(model.parameters(), lr=rate)), number("lr", lr, above=True)
    if callable(optimizer):
        return optimizer, number("lr", lr, above=True)
    if not isinstance(optimizer, str):
        raise InputError(
            f"optimizer must be a name, a class of torch's, or a function of the model and lr, got {shown(optimizer)}",
            hint='for example "adam"',
        )
    spec = parse_optimizer(optimizer)

    def make(model: nn.Module, rate: float) -> Optimizer:
        return spec.build(model.parameters(), learning_rate=rate, weight_decay=spec.kind.weight_decay)

    return make, number("lr", spec.kind.learning_rate if lr is None else lr, above=True)


def _expected(
    parametrization: Parametrization, family: Family | None, sites: Mapping[str, Widening]
) -> dict[str, dict[Quantity, tuple[float, float]]]:
    """Return the lowest and highest exponent that is expected of each quantity at each site that is judged."""
    if family is None and parametrization.name != "mup":
        raise InputError(
            f'expect="{parametrization.name}" needs SGD, Adam or one of their kind, got an optimizer of another class',
            hint='leave expect out, or expect "mup", which is the same for every optimizer',
        )
    exponents = ExpectedExponents(parametrization, family)
    return {name: exponents.next(site.role, widens=site.widens, tied=site.tied) for name, site in sites.items()}


def _name(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)
