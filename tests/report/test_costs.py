"""How costs read: three digits and a unit, rows that fit 80 columns, sentences, columns of the tree, one object."""

import pytest

from propscope import NetworkProfile
from propscope.records import Diagnosis, ModelCosts, ModuleCosts, Site, TensorSummary
from propscope.report.costs import compact, cost_sentences, costs_document, costs_table
from propscope.report.display import html_of, text_of
from propscope.report.inspection import inspection


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00 k"),
        (1814073344, "1.81 G"),
        (9.996e6, "10.0 M"),
        (99.96e6, "100 M"),
        (999.6e6, "1.00 G"),
        (7.2e15, "7200 T"),
    ],
)
def test_counts_in_three_digits(number, text):
    assert compact(number) == text


def costs(blocks=2, **options):
    """Return the costs of blocks of an attention and a projection, and a head that does not run."""
    modules = [ModuleCosts("", "LanguageModel", 1, (4, 16, 100), 7000, 100, 10_000_000, 400, 9_000_000)]
    for number in range(blocks):
        name = f"transformer.encoder.layer.{number}"
        modules += [
            ModuleCosts(name, "TransformerBlock", 1, (4, 16, 64), 3000, 0, 4_000_000, 100, 3_000_000),
            ModuleCosts(f"{name}.attention.output_projection", "Linear", 2, (4, 16, 64), 1000, 0, 2_500_000, 100, 999),
        ]
    modules += [ModuleCosts("pooler", "Linear", 0, None, 500)]
    return ModelCosts(tuple(modules), **{"samples": 4, "input_bytes": 512, "weight_bytes": 28_000, **options})


def test_a_row_stands_below_the_module_that_holds_it():
    assert costs_table(costs()).to_text() == (
        "Costs of a forward pass, 4 samples\n\n"
        " module                         kind              output      params  mult-adds  share     kept\n"
        " ──────────────────────────────────────────────────────────────────────────────────────────────\n"
        " (model)                        LanguageModel     4,16,100     7,000     10.0 M   100%  9.00 MB\n"
        "  transformer.encoder.layer.0   TransformerBlock  4,16,64      3,000     4.00 M    40%  3.00 MB\n"
        "   attention.output_projection  Linear x2         4,16,64      1,000     2.50 M    25%    999 B\n"
        "  transformer.encoder.layer.1   TransformerBlock  4,16,64      3,000     4.00 M    40%  3.00 MB\n"
        "   attention.output_projection  Linear x2         4,16,64      1,000     2.50 M    25%    999 B\n"
        "  pooler                        Linear            not called     500          -      -        -\n\n"
        "parameters: 7,000, 6,900 trainable, 100 frozen\n"
        "multiply-adds: 10.0 M forward, 2.50 M a sample, elementwise operations not counted\n"
        "memory: batch 512 bytes, parameters 28,000 bytes, outputs of layers 0 bytes, kept for the backward pass "
        "9.0 MB\n"
        "Each line counts what is inside it. mult-adds: forward, of the whole batch.\n"
        "kept: for the backward pass."
    )


@pytest.mark.parametrize("width", [80, 100])
def test_it_fits_the_width(width):
    text = costs_table(costs(), totals=False).to_text(width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert ("kind" in text) is (width == 100)


def test_deep_models_show_as_many_levels_as_fit():
    assert len(costs_table(costs(100)).rows) == 102
    assert len(costs_table(costs(2), depth=1).rows) == 4


def test_what_is_not_counted_is_said():
    unknown = tuple((f"aten._fft_{name}", 2) for name in "abcdef")
    said = cost_sentences(costs(uncounted=unknown, samples=None))[0]
    assert said == (
        "multiply-adds: 10.0 M forward, elementwise operations not counted; without those of aten._fft_a (2x), "
        "aten._fft_b (2x), aten._fft_c (2x), aten._fft_d (2x) and 2 more, which are not known"
    )
    assert cost_sentences(costs(stopped="RuntimeError: no"))[0].endswith("stopped: RuntimeError: no")


def profile(*names):
    values = TensorSummary.of([1.0, -1.0])
    return NetworkProfile(tuple(Site(name, "Linear", "other", (2, 2), forward=values) for name in names))


def test_the_tree_has_params_and_multiply_adds_where_there_is_room():
    names = ("transformer.encoder.layer.0.attention.output_projection", "transformer.encoder.layer.1")
    seen = profile(*names, f"{names[0]}#1")
    text = inspection(seen, Diagnosis(), costs())
    rows = {line.split()[0].lstrip("├└─│ "): line for line in text.splitlines() if "M" in line and "─" in line}
    assert all("2.50 M" in line for name, line in rows.items() if "projection" in name)
    # The second call is part of the first line.
    assert text.count("2.50 M ") == 1 + text.count("2.50 M a sample")
    assert "4.00 M" in text
    narrow = inspection(seen, Diagnosis(), costs(), width=60)
    assert "params" not in narrow
    assert "multiply-adds: 10.0 M forward" in narrow
    assert "mult" not in inspection(seen, Diagnosis())


def test_print_and_notebooks_show_the_table():
    assert "Costs of a forward pass" in text_of(costs()) == str(costs())
    shown = html_of(costs())
    assert "10.0 M" in shown
    assert "elementwise operations not counted" in shown


def test_one_object():
    found = costs_document(costs(uncounted=(("aten._fft_r2c", 1),)))
    assert found["uncounted"] == [{"operation": "aten._fft_r2c", "calls": 1}]
    assert (found["trainable_parameters"], found["stopped"]) == (6900, None)
    assert found["modules"][1]["kind"] == "TransformerBlock"
