"""The table of rules: what is looked for, in the order in which one cause explains the next finding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from propscope.diagnosis.architecture import doubled_sums, missing_norms, odd_kinds
from propscope.diagnosis.attention import masked_rows, one_hot_softmaxes, returned_softmax, wrong_axes
from propscope.diagnosis.biases import large_biases
from propscope.diagnosis.collapse import collapse
from propscope.diagnosis.evidence import Evidence, Subject, succession
from propscope.diagnosis.inputs import odd_inputs
from propscope.diagnosis.logits import sharp_logits
from propscope.diagnosis.missing_gradients import lost_gradients, stagnant
from propscope.diagnosis.nonfinite import nonfinite, precision
from propscope.diagnosis.norm_sizes import odd_norms
from propscope.diagnosis.outlier_layers import odd_layers_of_grid, odd_layers_of_model
from propscope.diagnosis.propagation import exploding, vanishing
from propscope.diagnosis.recurrence import over_time
from propscope.diagnosis.units import (
    inactive_in_grid,
    inactive_in_model,
    saturated,
    symmetric_in_grid,
    symmetric_in_model,
)
from propscope.diagnosis.unmeasured import insufficient_in_grid, insufficient_in_model
from propscope.diagnosis.unregistered import unregistered
from propscope.diagnosis.weights import large_embeddings, odd_weights
from propscope.diagnosis.zero_weights import zero_weights
from propscope.records.finding import SEVERITIES, Finding, Stage

Legend = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Rule:
    """A pure function `find` from evidence to findings, with the `limit` that it applies and the `source` of that.

    `applies_to`: "grid" for the networks of the grid, "model" for existing models, or "both". `marks`: for each word
    that the rule writes beside a site, a regular expression for the word and the line that explains it. `notes_only`:
    the rule finds nothing that is wrong already. `cause`: it reads the model or its input, not the signal, so that no
    other finding explains what it finds. `initial`: it holds for weights as they were
    drawn, so that it is left out for a trained network, and gives only notes where the stage is not known. `by_seed`:
    it looks at one network, so that each seed is judged by itself, and what most of them show is found.
    """

    name: str
    find: Callable[[Evidence], Iterator[Finding]]
    limit: str
    source: str
    applies_to: Literal["grid", "model", "both"] = "both"
    marks: tuple[Legend, ...] = ()
    notes_only: bool = False
    cause: bool = False
    initial: bool = False
    by_seed: bool = False

    def found(self, evidence: Evidence) -> Iterator[Finding]:
        """Yield what the rule finds."""
        return (
            _shown_by_most(evidence, self.find) if self.by_seed and len(evidence.members) > 1 else self.find(evidence)
        )

    def is_for(self, subject: Subject) -> bool:
        """Return whether the rule applies to such networks."""
        return self.applies_to in ("both", subject)

    def at_stage(self, finding: Finding, stage: Stage) -> Finding:
        """Return the finding, as a note where the rule holds for weights as drawn and these may be trained."""
        return replace(finding, severity="note") if self.initial and stage == "unknown" else finding


def _shown_by_most(evidence: Evidence, find: Callable[[Evidence], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield what more than half of the seeds show, as severe as the median seed shows it; NaN that any seed shows."""
    seeds = len(evidence.alone)
    alike: dict[tuple[str, str | None], list[Finding]] = {}
    for one in evidence.alone:
        for finding in find(one):
            alike.setdefault((finding.kind, finding.first), []).append(finding)
    for shown in alike.values():
        shown.sort(key=lambda finding: SEVERITIES.index(finding.severity))
        if 2 * len(shown) > seeds or shown[0].kind == "non-finite":
            finding = shown[min(seeds // 2, len(shown) - 1)]
            some = f", in {len(shown)} of {seeds} seeds" if len(shown) < seeds else ""
            yield replace(
                finding,
                message=finding.message + some,
                evidence={**finding.evidence, "seeds": float(seeds)},
                confidence=succession(len(shown), seeds),
            )


_GRAD = (r"^grad ", "grad: of the gradient")
_GAIN = (
    r"^(grad )?x\d",
    "x: the gain of a layer, or its size relative to layers of its kind, is above 20 (e^3) or below 0.05",
)
_FACTOR = (
    r"^(grad )?(exploding|vanishing)$",
    "exploding, vanishing: where a change by a factor of more than 20 (e^3) over several layers ends",
)
_NO_GRADIENT = (r"^no gradient$", "no gradient: parameters that no gradient reaches")
_ALIKE = (r"^(zero|symmetric)$", "zero, symmetric: all units of a layer give the same value")
_DEAD = (r"^dead$", "dead: over 50% of the units are off on every sample")
_OFF = ((r"^inactive$", "inactive: over 90% of the inputs of the activation lie where it is flat"), _DEAD)
_FLAT = (r"^saturated$", "saturated: over 50% of the inputs of the activation lie where it is flat")
_ZEROS = (r"^zero weights$", "zero weights: all weights of the layer are zero")

# fmt: off
RULES: tuple[Rule, ...] = (
    Rule("input", odd_inputs,
         "rms above e^3, or 2 where a bounded activation saturates from it, or below 0.02; mean above 10 std; one "
         "feature above 100 times the median",
         "LeCun et al. 1998, Efficient BackProp, section 4.3; measured", applies_to="model", cause=True, by_seed=True,
         marks=((r"^(too large|too small|off-centre|unequal|constant)$",
                 "too large, too small, off-centre, unequal, constant: the input, as the first layers take it"),)),
    Rule("non-finite", nonfinite, "any NaN or Inf", "the first site forward, else the first that the gradient passes",
         marks=((r"^(grad |loss )?(NaN|Inf)$", "NaN, Inf: values that are not a number, or infinite"),)),
    Rule("lost gradient", lost_gradients,
         "an exact zero, or nothing, that gradient descent does not open", "the product rule: a factor of a product "
         "gets a gradient where the product does and no other factor is zero",
         marks=(_NO_GRADIENT,
                (r"^stops$", "stops: no gradient passes this place"),
                (r"^unused$", "unused: a module that the forward pass did not call"),
                _FLAT, _ZEROS, _DEAD)),
    Rule("weights", odd_weights, "rms(W) sqrt(fan_in) differs by e^3 from that of its peers or from 1",
         "Poole et al. 2016, eq. 3: E[z^2] = s^2 E[x^2]; He et al. 2015", applies_to="model", cause=True,
         marks=((r"^weight x", "weight x: the scale of the weights, relative to their peers or to 1, is above 20 (e^3) "
                 "or below 0.05"),)),
    Rule("zero weights", zero_weights,
         "all weights of a layer are zero, and not those in the same place of other blocks",
         "Zhang et al. 2019, Fixup; the product rule says when they move", applies_to="model", cause=True, initial=True,
         marks=(_ZEROS,)),
    Rule("unregistered", unregistered, "any trainable tensor that takes part and is no parameter of the model",
         "torch.nn.Module: only parameters of registered modules are found", applies_to="model", cause=True,
         marks=((r"^unregistered$", "unregistered: weights that are no parameters of the model"),)),
    Rule("embedding", large_embeddings, "rows of an embedding with a rms above e^3, with no norm behind it",
         "as for weights: a row is what the layer makes of a one-hot input", applies_to="model", cause=True),
    Rule("sharp logits", sharp_logits, "logits over tokens with a standard deviation above 12",
         "cross entropy begins at s sqrt(2 ln n) instead of ln n; measured", applies_to="model", cause=True,
         initial=True, by_seed=True,
         marks=((r"^logits x", "logits x: the standard deviation of the logits over the tokens"),)),
    Rule("norm size", odd_norms,
         "the rms of a norm's values is above e^3 or below e^-3 by its gains; a norm of single values gives zeros",
         "Ba et al. 2016; Goyal et al. 2017, section 5.1: small gains end a branch", applies_to="model", cause=True,
         marks=((r"^gain x", "gain x: the rms of a norm's values, where 1 is usual, is above 20 (e^3) or below 0.05"),
                (r"^single values$", "single values: a norm that normalizes one value at a time, and gives zeros"))),
    Rule("large bias", large_biases, "a bias of rms 2 or more that is five times the rest of its layer's values",
         "the mean square of W x + b; measured", applies_to="model", cause=True, by_seed=True,
         marks=((r"^bias x", "bias x: the bias is five times as large as the rest of the layer's values, or more"),)),
    Rule("over time", over_time,
         "over the steps of a recurrent layer: above e^3 strained, above eps^-1/2 broken; below e^-3 in one step",
         "Pascanu, Mikolov, Bengio 2013; as exploding", applies_to="model", cause=True, by_seed=True,
         marks=((r"^over time x", "over time x: the factor of a state or its gradient in one step"),)),
    Rule("one-hot softmax", one_hot_softmaxes,
         "a mean entropy below 0.32 nat: over half of the rows decided; with logits whose std in a row is above 3",
         "Vaswani et al. 2017, section 3.2.1; the density of the gap between the two largest logits",
         applies_to="model", by_seed=True,
         marks=((r"^one-hot$", "one-hot: a softmax most of whose rows have decided for one entry"),)),
    Rule("wrong axis", wrong_axes, "a softmax over the samples, or of scores over another axis than the keys",
         "Vaswani et al. 2017, eq. 1: the weights of a query sum to 1", applies_to="model", cause=True,
         marks=((r"^wrong axis$", "wrong axis: a softmax that sums to 1 over another axis than that of its choices"),)),
    Rule("masked rows", masked_rows, "any row of a softmax all of whose entries are masked, below -5,000",
         "exp of the entries is zero, or all of them are alike", applies_to="model", notes_only=True, cause=True,
         by_seed=True,
         marks=((r"^masked rows$", "masked rows: a softmax some rows of which are masked throughout"),)),
    Rule("returned softmax", returned_softmax, "any softmax that the model returns",
         "torch.nn.functional.cross_entropy takes logits", applies_to="model", notes_only=True),
    Rule("odd kind", odd_kinds, "an activation of another kind than its peers, with less than half of their variation",
         "Glorot, Bengio 2010: the mean of sigmoid", applies_to="model", cause=True,
         marks=((r"^not ", "not: the activation differs from that in the same place of other blocks"),)),
    Rule("missing norm", missing_norms,
         "a way between two sites without a norm, where most in the same place pass one",
         "what the other blocks do", applies_to="model", cause=True, initial=True,
         marks=((r"^no norm$", "no norm: other blocks have a norm before this site"),)),
    Rule("doubled sum", doubled_sums, "a sum of a sum whose summands correlate by more than sqrt(1/10)",
         "the mean squares of independent summands add up", applies_to="model", cause=True, initial=True,
         marks=((r"^added twice$", "added twice: the sum adds a value that it contains already"),)),
    Rule("symmetric", symmetric_in_grid, "every unit of a layer equals another",
         "Rumelhart, Hinton, Williams 1986", applies_to="grid", initial=True, marks=(_ALIKE,)),
    Rule("symmetric layer", symmetric_in_model,
         "every unit of a layer equals another; a note where all are zero, as in a branch that starts at zero",
         "Rumelhart, Hinton, Williams 1986; Zhang et al. 2019, Fixup", applies_to="model", initial=True,
         marks=(_ALIKE,)),
    Rule("odd layer", odd_layers_of_grid, "one layer, or one compared with its kind, by e^3",
         "one layer uses up what the whole depth may change", applies_to="grid", marks=(_GAIN, _GRAD)),
    Rule("odd layer or place", odd_layers_of_model,
         "one layer, or one compared with its kind or with the same place of other blocks, by e^3",
         "one layer uses up what the whole depth may change", applies_to="model", marks=(_GAIN, _GRAD)),
    Rule("exploding", exploding,
         "strained from e^3; broken from eps^-1/2 = 2,900 over the depth, from 100 in the chaotic phase",
         "Schoenholz et al. 2017, six depth scales; Xiao et al. 2020, condition number 1/eps", marks=(_FACTOR, _GRAD)),
    Rule("vanishing", vanishing, "strained below e^-3, broken below 1e-6 over the depth",
         "as exploding; Kingma, Ba 2015: Adam divides by the size of the gradient plus 1e-8", marks=(_FACTOR, _GRAD)),
    Rule("collapse", collapse, "the share of a second moment that distinguishes samples: e^-6, eps",
         "Xiao et al. 2020", marks=((r"^alike$", "alike: samples differ in less than 0.25% of their mean square"),)),
    Rule("saturated", saturated, "a bounded activation is flat on over half of its inputs", "Glorot, Bengio 2010",
         marks=(_FLAT,)),
    Rule("inactive", inactive_in_grid,
         "a rectifier is off on over 90% of its inputs, or over half of its units are off on every sample",
         "Lu et al. 2020; samples that are all alike give half", applies_to="grid", marks=_OFF),
    Rule("inactive layer", inactive_in_model,
         "a rectifier other than softplus is off on over 90% of its inputs, or over half of its units on every sample",
         "Lu et al. 2020; samples that are all alike give half", applies_to="model", marks=_OFF),
    Rule("stagnant", stagnant, "no gradient, or only zeros", "a step does not move the parameter",
         marks=(_NO_GRADIENT, (r"^frozen$", "frozen: parameters whose requires_grad is False"))),
    Rule("precision", precision, "over 0.1% of the values are lost in fp16 or bf16", "Micikevicius et al. 2018",
         notes_only=True),
    Rule("insufficient evidence", insufficient_in_grid,
         "no gradient, one layer, few samples, seeds with other sites, an interval that contains a limit",
         "Hanin, Nica 2020: ln of a mean square has a standard deviation of sqrt(5 L / n) over seeds",
         applies_to="grid", notes_only=True),
    Rule("insufficient evidence of a model", insufficient_in_model,
         "no gradient, one site, few samples, seeds with other sites, an interval that contains a limit",
         "Hanin, Nica 2020: ln of a mean square has a standard deviation of sqrt(5 L / n) over seeds",
         applies_to="model", notes_only=True),
)
# fmt: on
