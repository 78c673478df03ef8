"""A training of several ranks is monitored as one: one file, one record, the same alarms, the same steps sampled."""

import logging
import math
from contextlib import nullcontext, suppress
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch
import torch.distributed as dist
from building.parallel import Language, data_parallel, loss_of, tensor_parallel, tokens
from building.processes import on_ranks
from torch import nn

import propscope

pytestmark = pytest.mark.slow

STEPS, ROWS, EVERY = 7, 4, 3


def trained(model, batches, *, file=None, group=None, every=EVERY, accumulate=1, broken=None, **options):
    """Train on each list of micro-batches of `batches`; return the monitor, losses, and weights."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    with propscope.monitor(model, optimizer, every=every, file=file, group=group, **options) as monitor:
        for number, parts in enumerate(batches):
            with monitor.step(number) as step:
                for at, part in enumerate(parts):
                    last = at == len(parts) - 1
                    with nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync():
                        loss = loss_of(model, part) / len(parts)
                        if broken == (number, at):
                            loss = loss * math.nan
                        loss.backward()
                    step.loss(loss.detach() * len(parts))
                    losses.append(float(loss.detach()))
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return monitor, losses


def batches_of(rank=0, ranks=1, *, accumulate=1):
    """The micro-batches of each step; those of one process are the global ones, of the same samples."""
    found = []
    for step in range(STEPS):
        whole = tokens(step, rows=ROWS * accumulate).chunk(accumulate)
        found.append([part.chunk(ranks)[rank] for part in whole])
    return found


def sizes_of(site):
    backward = math.inf if site.backward is None else site.backward.rms
    return site.forward.count, site.forward.rms, backward


def told(monitor):
    """What of a run is compared."""
    one = monitor.profile
    return {
        "steps": {name: getattr(monitor.steps, name) for name in ("number", "loss", "gradient_norm", "clip_factor")},
        "sample": {site.name: sizes_of(site) for site in one.sites},
        "parameters": {
            each.name: (
                each.value_norm,
                each.gradient_norm,
                each.step_gradient_norm,
                each.update_norm,
                each.update_ratio,
                each.first_moment_norm,
                each.second_moment_norm,
            )
            for each in one.parameters
        },
        "labels": dict(one.labels),
        "samples": one.provenance.samples,
        "alarms": [(one.kind, one.message) for one in monitor.alarms],
        "file": None if monitor.file is None else str(monitor.file),
    }


def as_ranks(kind, file, accumulate=1):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = data_parallel(Language(), kind)
    monitor, _ = trained(model, batches_of(rank, ranks, accumulate=accumulate), file=file, group="world")
    return told(monitor)


@pytest.mark.parametrize(("kind", "accumulate"), [("ddp", 1), ("ddp", 2), ("fsdp1", 1), ("fsdp2", 1)])
def test_the_run_of_all_ranks_is_that_of_one_process(kind, accumulate, tmp_path):
    found = on_ranks(as_ranks, kind, str(tmp_path / "run.propscope"), accumulate)
    expected = told(trained(Language(), batches_of(accumulate=accumulate))[0])
    for one in found:
        assert one["labels"] == expected["labels"]
        assert one["samples"] == ROWS
        for name, values in expected["steps"].items():
            np.testing.assert_allclose(one["steps"][name], values, rtol=1e-4, err_msg=name)
        assert one["sample"].keys() == expected["sample"].keys()
        for name, values in expected["sample"].items():
            assert one["sample"][name] == pytest.approx(values, rel=1e-3), name
        for name, values in expected["parameters"].items():
            if not name.endswith("key.bias"):
                # Its gradient is zero but for rounding.
                for mine, other in zip(one["parameters"][name][2:], values[2:], strict=True):
                    assert mine == pytest.approx(other, rel=2e-3), name
    assert [one["file"] for one in found] == [str(tmp_path / "run.propscope"), None]
    run = propscope.load(tmp_path / "run.propscope")
    assert [one.labels["step"] for one in run] == [0, 3, 6]
    assert len(run.steps) == STEPS
    np.testing.assert_allclose(run.steps.loss, expected["steps"]["loss"], rtol=1e-5)


class Sides(nn.Module):
    """Runs the first half of the samples through `left`, and the other one through `right`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = ()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, batch, sides):
        return torch.cat([self.right(one) if side else self.left(one) for one, side in zip(batch, sides, strict=True)])


