"""The model's inputs are sites: named by their place, measured, first, and no layer."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

import propscope
from propscope.diagnosis import diagnose
from propscope.report.inputs import input_lines


class Takes(nn.Module):
    """Takes the mean of whatever tensors it is given, cast and cut to one shape, through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, *args: object, **kwargs: object) -> Tensor:
        found = [v for _, v in propscope.measure.outputs.tensors_in((args, kwargs))]
        return self.layer(torch.stack([value.float() for value in found]).mean(0))


def of(*args: object, **kwargs: object) -> propscope.NetworkProfile:
    batch = kwargs or (args[0] if len(args) == 1 else args)
    return propscope.profile(Takes(), batch)


X = torch.arange(12.0).reshape(3, 4) - 5
IDS = torch.tensor([[3, 9, 4, 50000]] * 3)


@pytest.mark.parametrize(
    ("args", "kwargs", "names"),
    [
        ((X,), {}, ["input"]),
        ((X, X + 1), {}, ["input[0]", "input[1]"]),
        ((X, None), {}, ["input"]),
        ((), {"pixel_values": X}, ["input[pixel_values]"]),
        ((), {"ids": IDS, "mask": IDS > 4}, ["input[ids]", "input[mask]"]),
        (({"image": X, "more": (X + 1, X + 2)}, 3), {}, ["input[image]", "input[more][0]", "input[more][1]"]),
        (([X, X + 1], X + 2), {}, ["input[0][0]", "input[0][1]", "input[1]"]),
    ],
)
def test_inputs_are_named_by_their_place_and_come_first(args, kwargs, names):
    profile = of(*args, **kwargs)
    assert [site.name for site in profile.sites] == [*names, "layer"]
    assert [site.name for site in profile.inputs] == names
    assert {site.role for site in profile.inputs} == {"input"}


def test_positional_and_keyword_arguments_together():
    model = Takes()
    with propscope.track(model) as recorder:
        model(X, mask=X + 1)
    assert [site.name for site in recorder.profile().sites] == ["input[0]", "input[mask]", "layer"]


def test_a_module_called_input_keeps_its_name():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input, self.output = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(self.input(x))

    assert [site.name for site in propscope.profile(Named(), X).sites] == ["input()", "input", "output"]


def test_an_input_is_summarized_like_any_tensor():
    site = of(X)["input"]
    assert (site.forward.count, site.forward.min, site.forward.max) == (12, -5, 6)
    assert site.forward.mean == pytest.approx(float(X.mean()))
    assert site.forward.rms == pytest.approx(float(X.square().mean().sqrt()))
    assert site.forward.histogram.total == 12
    assert (site.shape, site.dtype, site.samples, site.features) == ((3, 4), "float32", 3, 4)
    assert site.backward is None
    assert site.mean_cosine is not None


