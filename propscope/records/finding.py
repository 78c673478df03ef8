"""The records of a diagnosis: a `Finding` is one thing that is wrong, a `Remedy` what to change, a `Diagnosis` all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from propscope.records.display import as_html, as_text
from propscope.records.network import Direction, Label

Kind = Literal[
    "non-finite",
    "input",
    "unregistered",
    "symmetric",
    "exploding",
    "vanishing",
    "collapse",
    "saturated",
    "inactive",
    "stagnant",
    "precision",
    "insufficient evidence",
]
Severity = Literal["broken", "strained", "note"]
Verdict = Literal["healthy", "strained", "broken", "not measured"]
# Whether the weights are as they were drawn or have been trained, as far as that is known; "training": a monitored run.
Stage = Literal["initialized", "trained", "unknown", "training"]
STAGES: tuple[Stage, ...] = ("initialized", "trained", "unknown")
Optimizer = Literal["sgd", "adam"]
Expected = Literal["trains", "slow", "fails"]
SEVERITIES: tuple[Severity, ...] = ("broken", "strained", "note")
Action = Literal[
    "initializer",
    "scale",
    "standardize",
    "activation",
    "norm",
    "residual",
    "calibrate",
    "centre",
    "repair",
    "unfreeze",
    "precision",
    "training",
    "measure",
]
MeanAndStd = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, and by which number: the kind of `action`, in words (`text`), and what carries it out.

    `options`: keyword arguments of `profile_mlp` that make the network anew (initializer, bias, norm, residual).
    `factors`: the factor for the weight of each named module of an existing model, or for a parameter by its own name.
    `inputs`: for the name of each input to standardize its mean and standard deviation, None for those of each feature.
    All three are empty where propscope cannot carry the remedy out by itself.
    """

    action: Action
    text: str
    options: Mapping[str, Label | bool] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, MeanAndStd | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a network.

    `kind`: what is wrong; of a monitored run, the kind of an alarm. `direction`: of the signal that shows it, None
    where there is none. `severity`: "broken", the network will not train; "strained", it trains badly or only with
    care; "note", nothing is wrong yet. `sites`: names in the order in which the signal passes them. `message`: what was
    seen; `cause`: why; `remedy`: what to change. `evidence`: the numbers that decided, with their limits. `effects`:
    the messages of the findings that this one explains. `confidence`: the probability that one more seed shows the
    same, by Laplace's rule of succession (k + 1) / (n + 2) for k of n seeds; NaN for an alarm. `labels`: of the
    network, empty for a model. `marks`: by the name of a site, the word that a table shows beside it.
    """

    kind: Kind
    severity: Severity
    sites: tuple[str, ...]
    message: str
    cause: str
    evidence: Mapping[str, float] = field(default_factory=dict)
    remedy: Remedy | None = None
    direction: Direction | None = None
    confidence: float = 1.0
    labels: Mapping[str, Label] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict)
    effects: tuple[str, ...] = ()

    @property
    def first(self) -> str:
        """Name of the site where it starts, "" where it has none."""
        return self.sites[0] if self.sites else ""

    @property
    def last(self) -> str:
        """Name of the site where it ends, "" where it has none."""
        return self.sites[-1] if self.sites else ""

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with one network or several: `findings`, worst first, but those of a monitored run by step.

    `labels`: of the network. `networks`: the diagnosis of each network; empty for a single one. `stage`: whether it was
    judged as an initialization or as a trained network, "unknown" where it could be either; "training" where a run was
    judged by its alarms. `not_measured`: the reason why too little was seen to call the network healthy, "" where
    enough was.

    `expects`: by optimizer, whether it "trains" the network, is "slow", or "fails"; "sgd" is SGD with momentum. The
    network trains if it comes to 0.9 of the accuracy that the task allows within about 600 steps at the best of four
    fixed learning rates. `loads`: the number behind each word, 0 where nothing stands in the way, "slow" from 0.6 and
    "fails" from 1 on. Both are empty for several networks, and where no gradient was measured.
    """

    findings: tuple[Finding, ...] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)
    networks: tuple[Diagnosis, ...] = ()
    stage: Stage = "unknown"
    not_measured: str = ""
    expects: Mapping[Optimizer, Expected] = field(default_factory=dict)
    loads: Mapping[Optimizer, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        worst = f", worst {self.findings[0].kind}" if self.findings else ""
        networks = f", {len(self.networks)} networks" if self.networks else ""
        return f"Diagnosis({self.verdict}, {len(self.findings)} findings{worst}{networks})"

    @property
    def verdict(self) -> Verdict:
        """The severity of the worst finding, "broken" or "strained"; "healthy" where there are at most notes.

        "not measured" instead of "healthy" where too little was seen, and for several networks where that holds for
        one of them.
        """
        severities = {finding.severity for finding in self.findings}
        worst = next((severity for severity in SEVERITIES[:-1] if severity in severities), None)
        return worst or ("not measured" if self.unmeasured else "healthy")  # type: ignore[return-value]

    @property
    def unmeasured(self) -> str:
        """Why too little was seen of the network, or of the first of several of which that holds; "" for none."""
        return next(filter(None, (each.not_measured for each in (self, *self.networks))), "")

    @property
    def worst(self) -> Finding | None:
        """The finding to repair first; None where there is no finding, not even a note."""
        return self.findings[0] if self.findings else None

    @property
    def first_bad(self) -> str | None:
        """Name of the site where the worst finding starts; None where there are at most notes."""
        return self.findings[0].first if self.verdict in ("strained", "broken") else None

    def __str__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self)