def norms_before_clipping(kind=""):
    """The norms of the gradients that a monitor recorded, those that there were, and its notes of late ones."""
    batch, model = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), Sides()
    parts, sides = batch.chunk(2), (False, True)
    if kind:
        rank = dist.get_rank()
        parts, sides = parts[rank : rank + 1], sides[rank : rank + 1]
        options = {"find_unused_parameters": True} if kind == "ddp" else {}
        model = data_parallel(model, kind, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with propscope.monitor(model, optimizer, every=1, group="world" if kind else None) as monitor:
        for _ in range(2):
            with monitor.step():
                optimizer.zero_grad()
                model(parts, sides).square().mean().backward()
                clip = getattr(model, "clip_grad_norm_", partial(nn.utils.clip_grad_norm_, model.parameters()))
                clip(0.01)
                optimizer.step()
    late = [note for note in monitor.profile.coverage if "after clipping" in note.reason]
    return {one.name: one.step_gradient_norm for one in monitor.profile.parameters}, late


@pytest.mark.parametrize("kind", ["ddp", "fsdp1"])
def test_gradients_before_clipping_are_seen_of_what_other_ranks_have(kind):
    expected, _ = norms_before_clipping()
    for found, late in on_ranks(norms_before_clipping, kind):
        assert found == pytest.approx(expected, rel=1e-4)
        assert late == []


def breaks(where, at):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = data_parallel(Language(), "ddp")
    broken = (3, at) if rank == where else None
    logging.getLogger("propscope").setLevel(logging.ERROR)
    seen = []
    trained(
        model,
        batches_of(rank, ranks, accumulate=2),
        group="world",
        broken=broken,
        micro_batches=2,
        on_alarm=seen.append,
    )
    return [(one.kind, one.step, one.message.rpartition("It came up first ")[2]) for one in seen]


def test_an_alarm_about_a_loss_that_is_not_finite_names_rank_and_micro_batch():
    first, other = on_ranks(breaks, 1, 1)
    assert first == other
    assert ("non-finite loss", 3, "on rank 1, in micro-batch 2") in first


class Poisoned(torch.nn.Module):
    """Gives NaN in one of the passes of a step on one rank, which the loss does not see."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.out = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
        self.poison = False

    def forward(self, x):
        x = self.first(x)
        return torch.nan_to_num(self.out(x * math.nan if self.poison else x))


def poisoned():
    rank = dist.get_rank()
    model = torch.nn.parallel.DistributedDataParallel(Poisoned())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    seen = []
    logging.getLogger("propscope").setLevel(logging.ERROR)
    with propscope.monitor(model, optimizer, every=1, group="world", micro_batches=3, on_alarm=seen.append) as monitor:
        for number in range(4):
            with monitor.step(number):
                for batch in range(3):
                    model.module.poison = (rank, number, batch) == (1, 2, 1)
                    model(torch.ones(3, 4) + rank).sum().backward()
                    if model.module.poison:
                        optimizer.zero_grad()
                optimizer.step()
                optimizer.zero_grad()
    return [(one.kind, one.site, one.step, one.message.rpartition("It came up first ")[2]) for one in seen]


def test_an_alarm_about_a_site_that_is_not_finite_names_rank_and_micro_batch():
    first, other = on_ranks(poisoned)
    assert first == other
    assert ("non-finite values", "out", 2, "on rank 1, in micro-batch 2") in first or (
        "non-finite values",
        "mul",
        2,
        "on rank 1, in micro-batch 2",
    ) in first


def undisturbed(kind, monitored):
    rank, ranks = dist.get_rank(), dist.get_world_size()
    model = data_parallel(Language(), kind)
    batches = batches_of(rank, ranks)
    # The last batch of one rank is smaller.
    batches[-1] = [batches[-1][0][: 2 - rank]]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    monitor = propscope.monitor(model, optimizer, every=2, group="world") if monitored else None
    for number, (batch,) in enumerate(batches):
        with nullcontext() if monitor is None else monitor.step(number):
            loss = loss_of(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    if monitor is not None:
        monitor.close()
    from propscope.measure.shards import local_shard

    return torch.stack(losses), [local_shard(one.detach()).clone() for one in model.parameters()]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_training_is_the_same_bit_by_bit(kind):
    for (losses, weights), (bare, others) in zip(
        on_ranks(undisturbed, kind, True), on_ranks(undisturbed, kind, False), strict=True
    ):
        assert torch.equal(losses, bare)
        assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


def raises(file):
    messages = []
    logging.getLogger("propscope").addHandler(Kept(messages))
    group = dist.new_group([0, 1], timeout=timedelta(seconds=3))
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = propscope.monitor(model, optimizer, every=2, group=group, file=file)
    steps = []
    with suppress(ZeroDivisionError):
        for number in range(7):
            with monitor.step(number):
                if (number, dist.get_rank()) == (4, 1):
                    raise ZeroDivisionError("on one rank")
                model(torch.ones(2, 3)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            steps.append(number)
    recorded = []
    if not dist.get_rank():
        with pytest.warns(UserWarning, match="unfinished"):
            recorded = [one.labels["step"] for one in propscope.load(file)]
    monitor.close()
    return steps, recorded, [message for message in messages if "the run goes on" in message]


def test_a_rank_that_raises_leaves_the_others_to_their_timeout_with_what_was_recorded_on_disk(tmp_path):
    (steps, recorded, messages), (others, _, nothing) = on_ranks(raises, str(tmp_path / "run.propscope"))
    assert others == [0, 1, 2, 3]
    assert not nothing
    assert steps == list(range(7))
    # The sample of the step that one rank left is lost; the next one is of the rank that is left.
    assert recorded == [0, 2, 6]
    assert len(messages) == 1


def joined(file):
    """Take more steps on the last rank, and return the losses with and without a monitor, and what it said."""
    messages, losses = [], {}
    logging.getLogger("propscope").addHandler(Kept(messages))
    rank, group = dist.get_rank(), dist.new_group([0, 1], timeout=timedelta(seconds=3))
    for monitored in (False, True):
        model = data_parallel(Language(1), "ddp")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        monitor = propscope.monitor(model, optimizer, every=2, group=group, file=file) if monitored else None
        found = losses[monitored] = []
        with model.join():
            for number in range(3 + 2 * rank):
                with nullcontext() if monitor is None else monitor.step(number):
                    loss = loss_of(model, tokens(number, part=slice(2 * rank, 2 * rank + 2)))
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    found.append(float(loss.detach()))
    steps = monitor.steps.number.tolist()
    monitor.close()
    return losses, steps, [message for message in messages if "the run goes on" in message]


def test_in_a_join_no_rank_waits_for_another_one(tmp_path):
    for rank, (losses, steps, messages) in enumerate(on_ranks(joined, str(tmp_path / "run.propscope"))):
        assert losses[True] == losses[False]
        assert steps == list(range(3 + 2 * rank))
        assert len(messages) == 1
        assert "join()" in messages[0]
    assert [one.labels["step"] for one in propscope.load(tmp_path / "run.propscope")] == [0, 2]


def of_tensors(monitored):
    from torch.distributed.device_mesh import init_device_mesh

    from propscope.measure.shards import local_shard

    model = tensor_parallel(Language(), init_device_mesh("cpu", (2,), mesh_dim_names=("model",)))
    monitor = run_of(model, group="world" if monitored else None)
    weights = [local_shard(one.detach()).clone() for one in model.parameters()]
    return None if monitor is None else told(monitor), weights


def run_of(model, group):
    """Train without clipping, which mixes plain and distributed parameters."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    monitor = None if group is None else propscope.monitor(model, optimizer, every=EVERY, group=group)
    for number, (batch,) in enumerate(batches_of()):
        with nullcontext() if monitor is None else monitor.step(number) as step:
            loss = loss_of(model, batch)
            loss.backward()
            if step is not None:
                step.loss(loss)
            optimizer.step()
            optimizer.zero_grad()
    if monitor is not None:
        monitor.close()
    return monitor


def test_tensor_parallel_counts_what_several_ranks_hold_once():
    found = on_ranks(of_tensors, True)
    bare = on_ranks(of_tensors, False)
    model = Language()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=False)
    with propscope.monitor(model, optimizer, every=EVERY) as monitor:
        for number, (batch,) in enumerate(batches_of()):
            with monitor.step(number) as step:
                loss = loss_of(model, batch)
                loss.backward()
                step.loss(loss)
                optimizer.step()
                optimizer.zero_grad()
    expected = told(monitor)
    for (one, weights), (_, others) in zip(found, bare, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))
        assert one["samples"] == expected["samples"]
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(one["steps"][name], expected["steps"][name], rtol=1e-4, err_msg=name)
        for name, values in expected["sample"].items():
            assert one["sample"][name] == pytest.approx(values, rel=1e-3), name
        for name, values in expected["parameters"].items():
            if not name.endswith("key.bias"):
                assert one["parameters"][name] == pytest.approx(values, rel=2e-3), name


