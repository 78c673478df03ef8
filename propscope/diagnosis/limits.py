"""The limits of the rules, each with the theory or the cited result that it comes from.

Most follow from one quantity and two numbers. The quantity is kappa, the condition number of the tangent kernel: how
much faster gradient descent learns along the fastest direction than along the one that distinguishes samples. A layer
multiplies a difference between samples forward and the gradient backward by the same factor, and kappa is a ratio of
second moments, so a factor f over the depth changes kappa by f^2 (Xiao, Pennington, Schoenholz 2020, Disentangling
trainability and generalization in deep neural networks, section 3).

The numbers are kappa = e^6, where training begins to suffer, and kappa = 1 / eps of float32, where the kernel is
numerically singular: the part that distinguishes samples is lost in rounding when it is added to the rest (Golub, Van
Loan 2013, section 2.6).
"""

from __future__ import annotations

import math

import numpy as np

from propscope.records.finding import Severity

_EPS = float(np.finfo(np.float32).eps)

# Schoenholz et al. 2017, section 6: networks train up to a depth of about six depth scales. Over these a second moment
# changes by e^6, and gradient descent needs 400 steps for what it should learn in one. In ln of an amplitude: 3.
STRAINED = 3.0

# An amplitude that grows by f over the depth has kappa = f^2, which no optimizer corrects: a step that changes the
# first layer by only its rounding error, eps / 2, changes the output by f eps / 2, and rows of the kernel differ by
# f^2.
#
# Where norms hold the size of the values, growth is judged by this limit alone. A weight before a norm is
# scale-invariant: its gradient goes as 1 / |W| and stands at a right angle to W, so each step enlarges |W| until the
# relative step fits (Arora, Li, Lyu 2018). Batch norm before a ReLU enlarges the gradient by sqrt(pi / (pi - 1)) = 1.21
# a layer at initialization (Yang et al. 2019), which reaches the limit after 42 layers. Stacks of width 64 were trained
# on digits for 300 to 400 steps: at a factor of 50 (20 layers) they learned as well as at 6 (10 layers), 97% and 98%;
# at 290 (30 layers) 92%; at 14,000 (50 layers) 38% with Adam and 37% with SGD. MobileNets, EfficientNets, RegNets and
# GhostNets have factors of 50 to 700, and their authors trained them.
EXPLODED = 0.5 * math.log(1 / _EPS)

# Where the gradient grows, the values do not, and no norm holds them, the network is chaotic: if the first layer's
# output changes by a share u, the network's output changes by f u. A useful step changes weights by a share of about
# 1e-3 (You, Gitman, Ginsburg 2017, trust coefficient). Since it has a low rank, it changes a layer's output by ten
# times that: from f = 100 on, the output changes as much as its own size.
CHAOTIC = math.log(100)

# A gradient that shrinks by f has kappa = f^-2 for gradient descent. Adam divides each gradient by its size plus 1e-8
# (Kingma, Ba 2015, algorithm 1). The weight gradients of a readout start at 1e-2 or more: probabilities that are wrong
# by 0.1 times activations of 0.1 to 1. Gradients that arrive smaller by 1e6 are no longer rescaled.
VANISHED = math.log(1e6)

# Two classes differ in one direction, and Adam's first steps are nearly of rank one: each entry of a weight moves by
# the learning rate, whatever its gradient. They enlarge one direction in every layer, while ten classes need nine. A
# layer whose gradient is a hundredth of Adam's 1e-8 still moves by a hundredth of the rate in each step, enough for
# one direction, and samples that are alike within the rounding of their inner products, sqrt(eps) in amplitude,
# still differ by 3,000 times the rounding of their values. Chosen on the trainings of benches/verdict.py on moons: none
# of 10 networks below this limit trains, and four of five between it and 1e-6 do.
VANISHED_OF_TWO = math.log(1e8)

# Of what Adam bears (EXPLODED, CHAOTIC, VANISHED, three layers of COLLAPSED), each in logarithms, 0.6 slows it. Below,
# all but two of the networks of benches/verdict.py came to 0.9 of what the task allows in 690 steps; from there to the
# limit, two of three did.
SLOWED = 0.6
# SGD pays for kappa. With momentum it needs sqrt(kappa) = f steps to divide an error by e (Polyak 1964), and a training
# has about 600: a gradient that shrinks by more than 600 e makes a third of that way.
SGD_VANISHED = 1 + math.log(600)
# The largest stable rate falls as 1 / f^2 where values or gradients grow by f, and momentum does not raise it. Four
# rates, each a tenth of the one before, span what f = 30 takes; from 100 on none of them is stable.
SGD_EXPLODED = CHAOTIC

# A single layer is at fault if it changes the signal by e^3 = 20, which is the limit for the whole depth, or if it
# differs by as much from layers of its kind.
ODD = STRAINED

