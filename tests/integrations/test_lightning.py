"""Under Lightning's Trainer a fit is the one without the callback, and what is recorded is what it did."""

import contextlib
import copy
import os
import pickle
import signal
import warnings
from functools import partial

import pytest
import torch
from building.processes import on_ranks
from building.snippets import snippets
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import propscope

pytestmark = [
    pytest.mark.slow,
    # Lightning calls what this torch deprecates, and advises on the machine and on runs as short as these.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:.*lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:.*lightning"),
    pytest.mark.filterwarnings("ignore::UserWarning:.*lightning"),
]
BATCH = 4


@pytest.fixture
def lightning(tmp_path, monkeypatch):
    """The package, imported by the tests alone that use it; it writes into an empty directory."""
    import lightning.pytorch

    monkeypatch.chdir(tmp_path)
    return lightning.pytorch


def network(package, kind="automatic"):
    """A module of two layers; `truth` has, for each update, the norms of the gradients before anything clips them."""

    class Network(package.LightningModule):
        def __init__(self):
            super().__init__()
            self.first, self.head = nn.Linear(3, 8), nn.Linear(8, 2)
            self.automatic_optimization = kind not in ("accumulating", "two optimizers")
            self.truth, self.losses, self.raising = [], [], {}

        def forward(self, x):
            return self.head(torch.relu(self.first(x)))

        def loss(self, x):
            found = self.head(torch.relu(self.first(x))) if kind == "parts called" else self(x)
            return (found - x[:, :2].flip(1)).square().mean()

        def configure_model(self):
            if kind == "sharded":
                for part in (self.first, self.head, self):
                    fully_shard(part, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch, number):
            if error := self.raising.get(number):
                raise error
            loss = self.loss(*batch)
            self.log("train_loss", loss)
            self.losses.append(loss.detach())
            if self.automatic_optimization:
                return loss
            optimizers = self.optimizers()
            if kind == "accumulating":
                self.manual_backward(loss / 2)
                if number % 2:
                    self.clip_gradients(optimizers, gradient_clip_val=0.1)
                    optimizers.step()
                    optimizers.zero_grad()
                return loss
            for part, optimizer in zip((self.first, self.head), optimizers, strict=True):
                optimizer.zero_grad()
                self.manual_backward(self.loss(*batch) if part is self.head else loss)
                self.clip_gradients(optimizer, gradient_clip_val=0.1)
                optimizer.step()
            return None

        def on_after_backward(self):
            if kind == "changed":
                self.head.weight.grad.mul_(3)

        def on_before_optimizer_step(self, optimizer):
            stepped = {id(one) for group in optimizer.param_groups for one in group["params"]}
            own = ((name, one) for name, one in self.named_parameters() if id(one) in stepped)
            found = {name: float(whole(one.grad).norm()) for name, one in own}
            if optimizer.param_groups[0]["params"][0] is self.head.weight:
                self.truth[-1] |= found
            else:
                self.truth.append(found)

        def validation_step(self, batch, number):
            self.log("val_loss", self.loss(*batch))

        def configure_optimizers(self):
            if kind == "two optimizers":
                return [torch.optim.SGD(self.first.parameters(), 0.1), torch.optim.AdamW(self.head.parameters(), 0.1)]
            return torch.optim.AdamW(self.parameters(), 0.05)

    torch.manual_seed(0)
    return Network()


def batches(count=7):
    values = torch.randn(count * BATCH, 3, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(values), batch_size=BATCH)


