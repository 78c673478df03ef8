"""Watch a training: the learning rate of a small GPT-2 breaks at step 200; the monitor says what broke, and where."""

import logging
import sys

import torch
import torch.nn.functional as F
from models import language_model
from setting import OUTPUTS, QUICK
from torch import Tensor

import propscope

logging.basicConfig(stream=sys.stdout, format="%(message)s")
TOKENS, LENGTH = 64, 32
EVERY, BREAK, STEPS = (10, 80, 90) if QUICK else (50, 200, 230)


def sentences() -> Tensor:
    """Return sentences in which seven tokens of ten follow from the one before."""
    made = torch.randint(TOKENS, (16, LENGTH + 1))
    for place in range(1, LENGTH + 1):
        follows = (7 * made[:, place - 1] + 3) % TOKENS
        made[:, place] = torch.where(torch.rand(16) < 0.7, follows, made[:, place])
    return made


torch.manual_seed(0)
model = language_model(vocabulary=TOKENS, width=48, depth=3, length=LENGTH)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
OUTPUTS.mkdir(parents=True, exist_ok=True)
# A training that takes hours keeps the default budget of 2%, which this one would spend in its first samples.
monitor = propscope.monitor(model, optimizer, every=EVERY, file=OUTPUTS / "monitored.propscope", budget=1.0)
for number in range(STEPS):
    if number == BREAK:
        optimizer.param_groups[0]["lr"] *= 100
    with monitor.step(number) as step:
        text = sentences()
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step.loss(loss)
monitor.close()

assert monitor.file
run = propscope.load(monitor.file)
print(f"\n{len(run)} samples in {monitor.file}, at the steps", *(sample.labels["step"] for sample in run))
losses = {int(number): float(loss) for number, loss in zip(run.steps.number, run.steps.loss, strict=True)}
print("the loss:", ", ".join(f"{losses[number]:.2f} at {number}" for number in range(BREAK - 2, BREAK + 6)))
kinds = {alarm.kind: alarm.step for alarm in reversed(run.alarms)}
assert kinds["large update"] == BREAK, "the update shows it at once"
assert kinds["loss spike"] > BREAK, "the loss shows it later"
assert "attention logits" in kinds or QUICK
