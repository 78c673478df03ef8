"""What is measured of a network while it is trained: losses and accuracies, updates, distinct rows, the signal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from propscope.experiments.profiling import recorder_of
from propscope.measure.undisturbed import undisturbed
from propscope.networks import MLP
from propscope.records.network import Label, NetworkProfile
from propscope.records.training import Task

Examples = tuple[Tensor, Tensor]
EVALUATED_AT_ONCE = 4096
SAME_ROW = 1e-6


def loss_of(task: Task, output: Tensor, target: Tensor) -> Tensor:
    """Return the mean loss: cross-entropy (nats) for classification, the squared error for regression."""
    if task == "classification":
        return nn.functional.cross_entropy(output, target)
    return nn.functional.mse_loss(output, target)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and back into training mode at the end."""
    net.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        net.train()


def evaluate(net: nn.Module, examples: Examples, task: Task) -> tuple[float, float]:
    """Return loss and accuracy on examples; accuracy is NaN for regression, and both are NaN without rows."""
    total, right, rows = 0.0, 0, len(examples[0])
    with evaluating(net):
        for x, y in zip(*(part.split(EVALUATED_AT_ONCE) for part in examples), strict=True):
            if not len(x):
                return math.nan, math.nan
            output = net(x)
            total += loss_of(task, output, y).item() * len(x)
            if task == "classification":
                right += int((output.argmax(1) == y).sum())
    return total / rows, right / rows if task == "classification" else math.nan


class Updates:
    """The ratio of a step: rms of the update over rms of the weights, over all weight matrices together."""

    def __init__(self, weights: list[Tensor]) -> None:
        self._weights = weights
        self._before: list[Tensor] = []
        self._ratios: list[float] = []

    @torch.no_grad()
    def before(self) -> None:
        """Keep the weights that a step starts from."""
        self._before = [weight.clone() for weight in self._weights]

    @torch.no_grad()
    def after(self) -> None:
        """Add the ratio of the step, unless all weights were zero."""
        size = _norm(self._before)
        moved = _norm(torch._foreach_sub(self._weights, self._before))
        if size > 0 and math.isfinite(moved):
            self._ratios.append(moved / size)

    def mean(self) -> float:
        """Return the mean of the ratios since the last call; NaN without one."""
        ratios, self._ratios = self._ratios, []
        return sum(ratios) / len(ratios) if ratios else math.nan


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    # In float32 the sum of a million squares is off by 1e-5, and by how much depends on the processor.
    norms = [torch.linalg.vector_norm(tensor, dtype=torch.float64) for tensor in tensors]
    return math.sqrt(float(torch.stack(norms).square().sum()))


@torch.no_grad()
def distinct_rows(weight: Tensor) -> int:
    """Return how many rows of a matrix, shape (units, inputs), differ from every earlier one.

    Two rows are the same where no element differs by more than 1e-6 of the largest in the matrix, since rounding may
    change the last bit of rows that symmetry keeps equal. NaN equals NaN.
    """
    rows = weight.double().nan_to_num(nan=0.0)
    largest = rows.abs().max()
    if not largest > 0:
        return 1
    rows = rows / largest
    # Sorted by a projection, rows that are the same lie side by side.
    direction = torch.linspace(1, 2, rows.shape[1], dtype=torch.float64, device=rows.device).sqrt().sin()
    rows = rows[(rows @ direction).argsort()]
    return 1 + int(((rows[1:] - rows[:-1]).abs().amax(1) > SAME_ROW).sum())


def signal(
    net: MLP, examples: Examples, task: Task, *, histogram_limit: int, labels: dict[str, Label], spec: str, seed: int
) -> NetworkProfile:
    """Return the signal profile of a batch in training mode, with the gradient of its loss; the network stays as is."""
    recorder = recorder_of(net, histogram_limit=histogram_limit)
    with undisturbed(net), recorder:
        torch.autograd.backward(loss_of(task, net(examples[0]), examples[1]))
    return recorder.profile(labels=labels, spec=spec, seed=seed)
