"""The tables of trainings: of many runs one row for each pair, of one run one row for each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from propscope.printable import printable
from propscope.records.interval import Interval
from propscope.records.numerals import counted, number
from propscope.records.training import TrainingRun, TrainingSet
from propscope.records.training_summary import DistinctRows, TrainedPair, summarize_training
from propscope.report.table import Table

_STABILITY = (
    "diverged: the loss became NaN or Inf (at the step named), or stayed above twice its start. stalled: less than "
    "10% better than a constant prediction. oscillating: late in training the loss rises again by more than a tenth "
    "of what it had fallen. converged: the loss fell and stays down, though it may still be falling."
)
_ROWS = (
    "distinct rows: number of distinct rows of the weight matrices, before -> after training, the fewest over seeds; "
    "in brackets the numbers of the matrices; all: no two rows are equal. Units with equal rows compute the same."
)
_BRIEF = (
    "stalled: hardly better than a constant; oscillating: the loss rises again late;",
    "converged: it fell and stays. Every column: propscope show --explain FILE",
)
_SPARE = ("distinct rows\nbefore -> after", "learning\nrate", "steps to\ntarget")
# Of more groups of collapsed weights the first ones are shown.
_GROUPS_AT_MOST = 2


def training_table(runs: TrainingSet) -> Table:
    """Return the table with one row for each pair of initializer and activation (and of any other label but the seed).

    The final accuracy and loss are followed by their 95% interval over seeds, except in a narrow place.
    """
    return replace(_training_table(runs, intervals=True), narrow=_training_table(runs, intervals=False))


def _training_table(runs: TrainingSet, *, intervals: bool) -> Table:
    pairs = summarize_training(runs)
    axes = runs.axes
    varied = [name for name in axes if len({run.labels.get(name, "") for run in runs}) > 1]
    leading = tuple(name for name in ("activation", "initializer") if name in varied)
    named = leading + tuple(name for name in varied if name not in (*leading, "seed"))
    classes = any(not math.isnan(pair.final_accuracy.center) for pair in pairs)
    classes = classes or any(run.task == "classification" for run in runs)
    aimed = any(run.target is not None for run in runs)
    rates = "learning_rate" not in axes
    collapsed = any(pair.collapsed for pair in pairs)
    figures = (
        *("final\naccuracy",) * classes,
        "final\nloss",
        *("steps to\ntarget",) * aimed,
        "stability",
        *("learning\nrate",) * rates,
        *("distinct rows\nbefore -> after",) * collapsed,
    )
    rows = tuple(
        (
            *(str(pair.labels.get(name, "")) for name in named),
            *(_accuracy(pair, intervals),) * classes,
            _loss(pair, intervals),
            *(_steps(pair),) * aimed,
            _stability(pair),
            *(_range(pair.learning_rates),) * rates,
            *(_rows(pair.collapsed),) * collapsed,
        )
        for pair in pairs
    )
    fixed = [printable(f"{name} {axes[name][0]}") for name in axes if name not in (*named, "seed")]
    left_aligned = frozenset({*map(printable, named), "stability", "distinct rows\nbefore -> after"})
    return Table(
        _title(runs, pairs, fixed),
        (*map(printable, named), *figures),
        rows,
        left_aligned,
        _notes(runs.runs),
        legend=(_STABILITY, *(_ROWS,) * collapsed),
        brief=_BRIEF,
        spare=_SPARE,
    )


def run_table(run: TrainingRun) -> Table:
    """Return the table of one run with one row for each epoch, from epoch 0 before the first step.

    The title says how the run ended. Figures that are not defined at any epoch have no column.
    """
    curves = {
        "training\nloss": [number(value) for value in run.train_loss],
        "training\naccuracy": [_percent(value) for value in run.train_accuracy],
        "validation\nloss": [number(value) for value in run.validation_loss],
        "validation\naccuracy": [_percent(value) for value in run.validation_accuracy],
        "update\nratio": ["-", *(number(value) for value in run.update_ratio)],
    }
    shown = {name: cells for name, cells in curves.items() if set(cells) != {"-"}}
    rows = tuple((str(epoch), *cells) for epoch, cells in enumerate(zip(*shown.values(), strict=True)))
    ended = run.stability + (f" at step {run.diverged_at}" if run.diverged_at is not None else "")
    final = [f"final loss {number(run.final_loss)}"] if not math.isnan(run.final_loss) else []
    if not math.isnan(run.final_accuracy):
        final.append(f"final accuracy {_percent(run.final_accuracy)}")
    labels = [printable(f"{name} {value}") for name, value in run.labels.items()]
    if "learning_rate" not in run.labels:
        labels.append(f"learning rate {run.learning_rate:g}")
    title = f"{', '.join([ended, *final])}\n{', '.join(labels)}"
    notes = ("update ratio: rms of a step's parameter update over the rms of the weights.", _STABILITY)
    return Table(title, ("epoch", *shown), rows, frozenset(), notes)


def _title(runs: TrainingSet, pairs: Sequence[TrainedPair], fixed: Sequence[str]) -> str:
    epochs = _range({run.epochs for run in runs})
    count = _range({pair.runs for pair in pairs}) or "0"
    parts = [counted(len(pairs), "trained pair"), *fixed, f"{count} seed{'s' * (count != '1')}"]
    # A number of epochs that is unusual is a label.
    if epochs and "epochs" not in runs.axes:
        parts.append(f"{epochs} epoch{'s' * (epochs != '1')}")
    return ", ".join(parts)


def _notes(runs: Sequence[TrainingRun]) -> tuple[str, ...]:
    held_out = any(not math.isnan(run.validation_loss[0]) for run in runs)
    data = "validation" if held_out else "training"
    notes = [f"final: after the last epoch, on the {data} data; mean over seeds with its 95% interval."]
    if any(math.isnan(run.final_loss) for run in runs):
        notes[0] += " Runs that diverged have none."
    targets = {(run.task, run.target) for run in runs if run.target is not None}
    if len(targets) == 1:
        task, target = targets.pop()
        aim = f"accuracy {_percent(target)}" if task == "classification" else f"loss {number(target)}"
        notes.append(f"target: {aim}; steps: median over seeds.")
    tried = sorted({rate for run in runs for rate in run.learning_rates_tried})
    if len(tried) > 1:
        notes.append(f"learning rate: the best of {', '.join(f'{rate:g}' for rate in tried)}.")
    return tuple(notes)


def _accuracy(pair: TrainedPair, limits: bool) -> str:
    found = pair.final_accuracy
    text = _percent(found.center)
    if limits and not math.isnan(found.low) and found.low < found.high:
        text += f" [{_percent(max(found.low, 0.0))}, {_percent(min(found.high, 1.0))}]"
    return text + _of(found, pair)


def _loss(pair: TrainedPair, limits: bool) -> str:
    found = pair.final_loss
    text = number(found.center)
    if limits and not math.isnan(found.low) and found.low < found.high:
        text += f" [{number(found.low, 2)}, {number(found.high, 2)}]"
    return text + _of(found, pair)


def _of(found: Interval, pair: TrainedPair) -> str:
    return f" ({found.count} of {pair.runs})" if 0 < found.count < pair.runs else ""


def _steps(pair: TrainedPair) -> str:
    if math.isnan(pair.steps_to_target):
        return "-"
    if pair.never == pair.runs:
        return "never"
    if math.isinf(pair.steps_to_target):
        return f"never ({pair.never} of {pair.runs})"
    return f"{pair.steps_to_target:.0f}" + (f" (never: {pair.never} of {pair.runs})" if pair.never else "")


def _stability(pair: TrainedPair) -> str:
    at = "" if math.isnan(pair.diverged_at) else f" (step {pair.diverged_at:.0f})"
    words = [
        (f"{count} " if len(pair.stability) > 1 else "") + word + at * (word == "diverged")
        for word, count in pair.stability.items()
    ]
    return ", ".join(words)


def _rows(collapsed: tuple[DistinctRows, ...]) -> str:
    parts = [
        f"{group.before} -> {group.after} of {group.rows}"
        + (f" ({group.first}-{group.last})" if group.last > group.first else f" ({group.first})")
        for group in collapsed[:_GROUPS_AT_MOST]
    ]
    return ", ".join([*parts, "..."] if len(collapsed) > _GROUPS_AT_MOST else parts) or "all"


def _range(values: Iterable[float]) -> str:
    distinct = sorted(set(values))
    ends = [f"{value:g}" for value in (distinct[:1] if len(distinct) == 1 else distinct[:: max(len(distinct) - 1, 1)])]
    return " to ".join(ends)


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.1f}%"
