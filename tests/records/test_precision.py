"""Headroom against torch's own casts, and the loss scale by value."""

import math

import numpy as np
import pytest
import torch

from propscope.errors import InputError
from propscope.records import LogHistogram, NetworkProfile, Parameter, Site, TensorSummary
from propscope.records.precision import (
    FORMATS,
    Headroom,
    headroom,
    recommended_loss_scale,
    spell,
    summary_headroom,
    worst_in,
)
from propscope.report.precision import precision_table

CASTS = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}


def log_uniform(low, high, count=40_000, seed=0):
    rng = np.random.default_rng(seed)
    values = 2.0 ** rng.uniform(low, high, count) * rng.choice([-1.0, 1.0], count)
    return values.astype(np.float32)


def cast_shares(values, name):
    """What torch's cast makes of the values; e4m3 saturates in some versions of torch and gives NaN in others."""
    form = next(entry for entry in FORMATS if entry.name == name)
    cast = torch.from_numpy(values).to(CASTS[name]).double().abs().numpy()
    over = ~np.isfinite(cast) | ((np.abs(values) > form.overflow) & (cast == form.largest))
    finite = np.isfinite(values)
    tiny = ~over & (values != 0) & (cast < form.smallest_normal)
    return Headroom((over & finite).mean(), (tiny & (cast > 0)).mean(), (tiny & (cast == 0)).mean())


@pytest.mark.parametrize("name", CASTS)
def test_formats_are_those_of_torch(name):
    form = next(entry for entry in FORMATS if entry.name == name)
    info = torch.finfo(CASTS[name])
    assert (form.largest, form.smallest_normal) == (info.max, info.smallest_normal)
    assert form.smallest_subnormal == info.smallest_normal * info.eps
    assert form.source


@pytest.mark.parametrize("name", CASTS)
@pytest.mark.parametrize("scale", [-30, -12, 0, 10, 20])
def test_headroom_is_what_the_cast_does(name, scale):
    values = log_uniform(scale - 12, scale + 12, seed=scale + 100)
    expected, seen = cast_shares(values, name), headroom(LogHistogram.of(values), name)
    for part in ("overflow", "subnormal", "zero"):
        # The bins that hold a limit are divided evenly: at most an eighth of an octave of 24 at each.
        assert getattr(seen, part) == pytest.approx(getattr(expected, part), abs=0.004)


@pytest.mark.parametrize("name", CASTS)
def test_headroom_at_the_ends_of_float32(name):
    values = np.concatenate([log_uniform(-140, -100, 20_000), log_uniform(120, 127.9, 20_000)])
    expected, seen = cast_shares(values, name), headroom(LogHistogram.of(values), name)
    assert seen.overflow == pytest.approx(expected.overflow, abs=0.002)
    # One bin holds everything below 2^-129.
    assert seen.zero == pytest.approx(expected.zero, abs=0.1)


@pytest.mark.parametrize("name", CASTS)
def test_normal_values_of_a_network_in_each_format(name):
    values = np.random.default_rng(1).standard_normal(100_000).astype(np.float32)
    expected, seen = cast_shares(values, name), headroom(LogHistogram.of(values), name)
    assert seen.subnormal == pytest.approx(expected.subnormal, abs=0.001)
    assert seen.zero == pytest.approx(expected.zero, abs=0.001)
    assert seen.lost == seen.overflow + seen.zero


def test_scale_is_a_multiplication():
    values = log_uniform(-30, -10)
    scaled = headroom(LogHistogram.of(values), "fp16", scale=1024.0)
    direct = headroom(LogHistogram.of(values * 1024), "fp16")
    assert scaled.zero == pytest.approx(direct.zero, abs=1e-9)
    assert scaled.subnormal == pytest.approx(direct.subnormal, abs=1e-9)


def test_zeros_nan_and_inf_are_in_the_denominator_alone():
    values = np.array([0.0, 0.0, np.nan, np.inf, -np.inf, 1.0, 1e6, 1e-12], np.float32)
    assert headroom(LogHistogram.of(values), "fp16") == Headroom(1 / 8, 0.0, 1 / 8)


def test_empty_histogram_gives_nan():
    shares = headroom(LogHistogram.empty(), "fp16")
    assert all(math.isnan(part) for part in (shares.overflow, shares.subnormal, shares.zero))
    assert summary_headroom(TensorSummary.empty(), "fp16") is None
    assert summary_headroom(None, "fp16") is None


