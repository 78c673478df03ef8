"""`stability_of`: one rule that says from its loss curve how a training went."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from propscope.errors import InputError

Stability = Literal["diverged", "oscillating", "stalled", "converged"]

# Noise about the loss of a constant predictor does not double it: such a network is confidently wrong.
DIVERGED = 2.0
# A network that has learned anything beats the constant predictor by more than this share.
LEARNED = 0.1
# Batches move the loss by a few per cent of what was gained; a larger rise than this share undoes learning.
RISE = 0.1


def stability_of(
    train_loss: ArrayLike, *, constant_loss: float | None = None, diverged_at: int | None = None
) -> Stability:
    """Return how a training went, judged by its training loss.

    `train_loss`, shape (epochs + 1,): the loss before the first step, L0, and after each epoch. `constant_loss`: the
    loss C of the best constant prediction (the entropy of the classes, the variance of the targets); C = L0 where it
    is not known. `diverged_at`: the step whose loss was not finite, None where there was none. "Late" epochs are the
    second half. The answer is the first of these that holds:

    - diverged: a loss is NaN or Inf, `diverged_at` is given, or the median late loss exceeds 2 max(L0, C).
    - stalled: the median late loss exceeds 0.9 min(L0, C). The network predicts little better than a constant, even
      where a badly scaled start had a much larger loss.
    - oscillating: with the gain F = min(L0, C) - (lowest late loss), the loss rises by more than 0.1 F from a low to
      the next high at least twice in the late epochs, or it ends more than 0.1 F above its lowest value.
    - converged: none of these. The loss fell and stays down; it may still be falling.

    Only ratios of losses count, so a loss in other units, with C in the same units, gives the same answer. A training
    of no epochs is stalled. Raises `InputError` for an empty `train_loss`.
    """
    loss = np.asarray(train_loss, dtype=np.float64)
    if loss.ndim != 1 or not loss.size:
        raise InputError(f"train_loss must have shape (epochs + 1,), got {loss.shape}")
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
