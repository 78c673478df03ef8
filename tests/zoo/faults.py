"""Known faults: checks that fail today, by test and entry, with the reason. A line goes when its fault is fixed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from zoo.models import ZOO

FAST_PATH = "the fast path is off while tracking: outputs differ by rounding, and where a mask pads, altogether"

KNOWN: dict[str, dict[str, str]] = {
    "test_track_changes_no_result": {
        "encoder_fast_path": FAST_PATH,
        "encoder_fast_path_padded": FAST_PATH,
    },
    "test_every_module_that_ran_is_seen": {
        "encoder_fast_path_padded": FAST_PATH,
    },
}


def fault(reason: str) -> pytest.MarkDecorator:
    """Mark a test, or a parameter of one, as failing today."""
    return pytest.mark.xfail(strict=True, reason=reason)


def entries(test: str, *, only: set[str] | None = None, without: set[str] | None = None) -> pytest.MarkDecorator:
    """Parametrize a test by the names of the zoo, with its known faults as strict expected failures."""
    known = KNOWN.get(test, {})
    names = [name for name in ZOO if (only is None or name in only) and name not in (without or set())]
    unknown = known.keys() - set(names)
    assert not unknown, f"{test} has no entry {sorted(unknown)}"
    parameters = []
    for name in names:
        marks = [fault(known[name])] if name in known else []
        if ZOO[name].warns:
            marks.append(pytest.mark.filterwarnings(f"ignore:{ZOO[name].warns}"))
        if find_spec(ZOO[name].needs) is None:
            marks = [pytest.mark.skip(reason=f"{ZOO[name].needs} is not installed")]
        parameters.append(pytest.param(name, marks=marks, id=name))
    return pytest.mark.parametrize("name", parameters)
