"""Networks that have learned are left in peace, and those that training broke are found."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trained import SHOCKS, ZOO, Judged, judged, shocked, table

from propscope.records import Diagnosis, Finding

# Two of three of these take less than a second; the bench holds all.
TESTED = tuple(member for member in ZOO if member.name not in ("gpt2", "mixtral"))


@pytest.mark.slow
@pytest.mark.parametrize("member", TESTED, ids=[member.name for member in TESTED])
def test_a_network_that_has_learned_is_healthy(member):
    found = judged(member)
    assert found.loss < member.low
    assert found.before.stage in ("initialized", "unknown")
    assert found.after.stage in ("trained", "unknown")
    assert found.after.verdict == "healthy"
    assert found.after.expects["adam"] == "trains"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rate"), SHOCKS, ids=[name for name, _ in SHOCKS])
def test_what_training_broke_is_found(name, rate):
    found = shocked(name, rate)
    assert found.stage == "trained"
    assert found.verdict in ("strained", "broken")
    assert found.worst.remedy.action == "training"


def test_the_zoo_has_what_people_train():
    kinds = {"gpt2", "llama", "bert", "vit", "resnet", "unet", "lstm", "gru", "experts", "vae", "gan", "lora"}
    assert kinds <= {member.name for member in ZOO}


def test_the_table_names_what_was_found():
    finding = Finding("vanishing", "strained", ("fc",), "", "")
    found = [Judged("net", 0.25, 0.5, Diagnosis(stage="initialized"), Diagnosis((finding,), stage="trained"))]
    assert table(found)[1] == (
        "net           0.250 initialized   healthy   trained       strained strained: vanishing fc"
    )
