"""One training: to the bit what a hand-written loop gives, what is recorded of it, and nothing left behind."""

import json
import math
import pickle

import numpy as np
import pytest
import torch
from building.training_plans import plan_of, seen
from torch import nn

from propscope.errors import InputError
from propscope.experiments.training import OPTIMIZERS
from propscope.experiments.training.loop import train
from propscope.experiments.training.measurements import distinct_rows, evaluate
from propscope.experiments.training.optimizers import parse_optimizer
from propscope.networks import seeded_generator
from propscope.records.stability import stability_of


def one(**options):
    plan = plan_of(**options)
    job = plan.jobs()[0]
    return train(plan, job, plan.data_of(job.cell.seed))


def by_hand(plan, optimizer):
    """The loop of any tutorial."""
    job = plan.jobs()[0]
    seed = job.cell.seed
    data = plan.data_of(seed)
    net = job.cell.network.build(seed=seed, dtype=job.cell.torch_dtype)
    steps = optimizer(net.parameters())
    (x, y), order = data.train, seeded_generator(seed, "order")
    loss_of = nn.functional.cross_entropy if data.task == "classification" else nn.functional.mse_loss
    losses, ratios = [loss_of(net(x), y).item()], []
    for _ in range(plan.epochs):
        batches = torch.randperm(len(x), generator=order).split(job.batch) if job.batch < len(x) else [slice(None)]
        for rows in batches:
            before = [weight.detach().clone() for weight in net.parameters() if weight.dim() == 2]
            loss = loss_of(net(x[rows]), y[rows])
            steps.zero_grad()
            loss.backward()
            steps.step()
            after = [weight.detach() for weight in net.parameters() if weight.dim() == 2]
            moved = sum(((a - b) ** 2).sum() for a, b in zip(after, before, strict=True))
            ratios.append(math.sqrt(moved / sum((b**2).sum() for b in before)))
        losses.append(loss_of(net(x), y).item())
    accuracy = [
        (net(inputs).argmax(1) == labels).float().mean().item() for inputs, labels in (data.train, data.validation)
    ]
    return losses, ratios, accuracy


OPTIMIZED = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum:momentum=0.8": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8),
    "momentum:nesterov=true": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.1, fused=True),
    "adam:beta1=0.5:beta2=0.9:eps=1e-3": lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.5, 0.9), eps=1e-3, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize(("optimizer", "seed"), [*((name, 0) for name in OPTIMIZED), ("sgd", 1)])
def test_a_run_is_what_the_plain_loop_gives(optimizer, seed):
    plan = plan_of(optimizer=optimizer, learning_rate=0.1, seeds=[seed])
    run = train(plan, plan.jobs()[0], plan.data_of(seed))
    losses, ratios, accuracy = by_hand(plan, OPTIMIZED[optimizer])
    assert run.train_loss.tolist() == pytest.approx(losses, rel=1e-6)
    assert [run.train_accuracy[-1], run.validation_accuracy[-1]] == pytest.approx(accuracy)
    # 80 rows make 5 steps of 16, of which 3 and 5 are measured.
    assert run.steps_per_epoch == 5
    measured = np.array(ratios).reshape(3, 5)[:, [2, 4]].mean(1)
    assert run.update_ratio.tolist() == pytest.approx(measured.tolist(), rel=1e-4)


def test_weight_decay_reaches_the_optimizer():
    plan = plan_of(optimizer="sgd", learning_rate=0.1, weight_decay=0.5)
    run = train(plan, plan.jobs()[0], plan.data_of(0))
    losses, _, _ = by_hand(plan, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5))
    assert run.train_loss.tolist() == pytest.approx(losses, rel=1e-6)
    assert plan_of(optimizer="adamw").weight_decay == 0.01
    assert plan_of(optimizer="adam").weight_decay == 0


