"""`propscope list`: every table, as text and as JSON."""

from propscope.experiments.training import DATA, OPTIMIZERS
from propscope.networks import ACTIVATIONS, INITIALIZERS, INPUTS


def test_everything_is_listed_with_its_parameters_and_sources(command):
    tables = {"activations": ACTIVATIONS, "initializers": INITIALIZERS, "inputs": INPUTS}
    tables |= {"data": DATA, "optimizers": OPTIMIZERS}
    lines = command.fine("list").splitlines()
    starts = [lines.index(kind) for kind in tables]
    for (kind, entries), start in zip(tables.items(), starts, strict=True):
        for number, entry in enumerate(entries):
            # Title, a blank line, headings, a rule.
            line = lines[start + 4 + number]
            assert line.startswith(f" {entry.name} "), kind
            assert entry.source in line
            assert all(f"{parameter.name}={parameter.default}" in line for parameter in entry.parameters)
            assert all(alias in line for alias in entry.aliases)
    assert "package.module:callable" in lines[-1]


def test_as_json(command):
    document = command("list", "--json").document
    assert list(document) == ["activations", "initializers", "inputs", "data", "optimizers"]
    assert [entry["name"] for entry in document["initializers"]] == [entry.name for entry in INITIALIZERS]
    leaky = next(entry for entry in document["activations"] if entry["name"] == "leaky_relu")
    assert leaky["parameters"] == {"negative_slope": 0.01}
    he = next(entry for entry in document["initializers"] if entry["name"] == "he_normal")
    assert "relu" in he["recommended_for"]
    assert "kaiming_normal" in he["aliases"]
