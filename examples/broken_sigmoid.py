"""A 30-layer sigmoid network that cannot learn, and the tree that shows why.

The forward signal looks healthy (rms about 0.3 at every layer); the gradient loses most of itself in each layer.
"""

import torch
from models import sigmoid_net

import propscope

torch.manual_seed(0)
profile = propscope.summary(sigmoid_net(depth=30), torch.randn(64, 128))

lost = profile.factor("backward")
layers = len(profile.signal_sites)
print()
print(f"Of the gradient {lost:.0e} is left after {layers} layers, {lost ** (1 / (layers - 1)):.2f} a layer:")
print("a sigmoid's slope is at most 0.25. Tanh with Xavier, or ReLU with He, keeps it:")
for activation, initializer in (("sigmoid", "default"), ("tanh", "xavier_normal"), ("relu", "he_normal")):
    mended = propscope.profile_mlp(
        depth=30, width=128, batch=64, activation=activation, initializer=initializer, seeds=1
    )
    print(f"  {activation:8} {initializer:14} {mended[0].factor('backward'):8.0e}")
