"""A slice of the published architectures: those of transformers that are built and run within half a second."""

import architectures
import foreign
import planting
import pytest
from published import ARCHITECTURES

import propscope

SLICE = (
    "gpt2", "gpt_neox", "llama", "gemma", "mixtral", "bert", "opt", "roformer", "deberta-v2", "t5", "vit", "swin",
    "resnet", "mobilenet_v2", "convnext",
)  # fmt: skip
KNOWN = {a.name: a for a in ARCHITECTURES if a.library == "transformers"}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", SLICE)
def test_an_architecture_is_healthy_as_it_is_initialized_and_not_with_one_layer_out_of_scale(name):
    model, batch = architectures.built(KNOWN[name], 0)
    sound = planting.profiled(model, batch)
    assert propscope.diagnose(sound).verdict == "healthy"
    places = [*planting.layers(model, sound)]
    planting.scale(model, batch, sound, places[len(places) // 2], by=100.0)
    assert propscope.diagnose(planting.profiled(model, batch)).verdict in ("strained", "broken")


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_every_kind_of_fault_is_named_first_where_it_is(name):
    rows = [*foreign.rows(KNOWN[name], draw=0)]
    assert len(rows) > 10
    assert [(row.fault, row.place, row.answer) for row in rows if row.answer != "right"] == []


def test_every_library_of_the_table_is_an_extra():
    lines = (architectures.TABLE.parents[1] / "pyproject.toml").read_text().splitlines()
    extra = next(line for line in lines if line.startswith("architectures = "))
    # The binary of torchvision asks for one torch alone.
    assert [a for a in {a.library for a in ARCHITECTURES} - {"torchvision"} if f'"{a}>' not in extra] == []


def test_the_table_of_the_docs_has_every_architecture():
    table = architectures.TABLE.read_text()
    assert [a.name for a in ARCHITECTURES if f"| {a.library} | {a.name} |" not in table] == []
