"""What a user passes by mistake in Python: each is one line that names it, as on the command line."""

import copy
import inspect
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import propscope
from propscope.checks import shown
from propscope.errors import InputError, UnknownArgumentError, UnknownSiteError

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def words():
    return nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7))


class TestArrays:
    @pytest.mark.parametrize("kind", ["float16", "float32", "float64", "longdouble", ">f4"])
    def test_a_numpy_batch_is_taken_in_the_dtype_of_the_model(self, model, kind):
        array = X.numpy().astype(kind)
        expected = propscope.profile(model, torch.from_numpy(array.astype(np.float64)).float())
        for batch in (array, (array,), [array], {"input": array}):
            # The name of an input, a parent of the first layer, is that of its argument.
            seen = [replace(site, parents=None) for site in propscope.profile(model, batch).without_inputs.sites]
            assert seen == [replace(site, parents=None) for site in expected.without_inputs.sites]
        assert propscope.profile(model.double(), array).without_inputs.sites[0].dtype == "float64"

    @pytest.mark.slow
    def test_arrays_that_torch_does_not_take_as_they_are(self, model, words):
        for taken, array, tensor in [
            (model, np.broadcast_to(np.ones(4), (6, 4)), torch.ones(6, 4)),
            (model, X.numpy()[::-1], X.flip(0)),
            (words, np.array([[1, 2]]), torch.tensor([[1, 2]])),
        ]:
            # The layout in memory decides how torch rounds.
            sites, expected = (propscope.profile(taken, batch).without_inputs.sites for batch in (array, tensor))
            for way in ("forward", "backward"):
                rms = [getattr(site, way).rms for site in expected]
                assert [getattr(site, way).rms for site in sites] == pytest.approx(rms, rel=1e-6)
        found, expected = (propscope.jacobian(model, x).sites for x in (X.numpy().astype(float), X))
        assert found == expected
        copies = [copy.deepcopy(model) for _ in range(3)]
        propscope.calibrate(copies[0], X)
        propscope.calibrate(copies[1], X.numpy().astype(float))
        propscope.calibrate(copies[2], batches=[X.numpy().astype(float)])
        for other in copies[1:]:
            assert all(map(torch.equal, other.parameters(), copies[0].parameters()))

    @pytest.mark.parametrize("array", [np.array(["a"]), np.array([{}]), np.zeros(2, "datetime64[s]")])
    def test_arrays_of_something_else(self, model, array):
        with pytest.raises(
            InputError, match="batch must hold numbers, got a NumPy array of " + re.escape(str(array.dtype))
        ):
            propscope.profile(model, array)

    def test_the_containers_of_tensors_stay_the_same_objects(self, model):
        seen = []
        model.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
        propscope.profile(model, (X,))
        assert seen[0] is X


@pytest.mark.parametrize("batch", [X[:0], (X[:0],), {"input": X[:0]}, X[:0].numpy(), X[:, :0]])
def test_an_empty_batch_is_nothing_to_measure(model, batch):
    for call in (propscope.profile, propscope.summary, propscope.calibrate, propscope.jacobian):
        with pytest.raises(InputError, match=r"(batch|x) must have shape .* at least one element, got"):
            call(model, batch)


class TestWhereItStopped:
    @pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python's exceptions have no notes")
    @pytest.mark.parametrize(
        "which, batch, said",
        [
            ("model", torch.ones(6, 5), ["0 (Linear)", "6,5 float32"]),
            ("model", X.double(), ["0 (Linear)", "6,4 float64", "dtype of the model, float32"]),
            ("model", X.long(), ["6,4 int64", "dtype of the model, float32"]),
            ("words", X, ["0 (Embedding)", "6,4 float32", "whole numbers from 0 to 6"]),
            ("words", torch.full((2, 3), 9), ["0 (Embedding)", "2,3 int64", "whole numbers from 0 to 6"]),
            ("model", (), ["its own forward (Sequential)", "without a tensor"]),
        ],
    )
    def test_the_exception_of_the_model_says_where_and_on_what(self, request, which, batch, said):
        with pytest.raises((RuntimeError, IndexError, TypeError)) as caught:
            propscope.profile(request.getfixturevalue(which), batch)
        notes = "\n".join(caught.value.__notes__)
        for words in said:
            assert words in notes

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python's exceptions have no notes")
    def test_in_the_users_own_loop_too(self, model):
        with pytest.raises(RuntimeError, match="mat1 and mat2") as caught, propscope.track(model):
            model(torch.ones(6, 5))
        assert "0 (Linear)" in caught.value.__notes__[0]


