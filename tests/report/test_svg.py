"""Curves as SVG: where a line runs, where it breaks, what stands at the edge, and that nothing leaves the paper."""

import base64
import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from propscope.report import svg as drawing
from propscope.report.svg import COLORS, QUIET, SEVERITY, Curve, Panel, image, svg

NAN, INF = math.nan, math.inf
SVG = "{http://www.w3.org/2000/svg}"


def drawn(*curves, width=400, height=200, **panel):
    return ElementTree.fromstring(svg(Panel("title", "layer", curves, **panel), width, height))


def lines(root, color=COLORS[0]):
    """The points of each part of the lines of a colour."""
    paths = [each.get("d") for each in root.iter(f"{SVG}path") if each.get("stroke") == color]
    return [
        [tuple(map(float, point.split(","))) for point in re.findall(r"[\d.]+,[\d.]+", part)]
        for path in paths
        for part in path.split("M")[1:]
    ]


def texts(root):
    return [each.text for each in root.iter(f"{SVG}text")]


def test_a_decade_is_as_high_as_another_and_a_step_as_wide():
    ((first, second, third),) = lines(drawn(Curve([0, 1, 2], [1.0, 10.0, 100.0])))
    assert second[0] - first[0] == pytest.approx(third[0] - second[0], abs=0.11)
    assert first[1] - second[1] == pytest.approx(second[1] - third[1], abs=0.11)
    assert first[1] > second[1] > third[1]


def test_a_linear_axis_and_its_ticks():
    root = drawn(Curve([0, 1, 2], [0.0, 0.5, 1.0]), log=False)
    ((first, second, third),) = lines(root)
    assert first[1] - second[1] == pytest.approx(second[1] - third[1], abs=0.11)
    assert {"0", "0.5", "1"} <= set(texts(root))


def test_powers_of_ten_are_ticks():
    assert {"1", "1e-4", "1e-8"} <= set(texts(drawn(Curve([1, 2], [1e-9, 1.0]))))


def test_a_line_breaks_where_nothing_was_recorded():
    parts = lines(drawn(Curve([0, 1, 2, 3, 4], [1.0, 2.0, NAN, 3.0, NAN])))
    assert [len(part) for part in parts] == [2, 1]
    # A point alone is a dot.
    root = drawn(Curve([0, 1, 2, 3, 4, 5], [1.0, NAN, 2.0, 3.0, 0.0, 4.0]))
    assert len(list(root.iter(f"{SVG}circle"))) == 2


def test_what_has_no_place_stands_at_the_edge():
    root = drawn(Curve([0, 1, 2], [1.0, 0.0, INF], color=COLORS[3]))
    signs = {each.text: each for each in root.iter(f"{SVG}text")}
    assert signs["▼"].get("fill") == signs["▲"].get("fill") == COLORS[3]
    assert float(signs["▼"].get("y")) > 160 > 40 > float(signs["▲"].get("y"))
    assert "▼" not in texts(drawn(Curve([0, 1], [0.0, 1.0]), log=False))


def test_theory_is_dashed_its_band_grey_and_that_of_seeds_in_the_curves_colour():
    ones, twos = [1.0, 1.0], [2.0, 2.0]
    root = drawn(Curve([0, 1], ones, ones, twos, expected=twos, expected_low=ones, expected_high=twos))
    paths = list(root.iter(f"{SVG}path"))
    assert [each.get("stroke") for each in paths if each.get("stroke-dasharray")] == [QUIET]
    assert [each.get("fill") for each in paths if each.get("fill")] == [QUIET, COLORS[0]]


def test_marks_stand_at_their_points_and_at_the_top_where_there_is_no_value():
    root = drawn(Curve([0, 1], [1.0, NAN], marks=((0, "strained"), (1, "broken"))))
    signs = {each.text: each for each in root.iter(f"{SVG}text")}
    assert (signs["▲"].get("fill"), signs["✕"].get("fill")) == (SEVERITY["strained"], SEVERITY["broken"])
    assert float(signs["✕"].get("y")) < float(signs["▲"].get("y"))


def test_keys_of_curves_that_end_alike_stand_apart():
    root = drawn(*(Curve([0, 1], [1.0, 1.0], key=f"k{at}") for at in range(16)), Curve([0, 1], [0.0, 0.0], key="zero"))
    heights = sorted(float(each.get("y")) for each in root.iter(f"{SVG}text") if each.text.startswith(("k", "zero")))
    assert len(heights) == 17
    assert min(b - a for a, b in pairwise(heights)) > 8
    assert heights[-1] < 200


@pytest.mark.parametrize("apart_at", ["start", "end"])
def test_keys_stand_where_the_lines_are_apart(apart_at):
    fanned = [([1.0, 1.0, 10.0**at], str(at)) for at in range(3)]
    root = drawn(*(Curve([0, 1, 2], values[:: 1 if apart_at == "end" else -1], key=key) for values, key in fanned))
    keys = [(float(each.get("x")), float(each.get("y"))) for each in root.iter(f"{SVG}text") if each.text in "012"]
    keys = [each for each in keys if each[1] < 165][-3:]
    assert all((x > 350) == (apart_at == "end") for x, _ in keys)
    assert min(b - a for (_, a), (_, b) in pairwise(keys)) > 30


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [NAN, NAN],
        [0.0, 0.0],
        [INF, -INF],
        [1e-300, 1e300],
        [5e-324, 1.7e308],
        [1.7e308],
        [-1.0, 1.0],
        [3.0],
        [1.0, 1 + 1e-15],
    ],
)
def test_nothing_leaves_the_paper(values, log):
    places = [float(10**at) for at in range(len(values))]
    marks = tuple((at, "broken") for at in range(len(values)))
    curve = Curve(places, *[values] * 6, marks=marks)
    root = drawn(curve, log=log)
    points = [point for color in (COLORS[0], QUIET) for part in lines(root, color) for point in part]
    points += [(float(each.get("x")), float(each.get("y"))) for each in root.iter(f"{SVG}text")]
    assert all(0 <= x <= 400 and 0 <= y <= 200 for x, y in points)


def test_a_name_is_text():
    evil = "</text><script>\"'\x1b\ud800"
    root = ElementTree.fromstring(svg(Panel(evil, evil, (Curve([0, 1], [1, 2], key=evil),)), 400, 200).encode())
    assert {each.tag for each in root.iter()} == {f"{SVG}{name}" for name in ("svg", "path", "text")}
    assert texts(root).count("</text><script>\"'\\x1b\\ud800") == 3


def test_an_image_holds_its_picture_and_says_it_in_words():
    panel = Panel('values "a"', "layer", (Curve([0, 1], [1.0, 2e-5]),))
    found = image(panel, width=300, height=100)
    assert base64.b64decode(re.search(r"base64,([^\"]*)", found)[1]).decode() == svg(panel, 300, 100)
    assert 'alt="values &quot;a&quot;: from 1 to 2e-5"' in found
    assert "nothing was recorded" in image(Panel("a", "b", ()))
    assert "2 curves" in image(Panel("a", "b", (Curve([0], [1.0]), Curve([0], [2.0]))))


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("paper", ["#ffffff", "#1e1e1e", "#111111"])
@pytest.mark.parametrize("color", [*COLORS, *SEVERITY.values(), drawing.QUIET])
def test_each_colour_is_read_on_white_and_on_black_paper(color, paper):
    # WCAG 2.1, 1.4.11: a graphic and large text want 3.
    dark, light = sorted((luminance(color), luminance(paper)))
    assert (light + 0.05) / (dark + 0.05) >= 3.5
