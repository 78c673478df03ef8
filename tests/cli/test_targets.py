"""The models that targets name: a number of heads that fits the width that was asked for."""

import pytest

from propscope.cli.targets import fitting_heads


def config(name):
    return getattr(pytest.importorskip("transformers"), name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "asked", "expected"),
    [
        ("GPT2Config", {"n_embd": 128}, {"n_head": 2}),
        ("GPT2Config", {"n_embd": 100}, {"n_head": 10}),
        ("GPT2Config", {"n_embd": 7}, {"n_head": 7}),
        ("GPT2Config", {"n_embd": 240}, {}),
        ("GPT2Config", {"n_embd": 128, "n_head": 4}, {}),
        ("GPT2Config", {"n_layer": 2}, {}),
        ("BertConfig", {"hidden_size": 128}, {"num_attention_heads": 2}),
        ("LlamaConfig", {"hidden_size": 100}, {}),
        ("GPT2Config", {"n_embd": "wide"}, {}),
    ],
)
def test_heads_follow_the_width(kind, asked, expected):
    kind = config(kind)
    found, note = fitting_heads(kind, asked)
    assert found == expected
    assert bool(note) == bool(expected)
    if found:
        kind(**asked, **found)


def test_the_note_says_what_was_done():
    assert (
        fitting_heads(config("GPT2Config"), {"n_embd": 128})[1]
        == "n_head 2 (128 is not divisible by the configuration's 12)"
    )
