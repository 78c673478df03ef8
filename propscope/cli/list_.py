"""`propscope list`: the names that options take, with formulas and sources."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from propscope.cli.options import Json
from propscope.cli.view import View

if TYPE_CHECKING:
    from propscope.report.table import Table


_SPELLING = "Parameters follow colons: leaky_relu:negative_slope=0.1. A function of your own: package.module:callable."


def list_(*, view: View, json: Json = False) -> None:
    """List activations, initializers, inputs, data and optimizers, with their parameters, formulas and sources."""
    from propscope.experiments.training import DATA, OPTIMIZERS
    from propscope.networks import ACTIVATIONS, INITIALIZERS, INPUTS
    from propscope.report.terminal import print_json

    kinds: dict[str, tuple[Any, ...]] = {"activations": ACTIVATIONS, "initializers": INITIALIZERS, "inputs": INPUTS}
    kinds |= {"data": DATA, "optimizers": OPTIMIZERS}
    if json:
        print_json({kind: [_document(entry) for entry in entries] for kind, entries in kinds.items()})
        return
    view.print([*(_table(kind, entries) for kind, entries in kinds.items()), _SPELLING])


def _document(entry: Any) -> dict[str, Any]:
    return {
        "name": entry.name,
        "aliases": list(entry.aliases),
        "parameters": {parameter.name: parameter.default for parameter in entry.parameters},
        "formula": entry.formula,
        "source": entry.source,
        **({"recommended_for": list(entry.recommended_for)} if hasattr(entry, "recommended_for") else {}),
    }


def _table(kind: str, entries: tuple[Any, ...]) -> Table:
    from propscope.report.table import Table

    documents = [_document(entry) for entry in entries]
    names = tuple(documents[0])
    rows = tuple(tuple(_cell(document[name]) for name in names) for document in documents)
    headings = tuple(name.replace("_", " ") for name in names)
    return Table(kind, headings, rows, left=frozenset(headings), spare=("recommended for", "aliases", "source"))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={default}" for name, default in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)
