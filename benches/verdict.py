"""Does the verdict before the first step predict training?

    python benches/verdict.py [--data digits] [--depths 10,20,40] [--runs DIR]

The networks have 12 activations x 12 initializers, width 128, and zero biases except with torch's default. The verdict
is that of `diagnose` on 3 seeds before the first step, with the loss and rows of the training run. The outcome is the
best of four learning rates of Adam after 30 epochs of batch 64, one seed. A network trains if its validation accuracy
reaches 0.9, the target to which `train_mlp` counts steps; a linear classifier reaches 0.96 on digits. Two verdicts of
other tools on the same profiles are compared. Finished training runs are kept in DIR and reused the next time.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from timing import OUTPUTS, write
from verdict_baselines import gradient_ratio_verdict, smdebug_verdict

import propscope
from propscope.experiments.training import make_data
from propscope.records.finding import Verdict

ACTIVATIONS = (
    "relu", "leaky_relu", "elu", "selu", "gelu", "silu", "softplus", "tanh", "hardtanh", "sigmoid", "softsign", "sin",
)  # fmt: skip
INITIALIZERS = (
    "zeros", "constant", "normal:std=0.01", "normal:std=0.05", "normal:std=0.2", "normal:std=1", "default",
    "xavier_normal", "he_normal", "orthogonal", "sparse:std=0.3", "uniform:low=0:high=0.02",
)  # fmt: skip
WIDTH, SEEDS, ROWS, TARGET = 128, 3, 256, 0.9
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is compared on which data, how it is trained, and where finished training runs are kept.

    `rows` is that of `make_data`; the training runs and the profiles use the same rows.
    """

    runs: Path
    data: str = "digits"
    rows: int | None = None
    activations: tuple[str, ...] = ACTIVATIONS
    initializers: tuple[str, ...] = INITIALIZERS
    learning_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3)
    epochs: int = 30
    batch: int = 64


@dataclass(frozen=True, slots=True)
class Case:
    """One activation and initializer at one depth: the verdict before the first step, and the outcome of training."""

    depth: int
    activation: str
    initializer: str
    verdict: Verdict
    finding: str
    accuracy: float
    learning_rate: float
    smdebug: bool
    gradient_ratio: bool

    @property
    def trains(self) -> bool:
        """Whether the best learning rate reached the target."""
        return self.accuracy >= TARGET


def cases(setting: Setting, depth: int) -> list[Case]:
    """Return the case of every activation and initializer at a depth."""
    profiles, outcome = before(setting, depth), after(setting, depth)
    found = []
    for key, members in profiles.groups("seed").items():
        labels = dict(key)
        pair = str(labels["activation"]), str(labels["initializer"])
        diagnosis = propscope.diagnose(members, notes=False)
        worst = diagnosis.worst
        accuracy, rate = outcome[pair]
        found.append(
            Case(
                depth,
                *pair,
                diagnosis.verdict,
                "" if worst is None else f"{worst.kind} {worst.direction or ''}".strip(),
                accuracy,
                rate,
                # These judge one network each, so the majority of the seeds counts.
                smdebug=_most(smdebug_verdict(profile).broken for profile in members),
                gradient_ratio=_most(gradient_ratio_verdict(profile).broken for profile in members),
            )
        )
    return found


def before(setting: Setting, depth: int) -> propscope.ProfileSet:
    """Return the profiles before the first step, with the rows and the loss of the training runs."""
    made = make_data(setting.data, seed=0, rows=setting.rows, scale="zscore")
    rows = setting.runs / "verdict-rows.pt"
    torch.save(tuple(part[:ROWS] for part in made.train), rows)
    return propscope.profile_mlp(
        depth, WIDTH, batch=min(ROWS, len(made.train[0])), activation=setting.activations,
        initializer=setting.initializers, seeds=SEEDS, input=str(rows), output_size=made.outputs, loss="cross-entropy",
    )  # fmt: skip


def after(setting: Setting, depth: int) -> Mapping[Pair, tuple[float, float]]:
    """Return the best validation accuracy of each pair, and its learning rate."""
    found = {}
    for activation in setting.activations:
        path = setting.runs / f"verdict-{setting.data}-{depth}-{activation}.h5"
        if not path.exists():
            trained = propscope.train_mlp(
                depth, WIDTH, activation=activation, initializer=setting.initializers, seeds=1, data=setting.data,
                rows=setting.rows, scale="zscore", epochs=setting.epochs, batch=setting.batch,
                learning_rate=setting.learning_rates, profile_every=0,
            )  # fmt: skip
            propscope.save(path, trained)
        stored = propscope.load(path)
        assert isinstance(stored, propscope.TrainingSet)
        for run in stored:
            pair = str(run.labels["activation"]), str(run.labels["initializer"])
            found[pair] = float(max(run.validation_accuracy[1:])), run.learning_rate
    return found


def _most(said: Iterable[bool]) -> bool:
    votes = list(said)
    return 2 * sum(votes) > len(votes)


def table(found: Sequence[Case]) -> list[str]:
    """Return the rows of a confusion table per depth, with the baselines and every disagreement."""
    lines = []
    for depth in dict.fromkeys(case.depth for case in found):
        at = [case for case in found if case.depth == depth]
        counts = Counter((case.verdict, case.trains) for case in at)
        lines += [f"depth {depth}, {len(at)} pairs", f"  {'':18} {'trains':>8} {'does not':>9}"]
        for verdict in ("healthy", "strained", "broken"):
            lines.append(f"  {verdict:18} {counts[verdict, True]:8} {counts[verdict, False]:9}")
        for name, said in (
            ("propscope", [case.verdict == "broken" for case in at]),
            ("smdebug", [case.smdebug for case in at]),
            ("gradient ratio", [case.gradient_ratio for case in at]),
        ):
            right = sum(broken != case.trains for broken, case in zip(said, at, strict=True))
            lines.append(f"  {name:18} agrees on {right} of {len(at)}, {right / len(at):.1%}")
        lines += [
            f"    {case.activation:11} {case.initializer:24} {case.verdict:9} {case.finding:20} "
            f"accuracy {case.accuracy:.2f} at rate {case.learning_rate:g}"
            for case in at
            if (case.verdict == "broken") == case.trains or (case.verdict == "healthy" and not case.trains)
        ]
        lines.append("")
    return lines


def main() -> None:
    """Profile, train, print, write outputs/verdict-DATA.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", choices=("digits", "moons"))
    parser.add_argument("--depths", default="10,20,40")
    parser.add_argument("--runs", type=Path, default=OUTPUTS, help="where finished training runs are kept")
    wanted = parser.parse_args()
    wanted.runs.mkdir(exist_ok=True, parents=True)
    # With 1000 rows of moons, the number of steps is near that of digits.
    setting = Setting(wanted.runs, wanted.data, rows=1000 if wanted.data == "moons" else None)
    started = time.perf_counter()
    found = [case for depth in map(int, wanted.depths.split(",")) for case in cases(setting, depth)]
    print("\n".join(table(found)))
    path = write(f"verdict-{wanted.data}", {"cases": found})
    print(f"{path}, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
