"""Does the verdict before the first step predict training?

    python benches/verdict.py [--data digits] [--depths 10,20] [--width 64] [--all] [--runs DIR]

The networks have 6 activations x 6 initializers (`--all`: 12 x 12), and zero biases except with torch's default. The
verdict is that of `diagnose` on 3 seeds before the first step, with the loss and rows of the training. The outcome is
the best of four learning rates after 690 steps of batch 64, one seed, for Adam and for SGD with momentum. A network
trains if it comes to 0.9 of what a network with one hidden layer reaches. Two verdicts of other tools on the same
profiles are compared. Finished trainings are kept in DIR and reused the next time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from outcomes import RATES, Outcome, kept, outcomes
from timing import OUTPUTS, write
from verdict_baselines import gradient_ratio, gradient_ratio_verdict, smdebug_verdict

import propscope
from propscope.experiments.training import TrainingData, make_data
from propscope.networks import MLPSpec
from propscope.records.finding import Expected, Optimizer, Verdict

ACTIVATIONS = (
    "relu", "gelu", "selu", "tanh", "sigmoid", "sin",
    "leaky_relu", "elu", "silu", "softplus", "hardtanh", "softsign",
)  # fmt: skip
INITIALIZERS = (
    "default", "xavier_normal", "he_normal", "orthogonal", "normal:std=0.05", "normal:std=0.2",
    "zeros", "constant", "normal:std=0.01", "normal:std=1", "sparse:std=0.3", "uniform:low=0:high=0.02",
)  # fmt: skip
DATA = ("digits", "moons", "breast_cancer")
SEEDS, ROWS, SHARE = 3, 256, 0.9
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared on which data, how it is trained, and where finished trainings are kept."""

    runs: Path
    data: str = "digits"
    activations: tuple[str, ...] = ACTIVATIONS[:6]
    initializers: tuple[str, ...] = INITIALIZERS[:6]
    width: int = 64
    steps: int = 690

    def examples(self) -> TrainingData:
        """Return the rows; of moons 1000, which makes a step as good as one on digits."""
        source = str(table_file(self.runs)) if self.data == "breast_cancer" else self.data
        return make_data(source, seed=0, rows=1000 if self.data == "moons" else None, scale="zscore")


@dataclass(frozen=True, slots=True)
class Case:
    """One activation and initializer at one depth: what is said before the first step, and the outcomes of training.

    `target`: the accuracy of a network that trains. `scores`: by method, the number that orders networks from those
    that train to those that do not.
    """

    depth: int
    activation: str
    initializer: str
    verdict: Verdict
    finding: str
    expects: Mapping[Optimizer, Expected]
    outcome: Mapping[Optimizer, Outcome]
    target: float
    smdebug: bool
    gradient_ratio: bool
    scores: Mapping[str, float]

    def trains(self, optimizer: Optimizer) -> bool:
        """Return whether the best learning rate reached the target."""
        return self.outcome[optimizer].accuracy >= self.target


def table_file(runs: Path) -> Path:
    """Return a file of scikit-learn's breast cancer table, a table that no limit was chosen on."""
    path = runs / "breast_cancer.pt"
    if not path.exists():
        from sklearn.datasets import load_breast_cancer

        content = load_breast_cancer()
        torch.save((torch.tensor(content.data), torch.tensor(content.target)), path)
    return path


def cases(setting: Setting, depth: int) -> list[Case]:
    """Return the case of every activation and initializer at a depth."""
    made = setting.examples()
    reached = after(setting, made, 1, "adam", target=math.inf, only=("relu", "he_normal"))
    target = SHARE * reached["relu", "he_normal"].accuracy
    outcome = {optimizer: after(setting, made, depth, optimizer, target=target) for optimizer in RATES}
    profiles = before(setting, made, depth)
    found = []
    for pair, members in zip(_pairs(setting), profiles.groups("seed").values(), strict=True):
        diagnosis = propscope.diagnose(members, notes=False)
        worst = diagnosis.worst
        smdebug = [smdebug_verdict(profile) for profile in members]
        ratios = [abs(math.log(max(ratio, 1e-300))) for p in members if not math.isnan(ratio := gradient_ratio(p))]
        found.append(
            Case(
                depth,
                *pair,
                diagnosis.verdict,
                "" if worst is None else f"{worst.kind} {worst.direction or ''}".strip(),
                diagnosis.expects,
                {optimizer: outcome[optimizer][pair] for optimizer in RATES},
                target,
                # These judge one network each, so the majority of the seeds counts.
                smdebug=_most(said.broken for said in smdebug),
                gradient_ratio=_most(gradient_ratio_verdict(profile).broken for profile in members),
                scores={
                    **{f"propscope, {optimizer}": load for optimizer, load in diagnosis.loads.items()},
                    "smdebug": statistics.fmean(len(said.rules) for said in smdebug),
                    "gradient ratio": statistics.fmean(ratios) if ratios else 0.0,
                },
            )
        )
    return found