def test_regression_and_full_batches():
    plan = plan_of(data="linear", optimizer="sgd", learning_rate=0.01, batch=1000, epochs=4, target=5.0)
    run = train(plan, plan.jobs()[0], plan.data_of(0))
    losses = by_hand(plan, lambda p: torch.optim.SGD(p, lr=0.01))[0]
    assert run.train_loss.tolist() == pytest.approx(losses, rel=1e-6)
    assert (run.task, run.steps_per_epoch) == ("regression", 1)
    assert np.isnan(run.train_accuracy).all()
    assert np.isnan(run.validation_accuracy).all()
    reached = int(np.flatnonzero(run.validation_loss <= 5.0)[0])
    assert run.steps_to_target == reached
    assert run.provenance.samples == 80


def test_steps_to_a_target():
    run = one(optimizer="adam", learning_rate=0.01, epochs=40, target=0.8)
    reached = int(np.flatnonzero(run.validation_accuracy >= 0.8)[0])
    assert run.steps_to_target == reached * run.steps_per_epoch > 0
    # What is reached exactly is reached.
    exactly = float(run.validation_accuracy[10:].max())
    found = one(optimizer="adam", learning_rate=0.01, epochs=40, target=exactly)
    assert found.steps_to_target == run.validation_accuracy.argmax() * run.steps_per_epoch
    assert one(target=1.0, epochs=1, learning_rate=1e-9).steps_to_target is None
    assert one().target == 0.9
    assert one(data="linear", epochs=1).target is None


def test_long_epochs_look_for_the_target_in_between():
    run = one(rows=4000, validation=0.01, batch=4, epochs=1, learning_rate=1e-3, target=0.85)
    # 3960 training rows are 6 times 16 times 40 validation rows: looks at steps 165, 330, ... of 990.
    assert run.steps_per_epoch == 990
    assert run.steps_to_target in (165, 330, 495, 660, 825)


def test_without_validation_rows_the_training_rows_tell():
    run = one(validation=0, target=0.6, epochs=20, learning_rate=0.01)
    assert np.isnan(run.validation_loss).all()
    assert run.final_loss == run.train_loss[-1]
    reached = int(np.flatnonzero(run.train_accuracy >= 0.6)[0])
    assert run.steps_to_target == reached * run.steps_per_epoch


def test_divergence_is_recorded_at_its_step():
    run = one(data="linear", optimizer="sgd", learning_rate=1e9, epochs=50, profile_every=1)
    assert run.stability == "diverged"
    assert 1 < run.diverged_at < 30
    whole = (run.diverged_at - 1) // run.steps_per_epoch
    assert np.isfinite(run.train_loss[: whole + 1]).all()
    assert np.isnan(run.train_loss[whole + 1 :]).all()
    assert np.isnan(run.validation_loss[-1])
    assert len(run.train_loss) == 51
    assert [epoch for epoch, _ in run.profiles] == list(range(whole + 1))
    assert math.isnan(run.final_loss)
    plan = plan_of(data="linear", optimizer="sgd", learning_rate=1e9, epochs=1)
    net, (x, y) = plan.jobs()[0].cell.network.build(seed=0), plan.data_of(0).train
    steps = torch.optim.SGD(net.parameters(), lr=1e9)
    for step, rows in enumerate(torch.randperm(80, generator=seeded_generator(0, "order")).split(16), start=1):
        loss = nn.functional.mse_loss(net(x[rows]), y[rows])
        if not loss.isfinite():
            assert run.diverged_at == step
            break
        steps.zero_grad()
        loss.backward()
        steps.step()


def test_a_network_that_overflows_before_the_first_step():
    run = one(depth=12, initializer="normal:std=1e10")
    assert (run.stability, run.diverged_at) == ("diverged", 1)
    assert np.isnan(run.train_loss).all()


def test_a_loss_that_is_not_finite_after_the_last_step():
    run = one(data="linear", optimizer="sgd", learning_rate=1e30, epochs=1, batch=1000)
    assert run.diverged_at == 1
    assert np.isfinite(run.train_loss[0])
    assert np.isnan(run.train_loss[1])