class TestOtherObjects:
    def test_what_is_no_profile(self, model, tmp_path):
        for given, hint in {
            model: "propscope.profile(model, batch)",
            nn.Linear: "propscope.profile(model, batch)",
            "run.h5": "propscope.load(path)",
            tmp_path: "propscope.load(path)",
            (1, 2): "ProfileSet.of",
            None: "ProfileSet.of",
            propscope.TrainingSet(()): "runs.profiles()",
        }.items():
            with pytest.raises(InputError, match="NetworkProfile or a ProfileSet, got") as caught:
                propscope.diagnose(given)
            assert hint in caught.value.hint

    @pytest.mark.parametrize("name", ["layer9", 9, None, 1.5, ("0",)])
    def test_a_site_that_does_not_exist(self, model, name):
        with pytest.raises(UnknownSiteError, match="one of the 4 sites") as caught:
            propscope.profile(model, X)[name]
        assert str(name) in str(caught.value)
        assert caught.value.hint

    def test_a_set_takes_numbers(self, model):
        held = propscope.ProfileSet.of([propscope.profile(model, X)])
        with pytest.raises(InputError, match='number or a slice, got "layer9"'):
            held["layer9"]
        with pytest.raises(IndexError, match="1 profiles, got index 7"):
            held[7]

    @pytest.mark.parametrize("path", [None, 3, 1.5, "", [], b"x"])
    def test_what_is_no_path(self, model, path):
        for call in (propscope.load, lambda path: propscope.save(path, propscope.profile(model, X))):
            with pytest.raises(InputError, match="path must be the path of a file, got"):
                call(path)

    @pytest.mark.parametrize("options", [{"include": 3}, {"exclude": 3}, {"kinds": 3}, {"kinds": [nn.Linear]}])
    def test_filters(self, model, options):
        with pytest.raises(InputError, match=f"{next(iter(options))} must be .*, got"):
            propscope.track(model, **options)

    def test_limits_and_seeds(self, model):
        with pytest.raises(InputError, match=r"histogram_limit must be .* at least 0, got -1"):
            propscope.track(model, histogram_limit=-1)
        with pytest.raises(InputError, match=r'seed must be .*, got "a"'):
            propscope.profile(model, X, seed="a")

    def test_an_error_quotes_no_array(self):
        assert shown(np.ones((40, 40))) == "a ndarray"


class TestKeywords:
    # Two are modules, and the keywords of load are the labels of the file.
    @pytest.mark.parametrize(
        "name", sorted({n for n in propscope.__all__ if n[0].islower()} - {"theory", "plots", "load"})
    )
    def test_a_misspelled_argument_names_the_nearest(self, name):
        function = getattr(propscope, name)
        named = [parameter.name for parameter in inspect.signature(function).parameters.values() if parameter.kind == 3]
        wrong = named[0][:-1] + "_"
        with pytest.raises(UnknownArgumentError, match=f'{name}.. has no argument "{wrong}"; valid are') as caught:
            function(**{wrong: 1})
        assert isinstance(caught.value, TypeError)
        assert f'"{named[0]}"' in caught.value.hint

    @pytest.mark.parametrize("name", ["profile_mlp", "train_mlp"])
    def test_a_misspelled_initializer(self, name):
        with pytest.raises(UnknownArgumentError) as caught:
            getattr(propscope, name)(initalizer="he_normal")
        assert "initializer" in caught.value.hint

    @pytest.mark.parametrize("name", ["critical_point", "gain", "critical_line", "phase_diagram", "predict"])
    def test_theory(self, name):
        with pytest.raises(UnknownArgumentError, match=f"{name}.. has no argument"):
            getattr(propscope.theory, name)(qqq=1)
