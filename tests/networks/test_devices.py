"""The names of dtypes, and devices that are tried before anything is made on them."""

import pytest
import torch

from propscope.errors import InputError
from propscope.networks.devices import DTYPES, named_dtype, usable_device


def test_the_cpu_is_usable():
    assert usable_device("device", "cpu") == usable_device("device", torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "abacus", "cpu:x", "meta", "\x1b[31m"])
def test_others_are_refused_by_name(name):
    with pytest.raises(InputError, match=r"--device \".*\" cannot be used: .") as caught:
        usable_device("--device", name)
    assert str(caught.value).isprintable()
    assert "cpu" in caught.value.hint


def test_dtypes_have_the_names_that_torch_gives_them():
    assert {name: str(named_dtype("dtype", name)) for name in DTYPES} == {name: f"torch.{name}" for name in DTYPES}
    with pytest.raises(InputError, match=r"--dtype .*float16.*int8"):
        named_dtype("--dtype", "int8")
