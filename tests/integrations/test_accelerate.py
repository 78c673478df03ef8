"""In a loop of Accelerate a training is the one without the monitor, and what is recorded is what it did."""

import contextlib
import os
import warnings

import pytest
import torch
from building.processes import on_ranks
from building.snippets import snippets
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import propscope

pytestmark = [
    pytest.mark.slow,
    # Accelerate calls what this torch deprecates.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:accelerate"),
    pytest.mark.filterwarnings("ignore::FutureWarning:accelerate"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.data.dataloader"),
]
BATCH, BATCHES = 4, 7


@pytest.fixture
def accelerate(tmp_path, monkeypatch):
    """The package, imported by the tests alone that use it; what it knows of the machine is asked anew."""
    import accelerate
    from accelerate.state import AcceleratorState, GradientState

    monkeypatch.chdir(tmp_path)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    return accelerate


class Training:
    """A loop as Accelerate's own examples have it; `truth` has the norms of the gradients before they are clipped."""

    def __init__(self, accelerate, *, scaled=False, **options):
        torch.manual_seed(0)
        self.accelerator = accelerate.Accelerator(cpu=True, **options)
        if scaled:
            # Accelerate has one on a GPU alone.
            self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), 0.05)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        values = torch.randn(BATCH * BATCHES, 3, generator=torch.Generator().manual_seed(1))
        loader = DataLoader(TensorDataset(values), batch_size=BATCH)
        self.model, self.optimizer, self.schedule, self.loader = self.accelerator.prepare(
            model, optimizer, schedule, loader
        )
        self.truth, self.losses, self.raising = [], [], None

    def run(self, signals=None):
        for number, (x,) in enumerate(self.loader):
            batch = contextlib.nullcontext() if signals is None else signals.batch()
            with self.accelerator.accumulate(self.model), batch:
                if number == self.raising:
                    raise RuntimeError("out of data")
                loss = (self.model(x) - x[:, :2].flip(1)).square().mean()
                self.losses.append(loss.detach())
                if signals is not None:
                    signals.loss(loss)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    scale = 1.0 if self.accelerator.scaler is None else self.accelerator.scaler.get_scale()
                    named = self.model.named_parameters()
                    self.truth.append({name: float(one.grad.norm()) / scale for name, one in named})
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 0.1)
                self.optimizer.step()
                self.schedule.step()
                self.optimizer.zero_grad()
        return self

    def state(self):
        found = [*self.model.state_dict().values(), *self.losses, torch.random.get_rng_state()]
        for one in self.optimizer.state_dict()["state"].values():
            found += [value for value in one.values() if isinstance(value, torch.Tensor)]
        return [*found, torch.tensor(self.schedule.get_last_lr())]

    @property
    def untouched(self):
        optimizer = self.optimizer.optimizer
        hooks = [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)]
        hooks += [len(found) for one in self.model.modules() for name, found in vars(one).items() if "_hooks" in name]
        return not any((*hooks, *(bool(one._backward_hooks) for one in self.model.parameters())))


