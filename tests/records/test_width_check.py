import math

import numpy as np
import pytest

from propscope.errors import InputError
from propscope.records.width_check import WidthCheck, WidthRow

WIDTHS = (16, 32, 128)


def row(power=1.0, *, seeds=3, noise=0.0, expected=None, name="layer", quantity="size", judged=0):
    """A row whose sizes are 2 n^power, with a factor that differs between seeds and widths."""
    factors = np.exp(noise * np.random.default_rng(0).standard_normal((seeds, len(WIDTHS), 1)))
    sizes = 2 * np.array(WIDTHS, dtype=float)[None, :, None] ** power * factors * np.ones((1, 1, 2))
    return WidthRow(name, "Linear", "hidden", True, quantity, WIDTHS, sizes, judged, expected)


def check(*rows, **of):
    return WidthCheck("net", WIDTHS, 3, 1, "adam", 0.1, "cotangent", rows, **of)


@pytest.mark.parametrize("power", [-0.5, 0.0, 1.5])
def test_the_exponent_of_a_power_law(power):
    found = row(power).exponent()
    assert found.center == pytest.approx(power)
    assert (found.low, found.high) == (pytest.approx(power), pytest.approx(power))
    assert found.count == 3


def test_the_interval_holds_the_exponent_in_95_of_100_cases():
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        sizes = np.exp(0.3 * random.standard_normal((4, 3, 1))) * np.array(WIDTHS)[None, :, None]
        found = WidthRow("a", "", "", True, "size", WIDTHS, sizes, 0).exponent()
        inside += found.low <= 1 <= found.high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


def test_one_seed_has_no_interval_and_zeros_have_no_exponent():
    one = row(1.0, seeds=1).exponent()
    assert one.center == pytest.approx(1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    sizes = row(1.0).sizes
    sizes[0, 1] = 0.0
    left = WidthRow("a", "", "", True, "size", WIDTHS, sizes, 0)
    assert (left.exponent().count, left.exponent().center) == (2, pytest.approx(1))
    nothing = WidthRow("a", "", "", True, "size", WIDTHS, 0 * sizes, 0, (0.0, 0.0))
    assert math.isnan(nothing.exponent().center)
    assert nothing.fit(0.25) == "not judged"


@pytest.mark.parametrize(
    ("found", "fit"),
    [
        (row(1.0), "not judged"),
        (row(1.0, expected=(1.0, 1.0)), "as expected"),
        (row(1.2, expected=(1.0, 1.0)), "as expected"),
        (row(1.3, expected=(1.0, 1.0)), "not as expected"),
        (row(0.7, expected=(1.0, 1.0)), "not as expected"),
        (row(0.3, expected=(0.5, 1.0)), "as expected"),
        (row(1.3, seeds=1, expected=(1.0, 1.0)), "not as expected"),
        (row(2.0, noise=2.0, expected=(1.0, 1.0)), "unclear"),
    ],
)
def test_how_an_exponent_fits(found, fit):
    assert found.fit(0.25) == fit


def test_a_check_fails_by_what_is_not_as_expected_alone():
    unclear = row(2.0, noise=2.0, expected=(1.0, 1.0))
    assert check(row(1.0), unclear).passed
    assert check(row(1.0, expected=(1.0, 1.0)), unclear, expect="standard").passed
    # Where nothing is clear, nothing is as expected.
    assert check(row(1.0), unclear, expect="standard").exit_code == 1
    failed = check(unclear, row(2.0, expected=(1.0, 1.0)), expect="standard")
    assert (failed.passed, failed.exit_code) == (False, 1)
    assert [len(rows) for rows in failed.fits.values()] == [0, 1, 1, 0]
    # A wider tolerance lets it pass.
    assert check(row(2.0, expected=(1.0, 1.0)), expect="standard", tolerance=1.1).exit_code == 0


def test_the_frames():
    found = check(row(1.0, expected=(1.0, 1.0)), row(0.5, name="other", quantity="change", judged=1))
    exponents = found.to_frame()
    assert exponents.exponent.tolist() == pytest.approx([1, 1, 0.5, 0.5])
    assert exponents.fit.tolist() == ["as expected", *["not judged"] * 3]
    sizes = found.to_frame("size")
    assert len(sizes) == 2 * 3 * 3 * 2
    assert sizes.query("name == 'layer' and width == 32").rms.tolist() == pytest.approx([64.0] * 6)
    with pytest.raises(InputError, match="table"):
        found.to_frame("seeds")


def test_a_row_by_name():
    found = check(row(1.0), row(0.5, quantity="change"))
    assert found.row("layer", "change").exponent().center == pytest.approx(0.5)
    with pytest.raises(InputError, match='name must be "layer", got "x"'):
        found.row("x", "size")
    with pytest.raises(InputError, match="quantity must be"):
        found.row("layer", "length")
