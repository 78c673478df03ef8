"""A slice of benches/fuzz.py, without its limit of time."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import fuzz
import pytest
from building.command_line import HANGS


@pytest.mark.slow
def test_a_hundred_changed_files_end_in_an_error_or_in_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "SECONDS", HANGS)
    whole = fuzz.whole_file(tmp_path)
    ends: Counter[tuple[str, str]] = Counter()
    for kind, end, remark in fuzz.run(whole, tmp_path, count=100, seed=1, plots=False):
        assert end in ("refused", "same", "accepted"), (kind, end, remark)
        ends[kind, end] += 1
    assert [ends[kind, "refused"] for kind in ("flip", "cut", "zeroed")] == [25, 25, 25]
    assert ends["hostile", "refused"] > 0