def test_stability_is_judged_by_the_best_constant_prediction():
    run = one(initializer="normal:std=5", learning_rate=0.01, epochs=10)
    assert run.train_loss[-5:].max() < 0.9 * run.train_loss[0]
    assert run.train_loss[-5:].min() > run.constant_loss
    assert run.stability == stability_of(run.train_loss, constant_loss=run.constant_loss) == "stalled"
    assert stability_of(run.train_loss) == "converged"


def test_units_that_collapse():
    zeros, ones, he = (
        one(data="one_hidden", depth=1, width=10, activation="tanh", initializer=name, optimizer="sgd", epochs=5)
        for name in ("zeros", "ones", "he_normal")
    )
    assert zeros.rows == ones.rows == he.rows == (10, 1)
    assert (zeros.distinct_rows_before, zeros.distinct_rows_after) == ((1, 1), (1, 1))
    assert (ones.distinct_rows_before, ones.distinct_rows_after) == ((1, 1), (1, 1))
    assert (he.distinct_rows_before, he.distinct_rows_after) == ((10, 1), (10, 1))
    # Only the output's bias learns: no weight matrix has anything to compare an update with.
    assert np.isnan(zeros.update_ratio).all()
    assert (ones.update_ratio > 0).all()


def test_distinct_rows():
    weight = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0 + 3e-7], [2.0, 1.0], [1.0, 2.001], [math.nan, 0.0]])
    assert distinct_rows(weight) == 4
    assert distinct_rows(torch.eye(50)) == 50
    assert distinct_rows(torch.randn(3, 4, generator=seeded_generator(0)).repeat(100, 1)) == 3
    assert distinct_rows(1e-30 * torch.randn(64, 8, generator=seeded_generator(0))) == 64
    assert distinct_rows(torch.full((4, 4), math.nan)) == 1


# Profiles on the way


def test_profiles_are_taken_when_asked_for():
    assert [epoch for epoch, _ in one(epochs=5, profile_every=2).profiles] == [0, 2, 4, 5]
    assert [epoch for epoch, _ in one(epochs=5, profile_every=None).profiles] == [0, 5]
    assert one(profile_every=0).profiles == ()
    plan = plan_of(profile_every=None, rows=1000)
    run = train(plan, plan.jobs()[0], plan.data_of(0))
    first, last = run.profile(0), run.profile(-1)
    assert [site.role for site in first.sites] == ["input"] + ["pre-activation", "activation"] * 2 + ["output"]
    net, (x, y) = plan.jobs()[0].cell.network.build(seed=0), plan.data_of(0).train
    z = net.layers[0].linear(x[:256])
    assert first.sites[1].forward.rms == pytest.approx(z.square().mean().sqrt().item(), rel=1e-5)
    gradient = torch.autograd.grad(nn.functional.cross_entropy(net(x[:256]), y[:256]), net.layers[0].linear.weight)[0]
    assert first.parameters[0].gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-5)
    assert last.parameters[0].value_norm != first.parameters[0].value_norm
    assert dict(first.labels) == dict(run.labels)


@pytest.mark.parametrize("options", [{}, {"norm": "batch"}, {"dropout": 0.3}, {"optimizer": "momentum"}], ids=str)
def test_profiling_changes_nothing(options):
    without, along = one(**options), one(**options, profile_every=1)
    assert seen(without)[:3] == seen(along)[:3]
    assert len(along.profiles) == 4


def test_the_caller_finds_everything_as_it_was():
    torch.manual_seed(1)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    expected = seen(one(dropout=0.5))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(2)
    with torch.no_grad():
        assert seen(one(dropout=0.5)) == expected
    with torch.inference_mode():
        assert seen(one(dropout=0.5)) == expected
    assert seen(one(dropout=0.5, seeds=[1])) != expected


def test_one_thread_whatever_the_caller_has(monkeypatch):
    threads = []

    def noting(*arguments):
        threads.append(torch.get_num_threads())
        return evaluate(*arguments)

    monkeypatch.setattr("propscope.experiments.training.loop.evaluate", noting)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        one(epochs=1)
        assert torch.get_num_threads() == 3
        one(epochs=1, threads=2)
    finally:
        torch.set_num_threads(before)
    assert threads == [1] * 4 + [2] * 4