def alone():
    messages = []
    logging.getLogger("propscope").addHandler(Kept(messages))
    model = data_parallel(Language(), "fsdp2")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    monitor = None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    if not rank:
        monitor = propscope.monitor(model, optimizer, every=2)
    for number, (batch,) in enumerate(batches_of(rank, ranks)):
        with nullcontext() if monitor is None else monitor.step(number):
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
    return messages, None if monitor is None else [note.reason for note in monitor.profile.coverage if not note.name]


class Kept(logging.Handler):
    def __init__(self, messages):
        super().__init__()
        self.messages = messages

    def emit(self, record):
        self.messages.append(record.getMessage())


def test_one_rank_alone_says_that_its_numbers_are_its_own():
    (messages, notes), (others, nothing) = on_ranks(alone)
    said = "the numbers are those of rank 0 alone, of 2"
    assert [message for message in messages if said in message] == messages[:1]
    assert any(said in note for note in notes)
    assert not others
    assert nothing is None


def differs():
    messages = []
    logging.getLogger("propscope").addHandler(Kept(messages))
    rank = dist.get_rank()
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    told = []
    with pytest.raises(propscope.errors.InputError) as error:
        propscope.monitor(model, optimizer, every=2 + rank, group="world")
    told.append(str(error.value))
    monitor = propscope.monitor(model, optimizer, every=2, group="world")
    for number in range(5):
        # The ranks number their steps differently, and part at the next sample.
        with monitor.step(number + (rank if number > 1 else 0)):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    monitor.close()
    return told, messages


