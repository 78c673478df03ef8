"""A process that trains what it is told: reads the plan and job numbers from stdin, writes runs to stdout."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from functools import lru_cache
from typing import Any

from propscope.errors import PropscopeError

READY = "ready"


def serve() -> None:
    """Read a plan, then job numbers until there are no more; answer `READY`, then each with a run or an error."""
    # Whatever a user's module prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    questions = sys.stdin.buffer

    from propscope.experiments.training.loop import train
    from propscope.experiments.training.plan import TrainingPlan

    def answer(value: Any) -> None:
        pickle.dump(value, answers)
        answers.flush()

    plan: TrainingPlan = pickle.load(questions)
    jobs = plan.jobs()
    data_of = lru_cache(maxsize=1)(plan.data_of)
    answer(READY)
    while True:
        try:
            job = jobs[pickle.load(questions)]
        except EOFError:
            return
        try:
            answer(train(plan, job, data_of(job.cell.seed)))
        except PropscopeError as error:
            answer(error)
        except Exception:
            answer(RuntimeError(traceback.format_exc()))