def before(setting: Setting, made: TrainingData, depth: int) -> propscope.ProfileSet:
    """Return the profiles before the first step, with the rows and the loss of the trainings."""
    rows = setting.runs / f"verdict-rows-{setting.data}.pt"
    torch.save(tuple(part[:ROWS] for part in made.train), rows)
    return propscope.profile_mlp(
        depth, setting.width, batch=min(ROWS, len(made.train[0])), activation=setting.activations,
        initializer=setting.initializers, seeds=SEEDS, input=str(rows), output_size=made.outputs, loss="cross-entropy",
    )  # fmt: skip


def after(
    setting: Setting, made: TrainingData, depth: int, optimizer: Optimizer, *, target: float, only: Pair | None = None
) -> Mapping[Pair, Outcome]:
    """Return the outcome of each pair, or of one alone."""
    found: dict[Pair, Outcome] = {}
    for activation in setting.activations if only is None else only[:1]:
        names = setting.initializers if only is None else only[1:]
        specs = [
            MLPSpec(depth, width=setting.width, activation=activation, initializer=name, input_size=made.features,
                    output_size=made.outputs)
            for name in names
        ]  # fmt: skip
        what = f"{setting.data}-{depth}-{setting.width}-{activation}-{optimizer}-{len(names)}"
        reached = kept(
            setting.runs / f"verdict-{what}.json",
            lambda specs=specs: outcomes(specs, made, optimizer, steps=setting.steps, target=target),  # type: ignore[misc]
        )
        found |= {(activation, name): outcome for name, outcome in zip(names, reached, strict=True)}
    return found


def area(cases: Sequence[Case], method: str, optimizer: Optimizer) -> float:
    """Return the area under the ROC curve: how often a network that fails has a higher score than one that trains."""
    fails, trains = (
        [case.scores[method] for case in cases if case.trains(optimizer) is said] for said in (False, True)
    )
    if not fails or not trains:
        return math.nan
    return sum((high > low) + 0.5 * (high == low) for high in fails for low in trains) / len(fails) / len(trains)


def _pairs(setting: Setting) -> list[Pair]:
    return [(activation, name) for activation in setting.activations for name in setting.initializers]


def _most(said: Iterable[bool]) -> bool:
    votes = list(said)
    return 2 * sum(votes) > len(votes)


def table(found: Sequence[Case]) -> list[str]:
    """Return for each depth the outcome with Adam by verdict, the words by optimizer, and every disagreement."""
    lines = []
    for depth in dict.fromkeys(case.depth for case in found):
        at = [case for case in found if case.depth == depth]
        counts = Counter((case.verdict, case.trains("adam")) for case in at)
        lines += [f"depth {depth}, {len(at)} pairs", f"  {'':18} {'trains':>8} {'does not':>9}  with Adam"]
        for verdict in ("healthy", "strained", "broken"):
            lines.append(f"  {verdict:18} {counts[verdict, True]:8} {counts[verdict, False]:9}")
        for name, said in (
            ("propscope", [case.verdict == "broken" for case in at]),
            ("smdebug", [case.smdebug for case in at]),
            ("gradient ratio", [case.gradient_ratio for case in at]),
        ):
            right = sum(broken != case.trains("adam") for broken, case in zip(said, at, strict=True))
            lines.append(f"  {name:18} agrees on {right} of {len(at)}, {right / len(at):.1%}")
        for optimizer in RATES:
            lines += _of_optimizer(at, optimizer)
        lines.append("")
    return lines


def _of_optimizer(at: Sequence[Case], optimizer: Optimizer) -> list[str]:
    decided = [case for case in at if case.expects[optimizer] != "slow"]
    wrong = [case for case in decided if (case.expects[optimizer] == "trains") is not case.trains(optimizer)]
    slow = len(at) - len(decided)
    methods = (f"propscope, {optimizer}", "smdebug", "gradient ratio")
    areas = ", ".join(f"{method} {area(at, method, optimizer):.3f}" for method in methods)
    return [
        f"  {optimizer}: {sum(case.trains(optimizer) for case in at)} train; trains or fails is right for "
        f"{len(decided) - len(wrong)} of {len(decided)}, {slow} slow ({slow / len(at):.0%}); area: {areas}",
        *(
            f"    {case.activation:11} {case.initializer:24} {case.expects[optimizer]:7} {case.verdict:9} "
            f"{case.finding:20} accuracy {case.outcome[optimizer].accuracy:.2f} of {case.target:.2f}"
            for case in wrong
        ),
    ]


def main() -> None:
    """Profile, train, print, write outputs/verdict-DATA.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=DATA)
    parser.add_argument("--depths", default="10,20")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--all", action="store_true", help="12 activations x 12 initializers")
    parser.add_argument("--runs", type=Path, default=OUTPUTS, help="where finished trainings are kept")
    wanted = parser.parse_args()
    wanted.runs.mkdir(exist_ok=True, parents=True)
    setting = Setting(wanted.runs, wanted.data, width=wanted.width)
    if wanted.all:
        setting = replace(setting, activations=ACTIVATIONS, initializers=INITIALIZERS)
    started = time.perf_counter()
    found = [case for depth in map(int, wanted.depths.split(",")) for case in cases(setting, depth)]
    print("\n".join(table(found)))
    path = write(f"verdict-{wanted.data}", {"cases": found})
    print(f"{path}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
