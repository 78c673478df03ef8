"""A ResNet with one convolution scaled by 100: batch norm hides it from the loss, but not from the report.

The layer's gradient is 100 times smaller and its weight 100 times larger, so a step of SGD changes it 10,000 times less
than its neighbours, relative to its size.
"""

import torch
from models import misscaled_resnet

import propscope

torch.manual_seed(0)
net = misscaled_resnet(factor=100)
profile = propscope.summary(net, torch.randn(8, 3, 32, 32), depth=2)

print()
print("Relative change of each convolution's weight in one step of SGD with learning rate 1:")
for parameter in profile.parameters:
    if "conv1.weight" in parameter.name and parameter.gradient_norm is not None:
        print(f"  {parameter.name:24} {parameter.gradient_norm / parameter.value_norm:8.1e}")
