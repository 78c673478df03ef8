import math
import os
import sys
from dataclasses import replace

import pytest

from propscope.errors import InputError
from propscope.networks.spec import (
    ParsedSpec,
    index_names,
    label,
    load_callable,
    own_parameters,
    parse_spec,
    read_parameter,
    split_list,
    written,
)
from propscope.records.activations import ACTIVATIONS
from propscope.records.spec_parameter import SpecParameter


def test_split_list():
    assert split_list("he_normal,normal:std=0.01, sparse:sparsity=0.5:std=0.1") == [
        "he_normal",
        "normal:std=0.01",
        "sparse:sparsity=0.5:std=0.1",
    ]


@pytest.mark.parametrize("text", ["", "relu,", "relu,,tanh", " "])
def test_split_list_refuses_empty_entries(text):
    with pytest.raises(InputError, match="empty entry"):
        split_list(text)


@pytest.mark.parametrize(
    "text, name, parameters",
    [
        ("relu", "relu", {}),
        (" ReLU ", "relu", {}),
        ("He-Normal", "he_normal", {}),
        ("sparse:sparsity=0.5:std=0.1", "sparse", {"sparsity": "0.5", "std": "0.1"}),
        ("normal: std = 1e-2", "normal", {"std": "1e-2"}),
        ("package.module:callable", "package.module:callable", {}),
        ("Package.module:Outer.inner:alpha=0.1:b=x", "Package.module:Outer.inner", {"alpha": "0.1", "b": "x"}),
        ("path/to/file.py:callable", "path/to/file.py:callable", {}),
        ("path/to/file.py:callable:alpha=1", "path/to/file.py:callable", {"alpha": "1"}),
    ],
)
def test_parse_spec(text, name, parameters):
    assert parse_spec(text, "thing") == ParsedSpec(name, parameters)
    assert parse_spec(text, "thing").custom == (":" in name)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "has no name"),
        (":std=1", "has no name"),
        ("normal:0.01", '"0.01" in the thing "normal:0.01" is not a parameter=value'),
        ("normal:std=", '"std="'),
        ("normal:=3", '"=3"'),
        ("normal:std=1:low", '"low"'),
        ("normal:std=1:std=2", "std is given twice"),
        (3, "thing must be .* got 3"),
    ],
)
def test_parse_spec_refuses(text, message):
    with pytest.raises(InputError, match=message):
        parse_spec(text, "thing")


def test_names_and_aliases_are_taken_once():
    again = replace(ACTIVATIONS[0], name="new", aliases=("swish",))
    with pytest.raises(ValueError, match='"swish" of new is already taken by silu'):
        index_names((*ACTIVATIONS, again))
    with pytest.raises(ValueError, match='"relu"'):
        index_names((*ACTIVATIONS, replace(ACTIVATIONS[0], name="relu", aliases=())))


@pytest.mark.parametrize(
    "parameter, valid, good, bad",
    [
        (SpecParameter("p", 0.0), "a finite number", ["-3", "1e9"], ["x", "nan", "inf", "1,5", ""]),
        (SpecParameter("p", 0.0, low=0), "a finite number of at least 0", ["0", "2"], ["-1e-9"]),
        (SpecParameter("p", 1.0, low=0, above=True), "a finite number above 0", ["1e-9"], ["0"]),
        (SpecParameter("p", 0.0, low=0, high=1), "a finite number of at least 0 and at most 1", ["0", "1"], ["1.01"]),
        (SpecParameter("p", "a", choices=("a", "b")), "one of a, b", ["a", "B"], ["c", "1"]),
    ],
)
def test_parameter_ranges(parameter, valid, good, bad):
    assert parameter.valid == valid
    for raw in good:
        value = read_parameter(parameter, raw, "thing")
        assert value == (raw.lower() if parameter.choices else float(raw))
    for raw in bad:
        with pytest.raises(InputError) as caught:
            read_parameter(parameter, raw, "thing t")
        assert str(caught.value) == f'p of thing t must be {valid}, got "{raw}"'
        assert caught.value.hint == f"for example p={written(parameter.default)}"


def test_label_holds_what_differs_and_reads_back():
    parameters = (SpecParameter("std", 0.01), SpecParameter("mode", "fan_in", choices=("fan_in", "fan_out")))
    assert label("n", {"std": 0.01, "mode": "fan_in"}, parameters) == "n"
    assert label("n", {"std": 1.0, "mode": "fan_out"}, parameters) == "n:std=1:mode=fan_out"
    third = 1 / 3
    assert float(parse_spec(label("n", {"std": third}, parameters), "thing").parameters["std"]) == third


def test_own_parameters_are_read_by_their_looks():
    spec = parse_spec("m:f:a=3:b=0.5:c=True:d=word:e=1e3:g=-2:h=false", "thing")
    values = own_parameters(spec)
    assert values == {"a": 3, "b": 0.5, "c": True, "d": "word", "e": 1000.0, "g": -2, "h": False}
    assert [type(value) for value in values.values()] == [int, float, bool, str, float, int, bool]


def test_load_callable_from_module_and_nested_attribute():
    assert load_callable("math:sqrt", "thing") is math.sqrt
    assert load_callable("propscope.networks.spec:ParsedSpec.custom.fget", "thing") is ParsedSpec.custom.fget


def test_load_callable_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine_in_cwd.py").write_text("def f(x):\n    return x\n")
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    try:
        assert load_callable("mine_in_cwd:f", "thing")(4) == 4
    finally:
        sys.modules.pop("mine_in_cwd", None)
    assert sys.path == path


def test_search_path_keeps_its_order(tmp_path, monkeypatch):
    (tmp_path / "mine_in_path.py").write_text("def f():\n    return 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    path = list(sys.path)
    try:
        assert load_callable("mine_in_path:f", "thing")() == 1
    finally:
        sys.modules.pop("mine_in_path", None)
    assert sys.path == path


def test_load_callable_from_a_file_again_and_after_an_edit(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    x: 'int' = 1\ndef f():\n    return 1\n"
    )
    first = load_callable(f"{file}:f", "thing")
    assert load_callable(f"{file}:f", "thing") is first
    assert load_callable(f"{file}:C", "thing")().x == 1
    file.write_text("def f():\n    return 22\n")
    os.utime(file, ns=(1, 1))
    assert load_callable(f"{file}:f", "thing")() == 22


@pytest.mark.parametrize(
    "name, message",
    [
        ("no_such_module_anywhere:f", 'cannot import "no_such_module_anywhere".*No module named'),
        ("math:no_such", '"math" has no attribute "no_such"'),
        ("math:pi", "must be a callable, got a float"),
        ("no/such/file.py:f", 'cannot import "no/such/file.py".*FileNotFoundError'),
    ],
)
def test_load_callable_refuses(name, message):
    with pytest.raises(InputError, match=message) as caught:
        load_callable(name, "thing")
    assert "package.module:callable" in caught.value.hint


def test_a_file_that_fails_says_how_and_leaves_nothing(tmp_path):
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    before = set(sys.modules)
    with pytest.raises(InputError, match=r"broken\.py.*ZeroDivisionError: division by zero"):
        load_callable(f"{file}:f", "thing")
    assert set(sys.modules) == before
