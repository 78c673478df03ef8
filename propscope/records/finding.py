"""What a diagnosis says, as records: a `Finding` for each thing that is wrong, a `Remedy`, the `Diagnosis` of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from propscope.records.network import Direction, Label

Kind = Literal[
    "non-finite",
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
Verdict = Literal["healthy", "strained", "broken"]
SEVERITIES: tuple[Severity, ...] = ("broken", "strained", "note")
Action = Literal[
    "initializer",
    "scale",
    "activation",
    "norm",
    "residual",
    "calibrate",
    "centre",
    "repair",
    "unfreeze",
    "precision",
    "measure",
]


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, and by which number: an `action`, in words (`text`), on `sites`, and what carries it out.

    `options`: of a new network of the grid, as `profile_mlp` takes them (initializer, bias, norm, residual). `factors`:
    what to multiply the weights of each named module of an existing model with. Both are empty where nothing can be
    carried out by itself.
    """

    action: Action
    text: str
    options: Mapping[str, Label | bool] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    `kind`; `direction` of the signal that shows it, None where it has none. `severity`: broken, it will not train;
    strained, it trains badly, or with care alone; note, nothing is wrong yet. `sites`: names, from the `first` to the
    `last` in the order in which the signal passes them. `evidence`: the numbers that decided, with their limits.
    `message` says what is seen, `cause` why. `confidence`: the probability that a further seed shows it, by Laplace's
    rule of succession (k + 1) / (n + 2) for k of n seeds. `labels`: of the network, empty for a model. `marks`: a word
    for each site that shows it, by name, for the margin of a table.
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

    @property
    def first(self) -> str:
        """Name of the site where it starts, "" where it has none."""
        return self.sites[0] if self.sites else ""

    @property
    def last(self) -> str:
        """Name of the site where it ends, "" where it has none."""
        return self.sites[-1] if self.sites else ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with one network, or with several: `findings`, worst first.

    `labels`: of the one network. `networks`: the diagnosis of each, where there are several.
    """

    findings: tuple[Finding, ...] = ()
    labels: Mapping[str, Label] = field(default_factory=dict)
    networks: tuple[Diagnosis, ...] = ()

    def __repr__(self) -> str:
        worst = f", worst {self.findings[0].kind}" if self.findings else ""
        networks = f", {len(self.networks)} networks" if self.networks else ""
        return f"Diagnosis({self.verdict}, {len(self.findings)} findings{worst}{networks})"

    @property
    def verdict(self) -> Verdict:
        """Broken or strained as the worst finding is, healthy where none is either."""
        severities = {finding.severity for finding in self.findings}
        return "broken" if "broken" in severities else "strained" if "strained" in severities else "healthy"

    @property
    def worst(self) -> Finding | None:
        """The finding to mend first; None for a healthy network without notes."""
        return self.findings[0] if self.findings else None

    @property
    def first_bad(self) -> str | None:
        """Name of the site where the worst finding starts; None for a healthy network."""
        return self.findings[0].first if self.verdict != "healthy" else None
