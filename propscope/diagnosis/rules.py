"""The table of rules: what is looked for, in the order in which one cause explains the next finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from propscope.diagnosis.architecture import doubled_sums, missing_norms, odd_kinds
from propscope.diagnosis.collapse import collapse
from propscope.diagnosis.evidence import Evidence
from propscope.diagnosis.missing_gradients import insufficient, stagnant
from propscope.diagnosis.nonfinite import nonfinite, precision
from propscope.diagnosis.outlier_layers import odd_layers
from propscope.diagnosis.propagation import exploding, vanishing
from propscope.diagnosis.units import inactive, saturated, symmetric
from propscope.diagnosis.weights import odd_weights
from propscope.records.finding import Finding


@dataclass(frozen=True, slots=True)
class Rule:
    """A pure function from evidence to findings, what it holds against what, and who found that.

    `notes_alone`: it finds nothing that is wrong already. `local`: what it finds lies in one place, and is a cause of
    what is seen behind it (forward) and before it (backward).
    """

    name: str
    find: Callable[[Evidence], Iterator[Finding]]
    limit: str
    source: str
    notes_alone: bool = False
    local: bool = False


# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("non-finite", nonfinite, "any NaN or Inf", "the first site forward, else the first that the gradient passes"),
    Rule("weights", odd_weights, "rms(W) sqrt(fan_in) e^3 from that of its peers, or from 1; or zero",
         "Poole et al. 2016, eq. 3: E[z^2] = s^2 E[x^2]; He et al. 2015", local=True),
    Rule("odd kind", odd_kinds, "another activation than its peers, that keeps less than half of what varies",
         "Glorot, Bengio 2010: the mean of sigmoid", local=True),
    Rule("missing norm", missing_norms, "one block of three or more without a norm, one of six without one behind it",
         "what the other blocks do", local=True),
    Rule("doubled sum", doubled_sums, "a sum of a sum whose summands correlate by more than sqrt(1/10)",
         "independent summands add their mean squares", local=True),
    Rule("symmetric", symmetric, "each unit of a layer equals another", "Rumelhart, Hinton, Williams 1986"),
    Rule("odd layer", odd_layers, "one layer, or one beside its kind, by e^3", "the whole depth's share in one layer",
         local=True),
    Rule("exploding", exploding, "strained from e^3, broken from eps^-1/2 = 2,900 over the depth, from 100 in chaos",
         "Schoenholz et al. 2017, six depth scales; Xiao et al. 2020, condition number 1/eps"),
    Rule("vanishing", vanishing, "strained below e^-3, broken below 1e-6 over the depth",
         "as exploding; Kingma, Ba 2015: Adam divides by the gradient's size and 1e-8"),
    Rule("collapse", collapse, "share of a second moment that tells samples apart: e^-6, eps", "Xiao et al. 2020"),
    Rule("saturated", saturated, "over half of a bounded activation's input flat", "Glorot, Bengio 2010"),
    Rule("inactive", inactive, "over 90% of a rectifier's input off, or over half of its units on every sample",
         "Lu et al. 2020; half is what samples that are all alike give"),
    Rule("stagnant", stagnant, "no gradient, or zeros alone", "a step does not move it"),
    Rule("precision", precision, "over 0.1% of values lost in fp16 or bf16", "Micikevicius et al. 2018",
         notes_alone=True),
    Rule("insufficient evidence", insufficient, "no gradient, one layer, few samples, an interval about a limit",
         "Hanin, Nica 2020: networks wander by sqrt(5 L / n) in ln q", notes_alone=True),
)
# fmt: on
