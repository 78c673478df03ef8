"""What is kept of a sample: 24 bits of each number, and histograms where they are wanted."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from building.records import kept, masking_profile, plain, sampled_profile

from propscope.records import MonitoredRun, TensorSummary
from propscope.records.kept_sample import kept_sample, shortened


def test_a_number_keeps_24_bits_and_its_range() -> None:
    given = np.array([1 / 3, -1 / 7, 0.0, -0.0, 1e-300, 5e-324, math.inf, -math.inf, math.nan, sys.float_info.max])
    found = shortened(given)
    assert found[:2].tolist() == [float(np.float32(1 / 3)), float(np.float32(-1 / 7))]
    assert list(map(repr, found[2:4].tolist())) == ["0.0", "-0.0"]
    assert found[4] == pytest.approx(1e-300, rel=2**-24)
    assert found[4] != 1e-300
    assert found[5] in (0.0, 5e-324)
    assert list(map(repr, found[6:].tolist())) == ["inf", "-inf", "nan", repr(sys.float_info.max)]
    assert shortened(found).tobytes() == found.tobytes()


def test_every_number_of_a_sample_is_shortened_and_nothing_else() -> None:
    profile = sampled_profile(3)
    sites = tuple(replace(site, expected=None, effective_rank=1 / 7) for site in profile.sites)
    profile = replace(profile, sites=sites)
    found = kept_sample(profile, histograms=True)
    assert plain(found) == plain(kept(MonitoredRun((profile,)))[0])
    assert plain(found) != plain(profile)


def test_histograms_are_kept_where_they_are_wanted() -> None:
    profile = masking_profile()
    assert profile.sites[0].forward is not None

    def histograms(wanted: bool) -> list[bool]:
        found = kept_sample(profile, histograms=wanted)
        summaries = [part for site in found.sites for part in (site.forward, site.backward, site.jacobian)]
        summaries += [part for each in found.parameters for part in (each.value, each.gradient)]
        return [part.histogram is not None for part in summaries if isinstance(part, TensorSummary)]

    assert any(histograms(True))
    assert not any(histograms(False))
    assert len(histograms(False)) == len(histograms(True)) > 0
