"""What mean-field theory says of an activation, alone and in networks of infinite width: records without torch.

q is the variance of the pre-activations of a layer, sigma_w^2 = fan_in Var[W] and sigma_b^2 = Var[b] those of its
weights and biases. `propscope.theory` computes these records, `propscope.report` renders them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Stability = Literal["stable", "unstable", "half-stable", "line", "decay", "divergence"]
Phase = Literal["ordered", "critical", "chaotic"]


@dataclass(frozen=True, slots=True)
class Law:
    """How q tends to 0 or to infinity with the layer l.

    `kind` "exponential": q_l ~ exp(rate l), with `rate` below 0 for a decay. "algebraic": q_l ~ l^exponent.
    "logarithmic": slower than any power; "super-exponential": faster than any exponential.
    """

    kind: Literal["exponential", "algebraic", "logarithmic", "super-exponential"]
    rate: float | None = None
    exponent: float | None = None

    def __str__(self) -> str:
        if self.rate is not None:
            return f"exponential, q_l ~ {math.exp(self.rate):.6g}^l"
        return f"algebraic, q_l ~ l^{self.exponent:.6g}" if self.exponent is not None else self.kind


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A variance q that a layer keeps; 0 and infinity where q decays or diverges.

    `stability`: "stable"; "unstable"; "half-stable", which attracts from one side, at a double root; "line", when
    every q is fixed (q is then the one asked about); "decay" to q = 0; "divergence" to q = inf. `chi` is chi_1, the
    factor of the squared gradient per layer at q; `chi_parallel` is the factor of a small change of q per layer. At 0
    and infinity both are limits. `law`: that of a decay or divergence, else None.
    """

    q: float
    stability: Stability
    chi: float
    chi_parallel: float
    law: Law | None = None

    def __str__(self) -> str:
        return f"q = {self.q:.10g}, {self.stability}" + (f" ({self.law})" if self.law else "")


@dataclass(frozen=True, slots=True)
class CriticalPoint:
    """The variances with which chi_1 = 1 at a fixed point `q`; `note` qualifies the point, or is empty."""

    weight_variance: float
    bias_variance: float
    q: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class DepthScales:
    """Numbers of layers, floats; infinite at criticality.

    `variance`: xi_q = -1 / ln chi_parallel at the fixed point q*. `correlation`: xi_c = -1 / ln chi_c at the fixed
    point c* = `fixed_correlation` of the correlation map, which is 1 in the ordered phase and below 1 in the chaotic
    one. `gradient`: 1 / |ln chi_1|, over which the squared gradient changes by a factor e (Schoenholz et al. 2017,
    eqs. 9, 11 and 16). `chi_correlation` is chi_c. `trainable_depth` = 6 xi_c, the depth to which networks were found
    to train (their section 5 and figure 5); where q* is 0 or infinite, 6 times the gradient's scale.

    The relative error of a scale xi is about 1e-14 xi. From 5e12 on chi cannot be distinguished from 1, and the scale
    is infinite. At an unstable q* `variance` is the scale on which q leaves it. Where q decays to 0 or diverges with
    phi linear in the limit, no exponential law holds for the correlation, and `correlation` is infinite.
    """

    variance: float
    correlation: float
    gradient: float
    trainable_depth: float
    fixed_correlation: float
    chi_correlation: float
    phase: Phase


@dataclass(frozen=True, slots=True)
class ScaledFixedPoint:
    """A fixed point, its depth scales, and whether q ends there (`reached`) for an input of mean square 1."""

    point: FixedPoint
    scales: DepthScales
    reached: bool


@dataclass(frozen=True, slots=True)
class NetworkTheory:
    """A network by `name`: its variances and all its fixed points, or the `reason` why mean field does not apply."""

    name: str
    weight_variance: float | None
    bias_variance: float | None
    fixed_points: tuple[ScaledFixedPoint, ...]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ActivationTheory:
    """An activation by its spec: the `gain` that keeps q, torch's own gain, the critical point, and `networks`.

    `torch_gain`: that of `torch.nn.init.calculate_gain`, another convention, or None. `critical`: None where there is
    no critical point, and `no_critical` then says why.
    """

    activation: str
    gain: float
    torch_gain: float | None
    critical: CriticalPoint | None
    no_critical: str
    networks: tuple[NetworkTheory, ...]
