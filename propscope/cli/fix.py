"""What `inspect --fix` does: the model of the first seed mended on a copy, judged before and after."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from propscope.cli.batches import make_loss, moved
from propscope.cli.model_runs import Request, device_of, dtype_of, named_by
from propscope.cli.targets import searched
from propscope.remedies import mend

if TYPE_CHECKING:
    from propscope.remedies import RemedyTrials


def fixed(request: Request) -> RemedyTrials:
    """Return what helps the model of a request, of its first seed and batch; the model itself is not touched."""
    dtype, device = dtype_of(request.dtype), device_of(request.device)
    # With --json nothing else may reach stdout, and models print.
    with searched(request.target), redirect_stdout(sys.stderr):
        target, source = named_by(request)
        model = target.build(seed=0, device=device, dtype=dtype).model.train(request.train)
        batch = moved(source.batch(model, seed=0, number=0, dtype=dtype), device=device)
        return mend(model, batch, make_loss(request.loss, seed=0))