def fit(package, model, *callbacks, resume=None, **options):
    """Train a model, and return the Trainer; without what it would print."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "max_epochs": 1}
    quiet["enable_checkpointing"] = any(hasattr(one, "best_model_path") for one in callbacks)
    trainer = package.Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet | options)
    torch.manual_seed(2)
    trainer.fit(model, batches(), batches(2), ckpt_path=resume)
    return trainer


def state(trainer, model):
    """Everything that a fit leaves."""
    found = [*model.state_dict().values(), *model.losses, torch.random.get_rng_state()]
    for optimizer in trainer.optimizers:
        for one in optimizer.state_dict()["state"].values():
            found += [value for value in one.values() if isinstance(value, torch.Tensor)]
    return found


def hooks(model):
    found = [len(found) for module in model.modules() for name, found in vars(module).items() if "_hooks" in name]
    return [*found, *(len(one._backward_hooks or ()) for one in model.parameters())]


def untouched(model):
    return not any(hooks(model))


def scaled(package):
    """Mixed precision with a scaler, which Lightning has on a GPU alone unless it is asked for so."""
    from lightning.pytorch.plugins.precision import MixedPrecision

    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10))


FITS = {
    "plain": ("automatic", {}),
    "accumulated, clipped by norm": ("automatic", {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}),
    "clipped by value": ("automatic", {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}),
    "validated in the middle": ("automatic", {"accumulate_grad_batches": 3, "val_check_interval": 2}),
    "without its own forward": ("parts called", {"accumulate_grad_batches": 3}),
    "bf16": ("automatic", {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
    "scaled": ("automatic", {"plugins": scaled, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
    "changed after the pass": ("changed", {"gradient_clip_val": 0.1}),
    "accumulating by hand": ("accumulating", {}),
    "two optimizers": ("two optimizers", {}),
}


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_bit_for_bit_the_one_without_and_its_gradients_are_the_true_ones(lightning, name):
    from propscope.integrations.lightning import SignalMonitor

    kind, options = FITS[name]
    left = []
    signals = SignalMonitor(every=1, file="run.propscope")
    for callbacks in ((), (signals,)):
        model = network(lightning, kind)
        made = {key: value(lightning) if callable(value) else value for key, value in options.items()}
        left.append(state(fit(lightning, model, *callbacks, **made), model))
    assert len(left[0]) == len(left[1])
    assert all(map(torch.equal, *left))
    assert untouched(model)
    run = propscope.load("run.propscope")
    assert run.steps.number.tolist() == list(range(len(model.truth)))
    for step, truth in enumerate(model.truth):
        profile = run.select(step=step)
        assert profile["head"].samples == BATCH
        found = {one.name: one.step_gradient_norm for one in profile.parameters}
        assert found == pytest.approx(truth, rel=1e-4)
        assert all(one.update_norm > 0 for one in profile.parameters)


def test_the_docs_run_as_they_are_written(lightning):
    (code,) = snippets("trainers.md", "Lightning")
    names = {"module": network(lightning), "loader": batches()}
    names["Trainer"] = partial(lightning.Trainer, max_epochs=1, logger=False, enable_checkpointing=False)
    exec(code.replace("from lightning.pytorch import Trainer\n", ""), names)
    assert propscope.load("run.propscope").steps.number.tolist() == list(range(7))


def test_the_loss_of_an_update_is_the_mean_of_its_batches(lightning):
    from propscope.integrations.lightning import SignalMonitor

    model, signals = network(lightning), SignalMonitor(every=2)
    fit(lightning, model, signals, accumulate_grad_batches=3)
    means = [float(torch.stack(model.losses[first : first + 3]).mean()) for first in (0, 3)]
    assert signals.monitor.steps.loss[:2] == pytest.approx(means)
    assert signals.monitor.profile.labels == {"step": 2}


def test_so_many_batches_of_an_update_are_recorded(lightning):
    from propscope.integrations.lightning import SignalMonitor

    signals = SignalMonitor(every=1, micro_batches=2)
    options = {"accumulate_grad_batches": 3, "limit_train_batches": 3}
    fit(lightning, network(lightning), signals, **options)
    assert signals.monitor.profile["head"].samples == 2 * BATCH
    # Those before the first validation alone: what it runs is none of them.
    fit(lightning, network(lightning), signals, val_check_interval=1, **options)
    assert signals.monitor.profile["head"].samples == BATCH


def test_a_fit_that_goes_on_from_a_checkpoint_goes_on_in_its_file(lightning):
    from propscope.integrations.lightning import SignalMonitor

    halves = [SignalMonitor(every=2, file="run.propscope") for _ in range(2)]
    saving = lightning.callbacks.ModelCheckpoint("kept", filename="{step}", every_n_train_steps=5, save_top_k=-1)
    fit(lightning, network(lightning), halves[0], saving)
    fit(lightning, network(lightning), halves[1], resume="kept/step=5.ckpt", max_epochs=2)
    run = propscope.load("run.propscope")
    valid = run.steps.superseded == 0
    assert run.steps.number[valid].tolist() == list(range(14))
    assert run.steps.number[~valid].tolist() == [5, 6]
    assert halves[1].monitor.file.name == "run.propscope"


class Fault:
    """Multiplies the learning rate by 100 at step 20."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 20:
            trainer.optimizers[0].param_groups[0]["lr"] *= 100