# The gradient of every weight holds what all samples have in common beside their differences, and no optimizer
# separates the two: kappa = 1 / (1 - cosine), itself a ratio of second moments.
COLLAPSING = math.exp(-2 * STRAINED)
COLLAPSED = _EPS
# An optimizer repairs one or two layers that see no difference between samples, since the layers before them still do.
# Over 144 pairs of initializer and activation (benches/verdict.py), networks with four such layers no longer trained.
COLLAPSED_LAYERS = 3
# Rounding makes up to this share of a layer's second moment appear outside its first direction where there is none: of
# the 32 eigenvalues of the inner products of 32 rows in float32, each has an error of eps times the largest.
UNRESOLVED = 32 * _EPS

# Where more than half of the inputs of a bounded activation are flat, the median unit passes less than 7% of its
# gradient (Glorot, Bengio 2010, section 3.1: saturated units).
SATURATED = 0.5
# A rectifier is flat for half of a symmetric input, and once samples have become alike, a unit is off on all of them or
# none: in a sound deep network half of the units are off. With a tenth left, the network acts as if it had a tenth of
# its width (Lu et al. 2020).
INACTIVE = 0.9
DEAD = 0.5
# Over all layers the share scatters less about a half: 0.6 is 3 standard deviations of 225 units.
DEAD_OVERALL = 0.6
# Samples that are alike leave a unit off on all of them in half of the cases, and so 10 units in one of 1,000.
FEW_UNITS = 10
# The chance that a unit of slope zero half of the time is off on every one of 16 independent samples is 2e-5.
SAMPLES = 16

# The head of a pre-norm network without a last norm gets the stream as it is. A size that is off by 10 makes the steps
# of the head that much too small or too large: a search over learning rates finds what is off by less.
DECADE = math.log(10)

# An activation is unlike its peers where it keeps less than half of the variation that they keep: a rectifier itself
# removes half of a second moment, and that is the most that is usual (He et al. 2015).
HIDDEN = 0.5
# A summand with a tenth of a sum's mean square that is added again correlates with it by sqrt(1/10) = 0.32.
AGAIN = math.sqrt(0.1)


# Below 8 features the directions of samples say little: the cosine of two random ones has a standard deviation of
# 1 / sqrt(features), and two are alike by chance.
FEATURES = 8

# An input is learned from where samples differ. On the digits (MLPs of 3 ReLU or tanh layers of 64 units, the best of
# three rates) Adam took 5 times the steps once the mean of a standardized input was 5 standard deviations, and did not
# get to 90% at 20: from 10 on, with kappa = 100, it is at fault.
OFF_CENTRE = 1 / 101
# On the same task, an input of rms 0.05 instead of 1 took Adam three times the steps, one of 0.01 nine times, and with
# 0.001 it did not get there; recordings of sound are often as quiet as 0.03.
TINY = 0.02
# On the same task a feature 20 or 100 times as large as the others left Adam as good, SGD with momentum failed from 100
# on, and at 1000 Adam took 8 times the steps.
UNEQUAL = 100

# Biases start at zero, or at 1 / sqrt(fan_in) at most. One of 2 brings tanh to where it is flat, and a rectifier's unit
# to where it is on, or off, for all samples of a signal of rms 1.
BIAS = 2.0
# A gate's bias sets for how many steps it keeps a state: e^8 = 3,000 (Tallec, Ollivier 2018, chrono initialization).
SHUT = 8.0
# As with inputs: Adam took five times the steps where what all samples have in common was five times the rest.
COMMON = 1 / 26


# A transformer of one block and width 64 learned a Markov chain of 64 tokens with Adam, at the best of four rates. With
# a head of its own it came within 10% of the chain's entropy in 60 steps where the logits began with a standard
# deviation of 1, 80 at 4, 140 at 8, 260 at 16, and not in 300 at 32; with tied embeddings in 100, 180, 300, and not in
# 300 at 16.
LOGITS = 12.0


def severity_of(load: float) -> Severity:
    """Return what a load of Adam makes of a network: broken above 1, strained from 0.6 on, else a note on SGD."""
    return "broken" if load > 1 else "strained" if load >= SLOWED else "note"


def smallest(dtype: str) -> float:
    """Return the rms below which values of a dtype become exact zeros within a layer or two: they underflow."""
    return {"float16": 100 * 2.0**-24, "float64": 1e-306}.get(dtype, 1e-36)


# Where the mean entropy of a softmax's rows is below 0.63 nat times a half, more than half of the rows have decided
# (the module `attention` says why). Logits that differ less than this cannot be the reason: few keys are.
ONE_HOT = 0.32
SHARP = 3.0
# Masks are -1e4 and below. Where logits themselves differ by as much as a tenth of that, a low one may be no mask.
UNMASKED = 1000.0


def share_of_rank(rank: float) -> float:
    """Return the share p of a second moment outside its first direction, from the effective rank of 32 rows.

    Solves exp(H(1 - p, p)) = rank, with the entropy H; this assumes that all of p lies in a second direction, and is at
    least the true share. 0 where the inner products do not resolve it, 1 from rank 2 on.
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
