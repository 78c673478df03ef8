"""Grid: which cells there are, how they are labelled, and what is refused before any work."""

import json

import numpy as np
import pytest
import torch

from propscope.errors import InputError
from propscope.experiments import LOSSES, Grid, make_grid
from propscope.networks import ACTIVATIONS, SQUARE_DEFAULTS, MLPSpec


def grid(**options):
    axes = {"depth": 2, "width": 4, "activation": "relu", "initializer": "he_normal", "seeds": 1}
    return make_grid(**{**axes, **options})


def test_cells_come_pair_by_pair_with_the_seeds_innermost():
    made = grid(depth=[1, 2], width=[3, 4], activation=["relu", "tanh"], initializer=["zeros", "ones"], seeds=[5, 7])
    cells = list(made.cells())
    assert len(cells) == len(made) == 32
    assert [cell.seed for cell in cells[:4]] == [5, 7, 5, 7]
    assert cells[0].labels == {"initializer": "zeros", "activation": "relu", "depth": 1, "width": 3, "seed": 5}
    assert cells[-1].labels == {"initializer": "ones", "activation": "tanh", "depth": 2, "width": 4, "seed": 7}
    assert len({json.dumps(cell.labels) for cell in cells}) == 32


def test_every_axis_makes_networks_and_labels():
    axes = {
        "depth": [2, 3],
        "width": [4, 8],
        "gain": [0.5, 1.0],
        "bias_variance": [0.0, 0.1],
        "norm": ["none", "rms"],
        "residual": [False, True, 0.5, "1/sqrt(L)"],
        "batch": [256, 8],
        "dtype": ["float32", "float64"],
        "seeds": [0, 3],
    }
    made = grid(**axes, activation=["relu", "tanh"], initializer=["he_normal", "orthogonal"])
    cells = list(made.cells())
    assert len(cells) == len(made) == 2**10 * 4 == len({json.dumps(cell.labels) for cell in cells})
    # An axis of several values is a label, also where the value is the usual one.
    usual = {"depth": 2, "width": 4, "gain": 0.5, "bias_variance": 0.0, "norm": "none", "residual": "False"}
    names = {"initializer": "he_normal", "activation": "relu"}
    assert cells[0].labels == {**names, **usual, "batch": 256, "dtype": "float32", "seed": 0}
    last = cells[-1]
    assert (last.batch, last.dtype, last.torch_dtype, last.seed) == (8, "float64", torch.float64, 3)
    assert last.network == MLPSpec(
        3, width=8, activation="tanh", initializer="orthogonal", input_size=8, gain=1.0, bias_variance=0.1, norm="rms",
        residual="1/sqrt(L)",
    )  # fmt: skip
    assert list(dict.fromkeys(cell.labels["residual"] for cell in cells)) == ["False", "True", 0.5, "1/sqrt(L)"]
    json.dumps(made.description())
    spec = json.loads(made.spec(last))
    assert (spec["batch"], spec["dtype"], spec["network"]["residual"]) == (8, "float64", "1/sqrt(L)")


def test_ranges_and_words_are_those_of_the_command_line():
    text = grid(
        depth="2..6:2,9",
        width="4..8:4,10",
        gain="0.5..2:4",
        bias_variance="0,0.1..0.3:3",
        norm="none, layer",
        residual="none, 1/sqrt(L),0.1..0.3:3",
        batch="8,16..32:16",
        dtype="float32,bfloat16",
    )
    lists = grid(
        depth=[2, 4, 6, 9],
        width=[4, "8..10:2"],
        gain=[0.5, "1..2:3"],
        bias_variance=(0, 0.1, 0.2, 0.3),
        norm=["none", "layer"],
        residual=[False, "1/sqrt(L)", 0.1, 0.2, 0.3],
        batch=[8, 16, 32],
        dtype=["float32", "bfloat16"],
    )
    assert text == lists
    assert len(text) == 4 * 3 * 4 * 4 * 2 * 5 * 3 * 2
    assert grid(depth=3, width="8-4,2..4:2").width == ((8, 4), 2, 4)


