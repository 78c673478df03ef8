"""Two broken networks diagnosed, mended and trained: what the first line names, and what its remedy is worth.

Thirty sigmoid layers hand no gradient back until they are centred; a convolution that is too large hardly moves.
"""

import copy

import torch
from models import misscaled_resnet, sigmoid_net
from setting import QUICK
from torch.nn.functional import cross_entropy

from propscope.experiments.training import make_data
from propscope.remedies import carry_out, mend
from propscope.report.findings import verdict_line
from propscope.report.remedies import trials_text

data = make_data("digits", seed=0, scale="zscore")
(pixels, digits), (held_out, answers) = data.train, data.validation
images = pixels[:512].reshape(-1, 1, 8, 8).repeat(1, 3, 1, 1)


def trained(net, inputs, optimizer, epochs):
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(32):
            optimizer.zero_grad()
            cross_entropy(net(inputs[rows]), digits[: len(inputs)][rows]).backward()
            optimizer.step()


def mended(net, batch):
    """Return the first line on the network, and a copy with the remedy that helped."""
    mending = mend(net, batch, lambda output: cross_entropy(output, digits[: len(batch)]))
    print(verdict_line(mending.before.diagnosis), trials_text(mending), sep="\n", end="\n\n")
    carry_out(better := copy.deepcopy(net), mending.trial.remedy, batch)
    return verdict_line(mending.before.diagnosis), better


torch.manual_seed(0)
sigmoid = sigmoid_net(depth=30, width=64)
named, better = mended(sigmoid, pixels[:256])
accuracy = []
for net in (sigmoid, better):
    trained(net, pixels, torch.optim.Adam(net.parameters(), lr=1e-3), epochs=6 if QUICK else 15)
    accuracy.append(float((net(held_out).argmax(1) == answers).float().mean()))
print(f"validation accuracy {accuracy[0]:.2f} before, {accuracy[1]:.2f} after\n")
assert named.startswith("broken: vanishing backward")
assert accuracy[0] < 0.2
assert accuracy[1] > (0.8 if QUICK else 0.9)

named, better = mended(misscaled_resnet(), images[:32])
moved = []
for net in (misscaled_resnet(), better):
    start = (weight := net.stage2[1].conv1.weight.detach()).clone()
    trained(net, images, torch.optim.SGD(net.parameters(), lr=0.05), epochs=1)
    moved.append(float((weight - start).norm() / start.norm()))
print(f"stage2[1].conv1 moved in one epoch by {moved[0]:.1e} of its size before, {moved[1]:.1e} after")
assert "stage2.1.conv1" in named
assert moved[1] > 1000 * moved[0]
