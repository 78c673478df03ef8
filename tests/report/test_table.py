"""Table: its text, and how numbers are written."""

import math
from dataclasses import replace

import pytest

from propscope.records.numerals import number, percent
from propscope.report.table import Table

TABLE = Table(
    "two rows", ("name", "value\nunit"), (("a", "1.0"), ("long name", "22")), frozenset({"name"}), ("a note",)
)


def test_text_by_value():
    assert TABLE.to_text().splitlines() == [
        "two rows",
        "",
        "            value",
        " name        unit",
        " ────────────────",
        " a            1.0",
        " long name     22",
        "",
        "a note",
    ]


def test_no_rows_and_no_notes():
    assert Table("empty", ("a", "b"), ()).to_text().splitlines()[0] == "empty"
    assert not Table("empty", ("a", "b"), ()).to_text().endswith("\n")


@pytest.mark.parametrize("cell", ["[bold]x[/bold]", "[/x]", "\\[a]", "a\\", "mod:fire:scale=2", ":smile:", "a[1]"])
def test_cells_and_titles_are_text_not_markup(cell):
    text = Table(cell, ("a", "b"), ((cell, "1"),), notes=(cell,)).to_text()
    assert text.count(cell) == 3


GRID = Table(
    "a grid",
    ("act", "init", "verdict", "signal", "gradient"),
    tuple(
        (act, init, "broken: vanishing", f"{number}.5", f"{number}.25")
        for number, (act, init) in enumerate((act, init) for act in ("relu", "tanh") for init in ("he", "zeros"))
    ),
    left=frozenset({"act", "init", "verdict"}),
    spare=("gradient",),
)


def test_a_narrow_table_goes_without_spare_columns_first():
    text = GRID.to_text(width=40)
    assert "gradient" not in text
    assert " relu  he     broken: vanishing     0.5" in text.splitlines()
    assert "1 more column with --wide" in text


def test_then_its_first_column_becomes_headings():
    lines = GRID.to_text(width=36).splitlines()
    assert [line for line in lines if line.startswith(" act")] == [" act relu", " act tanh"]
    assert lines[lines.index(" act tanh") + 1] == "  he     broken: vanishing     2.5"
    assert max(map(len, lines)) <= 36


def test_at_last_it_stands_in_parts_and_long_cells_take_several_rows():
    remarks = tuple((*row[:4], "a remark of many words, " * 3 + "end") for row in GRID.rows)
    table = replace(GRID, columns=(*GRID.columns[:4], "remark"), rows=remarks, spare=(), left=GRID.left | {"remark"})
    text = table.to_text(width=30)
    assert max(map(len, text.splitlines())) <= 30
    assert text.count("signal") == 1
    assert text.count("broken: vanishing") == 4
    for word in ("2.5", "a remark", "end", "verdict"):
        assert word in text
    assert "…" not in text


def test_nothing_is_lost_where_nothing_fits():
    text = TABLE.to_text(width=5)
    assert "22" in text
    assert "long name" in text


def test_a_long_title_is_not_broken():
    title = "a label " * 30
    assert Table(title, ("a",), (("1",),)).to_text().splitlines()[0] == title


def test_in_a_notebook_the_text_is_returned_and_not_shown(monkeypatch):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert "long name" in TABLE.to_text()


@pytest.mark.parametrize("name", ["FORCE_COLOR", "COLORTERM", "TTY_COMPATIBLE"])
def test_no_colour_whatever_the_environment(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert "\x1b" not in TABLE.to_text()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0"),
        (-0.0, "0"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (7, "7"),
        (123456789, "123456789"),
        (1.0, "1.00"),
        (-1.2345, "-1.23"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (99999.0, "99999"),
        (0.001, "0.00100"),
        (0.00099, "9.9e-4"),
        (1e5, "1.0e5"),
        (-2.5e-8, "-2.5e-8"),
        (1e-45, "1.0e-45"),
        (1.7e308, "1.7e308"),
    ],
)
def test_numbers(value, written):
    assert number(value) == written


def test_brackets_are_no_markup():
    table = Table("", ("E[h]",), (("[red]",),))
    assert [line.split() for line in table.to_text().splitlines()[2:]] == [["E[h]"], ["─" * 5], ["[red]"]]


def test_fewer_digits():
    assert number(1.2345, 2) == "1.2"
    assert number(1.7e-9, 2) == "2e-9"


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (None, "-"),
        (math.nan, "-"),
        (0.0, "0%"),
        (1.0, "100%"),
        (0.5, "50%"),
        (0.0099, "<1%"),
        (1e-9, "<1%"),
        (0.01, "1%"),
        (0.99, "99%"),
        (0.9999, ">99%"),
    ],
)
def test_percent_rounds_nothing_to_none_or_all(share, written):
    assert percent(share) == written
