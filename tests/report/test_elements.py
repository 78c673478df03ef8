"""HTML elements of a notebook: a table by value, colours with signs, and no markup out of text."""

import pytest

from propscope.report.elements import blocks_html, box, escaped, folded, judged_colour, severity_of, table_html
from propscope.report.svg import COLORS, SEVERITY
from propscope.report.table import Table

EVIL = '<script>alert("&")</script>'
ESCAPED = "&lt;script&gt;alert(&quot;&amp;&quot;)&lt;/script&gt;"


def test_a_table_by_value():
    table = Table("t", ("a", "b\nc"), (("x", "1e-5"),), frozenset({"a"}), ("n",), legend=("l",))
    assert table_html(table) == (
        '<div style="overflow:auto;max-height:480px"><table style="text-align:right;margin:0">'
        '<caption style="text-align:left;caption-side:top;white-space:pre-wrap">t</caption>'
        '<thead><tr><th style="text-align:left">a</th><th>b<br>c</th></tr></thead>'
        '<tbody><tr><td style="text-align:left">x</td><td><nobr>1e-5</nobr></td></tr></tbody></table></div>'
        "<details><summary>notes, and how to read it</summary><p>n</p><p>l</p></details>"
    )


def test_a_column_without_a_cell_is_left_out():
    found = table_html(Table("", ("a", "b"), (("x", ""), ("y", ""))))
    assert ">a<" in found
    assert ">b<" not in found


def test_no_rows_no_title_and_no_notes():
    found = table_html(Table("", ("a",), ()))
    assert "<tbody></tbody>" in found
    assert "<caption" not in found
    assert "<details" not in found


def test_text_is_no_markup():
    table = Table(EVIL, (EVIL, "verdict"), ((EVIL, f"broken: {EVIL}"),), frozenset((EVIL,)), (EVIL,), legend=(EVIL,))
    for found in (
        table_html(table),
        box(EVIL, [EVIL, EVIL]),
        folded(EVIL, "x"),
        blocks_html([EVIL, f"broken: {EVIL}"]),
    ):
        assert "<script" not in found
        assert ESCAPED in found
    assert table_html(table).count(ESCAPED) == 6
    assert escaped("a\x1b\ud800\nb") == "a\\x1b\\ud800\nb"


def test_a_verdict_has_its_colour_and_its_sign():
    table = Table("", ("name", "verdict"), (("a", "broken: collapse"), ("broken", "healthy")), frozenset(("name",)))
    found = table_html(table)
    assert f'color:{SEVERITY["broken"]};font-weight:bold">✕ broken: collapse<' in found.replace("<nobr>", "")
    assert f'color:{SEVERITY["healthy"]};font-weight:bold"><nobr>✓ healthy<' in found
    assert '<td style="text-align:left">broken</td>' in found
    assert "✕ strained" not in box("strained", ["strained: slow"])
    assert "▲ strained: slow" in box("strained", ["strained: slow"])


@pytest.mark.parametrize(
    ("said", "severity"),
    [
        ("broken: exploding forward", "broken"),
        ("2 converged, 1 diverged (step 6)", "broken"),
        ("oscillating", "strained"),
        ("not measured: nothing ran", "not measured"),
        ("converged", "healthy"),
        ("unbroken", ""),
        ("", ""),
    ],
)
def test_the_worst_word_of_a_verdict_counts(said, severity):
    assert severity_of(said) == severity
    assert judged_colour("stability", said) == SEVERITY.get(severity, "")


def test_a_curve_and_its_row_have_one_colour():
    assert judged_colour("curve", "1") == COLORS[0]
    assert judged_colour("curve", str(len(COLORS) + 2)) == COLORS[1]
    assert judged_colour("curve", "") == judged_colour("rms", "1") == ""


def test_a_sparkline_keeps_its_empty_blocks():
    found = table_html(Table("", ("values",), (("▁  █N",), ("N",), ("a  b",))))
    assert "<samp>▁&nbsp;&nbsp;█N</samp>" in found
    assert found.count("<samp>") == 1
