"""A slice of `benches/planted.py`: one fault of each kind, the untouched models, and the table itself."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers"),
]

BENCHES = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def planted():
    path = list(sys.path)
    sys.path.insert(0, str(BENCHES))
    try:
        import planted

        yield planted
    finally:
        sys.path[:] = path


def test_forty_faults_or_more_each_once(planted):
    keys = [(row.model, row.fault, row.place) for row in planted.PLANTED]
    assert len(keys) == len(set(keys)) >= 40
    assert {row.fault for row in planted.PLANTED} == set(planted.FAULTS)
    assert {row.model for row in planted.PLANTED} == set(planted.MODELS)


def test_the_held_out_faults_are_the_same_each_time_and_in_their_models(planted):
    import held_out

    drawn = held_out.drawn()
    assert drawn == held_out.drawn() != held_out.drawn(2026)
    assert {row.model for row in drawn} == set(held_out.MODELS)
    assert all(row.sites for row in drawn)


@pytest.mark.parametrize("model", ["resnet", "gpt2", "lstm"])
def test_an_untouched_model_is_healthy(planted, model):
    row = planted.untouched(model)
    assert row.right, row.found


@pytest.mark.parametrize(
    ("model", "fault", "place"),
    [
        ("resnet", "weights x100", "stem.0"),
        ("gpt2", "weights x0.01", "transformer.h.0.mlp.c_fc"),
        ("lstm", "zero weights", "layers.0.candidate"),
        ("resnet", "NaN weight", "stage3.0.bn2"),
        ("lstm", "frozen", "layers.2"),
        ("gpt2", "sigmoid", "transformer.h.1.mlp.act"),
        ("gpt2", "no norm", "transformer.h.2.ln_2"),
        ("resnet", "stream twice", "stage1.0"),
        ("gpt2", "branch twice", "transformer.h.2"),
    ],
)
def test_a_planted_fault_is_named(planted, model, fault, place):
    (fault,) = (row for row in planted.PLANTED if (row.model, row.fault, row.place) == (model, fault, place))
    row = planted.judged(fault)
    assert row.right, row.found