def test_all_stands_for_every_activation_and_initializer():
    made = grid(activation="All", initializer=["all", "critical:weight_variance=1:bias_variance=0"])
    assert [spec.name for spec in made.activation] == [entry.name for entry in ACTIVATIONS]
    assert tuple(spec.name for spec in made.initializer) == (*SQUARE_DEFAULTS, "critical")


def test_axes_are_written_in_many_ways():
    one = grid(activation="tanh, relu", initializer=["kaiming_normal"], depth=range(1, 3), width=[4], seeds=2)
    two = grid(
        activation=("tanh", "relu"),
        initializer=iter(["he_normal"]),
        depth=np.arange(1, 3),
        width=np.array([4]),
        seeds=np.arange(2),
    )
    assert [cell.labels for cell in one.cells()] == [cell.labels for cell in two.cells()]
    json.dumps([cell.labels for cell in two.cells()])
    assert two.spec(next(two.cells())) == one.spec(next(one.cells()))


def test_what_is_given_twice_is_run_once():
    made = grid(
        activation="relu,relu", initializer="he_normal,kaiming_normal", depth=[2, 2], width=[4, 4], seeds=[0, 0]
    )
    assert len(made) == 1


def test_specs_are_canonical_in_the_labels():
    made = grid(activation="Leaky-ReLU:negative_slope=0.20", initializer="gaussian:std=1e-2")
    labels = next(made.cells()).labels
    assert (labels["activation"], labels["initializer"]) == ("leaky_relu:negative_slope=0.2", "normal")


def test_widths_that_taper_are_labelled_as_they_are_written():
    assert next(grid(depth=3, width=[(8, 2)]).cells()).labels["width"] == "8-2"
    assert next(grid(depth=3, width=[[8, 4, 2]]).cells()).labels["width"] == "8-4-2"
    assert next(grid(width=[(4,)]).cells()).labels["width"] == 4


@pytest.mark.parametrize(
    ("option", "label"),
    [
        ({"batch": 8}, {"batch": 8}),
        ({"input": "uniform:low=-2"}, {"input": "uniform:low=-2"}),
        ({"scale": "zscore"}, {"scale": "zscore"}),
        ({"loss": "mse"}, {"loss": "mse"}),
        ({"dtype": "float16"}, {"dtype": "float16"}),
        ({"input_size": 7}, {"input_size": 7}),
        ({"output_size": 3}, {"output_size": 3}),
        ({"bias": 0.5}, {"bias": 0.5}),
        ({"bias": 0.0}, {"bias": 0.0}),
        ({"norm": "layer"}, {"norm": "layer"}),
        ({"residual": True}, {"residual": "True"}),
        ({"dropout": 0.25}, {"dropout": 0.25}),
        ({"alpha_dropout": 0.25}, {"alpha_dropout": 0.25}),
        ({"histogram_limit": 0}, {}),
        ({"batch": 256, "loss": "cotangent", "residual": False}, {}),
    ],
    ids=str,
)
def test_what_is_unusual_is_a_label(option, label):
    usual = {"initializer": "he_normal", "activation": "relu", "depth": 2, "width": 4, "seed": 0}
    assert next(grid(**option).cells()).labels == {**usual, **label}


def test_the_spec_is_everything_that_was_asked_for():
    made = grid(width=[(8, 4)], bias=0.1, norm="batch", input="digits", scale="zscore", loss="cross-entropy", seeds=[3])
    spec = json.loads(made.spec(next(made.cells())))
    assert spec["network"]["width"] == [8, 4]
    assert set(spec["network"]) == {field for field in MLPSpec.__dataclass_fields__ if field != "_"}
    assert (spec["seed"], spec["input"], spec["scale"], spec["loss"]) == (3, "digits", "zscore", "cross-entropy")