def test_exact_extremes_correct_the_bins():
    # 65519 rounds to 65504, 65520 to Inf, and one bin holds both.
    below = TensorSummary.of(np.array([65519.0], np.float32))
    assert headroom(below.histogram, "fp16").overflow > 0
    assert summary_headroom(below, "fp16").overflow == 0
    above = TensorSummary.of(np.array([65520.0, 1.0], np.float32))
    assert summary_headroom(above, "fp16").overflow == 0.5


def test_unknown_format_names_the_nearest():
    with pytest.raises(InputError, match='"fp16", "bf16", "fp8_e4m3", "fp8_e5m2", got "fp61"') as error:
        headroom(LogHistogram.empty(), "fp61")
    assert "fp16" in error.value.hint


def site(name="a", forward=(1.0,), backward=None):
    summaries = [None if v is None else TensorSummary.of(np.array(v, np.float32)) for v in (forward, backward)]
    return Site(name, "Linear", "other", (1, 1), forward=summaries[0], backward=summaries[1])


@pytest.mark.parametrize(
    ("largest", "scale"),
    [
        (1.0, 2**13),
        (0.9, 2**14),
        (65504 / 4, 1),
        (65504 / 8, 2),
        (1e6, 1),
        (1e-9, 2**24),
        (16376.5, 1),
        (2.0**-3, 2**16),
    ],
)
def test_loss_scale_is_the_largest_power_that_leaves_the_margin(largest, scale):
    profile = NetworkProfile((site(backward=(-largest, 1e-12)),))
    assert recommended_loss_scale(profile) == scale
    if 1 < scale < 2**24:
        assert torch.tensor(largest * scale * 4, dtype=torch.float64).half().isfinite()
        assert largest * scale * 2 * 4 > 65504


def test_loss_scale_looks_at_parameters_too():
    gradient = TensorSummary.of(np.array([100.0], np.float32))
    parameter = Parameter("w", (1,), TensorSummary.of(np.ones(1)), gradient)
    assert recommended_loss_scale(NetworkProfile((site(backward=(1.0,)),), (parameter,))) == 2**7


def test_no_backward_no_loss_scale():
    assert recommended_loss_scale(NetworkProfile((site(),))) is None
    assert recommended_loss_scale(NetworkProfile((site(backward=(0.0, 0.0)),))) is None
    assert recommended_loss_scale(NetworkProfile(())) is None


def test_nan_gradients_do_not_decide():
    assert recommended_loss_scale(NetworkProfile((site(backward=(np.nan, np.inf, 1.0)),))) == 2**13


def test_worst_puts_overflow_before_zero():
    sites = (site("tiny", backward=(1e-9,)), site("large", forward=(1e5, 1.0)), site("fine"))
    worst = worst_in(NetworkProfile(sites), "fp16")
    assert (worst.site, worst.direction, worst.shares.overflow) == ("large", "forward", 0.5)
    assert worst_in(NetworkProfile(sites[2:]), "fp16") is None
    assert worst_in(NetworkProfile(sites[:1]), "fp16", loss_scale=2.0**20) is None


def test_table_has_a_row_a_site_and_says_what_is_lost():
    profile = NetworkProfile((site("fine"), site("tiny", backward=(1e-9, 1.0)), site("", forward=(1e5,))))
    table = precision_table(profile)
    assert [row[0] for row in table.rows] == ["fine", "tiny", "(model)"]
    assert "zero 50%" in table.rows[1]
    assert table.rows[2][2] == "over 100%"
    assert precision_table(profile).to_text()


def test_shares_in_words():
    assert spell(Headroom(0.0, 0.0, 0.0)) == "-"
    assert spell(Headroom(0.5, 0.031, 0.0004)) == "over 50% zero <0.1% sub 3.1%"
    assert spell(Headroom(0.999, 0.0, 0.0)) == "over 100%"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_what_lies_within_a_format_loses_nothing_up_to_its_limits(form):
    half = form.smallest_subnormal / 2
    edge = np.float32(form.smallest_normal - half)
    for values in ([form.largest, form.smallest_normal], [-form.smallest_normal, 0.0, 1.0], [1.0, np.nan], [0.0]):
        summary = TensorSummary.of(np.array(values, np.float32))
        # What is looked at first is the whole bin that begins at or below a value.
        assert summary_headroom(summary, form) == Headroom(0.0, 0.0, 0.0)
    for value in (edge / 2, -edge / 2, np.float32(half), np.float32(half) / 2):
        summary = TensorSummary.of(np.array([1.0, value], np.float32))
        shares = headroom(summary.histogram, form)
        assert summary_headroom(summary, form) == Headroom(0.0, shares.subnormal, shares.zero)
        assert shares.subnormal + shares.zero > 0
