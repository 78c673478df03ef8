import json
import math
from dataclasses import replace

import numpy as np
import pytest

from propscope.records.width_check import WidthCheck, WidthRow
from propscope.report.documents import json_text
from propscope.report.width_check import width_blocks, width_document

WIDTHS = (16, 32, 64)


def row(name, quantity, power, *, role="hidden", expected=None, parameter=False, factor=1.0):
    step = 0 if quantity in ("size", "gradient") else 2
    sizes = np.full((3, 3, 3), np.nan)
    scatter = factor ** np.array([-1.0, 0.0, 1.0])[:, None, None]
    sizes[:, :, (0 if step == 0 else 1) :] = np.array(WIDTHS, dtype=float)[None, :, None] ** power * scatter
    return WidthRow(name, "Linear", role, True, quantity, WIDTHS, sizes, step, expected, parameter)


def check(**of):
    rows = (
        row("lift", "size", 0.0, role="input", expected=(0.0, 0.0)),
        row("lift", "change", 1.0, role="input", expected=(0.0, 0.0)),
        row("lift", "weights_part", 1.0, role="input"),
        row("relu", "size", -0.001, role=""),
        row("head", "size", -0.4, role="output", expected=(-0.5, 0.0), factor=2.0),
        row("head", "change", 0.5, role="output", expected=(0.0, 0.0), factor=2.0),
        row("head", "gradient", 0.0, role="output"),
        row("lift.weight", "update", -1.0, role="", parameter=True),
    )
    return WidthCheck("net.py:build", WIDTHS, 3, 2, "adam", 0.001, "cotangent", rows, **of)


def lines(found, **options):
    return [line for block in width_blocks(found, **options) for line in str(
        block if isinstance(block, str) else block.to_text()).splitlines()]  # fmt: skip


def test_what_is_not_as_expected_is_marked_and_said():
    text = lines(check(expect="mup", source="a paper"))
    assert text[0] == "net.py:build at widths 16, 32, 64: adam, lr 0.001, 2 steps, 3 seeds, loss cotangent"
    cells = {line.split()[0]: line.split()[1:] for line in text if line.startswith(" ")}
    assert cells["lift"] == ["input", "+0.00±0.00", "+1.00±0.00!", "+1.00±0.00", "-", "-"]
    assert cells["relu"] == ["+0.00±0.00", "-", "-", "-", "-"]
    assert cells["head"][2][-1] == "?"
    assert cells["lift.weight"] == ["-", "-", "-1.00±0.00"]
    assert text[-3] == "! lift: change at step 2 grows as n^1.00 [1.00, 1.00], muP has n^0"
    assert text[-2] == "expected: muP, within 0.25 (a paper)"
    advice = "1 unclear (?): try more seeds, larger widths or a smaller batch"
    assert text[-1] == f"failed: 1 of 4 exponents are not as expected; {advice}"


def test_what_passes_and_what_is_not_held_against_anything():
    assert lines(check(expect="mup", tolerance=2.0))[-1].startswith("passed: 4 of 4 exponents are as expected")
    assert lines(check())[-1].startswith("nothing expected; --expect standard, mup or ntk")


def test_a_check_that_tells_nothing_says_so():
    unclear = row("head", "change", 0.5, expected=(0.0, 0.0), factor=2.0)
    (*_, said) = lines(replace(check(expect="mup"), rows=(unclear,)))
    assert said.startswith("failed: none of 1 exponents is as expected; 1 unclear (?): try more seeds")


def test_a_narrow_terminal_leaves_the_gradients_out():
    assert any("gradient" in line for line in lines(check())[:4])
    narrow = lines(check(), width=70)
    assert not any("gradient" in line for line in narrow[:4])
    assert max(map(len, narrow[1:9])) <= 70


def test_many_failures_are_counted():
    rows = tuple(row(f"{number}", "size", 1.0, expected=(0.0, 0.0)) for number in range(30))
    text = lines(WidthCheck("a", WIDTHS, 1, 1, "sgd", 1.0, "mse", rows, expect="ntk"))
    assert sum(line.startswith("! ") for line in text) == 20
    assert "and 10 more; --json lists all" in text


def test_print_and_notebook():
    found = check(expect="mup")
    assert str(found).startswith(found.headline)
    assert "<table " in found._repr_html_()


def test_the_document():
    document = width_document(check(expect="standard"))
    assert json.loads(json_text(document))["exponents"][0]["name"] == "lift"
    assert (document["passed"], document["exit_code"]) == (False, 1)
    judged = [one for one in document["exponents"] if one["fit"] != "not judged"]
    assert [(one["name"], one["quantity"], one["step"]) for one in judged] == [
        ("lift", "size", 0), ("lift", "change", 2), ("head", "size", 0), ("head", "change", 2)
    ]  # fmt: skip
    assert judged[1]["exponent"] == pytest.approx(1.0)
    assert not any(math.isnan(one["exponent"]) for one in document["exponents"])
    assert width_document(check())["passed"] is None
