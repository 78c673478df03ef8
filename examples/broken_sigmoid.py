"""A 30-layer sigmoid network that cannot learn, and the report that shows why.

The forward signal looks healthy, with an rms of about 0.3 at every layer, but the gradient shrinks in each layer.
"""

import torch
from models import sigmoid_net

import propscope

torch.manual_seed(0)
profile = propscope.summary(sigmoid_net(depth=30), torch.randn(64, 128))

lost = profile.factor("backward")
layers = len(profile.signal_sites)
print()
print(
    f"The gradient shrinks by a factor of {lost:.0e} over {layers} layers, x{lost ** (1 / (layers - 1)):.2f} per layer,"
)
print("since the slope of sigmoid is at most 0.25. Tanh with Xavier and ReLU with He keep it:")
for activation, initializer in (("sigmoid", "default"), ("tanh", "xavier_normal"), ("relu", "he_normal")):
    other = propscope.profile_mlp(
        depth=30, width=128, batch=64, activation=activation, initializer=initializer, seeds=1
    )
    print(f"  {activation:8} {initializer:14} {other[0].factor('backward'):8.0e}")
