from __future__ import annotations

import math

import pytest
from matplotlib.figure import Figure

from propscope.errors import InputError
from propscope.plots.style import (
    LOOKS,
    SCREEN,
    Header,
    framed,
    line_style,
    look_of,
    percent,
    power_of_ten,
    short,
    styled,
    unit,
    wrap,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (0.562, "0.56"),
        (-0.0123, "−0.012"),
        (99.96, "100"),
        (0.00999, "0.01"),
        (390.4, "390"),
        (2330, "2330"),
        (1.2e-5, "1.2e−5"),
        (-3.04e12, "−3e12"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "NaN"),
    ],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_a_share_is_none_or_all_only_when_it_is_exactly_so() -> None:
    assert [percent(share) for share in (0, 1e-9, 0.01, 0.5, 0.9999, 1)] == ["0%", "<1%", "1%", "50%", ">99%", "100%"]


def test_text_wraps_at_blanks_then_colons_then_anywhere() -> None:
    assert wrap("he_normal, xavier_normal", 14) == ["he_normal,", "xavier_normal"]
    assert wrap("sparse:sparsity=0.9:std=0.01", 16) == ["sparse:", "sparsity=0.9:", "std=0.01"]
    assert wrap("a" * 7, 3) == ["aaa", "aaa", "a"]
    assert wrap("", 5) == [""]


def test_sixteen_lines_differ_without_their_colours() -> None:
    styles = [line_style(index) for index in range(16)]
    assert len({(str(style.dash), style.marker, style.filled) for style in styles}) == 16


def test_powers_of_ten() -> None:
    assert [power_of_ten(exponent) for exponent in (-12, 0, 1, 3)] == ["10⁻¹²", "1", "10", "10³"]


def test_a_header_grows_with_its_text() -> None:
    header = Header("Title", "facts", "word " * 60)
    assert header.height(6) > header.height(20)
    assert all(len(row) < 90 for row in header.lines(6)[1])


def test_a_reading_keeps_its_paragraphs() -> None:
    facts, reading = Header("title", "facts", "one two\nthree").lines(9.5)
    assert (facts, reading) == ("facts", ["one two", "three"])
    assert Header("title", "facts", "one\ntwo").height(9.5) > Header("title", "facts", "one two").height(9.5)


def test_a_header_has_two_lines_and_the_rest_is_in_the_caption() -> None:
    facts = " · ".join(f"fact number {number}" for number in range(30))
    header = Header("Title", facts, "reading")
    above, caption = header.lines(8)
    assert facts.startswith(above)
    assert " · ".join((above, *" ".join(caption[:-1]).split(" · "))) == facts
    assert caption[-1] == "reading"
    assert header.above < 0.75
    figure = Figure()
    top = framed(figure, header, 8, 2.0, notes=["an alarm"])
    assert figure.get_size_inches()[0] == 8
    assert figure.get_size_inches()[1] == pytest.approx(top + header.above)
    figure.draw_without_rendering()
    edge = top * figure.dpi
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert sum(box.y0 >= edge for box in boxes) == 2
    assert all(box.y1 <= edge - 2 * figure.dpi or box.y0 >= edge for box in boxes)
    assert all(box.y0 >= 0 for box in boxes)


def test_texts_that_are_left_out_take_no_room() -> None:
    header = Header("Title", "facts", "reading")
    bare = header.shown(LOOKS["paper"])
    assert bare == Header("", "", "")
    assert bare.height(5) < 0.15
    assert header.shown(LOOKS["slide"]) == Header("Title", "facts", "")
    assert header.shown(SCREEN, title="Mine", caption="") == Header("Mine", "facts", "")
    assert header.shown(SCREEN, title="") == Header("", "", "reading")
    with pytest.raises(InputError, match='style must be "screen", "paper" or "slide", got "poster"'):
        look_of("poster")


def test_lengths_follow_the_size_of_the_text() -> None:
    with styled(LOOKS["slide"]):
        assert unit() == pytest.approx(1.6)
        assert line_style(0).keywords["linewidth"] == pytest.approx(1.6 * 1.6)
    with styled():
        assert unit() == 1.0