def test_inputs_without_features_of_their_own_have_the_first_width():
    assert next(grid(width=[(8, 4)]).cells()).network.input_size == 8
    assert next(grid(input="uniform").cells()).network.input_size == 4
    assert next(grid(input="digits").cells()).network.input_size is None
    assert next(grid(input_size=5).cells()).network.input_size == 5


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depth": 0}, "depth must .* got 0"),
        ({"depth": -3}, "depth must .* got -3"),
        ({"depth": 2.5}, "depth must .* got 2.5"),
        ({"depth": "two"}, 'depth must .* got "two"'),
        ({"depth": []}, "depth must list at least one value"),
        ({"width": 0}, "width must .* got 0"),
        ({"width": [(4, 0)]}, "width must .* got 0"),
        ({"width": [(4, 3, 2)]}, "width must be .* depth 2.* got 3"),
        ({"width": ()}, "width must list at least one"),
        ({"activation": "rleu"}, 'unknown activation "rleu"'),
        ({"activation": "relu:slope=1"}, 'activation relu has no parameter "slope"'),
        ({"activation": []}, "activation must list at least one"),
        ({"activation": 3}, "activation must .* got 3"),
        ({"activation": ""}, 'the list "" has an empty entry'),
        ({"initializer": "he_norml"}, 'unknown initializer "he_norml"'),
        ({"initializer": "normal:std=x"}, 'std of initializer normal must be a finite number .* got "x"'),
        ({"initializer": None}, "initializer must .* got None"),
        ({"initializer": "dirac"}, "initializer dirac fills convolutions"),
        ({"seeds": 0}, "seeds must .* got 0"),
        ({"seeds": []}, "seeds must list at least one"),
        ({"seeds": [0, -1]}, "seed must .* got -1"),
        ({"seeds": "3"}, 'seed must .* got "3"'),
        ({"seeds": True}, "seed must .* got True"),
        ({"seeds": 1.5}, "seed must .* got 1.5"),
        ({"batch": 0}, "batch must .* got 0"),
        ({"batch": "eight"}, 'batch must .* got "eight"'),
        ({"batch": 2.5}, "batch must .* got 2.5"),
        ({"input": "norml"}, 'unknown input "norml"'),
        ({"input": 3}, "input must be a string .* got 3"),
        ({"loss": "ce"}, 'loss must .* got "ce"'),
        ({"dtype": "int8"}, 'dtype must .* got "int8"'),
        ({"device": "abacus"}, 'device "abacus" cannot be used'),
        ({"device": "meta"}, 'device "meta" cannot be used: its tensors have no values'),
        ({"input_size": 0}, "input_size must .* got 0"),
        ({"output_size": "many"}, 'output_size must .* got "many"'),
        ({"bias": -1}, "bias must .* got -1"),
        ({"bias": float("nan")}, "bias must .* got nan"),
        ({"norm": "group"}, 'norm must .* got "group"'),
        ({"residual": True, "width": [(8, 4)]}, "width must be the same .* got 8-4"),
        ({"dropout": 1.0}, "dropout must .* got 1.0"),
        ({"depth": "50..10:10"}, 'depth has the range "50..10:10", which runs backwards'),
        ({"depth": ["2..1", 3]}, "depth has the range .* runs backwards"),
        ({"width": "8..4"}, "width has the range .* runs backwards"),
        ({"batch": "1..1000000000"}, "batch has the range .* more than 1,000,000 values"),
        ({"gain": "2..0.5:4"}, "gain has the range .* runs backwards"),
        ({"gain": "0..1:4"}, "gain must .* got 0"),
        ({"gain": [1.0, float("nan")]}, "gain must .* got nan"),
        ({"gain": []}, "gain must list at least one value"),
        ({"weight_variance": "1..nan:3"}, "weight_variance must be a list of numbers .* got"),
        ({"weight_variance": [1.0], "initializer": "he_normal,zeros"}, "weight_variance cannot be set .*zeros"),
        ({"bias_variance": "a"}, 'bias_variance must .* got "a"'),
        ({"residual": "1/L"}, 'residual must .* got "1/L"'),
        ({"residual": [True, 0.0]}, "residual must .* got 0.0"),
        ({"norm": "none,group"}, 'norm must .* got "group"'),
        ({"dtype": "float32,int8"}, 'dtype must .* got "int8"'),
        ({"seeds": 10, "gain": "0.5..2:10000", "depth": "1..10000"}, "a grid of 1,000,000,000 networks needs"),
        ({"dropout": 0.1, "alpha_dropout": 0.1}, "dropout and alpha_dropout cannot both"),
        ({"histogram_limit": -1}, "histogram_limit must .* got -1"),
        ({"histogram_limit": "all"}, 'histogram_limit must .* got "all"'),
        ({"dept": 2}, 'no argument "dept"; valid are depth, .*gain, .*batch, .*input, scale'),
    ],
    ids=str,
)
def test_one_clear_line_for_what_is_wrong(option, message):
    with pytest.raises(InputError, match=message) as caught:
        grid(**option)
    assert "\n" not in str(caught.value) + caught.value.hint


