"""How lists of names are written."""

from propscope.records.numerals import listed


def test_the_first_names_are_written_and_dots_for_the_others():
    assert listed(["a", "b", "c"], 2) == "a, b, ..."
    assert listed(["a", "b"], 2) == "a, b"
    assert listed([], 2) == ""
