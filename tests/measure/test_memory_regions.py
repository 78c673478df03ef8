"""Which writes are to be seen in a tensor's memory, against memory that is really written."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from propscope.measure import memory_regions
from propscope.measure.memory_regions import region_of, seen_in

AXIS = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 3)).map(
    lambda parts: slice(min(parts[:2]), max(parts[:2]), parts[2])
)


@st.composite
def views(draw, base):
    view = base[tuple(draw(st.lists(AXIS, max_size=3)))]
    view = view.permute(draw(st.permutations(range(3))))
    if draw(st.booleans()):
        view = view.unsqueeze(draw(st.integers(0, 2)))
    if draw(st.booleans()):
        view = view[..., None].expand(*view.shape, 2)
    return view


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_writes_are_seen_where_they_are_the_last(data):
    base = torch.zeros(5, 4, 5, dtype=torch.int64)
    targets = [data.draw(views(base)) for _ in range(data.draw(st.integers(0, 4)))]
    looked = data.draw(views(base))
    base.fill_(-1)
    for number, target in enumerate(targets):
        # An expanded tensor cannot be written to at once.
        while 0 in target.stride():
            target = target.select(target.stride().index(0), 0)
        target.fill_(number)
    expected = sorted(set(looked.flatten().tolist())) or [-1]
    assert seen_in(region_of(looked), [region_of(target) for target in targets]) == expected


def test_all_that_reach_into_a_very_large_region_count(monkeypatch):
    monkeypatch.setattr(memory_regions, "_PAINTED", 4)
    base = torch.zeros(4, 4)
    assert seen_in(region_of(base), [region_of(base[:, 1]), region_of(base[:, 2])]) == [-1, 0, 1]
    assert seen_in(region_of(base), [region_of(base[:, 1]), region_of(base)]) == [1]
    assert seen_in(region_of(base[0]), [region_of(base[1])]) == [-1]


def test_views_of_another_element_type_cover_the_same_bytes():
    base = torch.zeros(4, 4)
    assert region_of(base.view(torch.int16)) == region_of(base) == region_of(base.view(torch.uint8))
    assert seen_in(region_of(base[1].view(torch.int16)), [region_of(base[1:2])]) == [0]
