"""The digests of the batch and the weights that a recording begins with."""

from unittest import mock

import numpy as np
import pytest
import torch
from building.device_waits import NoWaits
from torch import nn

import propscope
from propscope.measure import digest, kernel
from propscope.measure.digest import number_of


def two(seed=0, width=8):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def batch(seed=0, rows=6):
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def digests(model, rows, **options):
    found = propscope.profile(model, rows, **options)
    return found.batch_digest, found.weights_digest


TENSORS = {
    "one row and a rest": torch.randn(3 * (1 << 14) + 77),
    "several blocks": torch.randn(300 * (1 << 14)),
    "bfloat16 of an odd number": torch.randn(5).bfloat16(),
    "half from the middle": torch.randn(9).half()[1:],
    "complex": torch.randn(7, dtype=torch.complex64),
    "conjugated": torch.randn(7, dtype=torch.complex64).conj(),
    "bool": torch.rand(9) > 0.5,
    "tokens": torch.randint(0, 9, (5, 7)),
    "turned": torch.randn(5, 6).t(),
    "one number": torch.tensor(3.0),
    "nothing": torch.empty(0),
    "negated": torch.randn(7, dtype=torch.complex64).conj().imag,
    "at an odd address": torch.frombuffer(bytearray(range(41)), dtype=torch.float32, count=10, offset=1),
    "doubles": torch.randn(40, 1000, dtype=torch.float64),
    "every second": torch.randn(40)[::2],
}


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
def test_every_device_finds_the_same_number(tensor):
    with NoWaits():
        elsewhere = digest._of_tensor(digest._as_words(tensor))
    assert number_of(tensor) == int(elsewhere) & digest._MASK
    assert number_of(tensor) == number_of(tensor.clone(memory_format=torch.contiguous_format))
    with mock.patch.object(kernel, "AVAILABLE", False):
        assert number_of(tensor) == int(elsewhere) & digest._MASK


@pytest.mark.parametrize("threads", [1, 3])
def test_the_kernel_finds_the_number_with_any_number_of_threads(threads):
    before = torch.get_num_threads()
    words = torch.from_numpy(np.random.default_rng(0).integers(-(2**31), 2**31, 9 * (1 << 14) + 5, dtype=np.int32))
    torch.set_num_threads(threads)
    try:
        found = kernel._kernel.digest(words.data_ptr(), words.numel(), digest._factors_of_words())
    finally:
        torch.set_num_threads(before)
    assert found == digest._of_array(words.numpy())


@pytest.mark.parametrize("given", [(0, 1, 4), (6, 1, 4), (8, 1, 0)])
def test_the_kernel_refuses_what_it_cannot_read(given):
    address, count, factors = given
    with pytest.raises(ValueError, match="words need factors and an address that is a multiple of 4"):
        kernel._kernel.digest(address, count, np.zeros(factors, np.int32))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64, torch.int64])
def test_any_change_changes_it(kind):
    tensor = (torch.randn(100, 100) * 100).to(kind)
    changed = {"as it is": tensor, "other rows": tensor.roll(1, 0), "other columns": tensor.roll(1, 1)}
    for many in (1, 2, 3, 100):
        changed[f"sign of {many}"] = tensor.clone()
        changed[f"sign of {many}"][:many] *= -1
    for at in (0, 5000, 9999):
        changed[f"one at {at}"] = tensor.clone()
        changed[f"one at {at}"].view(-1)[at] += 1
    assert len({number_of(each) for each in changed.values()}) == len(changed)


def test_a_profile_has_those_of_its_batch_and_of_its_weights():
    same = digests(two(), batch())
    assert digests(two(), batch()) == same
    assert all(len(each) == 16 for each in same)
    other_batch, other_weights = digests(two(), batch(1)), digests(two(1), batch())
    assert (other_batch[0] != same[0], other_batch[1]) == (True, same[1])
    assert (other_weights[0], other_weights[1] != same[1]) == (same[0], True)


def test_a_buffer_counts_and_a_name_does_not():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.last = two()

        def forward(self, x):
            return self.last(self.norm(self.first(x)))

    assert digests(Named(), batch()) == digests(two(), batch())
    moved = two()
    moved[1].running_mean += 1
    assert digests(moved, batch())[1] != digests(two(), batch())[1]


def test_a_filter_leaves_no_weight_out():
    assert digests(two(), batch(), include="^2") == digests(two(), batch())


def test_the_first_pass_counts_and_later_ones_are_not_read(monkeypatch):
    seen = []
    real = digest.number_of
    monkeypatch.setattr(digest, "number_of", lambda tensor: seen.append(tensor.shape) or real(tensor))
    model = two()
    first = digests(model, batch())
    seen.clear()
    with propscope.track(model) as recorder:
        for step in range(3):
            model(batch(step)).sum().backward()
            with torch.no_grad():
                model[0].weight += 1
    found = recorder.profile()
    assert (found.batch_digest, found.weights_digest) == first
    assert len(seen) == 1 + len([*model.parameters(), *model.buffers()])


def test_a_monitored_run_reads_its_first_sample_alone():
    model = two()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    with propscope.monitor(model, optimizer, every=1, budget=None) as monitor:
        for number in range(3):
            with monitor.step(number):
                optimizer.zero_grad()
                model(batch(number)).square().mean().backward()
                optimizer.step()
            found.append((monitor.profile.batch_digest, monitor.profile.weights_digest))
    assert found == [digests(two(), batch()), ("", ""), ("", "")]


def test_tokens_by_keyword_count():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed = nn.Embedding(9, 4)

        def forward(self, *, tokens, mask=None):
            return self.embed(tokens)

    one, other = ({"tokens": torch.tensor([[1, 2, last]]), "mask": None} for last in (3, 4))
    assert digests(Words(), one) == digests(Words(), dict(one))
    assert digests(Words(), one)[0] != digests(Words(), other)[0]


@pytest.mark.parametrize("odd", [torch.randn(6, 8).to_sparse(), torch.randn(6, 8, device="meta")])
def test_what_cannot_be_read_has_none_and_nothing_is_said_of_it(odd):
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = two()

        def forward(self, x, other):
            return self.layer(x)

    found = propscope.profile(Both(), (batch(), odd))
    assert found.batch_digest == ""
    assert found.weights_digest
    assert not [note for note in found.coverage if "digest" in note.reason]


def test_seeds_together_have_the_digest_that_they_share():
    from propscope.records.pooling import pooled
    from propscope.records.profile_set import ProfileSet

    profiles = [propscope.profile(two(seed), batch()) for seed in range(2)]
    together = pooled(ProfileSet.of(profiles))
    assert (together.batch_digest, together.weights_digest) == (profiles[0].batch_digest, "")


def test_a_buffer_that_was_read_without_the_kernel_may_still_be_resized(monkeypatch):
    monkeypatch.setattr("propscope.measure.digest.kernel.can_digest", lambda words: False)
    buffer = torch.ones(1)
    number_of(buffer)
    assert buffer.resize_(3).shape == (3,)
