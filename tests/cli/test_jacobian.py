"""`propscope profile --jacobian`: taken, stored and drawn; and drawn again from the file."""

import pytest

from propscope.store import load

TINY = ("--depth", 3, "--width", 8, "--batch", 4, "--seeds", 2, "--init", "he_normal", "-o", "run.h5")


@pytest.mark.slow
def test_it_is_stored_and_drawn(command, place):
    out = command.fine("profile", *TINY, "--jacobian")
    assert "run-jacobian.png" in out
    stored = load("run.h5")
    summary = stored[0]["layers.2.linear"].jacobian
    assert summary is not None
    assert summary.count == 4 * 8
    assert summary.histogram.total == 4 * 8
    assert stored[0]["layers.2.linear"].jacobian_square_variance > 0
    drawn = (place / "run-jacobian.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    command.fine("plot", "run.h5", "--plots", "jacobian", "-o", "again")
    assert (place / "again" / "run-jacobian.png").read_bytes() == drawn


@pytest.mark.slow
def test_without_it_there_is_none(command, place):
    assert "jacobian" not in command.fine("profile", *TINY)
    assert load("run.h5")[0]["layers.2.linear"].jacobian is None
