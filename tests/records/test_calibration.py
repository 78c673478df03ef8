import math

from propscope.records.calibration import Calibration, ScaledWeight, SkippedWeight


def layer(name, **changes):
    given = {
        "kind": "Linear",
        "factor": 2.0,
        "std_before": 0.5,
        "std_after": 1.0,
        "target": 1.0,
        "steps": 1,
        "calls": 1,
        "sample_fraction": 0.5,
    }
    return ScaledWeight(name=name, **{**given, **changes})


def test_prints_what_was_scaled_and_what_was_left():
    record = Calibration(
        layers=(layer("a", factor=12.5), layer("b", sample_fraction=1e-5), layer("c", calls=2), layer("")),
        skipped=(
            *(SkippedWeight(f"e{n}", "Embedding", "an embedding") for n in range(6)),
            SkippedWeight("f", "Linear", "frozen"),
        ),
        passes=1,
        reruns=4,
    )
    text = str(record)
    assert text.startswith("Calibration: 4 weights, 1 forward pass\n")
    assert "12.5" in text
    assert "(model)" in text
    assert "an embedding: e0, e1, e2, e3 and 2 more" in text
    assert ", frozen: f" in text
    assert "at any scale: b;" in text
    assert "calibrated on the first run: c" in text
    assert "<table " in record._repr_html_()


def test_largest_error_is_relative_to_the_target():
    record = Calibration((layer("a", std_after=1.9, target=2.0), layer("b", std_after=1.02)), (), 1, 0)
    assert math.isclose(record.largest_error, 0.05)
    assert math.isnan(Calibration((), (), 1, 0).largest_error)
