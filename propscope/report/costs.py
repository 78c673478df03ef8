"""How the costs of a forward pass read: sentences below a tree, a table of modules, one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from propscope.checks import bytes_text
from propscope.records.model_costs import ModelCosts, ModuleCosts
from propscope.records.numerals import percent
from propscope.report.documents import fields
from propscope.report.table import Table
from propscope.report.tree import LINES_AT_MOST

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_NAMED = 4
_COLUMNS = ("module", "kind", "output", "params", "mult-adds", "share", "kept")
# What a narrow place goes without, the first one first.
_WIDE = ("share", "kind")
_LEGEND = (
    "Each line counts what is inside it. params: a shared parameter stands in each line that has it, and once in all. "
    "mult-adds: multiply-adds of matrix products, convolutions, attention and recurrent layers in one forward pass of "
    "the whole batch, masked positions included; elementwise operations, norms, pooling, softmax and lookups are not "
    "counted. A multiply-add is two floating-point operations; the backward pass takes about twice as many. kept: what "
    "autograd keeps for the backward pass, without parameters, buffers and the batch.",
)
_BRIEF = (
    "Each line counts what is inside it. mult-adds: forward, of the whole batch.",
    "kept: for the backward pass.",
)


def compact(number: float) -> str:
    """Return a count in three digits with its unit, such as 1.81 G; below 1,000 as it is."""
    for size, unit in _UNITS:
        if number >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.{2 - (scaled >= 9.995) - (scaled >= 99.95)}f} {unit}"
    return f"{number:.0f}"


def _size(size: int) -> str:
    return f"{compact(size)}B" if size >= 1000 else f"{size} B"


def cost_sentences(costs: ModelCosts) -> tuple[str, ...]:
    """Return the multiply-adds in all and for each sample, what is not in them, and the memory, each as a sentence."""
    if costs.stopped:
        return (f"multiply-adds: not counted, as the forward pass for them stopped: {costs.stopped}",)
    each = f", {compact(costs.multiply_adds / costs.samples)} a sample" if costs.samples else ""
    counted = f"multiply-adds: {compact(costs.multiply_adds)} forward{each}, elementwise operations not counted"
    if costs.uncounted:
        named = [f"{name} ({calls}x)" for name, calls in costs.uncounted]
        rest = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
        counted += f"; without those of {', '.join(named[:_NAMED])}{rest}, which are not known"
    kept = "" if costs.kept_bytes is None else f", kept for the backward pass {bytes_text(costs.kept_bytes)}"
    memory = (
        f"memory: batch {bytes_text(costs.input_bytes)}, parameters {bytes_text(costs.weight_bytes)}, "
        f"outputs of layers {bytes_text(costs.layer_bytes)}{kept}"
    )
    return counted, memory


def parameter_sentence(costs: ModelCosts) -> str:
    """Return how many parameters there are, and how many of them are trained."""
    trainable, frozen = costs.trainable_parameters, costs.frozen_parameters
    return f"parameters: {costs.parameters:,}, {trainable:,} trainable, {frozen:,} frozen"


def costs_table(costs: ModelCosts, *, depth: int | None = None, totals: bool = True) -> Table:
    """Return one row for each module, down to `depth` levels; None: as many levels as fit in 120 rows.

    `totals`: whether sentences of the whole model stand below.
    """
    levels = _levels(costs.modules)
    if depth is None:
        deepest = max(levels.values())
        fitting = (n for n in range(1, deepest) if sum(level <= n for level in levels.values()) <= LINES_AT_MOST)
        depth = deepest if len(levels) <= LINES_AT_MOST else max(fitting, default=1)
    rows = [_row(module, costs, levels) for module in costs.modules if levels[module.name] <= depth]
    samples = f", {costs.samples} samples" if costs.samples else ""

    def table(columns: Sequence[str], narrow: Table | None) -> Table:
        return Table(
            f"Costs of a forward pass{samples}",
            tuple(columns),
            tuple(tuple(row[name] for name in columns) for row in rows),
            left=frozenset(("module", "kind", "output")),
            notes=(parameter_sentence(costs), *cost_sentences(costs)) if totals else (),
            legend=_LEGEND,
            brief=_BRIEF,
            dotted="module",
            narrow=narrow,
        )

    without_kind = table([name for name in _COLUMNS if name not in _WIDE], None)
    return table(_COLUMNS, table([name for name in _COLUMNS if name != _WIDE[0]], without_kind))


def _levels(modules: tuple[ModuleCosts, ...]) -> dict[str, int]:
    """Return how many of the modules each one stands in."""
    names = {module.name for module in modules}
    return {name: sum(above in names for above in _above(name)) for name in names}


def _above(name: str) -> list[str]:
    """Return the paths that a module's path goes through, the model's first."""
    parts = name.split(".") if name else []
    return [".".join(parts[:size]) for size in range(len(parts))]


def _row(module: ModuleCosts, costs: ModelCosts, levels: dict[str, int]) -> dict[str, str]:
    inside = next((above for above in reversed(_above(module.name)) if above in levels), "")
    own = module.name.removeprefix(f"{inside}.") if inside else module.name
    share = module.multiply_adds / costs.multiply_adds if costs.multiply_adds else None
    return {
        # A model of hundreds of layers inside each other would leave no room for names.
        "module": " " * min(levels[module.name], 12) + own if own else "(model)",
        "kind": f"{module.kind} x{module.calls}" if module.calls > 1 else module.kind,
        "output": _output(module),
        "params": f"{module.parameters:,}",
        "mult-adds": compact(module.multiply_adds) if module.calls else "-",
        "share": percent(share) if module.calls else "-",
        "kept": "-" if module.kept_bytes is None or not module.calls else _size(module.kept_bytes),
    }


def _output(module: ModuleCosts) -> str:
    if not module.calls:
        return "not called"
    return "-" if module.shape is None else ",".join(map(str, module.shape))


def costs_document(costs: ModelCosts) -> dict[str, Any]:
    """Return the costs as one object, with those of every module."""
    return {
        "samples": costs.samples,
        "parameters": costs.parameters,
        "trainable_parameters": costs.trainable_parameters,
        "frozen_parameters": costs.frozen_parameters,
        "multiply_adds": costs.multiply_adds,
        "input_bytes": costs.input_bytes,
        "weight_bytes": costs.weight_bytes,
        "layer_bytes": costs.layer_bytes,
        "kept_bytes": costs.kept_bytes,
        "uncounted": [{"operation": name, "calls": calls} for name, calls in costs.uncounted],
        "stopped": costs.stopped or None,
        "modules": [fields(module) for module in costs.modules],
    }
