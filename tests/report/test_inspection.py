"""The sentences below the tree, on records made by hand."""

from propscope.records import NetworkProfile, Site, TensorSummary
from propscope.report.inspection import attention_sentence, stream_sentence


def residual(name, rms, share):
    return Site(name, "add", "residual", (2, 2), forward=TensorSummary.of([rms, -rms]), branch_share=share)


def test_a_stream_grows_by_what_its_branches_bring():
    profile = NetworkProfile((residual("a", 1.0, 0.5), residual("b", 2.0, 0.75), residual("c", 4.0, 0.2)))
    sentence = stream_sentence(profile)
    assert "3 sums, rms 1.00 at a to 4.00 at c (x4.00)" in sentence
    assert "20% (c) to 75% (b)" in sentence


def test_one_sum_is_no_stream():
    assert stream_sentence(NetworkProfile((residual("a", 1.0, 0.5),))) == ""
    assert "x" not in stream_sentence(NetworkProfile((residual("a", 0.0, 0.5), residual("b", 0.0, 0.5)))).split("(")[0]


def test_attention_by_its_extremes():
    sites = tuple(
        Site(name, "softmax", "attention", (2, 2), attention_entropy=entropy, largest_logit=logit)
        for name, entropy, logit in (("a", 1.0, 3.0), ("b", 0.25, 9.0))
    )
    sentence = attention_sentence(NetworkProfile(sites))
    assert "0.250 nat (b) to 1.00 nat (a)" in sentence
    assert "largest logit 9.00 (b)" in sentence
    assert attention_sentence(NetworkProfile(())) == ""
