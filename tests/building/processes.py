"""`on_ranks`: run a function on several processes that form one process group, and return what each of them returns."""

import contextlib
import faulthandler
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from datetime import timedelta
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path

import cloudpickle

# Long enough for the slowest test on a busy machine: only a test that hangs gets there.
_PATIENCE = 300.0


@cache
def _processes():
    """Return what starts processes: a server that has imported what each of them needs, and forks."""
    context = multiprocessing.get_context("forkserver")
    # What DDP, FSDP and distributed tensors load when they are first used.
    modules = ["torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor.parallel", "torch.nn.parallel"]
    modules += ["propscope.measure", "propscope.monitoring.monitor", "building.processes", "building.parallel"]
    # Each process runs the main module again.
    context.set_forkserver_preload([*modules, "pytest"])
    return context


def on_ranks(function, *arguments, ranks=2):
    """Call `function(*arguments)` on `ranks` processes of a gloo group; return their results in the order of ranks.

    Whatever the function needs of its module travels with it. It finds the group by torch.distributed; warnings are
    errors in it, as in any test. Where it raises on a rank, an AssertionError shows that rank's traceback, the first
    one first, and what the ranks printed.
    """
    module = sys.modules[function.__module__]
    cloudpickle.register_pickle_by_value(module)
    try:
        work = cloudpickle.dumps((function, arguments))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        started, context = {}, _processes()
        for rank in range(ranks):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(there, folder, rank, ranks, work), daemon=True)
            process.start()
            there.close()
            started[here] = rank
            stack.callback(here.close)
            stack.callback(process.join)
            stack.callback(process.kill)
        answers, failures = _answers(started)
        if failures:
            printed = [f"rank {rank} printed:\n{_printed(folder, rank)}" for rank in range(ranks)]
            raise AssertionError("\n".join(["", *failures, *printed]))
        return [answers[rank] for rank in range(ranks)]


def _answers(started):
    """Return what each rank returned, and how those failed that did not, in the order in which they failed."""
    answers, failures, waiting, end = {}, [], set(started), time.monotonic() + _PATIENCE
    while waiting:
        ready = wait(waiting, timeout=max(end - time.monotonic(), 0))
        if not ready:
            failures += [(end, f"rank {started[one]} did not end") for one in waiting]
            break
        for one in ready:
            waiting.remove(one)
            try:
                good, when, answer = cloudpickle.loads(one.recv_bytes())
            except EOFError:
                good, when, answer = False, time.monotonic(), "its process died"
            if good:
                answers[started[one]] = answer
            else:
                failures.append((when, f"rank {started[one]}: {answer}"))
    return answers, [failure for _, failure in sorted(failures)]


def _printed(folder, rank):
    path = Path(folder, f"printed-{rank}")
    return path.read_text(errors="replace") if path.exists() else ""


def _serve(answers, folder, rank, ranks, work):
    import torch
    import torch.distributed as dist

    with open(Path(folder, f"printed-{rank}"), "w") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    faulthandler.enable()
    faulthandler.dump_traceback_later(_PATIENCE * 0.9)
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    if sys.platform == "linux":
        # The host's own name may lead nowhere.
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=ranks,
            timeout=timedelta(seconds=_PATIENCE / 2),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            function, arguments = cloudpickle.loads(work)
            answer = cloudpickle.dumps((True, time.monotonic(), function(*arguments)))
        dist.barrier()
    except BaseException:
        answer = cloudpickle.dumps((False, time.monotonic(), traceback.format_exc()))
    answers.send_bytes(answer)
    answers.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nothing that a failed test left behind can keep the process.
    os._exit(0)
