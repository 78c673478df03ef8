"""Lists and ranges of numbers as text."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from propscope.errors import InputError
from propscope.ranges import real_numbers, whole_numbers

WHOLE = st.integers(-(10**6), 10**6)
REAL = st.floats(-1e300, 1e300, allow_subnormal=False)


def text_of(values):
    return ",".join(map(repr, values))


@given(st.lists(WHOLE, min_size=1, max_size=20))
def test_a_list_of_whole_numbers_reads_as_it_is_written(values):
    assert whole_numbers("depth", text_of(values)) == tuple(values)


@given(st.lists(REAL, min_size=1, max_size=20))
def test_a_list_of_real_numbers_reads_as_it_is_written(values):
    assert real_numbers("gain", text_of(values)) == tuple(values)


@given(WHOLE, st.integers(0, 2000), st.integers(1, 300))
def test_a_range_of_whole_numbers_steps_up_to_its_last(first, extent, step):
    found = whole_numbers("depth", f"{first}..{first + extent}:{step}")
    assert found == tuple(range(first, first + extent + 1, step))
    assert whole_numbers("depth", f"{first}..{first + extent}") == tuple(range(first, first + extent + 1))


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 400))
def test_a_range_of_real_numbers_has_so_many_evenly_spaced_between_its_ends(first, extent, count):
    last = first + extent
    found = real_numbers("gain", f"{first!r}..{last!r}:{count}")
    assert (found[0], found[-1], len(found)) == (first, last, count)
    assert all(low < high for low, high in pairwise(found))
    assert found == pytest.approx(np.linspace(first, last, count), rel=1e-11, abs=1e-11 * max(abs(first), abs(last)))


def read_or_refused(read, text):
    """The numbers, or the message of the error."""
    try:
        return read("depth", text)
    except InputError as error:
        return f"{error}; {error.hint}"


@pytest.mark.parametrize("read", [whole_numbers, real_numbers])
@given(st.text(alphabet="0123456789.,:-+enaif ", max_size=20))
def test_any_text_gives_finite_numbers_or_one_line(read, text):
    found = read_or_refused(read, text)
    if isinstance(found, str):
        assert found.startswith("depth ")
        assert "\n" not in found
    else:
        assert found
        assert all(map(math.isfinite, found))


def test_steps_read_as_one_writes_them():
    assert real_numbers("gain", "0.1..0.5:5") == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert real_numbers("gain", "0.5..2:16") == tuple(round(0.5 + 0.1 * i, 1) for i in range(16))
    assert whole_numbers("depth", "5, 10..50:10,7") == (5, 10, 20, 30, 40, 50, 7)
    assert whole_numbers("depth", "10..45:10") == (10, 20, 30, 40)


@pytest.mark.parametrize(
    ("read", "text", "message"),
    [
        (whole_numbers, "", 'depth must be a list of whole numbers and ranges FIRST..LAST:STEP, got ""'),
        (whole_numbers, "1,,2", "depth must be"),
        (whole_numbers, "1.5", "depth must be"),
        (whole_numbers, "1..", "depth must be"),
        (whole_numbers, "..5", "depth must be"),
        (whole_numbers, "1..5:", "depth must be"),
        (whole_numbers, "1..5:x", "depth must be"),
        (whole_numbers, "1..2..3", "depth must be"),
        (whole_numbers, "9" * 5000, "depth must be"),
        (whole_numbers, "50..10:10", 'the range "50..10:10", which runs backwards: write the smaller number first'),
        (whole_numbers, "1..5:0", "has a step of 0: the step must be at least 1"),
        (whole_numbers, "1..5:-1", "has a step of -1"),
        (whole_numbers, "1..1000000000000", "has more than 1,000,000 values"),
        (real_numbers, "nan", "depth must be a list of numbers and ranges FIRST..LAST:COUNT"),
        (real_numbers, "0..inf:3", "depth must be"),
        (real_numbers, "0..1e999:3", "depth must be"),
        (real_numbers, "nan..1:3", "depth must be"),
        (real_numbers, "0..1:2.5", "depth must be"),
        (real_numbers, "0.5..2", "says no number of values: write FIRST..LAST:COUNT"),
        (real_numbers, "2..0.5:4", "runs backwards"),
        (real_numbers, "0..1:1", "asks for 1 values: the number must be at least 2"),
        (real_numbers, "0..1:0", "asks for 0 values"),
        (real_numbers, "1..1:3", "is too narrow for 3 different numbers"),
        (real_numbers, "0..1:1000000000", "has more than 1,000,000 values"),
    ],
)
def test_what_is_no_range_is_refused_in_one_line(read, text, message):
    with pytest.raises(InputError) as caught:
        read("depth", text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) + caught.value.hint
    assert caught.value.hint.startswith("for example ")