def test_the_same_seed_gives_every_initializer_the_same_batches():
    # With a learning rate that changes nothing, what is left of the run is the data.
    one_run, other = (one(initializer=name, learning_rate=1e-30) for name in ("he_normal", "he_uniform"))
    assert one_run.constant_loss == other.constant_loss


def test_batch_norm_leaves_a_single_row_out():
    run = one(norm="batch", rows=101, validation=0.2, batch=16)
    assert run.steps_per_epoch == 5  # 81 rows: five batches of 16, and one row that no norm can be taken of
    assert np.isfinite(run.train_loss).all()
    assert one(rows=101, validation=0.2, batch=16).steps_per_epoch == 6


def test_evaluation_leaves_the_network_training():
    plan = plan_of(dropout=0.9)
    net, data = plan.jobs()[0].cell.network.build(seed=0), plan.data_of(0)
    assert evaluate(net, data.train, data.task) == evaluate(net, data.train, data.task)
    assert net.training
    assert all(map(math.isnan, evaluate(net, (data.train[0][:0], data.train[1][:0]), data.task)))


def test_large_data_are_evaluated_in_pieces():
    plan = plan_of(rows=11_000, validation=0)
    net, data = plan.jobs()[0].cell.network.build(seed=0), plan.data_of(0)
    with torch.no_grad():
        output = net(data.train[0])
    loss, accuracy = evaluate(net, data.train, data.task)
    assert loss == pytest.approx(nn.functional.cross_entropy(output, data.train[1]).item(), rel=1e-5)
    assert accuracy == pytest.approx((output.argmax(1) == data.train[1]).double().mean().item())


def test_records_travel_between_processes():
    run = one(profile_every=None)
    assert seen(pickle.loads(pickle.dumps(run))) == seen(run)


def test_the_spec_is_everything_that_was_asked_for():
    run = one(optimizer="adam:beta1=0.5", learning_rate=0.25, scale="zscore", norm="layer")
    spec = json.loads(run.provenance.spec)
    assert (spec["optimizer"], spec["learning_rates"], spec["scale"]) == ("adam:beta1=0.5", [0.25], "zscore")
    assert (spec["network"]["norm"], spec["network"]["input_size"], spec["data"]) == ("layer", 2, "moons")
    assert run.wall_seconds > 0
    assert run.provenance.seed == 0


def test_critical_is_filled_in():
    run = one(initializer="critical", activation="tanh", profile_every=None)
    assert run.labels["initializer"] == "critical"
    assert "weight_variance" in json.loads(run.provenance.spec)["network"]["initializer"]


def test_a_users_activation_that_fails_is_named(tmp_path):
    (tmp_path / "broken.py").write_text("def act(z):\n    return z[:, :7] if z.shape[-1] == 7 else z.nope\n")
    with pytest.raises(InputError, match=r"activation \".*broken\.py:act\" failed"):
        one(activation=f"{tmp_path}/broken.py:act")


# Optimizers


def test_optimizers_are_found_by_their_names():
    names = [name for kind in OPTIMIZERS for name in (kind.name, *kind.aliases)]
    assert len(set(names)) == len(names)
    assert parse_optimizer("SGD-momentum").label == "momentum"
    assert parse_optimizer("adam:beta1=0.90:beta2=0.99").label == "adam:beta2=0.99"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adamm", 'unknown optimizer "adamm"; valid are sgd, momentum, sgd_momentum, adam, adamw'),
        ("sgd:momentum=0.9", 'optimizer sgd has no parameter "momentum"; it has none'),
        ("adam:beta1=1", 'beta1 of optimizer adam must be .* at most 0.999999, got "1"'),
        ("adam:eps=0", 'eps of optimizer adam must be .* above 0, got "0"'),
        ("momentum:nesterov=yes", 'nesterov of optimizer momentum must be one of false, true, got "yes"'),
    ],
)
def test_optimizers_that_are_not(spec, message):
    with pytest.raises(InputError, match=message):
        parse_optimizer(spec)
    with pytest.raises(InputError, match=message):
        plan_of(optimizer=spec)