def test_the_hint_of_a_residual_factor_names_its_words():
    for text in ("foo", "None", "1/sqrt(l)", "0.5,"):
        with pytest.raises(InputError, match="residual must be") as caught:
            grid(residual=text)
        assert caught.value.hint == 'for example 0.5, 0.5..2:16, "1/sqrt(L)" or "none"'


def test_the_nearest_name_is_the_hint():
    with pytest.raises(InputError) as caught:
        grid(initializer="he_norml")
    assert 'did you mean "he_normal"?' in caught.value.hint


@pytest.mark.parametrize(
    "option",
    [
        {"initializer": ["he_normal", "dirac"]},
        {"depth": [3, 4], "width": [(4, 3, 2)]},
        {"width": [4, 10**7]},
        {"depth": [2, 10**12]},
        {"width": [4, (8, 4)], "residual": True},
    ],
    ids=str,
)
def test_a_mistake_in_the_last_pair_is_found_before_the_first_is_run(option):
    with pytest.raises(InputError):
        grid(**option)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"width": 10**9}, "depth 2, width 1000000000, batch 256 need 16,000,005,136.0 GB; this machine has"),
        ({"width": [(10**7, 10**7)]}, "depth 2, width 10000000-10000000, batch 256 need"),
        ({"depth": 10**12}, "depth 1000000000000, width 4, batch 256 need"),
        ({"batch": 10**12}, "depth 2, width 4, batch 1000000000000 need"),
        ({"input_size": 10**10}, "need"),
        ({"output_size": 10**11}, "need"),
    ],
    ids=str,
)
def test_what_cannot_fit_is_refused_by_arithmetic(option, named):
    with pytest.raises(InputError) as caught:
        grid(**option)
    assert named in str(caught.value)
    assert caught.value.hint == "choose a smaller width, depth or batch"


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"seeds": 10**9}, "a grid of 1,000,000,000 seeds needs 2,048.0 GB; this machine has"),
        ({"seeds": 10**30}, "a grid of 1,000,000,000,000,000,000,000,000,000,000 seeds needs"),
        ({"seeds": range(10**9)}, "a grid of 1,000,000,000 values needs"),
        ({"depth": range(1, 10**30)}, "values needs"),
        ({"seeds": 10**5, "depth": range(1, 2001)}, "a grid of 200,000,000 networks needs"),
    ],
    ids=str,
)
def test_more_networks_than_the_memory_holds_are_refused_before_they_are_listed(option, named):
    with pytest.raises(InputError) as caught:
        grid(**option)
    assert named in str(caught.value)
    assert caught.value.hint == "choose fewer, and merge the files"


@pytest.mark.parametrize("value", [np.array(3), torch.tensor(3), np.int64(3)], ids=["array", "tensor", "number"])
def test_an_axis_may_be_a_number_of_numpy_or_torch(value):
    assert grid(depth=value).depth == (3,)


def test_a_large_grid_is_checked_at_once():
    made = grid(width=1024, depth=[20, 50], activation="relu,tanh,gelu", initializer="he_normal,orthogonal", seeds=1000)
    assert len(made) == 12_000


def test_records_and_choices():
    assert LOSSES == ("cotangent", "mse", "cross-entropy")
    assert next(grid(dtype="bfloat16").cells()).torch_dtype == torch.bfloat16
    assert isinstance(grid(), Grid)