TRAININGS = {
    "plain": {},
    "accumulated": {"gradient_accumulation_steps": 3},
    "bf16": {"mixed_precision": "bf16", "gradient_accumulation_steps": 2},
    "scaled": {"scaled": True, "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_bit_for_bit_the_one_without_and_its_gradients_are_the_true_ones(accelerate, name):
    from propscope.integrations.accelerate import SignalMonitor

    bare = Training(accelerate, **TRAININGS[name]).run().state()
    seen = Training(accelerate, **TRAININGS[name])
    with SignalMonitor(seen.accelerator, seen.model, seen.optimizer, every=1, file="run.propscope") as signals:
        found = seen.run(signals).state()
    assert len(bare) == len(found)
    assert all(map(torch.equal, bare, found))
    # The forward that Accelerate gives a model in mixed precision is no hook.
    assert seen.untouched
    run = propscope.load("run.propscope")
    assert run.steps.number.tolist() == list(range(len(seen.truth)))
    every = TRAININGS[name].get("gradient_accumulation_steps", 1)
    assert run.steps.loss[0] == pytest.approx(float(torch.stack(seen.losses[:every]).mean()))
    assert (run.steps.skipped == 0).all()
    for step, truth in enumerate(seen.truth):
        profile = run.select(step=step)
        assert {one.name: one.step_gradient_norm for one in profile.parameters} == pytest.approx(truth, rel=1e-4)
        assert all(one.update_norm > 0 for one in profile.parameters)
        assert profile["2"].samples == BATCH


def test_the_docs_run_as_they_are_written(accelerate):
    (code,) = snippets("trainers.md", "Accelerate")
    model, values = nn.Linear(3, 2), torch.randn(12, 3)
    names = {"accelerator": accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2), "model": model}
    names |= {"optimizer": torch.optim.SGD(model.parameters(), 0.1), "loss_of": nn.functional.mse_loss}
    exec(code, names | {"loader": DataLoader(TensorDataset(values, values[:, :2]), batch_size=4)})
    assert propscope.load("run.propscope").steps.number.tolist() == [0, 1]


def test_a_training_that_loads_a_checkpoint_goes_on_in_its_file(accelerate):
    from propscope.integrations.accelerate import SignalMonitor

    for part in (0, 1):
        seen = Training(accelerate)
        with SignalMonitor(seen.accelerator, seen.model, seen.optimizer, every=2, file="run.propscope") as signals:
            seen.accelerator.register_for_checkpointing(signals)
            if part:
                seen.accelerator.load_state("kept")
            seen.run(signals)
            if not part:
                seen.accelerator.save_state("kept")
                seen.run(signals)
    steps = propscope.load("run.propscope").steps
    assert steps.number[steps.superseded == 0].tolist() == list(range(2 * BATCHES))
    assert steps.number[steps.superseded == 1].tolist() == list(range(BATCHES, 2 * BATCHES))


def test_numbers_and_alarms_are_where_the_accelerator_tracks_them(accelerate, monkeypatch, tmp_path):
    import mlflow
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from propscope.integrations.accelerate import SignalMonitor

    class Kept:
        steps, alarms = (), ()

        def write(self, step, values):
            self.steps = (*self.steps, step)

        def alarm(self, alarm):
            self.alarms = (*self.alarms, alarm.step)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/store")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    seen, kept = Training(accelerate, log_with=["tensorboard", "mlflow"], project_dir="tracked"), Kept()
    seen.accelerator.init_trackers("run")
    with SignalMonitor(seen.accelerator, seen.model, seen.optimizer, every=2, sinks=kept) as signals:
        seen.run(signals)
        with torch.no_grad():
            seen.model[0].weight.fill_(torch.nan)
        seen.run(signals)
    run = mlflow.active_run().info.run_id
    seen.accelerator.end_training()
    tracked = mlflow.MlflowClient().get_metric_history(run, "activation/max_rms")
    assert sorted(one.step for one in tracked) == list(kept.steps)
    shown = EventAccumulator("tracked/run", size_guidance={"scalars": 0, "tensors": 0})
    shown.Reload()
    assert [one.step for one in shown.Scalars("activation/max_rms")] == list(kept.steps)
    assert set(range(0, BATCHES, 2)) <= set(kept.steps)
    assert BATCHES in kept.alarms
    assert {one.step for one in shown.Tensors("alarm/text_summary")} == set(kept.alarms)


def test_a_batch_that_raises_passes_its_error_on_and_leaves_no_hook(accelerate):
    from propscope.integrations.accelerate import SignalMonitor

    seen = Training(accelerate, gradient_accumulation_steps=2)
    seen.raising = 3
    signals = SignalMonitor(seen.accelerator, seen.model, seen.optimizer, every=1)
    with pytest.raises(RuntimeError, match="out of data"):
        seen.run(signals)
    assert signals.monitor.steps.error.tolist() == ["", "RuntimeError: out of data"]
    signals.close()
    assert seen.untouched


def on_a_rank(folder):
    """One of two ranks: the training without and with the monitor, on half of the batches."""
    import accelerate

    from propscope.integrations.accelerate import SignalMonitor

    warnings.simplefilter("ignore")
    os.chdir(folder)
    # The group is there, but Accelerate looks for the address where it would have met.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    bare = Training(accelerate, gradient_accumulation_steps=2).run().state()
    seen = Training(accelerate, gradient_accumulation_steps=2)
    with SignalMonitor(seen.accelerator, seen.model, seen.optimizer, every=1, file="run.propscope") as signals:
        found = seen.run(signals).state()
    truth = {name.removeprefix("module."): norm for name, norm in seen.truth[-1].items()}
    sample = signals.monitor.profile
    norms = {one.name: one.step_gradient_norm for one in sample.parameters}
    return all(map(torch.equal, bare, found)), seen.untouched, sample["2"].samples, truth, norms


def test_on_several_ranks_it_sees_what_all_of_them_do_and_writes_one_file(tmp_path):
    for same, clean, samples, truth, norms in on_ranks(on_a_rank, str(tmp_path)):
        assert same
        assert clean
        assert samples == 2 * BATCH
        assert norms == pytest.approx(truth, rel=1e-4)
    assert [path.name for path in tmp_path.glob("*.propscope")] == ["run.propscope"]
