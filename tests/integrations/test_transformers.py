"""Under the Trainer of Transformers a training is the one without the callback, and what is recorded is what it did."""

import copy
import json
import math
import os
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from building.processes import on_ranks
from building.snippets import snippets
from torch import nn

import propscope

pytestmark = [
    pytest.mark.slow,
    # Transformers calls what this torch deprecates, and advises on the machine.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:(transformers|accelerate)"),
    pytest.mark.filterwarnings("ignore::FutureWarning:(transformers|accelerate)"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.utils.data.dataloader"),
]
BATCH, BATCHES = 4, 7


@pytest.fixture
def transformers(tmp_path, monkeypatch):
    """The package, imported by the tests alone that use it; it writes into an empty directory."""
    import transformers

    monkeypatch.chdir(tmp_path)
    return transformers


class Network(nn.Module):
    """Two layers that return their loss, as models of the package do; in `broken` calls the loss is NaN."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.head = nn.Linear(3, 8), nn.Dropout(0.1), nn.Linear(8, 2)
        self.calls, self.broken, self.raising, self.offset = 0, (), {}, 0.0

    def forward(self, x, labels=None):
        if self.training:
            self.calls += 1
            if error := self.raising.get(self.calls):
                raise error
        logits = self.head(self.drop(torch.relu(self.first(x))))
        if labels is None:
            return {"logits": logits}
        loss = (logits - labels).square().mean() + self.offset
        return {"loss": loss * math.nan if self.calls in self.broken else loss, "logits": logits}


def examples(count=BATCH * BATCHES):
    values = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    return [{"x": one, "labels": one[:2].flip(0)} for one in values]


def language(transformers):
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8, **ends)
    return transformers.GPT2LMHeadModel(config)


def sentences():
    tokens = torch.randint(16, (BATCH * BATCHES, 6), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": one, "labels": one} for one in tokens]


def trainer(transformers, model, *callbacks, data=None, kind=None, own_loss=False, **options):
    """A Trainer whose `truth` has, for each update, the norms of the gradients before it clips them."""

    class Truthful(getattr(transformers, kind or "Trainer")):
        truth, losses = (), ()

        def compute_loss(self, model, inputs, return_outputs=False, **options):
            if not own_loss:
                return super().compute_loss(model, inputs, return_outputs=return_outputs, **options)
            outputs = model(inputs["x"])
            loss = (outputs["logits"] - inputs["labels"]).abs().mean()
            return (loss, outputs) if return_outputs else loss

        def training_step(self, model, *arguments, **options):
            loss = super().training_step(model, *arguments, **options)
            step = self.state.global_step
            found = {name: float(one.grad.norm()) for name, one in self.model.named_parameters()}
            self.truth = [*self.truth[:step], found]
            first = len(self.losses) <= step
            self.losses = (
                [*self.losses, float(loss)] if first else [*self.losses[:step], self.losses[step] + float(loss)]
            )
            return loss

    made = transformers.Seq2SeqTrainingArguments if kind else transformers.TrainingArguments
    quiet = {"disable_tqdm": True, "report_to": [], "save_strategy": "no", "logging_steps": 1, "use_cpu": True}
    sizes = {"per_device_train_batch_size": BATCH, "num_train_epochs": 1, "learning_rate": 0.05}
    arguments = made(output_dir="out", **quiet | sizes | options)
    data = examples() if data is None else data
    return Truthful(model, arguments, train_dataset=data, eval_dataset=data[:5], callbacks=list(callbacks))


def state(made):
    """Everything that a training leaves."""
    found = [*made.model.state_dict().values(), torch.random.get_rng_state(), torch.tensor(made.losses)]
    for one in made.optimizer.state_dict()["state"].values():
        found += [value for value in one.values() if isinstance(value, torch.Tensor)]
    losses = [torch.tensor(one["loss"]) for one in made.state.log_history if "loss" in one]
    assert losses
    return [*found, *losses]


def untouched(made):
    hooks = [len(found) for one in made.model.modules() for name, found in vars(one).items() if "_hooks" in name]
    optimizer = getattr(made.optimizer, "optimizer", made.optimizer)
    hooks += [len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks)]
    on_tensors = [bool(one._backward_hooks) for one in made.model.parameters()]
    methods = vars(made).get("training_step"), vars(made.optimizer).get("step")
    return not any((*hooks, *on_tensors, *("propscope" in type(one).__module__ for one in methods)))


TRAININGS = {
    "plain": {},
    "accumulated and clipped": {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1},
    "bf16": {"bf16": True, "gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "evaluated": {"eval_strategy": "steps", "eval_steps": 1, "eval_on_start": True, "gradient_accumulation_steps": 2},
    "a loss of its own": {"own_loss": True, "gradient_accumulation_steps": 3},
    "a language model": {"data": sentences(), "gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
    "sequence to sequence": {"kind": "Seq2SeqTrainer", "gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_is_bit_for_bit_the_one_without_and_its_gradients_are_the_true_ones(transformers, name):
    from propscope.integrations.transformers import SignalCallback

    options, left = TRAININGS[name], []
    for callbacks in ((), (SignalCallback(every=1, file="run.propscope"),)):
        model = language(transformers) if "data" in options else Network()
        made = trainer(transformers, model, *callbacks, **options)
        torch.manual_seed(2)
        made.train()
        left.append(state(made))
    assert len(left[0]) == len(left[1])
    assert all(map(torch.equal, *left))
    assert untouched(made)
    run = propscope.load("run.propscope")
    assert run.steps.number.tolist() == list(range(len(made.truth)))
    assert run.steps.loss == pytest.approx(made.losses, rel=1e-5)
    for step, truth in enumerate(made.truth):
        profile = run.select(step=step)
        found = {one.name: one.step_gradient_norm for one in profile.parameters}
        assert found == pytest.approx(truth, rel=1e-4, abs=1e-7)
        assert all(one.update_norm > 0 for one in profile.parameters if truth[one.name])
        assert {site.samples for site in profile.sites if site.name in ("head", "lm_head")} == {BATCH}


def test_the_docs_run_as_they_are_written(transformers):
    (code,) = snippets("trainers.md", "Transformers")
    args = transformers.TrainingArguments("out", report_to=[], use_cpu=True, max_steps=3, save_strategy="no")
    exec(code, {"model": Network(), "args": args, "data": examples()})
    assert propscope.load("run.propscope").steps.number.tolist() == [0, 1, 2]


def test_a_loss_that_the_trainer_leaves_out_is_seen(transformers):
    from propscope.integrations.transformers import SignalCallback

    model, signals = Network(), SignalCallback(every=1)
    model.broken = (5,)
    trainer(transformers, model, signals, max_grad_norm=0).train()
    assert [math.isnan(loss) for loss in signals.monitor.steps.loss[:5]] == [False] * 4 + [True]
    assert [(one.kind, one.step) for one in signals.monitor.alarms][:1] == [("non-finite gradient", 4)]
    assert ("non-finite loss", 4) in {(one.kind, one.step) for one in signals.monitor.alarms}


def test_numbers_and_alarms_are_where_the_trainer_reports_to_and_nowhere_else(transformers, capfd):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from propscope.integrations.transformers import SignalCallback

    class Planted(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, optimizer, **options):
            if state.global_step == 20:
                optimizer.param_groups[0]["lr"] *= 100

    options = {"num_train_epochs": 4, "lr_scheduler_type": "constant", "report_to": ["tensorboard"]}
    made = trainer(transformers, Network(), Planted(), SignalCallback(every=4), **options)
    made.train()
    (directory,) = {path.parent for path in Path("out").rglob("events.out.*")}
    seen = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    seen.Reload()
    steps = {key: [one.step for one in seen.Scalars(key)] for key in seen.Tags()["scalars"]}
    # The Trainer counts the updates that were made, a run those before.
    assert {step + 1 for step in range(0, 28, 4)} <= set(steps["train/activation/max_rms"])
    assert steps["train/alarm/large_update"] == [21]
    assert steps["train/loss"] == list(range(1, 29))
    (text, *_) = seen.Tensors("alarm/text_summary")
    assert text.tensor_proto.string_val[0].decode().startswith("step 20: large update (broken): ")
    assert not any("/" in key for one in made.state.log_history for key in one)
    assert "activation" not in capfd.readouterr().out


@pytest.mark.parametrize("restoring", [False, True])
def test_a_training_that_resumes_a_checkpoint_goes_on_in_its_file(transformers, restoring):
    from propscope.integrations.transformers import SignalCallback

    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(transformers, Network(), SignalCallback(every=2, file="run.propscope"), **saving).train()
    stored = json.loads(Path("out/checkpoint-4/trainer_state.json").read_text())["stateful_callbacks"]["SignalCallback"]
    assert stored["args"] == {"every": 2, "file": "run.propscope"}
    options = {"num_train_epochs": 2, "restore_callback_states_from_checkpoint": restoring}
    signals = SignalCallback(every=2, file="run.propscope")
    made = trainer(transformers, Network(), signals, **options)
    made.train(resume_from_checkpoint="out/checkpoint-4")
    steps = propscope.load("run.propscope").steps
    valid = steps.superseded == 0
    assert steps.number[valid].tolist() == list(range(2 * BATCHES))
    assert steps.number[~valid].tolist() == [4, 5, 6]
    assert untouched(made)


def test_a_training_that_resumes_what_the_monitor_cannot_read_begins_a_record_of_its_own(transformers, caplog):
    from propscope.integrations.transformers import SignalCallback

    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(transformers, Network(), SignalCallback(), **saving).train()
    path = Path("out/checkpoint-4/trainer_state.json")
    text = json.loads(path.read_text())
    text["stateful_callbacks"]["SignalCallback"]["attributes"]["resumed"] = {"step": 3}
    path.write_text(json.dumps(text))
    signals = SignalCallback(every=1)
    trainer(transformers, Network(), signals).train(resume_from_checkpoint=str(path.parent))
    assert signals.monitor.steps.number.tolist() == [4, 5, 6]
    assert [one.getMessage()[:26] for one in caplog.records if "anew" in one.getMessage()] == [
        "the monitor begins anew: s"
    ]


@pytest.mark.parametrize("error", [RuntimeError("out of data"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_training_that_is_stopped_leaves_no_hook_and_the_record_of_what_stopped_it(transformers, error):
    from propscope.integrations.transformers import SignalCallback

    model, signals = Network(), SignalCallback(every=1, file="run.propscope")
    model.raising[5] = error
    made = trainer(transformers, model, signals)
    with pytest.raises(type(error)):
        made.train()
    assert untouched(made)
    steps = propscope.load("run.propscope").steps
    assert steps.number.tolist() == [0, 1, 2, 3, 4]
    assert steps.error[-1].startswith(type(error).__name__)
    made.train()
    assert signals.monitor.steps.number.tolist() == list(range(BATCHES))
    assert untouched(made)


class Full(torch.optim.SGD):
    """An optimizer that fails in its third step."""

    room = 3

    def step(self, closure=None):
        self.room -= 1
        if not self.room:
            raise MemoryError("no room")
        return super().step(closure)


def test_an_optimizer_that_raises_leaves_no_hook(transformers):
    from propscope.integrations.transformers import SignalCallback

    signals = SignalCallback(every=1)
    made = trainer(transformers, Network(), signals)
    made.optimizer = Full(made.model.parameters(), 0.1)
    with pytest.raises(MemoryError):
        made.train()
    assert untouched(made)
    assert signals.monitor.steps.error.tolist() == ["", "", "MemoryError: no room"]


def test_an_alarm_may_stop_the_training(transformers):
    from propscope.integrations.transformers import SignalCallback

    def stop(alarm):
        raise RuntimeError(alarm.kind)

    class Spoiled(transformers.TrainerCallback):
        def on_step_begin(self, args, state, control, model, **options):
            if state.global_step == 3:
                # All is finite but the loss, which is infinite.
                model.offset = math.inf

    # What is not finite is seen before the optimizer steps with it, and the loss at the end of the step.
    for spoil, kind in (("broken", "non-finite gradient"), ("offset", "non-finite loss")):
        model = Network()
        model.broken = (4,) if spoil == "broken" else ()
        made = trainer(
            transformers, model, *([Spoiled()] * (spoil == "offset")), SignalCallback(every=1, on_alarm=stop)
        )
        with pytest.raises(RuntimeError, match=kind):
            made.train()
        assert untouched(made)


def test_a_training_that_nobody_ended_is_ended_by_close_or_by_the_next_one(transformers):
    from propscope.integrations.transformers import SignalCallback

    class Failing(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **options):
            if state.global_step == 3 and self.fails:
                raise OSError("no room")

    signals, failing = SignalCallback(every=1), Failing()
    made = trainer(transformers, Network(), signals, failing)
    for close in (True, False):
        failing.fails = True
        with pytest.raises(OSError, match="no room"):
            made.train()
        if close:
            signals.close()
            assert untouched(made)
    failing.fails = False
    made.train()
    assert signals.monitor.steps.number.tolist() == list(range(BATCHES))
    assert untouched(made)


def test_a_callback_is_copied_and_pickled_with_its_state_and_without_its_monitor(transformers):
    from propscope.integrations.transformers import SignalCallback

    signals, copies = SignalCallback(every=3, include="head", on_alarm=print), []

    class Copying(transformers.TrainerCallback):
        def on_step_end(self, *_, **options):
            copies.append(pickle.loads(pickle.dumps(copy.deepcopy(signals))))

    trainer(transformers, Network(), signals, Copying()).train()
    assert [one.resumed["step"] for one in copies] == list(range(BATCHES))
    assert all(one.monitor is None for one in copies)
    assert json.loads(json.dumps(signals.state()))["args"] == {"every": 3, "include": "head"}
    trainer(transformers, Network(), copies[0]).train()
    assert copies[0].monitor.every == 3
    assert {site.name for site in copies[0].monitor.profile.sites} == {"head"}


def test_invalid_arguments_are_refused_when_they_are_passed(transformers):
    from propscope.integrations.transformers import SignalCallback

    with pytest.raises(propscope.PropscopeError, match=r'SignalCallback\(\) has no argument "evry"'):
        SignalCallback(evry=5)
    with pytest.raises(propscope.PropscopeError, match="every must be"):
        SignalCallback(every=0)


def on_a_rank(folder):
    """One of two ranks: the training without and with the callback, on half of the batches."""
    import transformers

    from propscope.integrations.transformers import SignalCallback

    warnings.simplefilter("ignore")
    os.chdir(folder)
    # The group is there, but Accelerate looks for the address where it would have met.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")
    left, signals = [], SignalCallback(every=1, file="run.propscope")
    for callbacks in ((), (signals,)):
        options = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "ddp_backend": "gloo"}
        made = trainer(transformers, Network(), *callbacks, **options)
        torch.manual_seed(2)
        made.train()
        left.append(state(made))
    sample = signals.monitor.profile
    norms = {one.name: one.step_gradient_norm for one in sample.parameters}
    same = all(map(torch.equal, *left))
    return type(made.model_wrapped).__name__, same, untouched(made), sample["head"].samples, made.truth[-1], norms


def test_on_several_ranks_it_sees_what_all_of_them_do_and_writes_one_file(tmp_path):
    for kind, same, clean, samples, truth, norms in on_ranks(on_a_rank, str(tmp_path)):
        assert kind == "DistributedDataParallel"
        assert same
        assert clean
        assert samples == 2 * BATCH
        assert norms == pytest.approx(truth, rel=1e-4)
    assert [path.name for path in tmp_path.glob("*.propscope")] == ["run.propscope"]