def test_numbers_and_alarms_are_in_the_loggers_of_the_trainer(lightning, tmp_path, caplog):
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from propscope.integrations.lightning import SignalMonitor

    class Planted(Fault, lightning.Callback):
        pass

    class Failing(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if any("/" in name for name in metrics):
                raise OSError("no room")

    loggers = [Failing(tmp_path, "failing"), TensorBoardLogger(tmp_path, "shown"), CSVLogger(tmp_path, "table")]
    signals = SignalMonitor(every=4)
    options = {"accumulate_grad_batches": 2, "log_every_n_steps": 1, "max_epochs": 8, "logger": loggers}
    fit(lightning, network(lightning), Planted(), signals, **options)
    seen = EventAccumulator(str(tmp_path / "shown/version_0"), size_guidance={"scalars": 0, "tensors": 0})
    seen.Reload()
    steps = {key: [one.step for one in seen.Scalars(key)] for key in seen.Tags()["scalars"]}
    assert set(range(0, 32, 4)) <= set(steps["activation/max_rms"])
    assert set(steps["activation/max_rms"]) <= set(steps["train_loss"])
    assert steps["alarm/large_update"] == [20]
    assert not {"loss", "learning_rate"} & set(steps)
    texts = {one.step: one.tensor_proto.string_val[0].decode() for one in seen.Tensors("alarm/text_summary")}
    assert texts[20].startswith("step 20: large update (broken): the optimizer changed ")
    header = (tmp_path / "table/version_0/metrics.csv").read_text().splitlines()[0]
    assert {"activation/max_rms", "alarm/large_update", "train_loss"} <= set(header.split(","))
    failures = [one.getMessage() for one in caplog.records if "failed" in one.getMessage()]
    assert failures == ["Failing failed: OSError: no room; the run goes on"]


@pytest.mark.parametrize("error", [RuntimeError("out of data"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_fit_that_is_stopped_leaves_no_hook_and_the_record_of_what_stopped_it(lightning, error):
    from propscope.integrations.lightning import SignalMonitor

    model, signals = network(lightning), SignalMonitor(every=1, file="run.propscope")
    model.raising[4] = error
    before = signal.getsignal(signal.SIGINT)
    try:
        # Lightning ends the process when it is interrupted.
        with pytest.raises(RuntimeError if isinstance(error, RuntimeError) else SystemExit):
            fit(lightning, model, signals)
    finally:
        signal.signal(signal.SIGINT, before)
    assert untouched(model)
    steps = propscope.load("run.propscope").steps
    assert steps.number.tolist() == [0, 1, 2, 3, 4]
    assert steps.error[-1].startswith(type(error).__name__)
    fit(lightning, network(lightning), signals)
    assert signals.monitor.steps.number.tolist() == list(range(7))


def test_an_alarm_may_stop_the_fit(lightning):
    from propscope.integrations.lightning import SignalMonitor

    def stop(alarm):
        raise RuntimeError(alarm.kind)

    class Spoiling(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, number):
            if number == 3:
                module.head.bias.data.fill_(torch.nan)

    model = network(lightning)
    with pytest.raises(RuntimeError, match="non-finite"):
        fit(lightning, model, Spoiling(), SignalMonitor(every=1, on_alarm=stop))
    assert untouched(model)
    # It comes before the optimizer spreads what is not finite.
    assert model.first.weight.isfinite().all()


def test_a_fit_that_resumes_what_the_monitor_cannot_read_begins_a_record_of_its_own(lightning, caplog):
    from propscope.integrations.lightning import SignalMonitor

    saving = lightning.callbacks.ModelCheckpoint("kept", filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit(lightning, network(lightning), SignalMonitor(), saving)
    kept = torch.load("kept/step=3.ckpt", weights_only=True)
    kept["callbacks"]["SignalMonitor"] = {"step": 3}
    torch.save(kept, "kept/other.ckpt")
    signals = SignalMonitor(every=1)
    fit(lightning, network(lightning), signals, resume="kept/other.ckpt", max_epochs=2)
    assert signals.monitor.steps.number.tolist() == list(range(3, 14))
    assert [one.getMessage() for one in caplog.records if "the monitor begins anew: state must" in one.getMessage()]


def test_a_second_fit_of_the_same_trainer_goes_on_and_one_of_another_begins_anew(lightning):
    from propscope.integrations.lightning import SignalMonitor

    signals, model = SignalMonitor(file="run.propscope"), network(lightning)
    trainer = fit(lightning, model, signals)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, batches(), batches(2))
    assert propscope.load("run.propscope").steps.number.tolist() == list(range(14))
    fit(lightning, network(lightning), signals)
    assert signals.monitor.steps.number.tolist() == list(range(7))
    assert signals.monitor.file.name == "run-2.propscope"


def test_a_run_that_only_tries_everything_writes_no_file(lightning, tmp_path):
    from propscope.integrations.lightning import SignalMonitor

    model, signals = network(lightning), SignalMonitor(file="run.propscope")
    fit(lightning, model, signals, fast_dev_run=True)
    assert signals.monitor.steps.number.tolist() == [0]
    assert signals.monitor.file is None
    assert untouched(model)
    assert not list(tmp_path.iterdir())


def test_a_callback_is_copied_and_pickled_with_its_state_and_without_its_monitor(lightning):
    from propscope.integrations.lightning import SignalMonitor

    signals = SignalMonitor(every=3, include="head")
    copies = []

    class Copying(lightning.Callback):
        def on_train_batch_end(self, trainer, *_):
            copies.append(pickle.loads(pickle.dumps(copy.deepcopy(signals))))

    fit(lightning, network(lightning), signals, Copying())
    assert [one.state_dict()["step"] for one in copies] == list(range(7))
    assert all(one.monitor is None for one in copies)
    fit(lightning, network(lightning), copies[0])
    assert copies[0].monitor.every == 3
    assert {site.name for site in copies[0].monitor.profile.sites} == {"head"}


def test_the_trainer_of_the_other_package_takes_it(lightning):
    import pytorch_lightning

    from propscope.integrations.lightning import SignalMonitor

    model, signals = network(pytorch_lightning), SignalMonitor(every=1)
    fit(pytorch_lightning, model, signals, accumulate_grad_batches=3)
    assert signals.monitor.steps.number.tolist() == [0, 1, 2]
    found = {one.name: one.step_gradient_norm for one in signals.monitor.profile.parameters}
    assert found == pytest.approx(model.truth[-1], rel=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"evry": 5}, r'SignalMonitor\(\) has no argument "evry"'), ({"every": 0}, "every must be")],
)
def test_invalid_arguments_are_refused_when_they_are_passed(lightning, arguments, message):
    from propscope.integrations.lightning import SignalMonitor

    before = torch.random.get_rng_state()
    with pytest.raises(propscope.PropscopeError, match=message):
        SignalMonitor(**arguments)
    SignalMonitor(file="run.propscope")
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_loop_of_fabric_is_recorded_under_the_names_of_the_model(lightning, precision):
    from lightning.fabric import Fabric

    left, truth = [], {}
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
        fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
        made, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), 0.05))
        monitor = propscope.monitor(made, optimizer, every=1) if watched else None
        for (x,) in batches():
            with contextlib.nullcontext() if monitor is None else monitor.step():
                fabric.backward((made(x) - x[:, :2]).square().mean())
                truth = {name: float(one.grad.norm()) for name, one in model.named_parameters()}
                fabric.clip_gradients(made, optimizer, max_norm=0.1)
                optimizer.step()
                optimizer.zero_grad()
        left.append(list(model.state_dict().values()))
    monitor.close()
    assert all(map(torch.equal, *left))
    assert [site.name for site in monitor.profile.sites] == ["input", "0", "1", "2"]
    assert {one.name: one.step_gradient_norm for one in monitor.profile.parameters} == pytest.approx(truth, rel=1e-4)
    assert monitor.steps.skipped.tolist() == [0] * 7


