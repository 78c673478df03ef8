"""How a training went, told from its loss curve by one rule."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from propscope.errors import InputError

Stability = Literal["diverged", "oscillating", "stalled", "converged"]

# Twice the loss of a constant predictor is no longer noise about it: the network is sure of what is wrong.
DIVERGED = 2.0
# A network that has learned anything is more than this share better than the constant predictor.
LEARNED = 0.1
# Batches shake the loss by a few per cent of what was gained; a rise of more than this share undoes learning.
RISE = 0.1


def stability_of(
    train_loss: ArrayLike, *, constant_loss: float | None = None, diverged_at: int | None = None
) -> Stability:
    """Return how a training went, from the training loss before the first step and after each epoch, shape (epochs+1,).

    With L0 the loss before the first step, C that of the best constant prediction (`constant_loss`: the entropy of the
    classes, the variance of the targets; L0 where it is not known), and "late" the second half of the epochs, the first
    of these that holds:

    - diverged: some loss is NaN or Inf, `diverged_at` names the step where one was, or the median late loss is more
      than 2 max(L0, C).
    - stalled: the median late loss is above 0.9 min(L0, C). The network predicts little better than a constant, however
      far a badly scaled start lay above that.
    - oscillating: with F = min(L0, C) - (lowest late loss), what was gained: twice or more on its way through the
      late epochs the loss rises by more than 0.1 F from a low to the next high, or it ends so far above its lowest.
    - converged: none of these. The loss fell and stays down; it may still be falling.

    All of it are ratios of losses, so a loss in other units, with C in the same, gives the same answer. No epoch at all
    is stalled. Raises `InputError` without any loss.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    if loss.ndim != 1 or not loss.size:
        raise InputError(f"train_loss has shape {loss.shape}; valid is (epochs + 1,)")
    if diverged_at is not None or not np.isfinite(loss).all():
        return "diverged"
    start = float(loss[0])
    constant = start if constant_loss is None or not np.isfinite(constant_loss) else float(constant_loss)
    first = 1 + (loss.size - 1) // 2
    late = loss[first:]
    if not late.size:
        return "stalled"
    typical, lowest = float(np.median(late)), float(late.min())
    if typical > DIVERGED * max(start, constant):
        return "diverged"
    if typical > (1 - LEARNED) * min(start, constant):
        return "stalled"
    least = RISE * (min(start, constant) - lowest)
    rises = sum(rise > least for rise in _rises(loss[first - 1 :]))
    return "oscillating" if rises > 1 or late[-1] - lowest > least else "converged"


def _rises(curve: NDArray[np.float64]) -> list[float]:
    """Return how far a curve rises from each low to the high that follows it."""
    moves = np.diff(curve)
    rises = [0.0]
    for move in moves.tolist():
        if move > 0:
            rises[-1] += move
        elif rises[-1]:
            rises.append(0.0)
    return rises