def test_settings_and_steps_that_differ_are_said():
    for told, messages in on_ranks(differs):
        assert told[0].startswith("monitor must have the same every, start, stop, stats and micro_batches on all ranks")
        assert any("the ranks are at different steps: 2 on rank 0; 3 on rank 1" in message for message in messages)


def torn_down(fails):
    messages = []
    logging.getLogger("propscope").addHandler(Kept(messages))
    model = torch.nn.Linear(3, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monitor = propscope.monitor(model, optimizer, every=1, group="world")
    steps = []
    for number in range(4):
        if number == 2 and fails:
            dist.all_reduce = fail
        elif number == 2:
            dist.destroy_process_group()
        with monitor.step(number):
            model(torch.ones(2, 3)).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        steps.append((number, monitor.profile.provenance.samples))
    monitor.close()
    if not fails:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return steps, len(monitor.steps), [message for message in messages if "the run goes on" in message]


def fail(*_, **__):
    raise RuntimeError("Connection closed by peer")


def test_a_group_that_fails_ends_no_training_and_each_rank_goes_on_alone():
    for steps, seen, messages in on_ranks(torn_down, True):
        # The sample that the ranks were at is lost, the steps are not.
        assert steps == [(0, 4), (1, 4), (2, 4), (3, 2)]
        assert seen == 4
        assert len(messages) == 1
        assert "Connection closed by peer" in messages[0]


def test_a_group_that_is_torn_down_early_ends_no_training():
    for steps, seen, messages in on_ranks(torn_down, False):
        assert [number for number, _ in steps] == [0, 1, 2, 3]
        assert seen == 4
        assert len(messages) <= 1