def test_nan_and_inf_of_an_input_are_counted():
    x = X.clone()
    x[0, 0], x[1, 1] = math.nan, math.inf
    profile = of(x)
    assert (profile["input"].forward.nan_count, profile["input"].forward.posinf_count) == (1, 1)
    assert "1 NaN, 1 Inf" in input_lines(profile)[0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_whole_numbers_are_listed_with_their_range_and_have_no_gradient(dtype):
    ids = torch.tensor([[0, 1, 1, 200]] * 3).to(dtype)
    site = of(ids, X)["input[0]"]
    assert (site.forward.min, site.forward.max) == (0, 1 if dtype is torch.bool else 200)
    assert (site.forward.count, site.dtype) == (12, str(dtype).removeprefix("torch."))
    assert site.backward is site.feature_spread is site.mean_cosine is None


def test_large_whole_numbers_keep_their_value():
    assert of(torch.full((3, 4), 2**40 + 1))["input"].forward.max == 2**40 + 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_spread_is_the_largest_rms_of_a_feature_over_the_median(dtype):
    x = torch.tensor([[1.0, 2.0, -4.0, 100.0], [-1.0, 2.0, 4.0, 100.0]], dtype=dtype)
    assert of(x)["input"].feature_spread == 50
    # What is always zero is no feature, and NaN hides none of the others.
    assert of(torch.cat([x[:, :3], torch.zeros(2, 1, dtype=dtype)], 1))["input"].feature_spread == 2
    x[0, 0] = math.nan
    assert of(x)["input"].feature_spread == 25


def test_the_features_of_an_image_are_its_channels():
    x = torch.ones(2, 3, 4, 4) * torch.tensor([1.0, 1.0, 7.0])[:, None, None]
    assert propscope.profile(nn.Conv2d(3, 2, 3), x)["input"].feature_spread == 7


@pytest.mark.parametrize("x", [torch.ones(5, 1), torch.zeros(5, 3), torch.ones(4)])
def test_fewer_than_two_features_have_no_spread(x):
    model = nn.Linear(x.shape[-1], 2)
    assert propscope.profile(model, x)["input"].feature_spread is None


def test_many_batches_are_one_input():
    model, one, two = Takes(), X, 3 * X
    with propscope.track(model) as recorder:
        for x in (one, two):
            model(x)
    site = recorder.profile()["input"]
    both = torch.cat([one, two])
    assert site.forward.rms == pytest.approx(float(both.square().mean().sqrt()))
    rms = both.square().mean(0).sqrt().sort().values
    assert site.feature_spread == pytest.approx(float(rms[-1] / rms[1]))
    assert site.samples == 6


def test_an_input_that_only_later_passes_have_comes_before_the_layers():
    model = Takes()
    with propscope.track(model) as recorder:
        model(X, a=X)
        model(X, b=X)
    assert [site.name for site in recorder.profile().sites] == ["input[0]", "input[a]", "input[b]", "layer"]


@pytest.mark.parametrize("again", [False, True])
def test_the_gradient_of_an_input_is_seen_where_it_requires_one(again):
    model, x = nn.Linear(4, 2), X.clone().requires_grad_()
    y = x if again else X.clone().requires_grad_()
    with propscope.track(model) as recorder:
        for given in (x, y, x):
            model(given).sum().backward()
    site = recorder.profile()["input"]
    assert site.backward.count == 36
    assert site.backward.mean == pytest.approx(float(model.weight.detach().sum(0).mean()), rel=1e-5)
    assert not x._backward_hooks
    assert propscope.profile(model, X)["input"].backward is None
    assert propscope.profile(model, x)["input"].backward.count == 12


def test_no_input_is_kept_alive():
    model = nn.Linear(4, 2)
    with propscope.track(model) as recorder:
        x = (X * 1).requires_grad_()
        model(x).sum().backward()
        reference = weakref.ref(x)
        del x
        gc.collect()
        assert reference() is None
        for _ in range(500):
            model((X * 1).requires_grad_()).sum().backward()
        assert len(recorder._observer._hooked_inputs) < 200


def test_a_part_that_is_called_from_outside_has_an_input_of_its_own():
    model = nn.ModuleDict({"encoder": nn.Sequential(nn.Linear(4, 4)), "decoder": nn.Sequential(nn.Linear(4, 2))})
    with propscope.track(model) as recorder:
        model["decoder"](model["encoder"](X))
        model["decoder"](X + 1)
    assert [site.name for site in recorder.profile().inputs] == ["encoder.input", "decoder.input"]
    assert recorder.profile()["decoder.input"].samples == 3


def test_patterns_choose_inputs_by_name():
    assert propscope.profile(Takes(), X, exclude="input").inputs == ()
    assert propscope.profile(Takes(), X, include="layer").inputs == ()
    assert [site.name for site in propscope.profile(Takes(), X, include="input").sites] == ["input"]


def test_what_cannot_be_measured_is_named_in_the_coverage():
    class Sparse(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.to_dense() * 2

    profile = propscope.profile(Sparse(), torch.eye(4).to_sparse())
    assert profile.inputs or any(note.name == "input" for note in profile.coverage)
    meta = propscope.profile(nn.Linear(4, 2, device="meta"), torch.empty(3, 4, device="meta"))
    assert meta.inputs == ()
    assert any(note.name == "input" and "meta" in note.reason for note in meta.coverage)


def test_an_input_is_no_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    profile = propscope.profile(model, X)
    assert [site.name for site in profile.signal_sites] == ["0", "1", "2"]
    assert profile.without_inputs.inputs == ()
    large = propscope.profile(model, 1e6 * X)
    # No layer is compared with the input.
    named = {name for finding in diagnose(large).findings if finding.kind != "input" for name in finding.sites}
    assert "input" not in named


def test_the_report_starts_with_the_input():
    profile = of({"x": X, "ids": IDS})
    lines = input_lines(profile)
    assert lines[0].startswith(
        "input[x]: 3,4 float32, rms 3.49, mean 0.500, std 3.45, from -5.00 to 6.00, 8% zeros, largest feature x"
    )
    assert lines[1] == "input[ids]: 3,4 int64, from 3 to 50000"
    assert str(profile).startswith(lines[0])
    assert "1 site," not in str(profile).splitlines()[0]


def test_many_inputs_are_cut_short():
    profile = of([X + n for n in range(9)])
    assert len(profile.inputs) == 9
    assert input_lines(profile)[6:] == ("and 3 more inputs",)


def test_inputs_are_stored(tmp_path):
    profile = of({"x": X, "ids": IDS})
    propscope.save(tmp_path / "a.h5", profile)
    (loaded,) = propscope.load(tmp_path / "a.h5")
    assert loaded.inputs == profile.inputs
