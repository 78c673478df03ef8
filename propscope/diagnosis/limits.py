"""The limits of the rules, each with the theory or the cited result that it comes from.

Most follow from one quantity and two numbers. The quantity is the condition number of learning, kappa: how much faster
gradient descent moves the fastest direction than the one that tells samples apart. Its inverse is the share of the
latter in the tangent kernel, a second moment: what a layer makes of a difference between samples on the way forward it
makes of the gradient on the way back, so that a factor f over the depth changes kappa by f^2 (Xiao, Pennington,
Schoenholz 2020, Disentangling trainability and generalization in deep neural networks, section 3).

The numbers are e^6, where training begins to suffer, and 1 / eps of float32, where kappa is numerically singular: what
tells samples apart is lost in rounding when it is added to the rest (Golub, Van Loan 2013, section 2.6).
"""

from __future__ import annotations

import math

import numpy as np

_EPS = float(np.finfo(np.float32).eps)

# Schoenholz et al. 2017, section 6: networks train to a depth of about six depth scales, over which a second moment
# changes by e^6, so that gradient descent needs 400 steps for what it should learn in one. In ln of an amplitude: 3.
STRAINED = 3.0

# An amplitude that grows by f over the depth has kappa = f^2, and no optimizer mends that: a step that moves the first
# layer by its rounding error alone, eps / 2, is f eps / 2 at the output, and rows of the kernel differ by f^2.
EXPLODED = 0.5 * math.log(1 / _EPS)

# Where the gradient grows and the values do not, the network is chaotic: a change of the first layer by a share u of
# what it gives is one of f u at the output. A useful step changes weights by about 1e-3 of themselves (You, Gitman,
# Ginsburg 2017, trust coefficient), and what they give by ten times that, being of low rank: from f = 100 on it is a
# leap.
CHAOTIC = math.log(100)

# One that fades has kappa = f^-2 for gradient descent. Adam divides each gradient by its own size, but for the 1e-8
# that it adds to it (Kingma, Ba 2015, algorithm 1). Weight gradients of a readout start at 1e-2 and more, probabilities
# that are off by 0.1 times activations of 0.1 to 1: what arrives smaller by 1e6 is no longer brought to size.
VANISHED = math.log(1e6)

# One layer that by itself uses up what a whole network may change, e^3 = 20, is at fault; against layers of its kind
# likewise.
ODD = STRAINED

# What all samples have in common stands beside their differences in every weight's gradient, and no optimizer takes
# them apart: kappa = 1 / (1 - cosine), itself a ratio of second moments.
COLLAPSING = math.exp(-2 * STRAINED)
COLLAPSED = _EPS
# A layer or two that see no difference between samples an optimizer rebuilds, as those before them see it still; over
# 144 pairs of initializer and activation (benches/verdict.py) networks with four such layers no longer trained.
COLLAPSED_LAYERS = 3
# The largest share of a layer's second moment outside its first direction that the inner products of 32 rows in
# float32 show where there is none: each eigenvalue carries an error of eps times the largest.
UNRESOLVED = 32 * _EPS

# Where more than half of the inputs of a bounded activation are flat, the median unit passes less than 7% of its
# gradient (Glorot, Bengio 2010, section 3.1: saturated units).
SATURATED = 0.5
BOUNDED = frozenset({"tanh", "sigmoid", "hardtanh", "hardsigmoid", "softsign", "erf", "sin"})
# A rectifier is flat for half of a symmetric input, and for every sample alike once samples have become alike: half of
# its units off is what a sound deep network shows. A tenth left is a network a tenth as wide (Lu et al. 2020).
INACTIVE = 0.9
DEAD = 0.5
# The chance that a unit of slope zero half of the time is off on every one of 16 independent samples is 2e-5.
SAMPLES = 16

# An activation is unlike its peers where it hides the half of what they keep of the differences between samples: the
# half of a second moment is what a rectifier itself takes, the most that is usual (He et al. 2015).
HIDDEN = 0.5
# A summand with a tenth of a sum's mean square that is added again correlates with it by sqrt(1/10) = 0.32.
AGAIN = math.sqrt(0.1)


def share_of_rank(rank: float) -> float:
    """Return the share of a second moment outside of its first direction, from the effective rank of 32 rows.

    That for which exp of the entropy of (1 - share, share) is the rank: at least the true share, all of it taken to be
    in a second direction. 0 where the inner products do not resolve it, 1 from rank 2 on.
    """
    if rank >= 2:
        return 1.0
    low, high = UNRESOLVED, 0.5
    entropy = math.log(max(rank, 1.0))
    if entropy <= _entropy(low):
        return 0.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _entropy(middle) < entropy else (low, middle)
    return high


def _entropy(share: float) -> float:
    return -share * math.log(share) - (1 - share) * math.log1p(-share)
