"""Two broken networks: diagnose them, apply the remedy that helps, and train both with and without it.

A network of 30 sigmoid layers passes no gradient back until its units are centred. A convolution whose weight is 100
times too large hardly moves in training until the weight is scaled back.
"""

import copy

import torch
from models import misscaled_resnet, sigmoid_net
from setting import QUICK
from torch.nn.functional import cross_entropy

from propscope.experiments.training import make_data
from propscope.remedies import apply_remedy, try_remedies
from propscope.report.findings import verdict_line
from propscope.report.remedies import trials_text

data = make_data("digits", seed=0, scale="zscore")
(pixels, digits), (held_out, answers) = data.train, data.validation
images = pixels[:512].reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1)


def train(net, inputs, optimizer, epochs):
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(32):
            optimizer.zero_grad()
            cross_entropy(net(inputs[rows]), digits[: len(inputs)][rows]).backward()
            optimizer.step()


def remedied(net, batch):
    """Return the verdict on the network, and a copy to which the remedy that helped is applied."""
    trials = try_remedies(net, batch, lambda output: cross_entropy(output, digits[: len(batch)]))
    print(verdict_line(trials.before.diagnosis), trials_text(trials), sep="\n", end="\n\n")
    apply_remedy(better := copy.deepcopy(net), trials.trial.remedy, batch)
    return verdict_line(trials.before.diagnosis), better


torch.manual_seed(0)
sigmoid = sigmoid_net(depth=30, width=64)
verdict, better = remedied(sigmoid, pixels[:256])
accuracy = []
for net in (sigmoid, better):
    train(net, pixels, torch.optim.Adam(net.parameters(), lr=1e-3), epochs=6 if QUICK else 15)
    accuracy.append(float((net(held_out).argmax(1) == answers).float().mean()))
print(f"validation accuracy {accuracy[0]:.2f} before, {accuracy[1]:.2f} after\n")
assert verdict.startswith("broken: vanishing backward")
assert accuracy[0] < 0.2
assert accuracy[1] > (0.8 if QUICK else 0.9)

verdict, better = remedied(misscaled_resnet(), images[:32])
moved = []
for net in (misscaled_resnet(), better):
    start = (weight := net.stage2[1].conv1.weight.detach()).clone()
    train(net, images, torch.optim.SGD(net.parameters(), lr=0.05), epochs=1)
    moved.append(float((weight - start).norm() / start.norm()))
print(f"stage2[1].conv1 moved in one epoch by {moved[0]:.1e} of its size before, {moved[1]:.1e} after")
assert "stage2.1.conv1" in verdict
assert moved[1] > 1000 * moved[0]
