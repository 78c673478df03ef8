"""Whether a network is seen as it was initialized, or after training.

What tells most are the parameters of one axis: libraries start the gains and biases of norms, and most biases, at a
constant, and torch's own layers draw a bias from U(-1/sqrt(fan_in), 1/sqrt(fan_in)). The first step of an optimizer
ends both. The distribution of a weight matrix hardly tells, as small changes of many weights leave it nearly normal.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from propscope.records.finding import Stage
from propscope.records.network import NetworkProfile, Parameter
from propscope.records.stored_spec import read_spec

# The mean square of n uniform values has a relative standard deviation of 2 / sqrt(5 n), that of n normal ones of
# sqrt(2 / n). What lies within four of these is taken for drawn.
_DEVIATIONS = 4.0
# Fewer values than this may look drawn by chance.
_FEW = 64
# Rounding to half precision moves a value by up to 2^-8.
_ROUNDING = 1 + 2**-8
# Architectures draw some vectors in their own way (decays, time steps), and fine-tuning adds layers that are new.
_EXCEPTIONS = 0.2


def guessed_stage(members: Sequence[NetworkProfile]) -> Stage:
    """Return whether the weights of these profiles are as they were drawn, by what the profiles show.

    What made the profiles may say so: a monitor, or a grid that is profiled or trained. Otherwise each parameter that
    can tell has a vote. "trained" or "initialized" is what four of five votes say; "unknown" without votes and where
    they contradict one another, as where a trained network gets new layers.
    """
    made = {_by_provenance(profile) for profile in members}
    if len(made) == 1 and (stage := made.pop()) is not None:
        return stage
    votes = [vote for profile in members for vote in _votes(profile)]
    drawn = sum(votes)
    if votes and drawn >= (1 - _EXCEPTIONS) * len(votes):
        return "initialized"
    if votes and drawn <= _EXCEPTIONS * len(votes):
        return "trained"
    # Where nothing speaks of training, a network of the grid is as its initializer made it.
    grid = any(site.layer is not None for profile in members for site in profile.sites)
    return "initialized" if grid and not votes else "unknown"


def _by_provenance(profile: NetworkProfile) -> Stage | None:
    """Return the stage of a sample after the first step, and of what propscope itself built; None for any other."""
    step = profile.labels.get("step")
    if isinstance(step, int) and step > 0:
        return "trained"
    spec = read_spec(profile.provenance)
    if "network" not in spec:
        return None
    if "epochs" not in spec:
        return "initialized"
    epoch = spec.get("epoch")
    return None if epoch is None else "trained" if epoch else "initialized"


def _votes(profile: NetworkProfile) -> Iterator[bool]:
    """Yield for each parameter that can tell whether it is as it was drawn."""
    fans = defaultdict(list)
    for parameter in profile.parameters:
        if len(parameter.shape) > 1:
            fans[_module(parameter)].append(math.prod(parameter.shape[1:]))
    learned = any(parameter.gradient is not None for parameter in profile.parameters)
    for parameter in profile.parameters:
        value = parameter.value
        if value.count < 2 or value.nonfinite_count:
            continue
        if not value.std > 0:
            # What gets no gradient may be constant for ever.
            if not learned or (parameter.gradient is not None and parameter.gradient.rms > 0):
                yield True
        elif len(parameter.shape) > 1:
            if value.count >= _FEW and _fills(parameter, _bounds_of_weight(parameter.shape)):
                yield True
        else:
            bounds = [1 / math.sqrt(fan) for fan in fans[_module(parameter)] if fan]
            drawn = _fills(parameter, bounds)
            if value.count >= _FEW or not drawn:
                yield drawn


def _module(parameter: Parameter) -> str:
    return parameter.name.rpartition(".")[0]


@lru_cache(maxsize=1024)
def _bounds_of_weight(shape: tuple[int, ...]) -> tuple[float, ...]:
    """Return the ends of the uniform distributions from which libraries draw a weight."""
    field = math.prod(shape[2:])
    inner, outer = shape[1] * field, shape[0] * field
    if not inner or not outer:
        return ()
    # torch's layers; Glorot, Bengio 2010; He et al. 2015.
    return math.sqrt(1 / inner), math.sqrt(6 / (inner + outer)), math.sqrt(6 / inner)


def _fills(parameter: Parameter, bounds: Iterable[float]) -> bool:
    """Return whether a parameter's values look drawn from U(-bound, bound) for one of the bounds."""
    value = parameter.value
    end = max(abs(value.min), abs(value.max))
    reached = [bound for bound in bounds if bound > 0 and end <= bound * _ROUNDING]
    within = _DEVIATIONS * 2 / math.sqrt(5 * value.count)
    return bool(reached) and any(abs(3 * (value.rms / bound) ** 2 - 1) <= within for bound in reached)
