"""False alarms: the zoo's networks are sound, so that what is reported is held to a list, with its reasons."""

import pytest
import torch
from zoo.faults import entries
from zoo.models import ZOO
from zoo.running import prepare

import propscope
from propscope.diagnosis import diagnose

# What is reported of a network, and why it is right to.
REPORTED = {
    "own_function": ("stagnant", "the target is behind torch.no_grad"),
    "zero_elements": ("stagnant", "no sample was sent to the third expert"),
    "nonfinite": ("non-finite", "it divides by zero, on purpose"),
    "expanded": (
        "saturated",
        "its tanh gets the sum over a whole batch: one number, far outside of where it has a slope",
    ),
}
# What is run forward alone, and why.
FORWARD_ALONE = {
    "frozen_whole": "everything is frozen",
    "encoder_fast_path": "torch's fast path runs without gradients",
    "encoder_fast_path_padded": "as before",
    "attention_fast_path": "as before",
    "inference_mode": "inference mode keeps no graph",
}
# The same network as `mlp`, wrapped, compiled (seconds each) or in another loop: profiled without them, it is the same.
THE_SAME = {
    "data_parallel",
    "distributed",
    "compiled",
    "compiled_warm",
    "compiled_aot",
    "compiled_child",
    "compiled_method",
    "scripted",
    "fx",
    "parametrized_loop",
    "training_loop",
    "gradient_penalty",
    "two_backwards",
    "per_sample_gradients",
    "forward_mode",
    "saved_tensor_hooks",
    "copied_meanwhile",
    "pickled_meanwhile",
    "grad_scaler",
    "channels_last",
    # `profile` refuses a batch without any element.
    "zero_batch",
}


@pytest.mark.slow
@entries("test_nothing_is_wrong_with_the_zoo_but_what_is_listed", without=THE_SAME)
def test_nothing_is_wrong_with_the_zoo_but_what_is_listed(name):
    entry = ZOO[name]
    model, batch = prepare(entry)
    if name == "lazy":
        model(batch)
    torch.manual_seed(2)
    with entry.around():
        found = diagnose(propscope.profile(model, batch))
    said = [(finding.severity, finding.kind, finding.message) for finding in found.findings]
    if name in REPORTED:
        assert found.worst.kind == REPORTED[name][0], said
    else:
        assert found.verdict == ("not measured" if name in FORWARD_ALONE else "healthy"), said


def test_the_list_names_entries_of_the_zoo():
    assert ZOO.keys() >= REPORTED.keys() | FORWARD_ALONE.keys() | THE_SAME