def on_a_rank(folder):
    """One of two ranks: fits without and with the callback, whole models and sharded ones, on half of the batches."""
    import lightning.pytorch as package
    from lightning.pytorch.strategies import ModelParallelStrategy

    from propscope.integrations.lightning import SignalMonitor

    warnings.simplefilter("ignore")
    os.chdir(folder)
    found = {}
    strategies = {
        "automatic": lambda: "ddp",
        "sharded": lambda: ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1),
    }
    for kind, strategy in strategies.items():
        left, hooked, signals = [], [], SignalMonitor(every=1, file=f"{kind}.propscope")
        for callbacks in ((), (signals,)):
            model = network(package, kind)
            made = {"strategy": strategy(), "devices": 2, "accumulate_grad_batches": 2, "gradient_clip_val": 0.1}
            left.append([whole(one) for one in state(fit(package, model, *callbacks, **made), model)])
            # Sharded modules have some of their own.
            hooked.append(hooks(model))
        sample = signals.monitor.profile
        norms = {one.name: one.step_gradient_norm for one in sample.parameters}
        names, seen = [site.name for site in sample.sites], sample["head"].samples
        found[kind] = all(map(torch.equal, *left)), hooked[0] == hooked[1], names, seen, norms, model.truth[-1]
    return found


def whole(value):
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def test_on_several_ranks_it_sees_what_all_of_them_do_under_the_names_of_one_process(lightning, tmp_path):
    from propscope.integrations.lightning import SignalMonitor

    alone = SignalMonitor()
    fit(lightning, network(lightning), alone, fast_dev_run=True)
    for found in on_ranks(on_a_rank, str(tmp_path)):
        for same, unhooked, names, samples, norms, truth in found.values():
            assert same
            assert unhooked
            assert names == [site.name for site in alone.monitor.profile.sites]
            assert samples == 2 * BATCH
            assert norms == pytest.approx(truth, rel=1e-4)
    assert sorted(path.name for path in tmp_path.glob("*.propscope")) == ["automatic.propscope", "sharded.propscope"]


def test_without_a_group_the_first_rank_alone_is_watched(lightning, tmp_path):
    first, other = on_ranks(alone_on_a_rank, str(tmp_path))
    assert first == BATCH
    assert other is None
    assert [path.name for path in tmp_path.glob("*.propscope")] == ["run.propscope"]


def alone_on_a_rank(folder):
    import lightning.pytorch as package

    from propscope.integrations.lightning import SignalMonitor

    warnings.simplefilter("ignore")
    os.chdir(folder)
    signals = SignalMonitor(file="run.propscope", group=None)
    fit(package, network(package), signals, strategy="ddp", devices=2)
    return None if signals.monitor is None else signals.monitor.profile["head"].samples
