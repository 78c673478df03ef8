import math

import numpy as np
import pytest

from propscope.checks import count, counts, number, numbers, one_of, seed_number
from propscope.errors import InputError


def test_what_is_valid_comes_back_as_python_or_numpy_has_it():
    assert number("x", np.float32(0.5)) == 0.5
    assert number("x", 0) == 0
    assert number("x", -3, low=-math.inf) == -3
    assert count("n", np.int64(3)) == 3
    assert count("n", 0, least=0) == 0
    assert seed_number(np.uint8(7)) == 7
    assert seed_number(-(2**63)) == -(2**63)
    assert counts("n", [1, np.int64(2)]) == (1, 2)
    assert numbers("x", [0, 1]).dtype == np.float64
    assert one_of("kind", "a", ("a", "b")) == "a"


@pytest.mark.parametrize(
    "check, message",
    [
        (lambda: count("depth", 0), "depth must be a whole number of at least 1, got 0"),
        (lambda: count("depth", True, least=0), "depth must be a whole number of at least 0, got True"),
        (lambda: count("depth", 2.0), "depth must be a whole number of at least 1, got 2.0"),
        (lambda: count("depth", "2"), 'depth must be a whole number of at least 1, got "2"'),
        (lambda: count("workers", 0, also=", or None"), "workers must be a whole number of at least 1, or None, got 0"),
        (lambda: seed_number(2**63), "seed must be a whole number from -2^63 to 2^63 - 1, got 9223372036854775808"),
        (lambda: seed_number(-1, least=0), "seed must be a whole number from 0 to 2^63 - 1, got -1"),
        (lambda: seed_number(np.array(1.5)), "seed must be a whole number from -2^63 to 2^63 - 1, got array(1.5)"),
        (lambda: number("std", -1.0), "std must be a finite number of at least 0, got -1.0"),
        (lambda: number("std", math.nan, above=True), "std must be a finite number above 0, got nan"),
        (lambda: number("std", "1"), 'std must be a finite number of at least 0, got "1"'),
        (lambda: number("std", True), "std must be a finite number of at least 0, got True"),
        (
            lambda: number("dropout", 1, high=1, below=True, what="a probability"),
            "dropout must be a probability of at least 0 and below 1, got 1",
        ),
        (lambda: number("share", 2, high=1), "share must be a finite number of at least 0 and at most 1, got 2"),
        (lambda: number("c", math.inf, low=-math.inf), "c must be a finite number, got inf"),
        (lambda: numbers("q", [1, -2.5, -3]), "q must be finite numbers of at least 0, got -2.5"),
        (lambda: numbers("q", "ab"), 'q must be finite numbers of at least 0, got "ab"'),
        (lambda: counts("widths", []), "widths must be one or more whole numbers of at least 1, got []"),
        (lambda: counts("widths", "12"), 'widths must be one or more whole numbers of at least 1, got "12"'),
        (lambda: counts("widths", [3, 0]), "widths must be a whole number of at least 1, got 0"),
        (lambda: one_of("stats", "x", ("all", "moments")), 'stats must be "all" or "moments", got "x"'),
        (lambda: one_of("loss", None, ("a", "b", "c")), 'loss must be "a", "b" or "c", got None'),
    ],
)
def test_an_error_names_the_parameter_what_is_valid_and_what_came(check, message):
    with pytest.raises(InputError) as caught:
        check()
    assert str(caught.value) == message
