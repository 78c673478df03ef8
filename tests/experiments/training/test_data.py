"""Training data: each source's values, the split, the scale, and every refusal; IDX files are made here."""

import gzip
import math

import numpy as np
import pytest
import torch
from building.idx_files import idx_bytes, write_images

from propscope import checks
from propscope.errors import InputError
from propscope.experiments.training import DATA, make_data


def everything(data):
    return [torch.cat((one, other)) for one, other in zip(data.train, data.validation, strict=True)]


def test_digits_are_split_by_the_seed():
    data = make_data("digits", seed=0)
    assert [len(side[0]) for side in (data.train, data.validation)] == [1438, 359]
    assert (data.task, data.outputs, data.features) == ("classification", 10, 64)
    again, other = make_data("digits", seed=0), make_data("digits", seed=1)
    assert torch.equal(data.train[0], again.train[0])
    assert not torch.equal(data.train[0], other.train[0])
    x, y = everything(data)
    assert torch.equal(x.sum(0), everything(other)[0].sum(0))
    assert y.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # Ten nearly equal classes.
    assert data.constant_loss == pytest.approx(math.log(10), abs=1e-3)


def test_moons_are_those_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = everything(make_data("moons:noise=0", seed=0, rows=101, dtype=torch.float64))
    wanted_x, wanted_y = datasets.make_moons(101, shuffle=False, noise=None)
    found = sorted(torch.cat((x, y[:, None].double()), 1).round(decimals=9).tolist())
    assert np.allclose(found, sorted(np.c_[wanted_x, wanted_y].round(9).tolist()))
    noisy = make_data("moons:noise=0.3", seed=0, rows=4000, dtype=torch.float64)
    ideal = make_data("moons:noise=0", seed=0, rows=4000, dtype=torch.float64)
    assert (noisy.train[0] - ideal.train[0]).std().item() == pytest.approx(0.3, rel=0.02)
    assert len(everything(make_data("moons", seed=0))[0]) == 500


def test_the_linear_target():
    data = make_data("linear:noise=0", seed=3, dtype=torch.float64)
    x, y = everything(data)
    assert x.shape == (10_000, 3)
    assert torch.allclose(y, x @ torch.tensor([[1.2], [-0.5], [2.2]], dtype=torch.float64) - 2)
    assert (data.task, data.outputs) == ("regression", 1)
    assert data.constant_loss == pytest.approx(data.train[1].var(unbiased=False).item())
    noisy = everything(make_data("linear:noise=0.5", seed=3, dtype=torch.float64))
    assert torch.equal(noisy[0], x)
    assert (noisy[1] - y).std().item() == pytest.approx(0.5, rel=0.03)


def test_the_target_of_one_hidden_layer_is_the_same_for_every_seed():
    found = {}
    for activation in ("relu", "sigmoid", "tanh"):
        x, y = everything(make_data(f"one_hidden:noise=0:activation={activation}", seed=1, dtype=torch.float64))
        found[activation] = y
        # A network of ten such units, a weight each of three inputs and a bias, fits it, a linear one does not.
        design = torch.cat((x, torch.ones(len(x), 1)), 1).double()
        left = y - design @ torch.linalg.lstsq(design, y).solution
        assert left.var() > 0.02 * y.var()
    assert not torch.equal(found["relu"], found["tanh"])
    # At the same x two seeds' targets agree: nothing of the target is drawn by the seed.
    one, other = (make_data("one_hidden:noise=0", seed=seed, rows=20_000, validation=0) for seed in (0, 1))
    near = torch.cdist(one.train[0][:200], other.train[0])
    at = near.argmin(1)
    close = near.amin(1) < 0.05
    assert close.sum() > 5
    assert (one.train[1][:200][close] - other.train[1][at][close]).abs().max() < 0.8


@pytest.mark.parametrize("scale", ["zscore", "minmax"])
def test_the_scale_is_that_of_the_training_rows(scale):
    plain = make_data("linear", seed=0, rows=200, dtype=torch.float64)
    data = make_data("linear", seed=0, rows=200, scale=scale, dtype=torch.float64)
    training = plain.train[0]
    if scale == "zscore":
        shift, factor = training.mean(0), training.std(0, unbiased=False)
    else:
        shift, factor = training.amin(0), training.amax(0) - training.amin(0)
    for scaled, values in zip((data.train, data.validation), (plain.train, plain.validation), strict=True):
        assert torch.allclose(scaled[0], (values[0] - shift) / factor)
        assert torch.equal(scaled[1], values[1])


def test_constant_features_become_zero():
    # Some of the pixels of digits are always 0.
    for scale in ("zscore", "minmax"):
        data = make_data("digits", seed=0, scale=scale)
        assert not data.train[0][:, 0].any()
        assert data.train[0].isfinite().all()


def test_rows_and_validation():
    data = make_data("digits", seed=0, rows=100, validation=0.25)
    assert [len(side[0]) for side in (data.train, data.validation)] == [75, 25]
    assert [len(y) for _, y in (make_data("digits", seed=0, rows=10**6).train,)] == [1438]
    without = make_data("moons", seed=0, rows=10, validation=0)
    assert [len(side[0]) for side in (without.train, without.validation)] == [10, 0]


def test_mnist5k_holds_the_images_of_mnist():
    data = make_data("mnist5k", seed=0, rows=1000)
    assert (data.features, data.outputs, [len(x) for x, _ in (data.train, data.validation)]) == (784, 10, [800, 200])
    assert data.train[0].max() == 1
    # Rows are a sample of all digits.
    assert min(data.train[1].bincount()) > 50
    assert len(make_data("mnist5k", seed=0, validation=0).train[0]) == 5000


# IDX files


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize(("spec", "inside"), [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")])
def test_images_from_local_files(tmp_path, zipped, dot, spec, inside):
    images, labels = write_images(tmp_path / inside, zipped=zipped, dot=dot)
    for place in (tmp_path, tmp_path / inside):
        data = make_data(f"{spec}:path={place}", seed=0, dtype=torch.float64)
        x, y = everything(data)
        assert (data.features, data.outputs, len(data.train[0])) == (16, 10, 32)
        found = sorted((label, *row) for label, row in zip(y.tolist(), (255 * x).round().int().tolist(), strict=True))
        flat = images.reshape(len(images), -1).tolist()
        assert found == sorted((label, *row) for label, row in zip(labels.tolist(), flat, strict=True))


def spoil(folder, name, change):
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (IMAGES, lambda data: data[:-1], r"holds 639 values, but shape \(40, 4, 4\) makes 640"),
        (IMAGES, lambda data: data + b"1", "holds 641 values"),
        (IMAGES, lambda data: data[:10], "shorter than the header"),
        (IMAGES, lambda data: b"", "starts with nothing; an IDX file of bytes in 3 dimensions starts with 00 00 08 03"),
        (IMAGES, lambda data: b"\x89PNG" + data, "starts with 89 50 4e 47"),
        (IMAGES, lambda data: b"\0\0\x0d\x03" + data[4:], "starts with 00 00 0d 03"),
        (IMAGES, lambda data: gzip.compress(data)[:-20], "is damaged or truncated"),
        (IMAGES, lambda data: gzip.compress(data)[:30] + b"nonsense", "is damaged or truncated"),
        (IMAGES, lambda data: idx_bytes(np.zeros((0, 4, 4))), r"has shape \(0, 4, 4\), without any element"),
        (LABELS, lambda data: data[:-1] + b"\x0a", "must be 0 to 9, got 10 in row 39"),
        (LABELS, lambda data: idx_bytes([1, 2, 3]), "as many images as labels, got 40 and 3"),
        (LABELS, lambda data: idx_bytes(np.zeros((40, 1))), "in 1 dimension starts with 00 00 08 01"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, change, message):
    write_images(tmp_path)
    spoil(tmp_path, name, change)
    with pytest.raises(InputError, match=message) as caught:
        make_data(f"mnist:path={tmp_path}", seed=0)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def promising(shape, data=b"", *, level=9):
    """Return a gzipped IDX file whose head promises a shape and whose values are `data`."""
    head = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return gzip.compress(head + data, level)


@pytest.mark.parametrize(
    ("shape", "values", "message"),
    [
        # Of 2 MB of zeros there are 2 kB.
        ((40, 4, 4), 1 << 21, r"holds more than 640 values, but shape \(40, 4, 4\) makes 640"),
        ((2**32 - 1, 2**32 - 1, 2**32 - 1), 640, r"holds at most \d+ values, but shape \(4294967295, 4"),
        ((60_000, 28, 28), 640, r"holds at most \d+ values"),
        ((30_000, 1, 1), 640, "holds 640 values"),
    ],
)
def test_what_the_head_does_not_promise_is_not_unpacked(tmp_path, monkeypatch, shape, values, message):
    write_images(tmp_path, zipped=True)
    (tmp_path / f"{IMAGES}.gz").write_bytes(promising(shape, bytes(values)))
    unpacked = []
    read = gzip.GzipFile.read

    def counted(self, size=-1):
        unpacked.append(read(self, size))
        return unpacked[-1]

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(InputError, match=message):
        make_data(f"mnist:path={tmp_path}", seed=0)
    assert sum(map(len, unpacked)) < 1000


@pytest.mark.parametrize("zipped", [False, True])
def test_images_beyond_the_memory_are_refused_by_their_head(tmp_path, monkeypatch, zipped):
    write_images(tmp_path, zipped=zipped)
    monkeypatch.setattr(checks, "machine_memory", lambda: 4 * 640 - 1)
    with pytest.raises(InputError, match=r"of shape \(40, 4, 4\) needs 2,560 bytes; this machine has 2,559 bytes"):
        make_data(f"mnist:path={tmp_path}", seed=0)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"the folder .*nowhere does not exist"):
        make_data(f"mnist:path={tmp_path}/nowhere", seed=0)
    with pytest.raises(InputError, match=r"has no train-images-idx3-ubyte, nor the same with \.gz") as caught:
        make_data(f"mnist:path={tmp_path}", seed=0)
    assert "downloads nothing" in caught.value.hint
    write_images(tmp_path)
    (tmp_path / LABELS).unlink()
    with pytest.raises(InputError, match="has no train-labels-idx1-ubyte"):
        make_data(f"mnist:path={tmp_path}", seed=0)
    with pytest.raises(InputError, match="is a file"):
        make_data(f"mnist:path={tmp_path / IMAGES}", seed=0)


def test_own_tensors(tmp_path):
    path = tmp_path / "own.pt"
    torch.save({"x": torch.arange(20.0).reshape(10, 2), "y": torch.arange(10) % 3}, path)
    data = make_data(str(path), seed=0, validation=0.3)
    assert (data.outputs, data.features, len(data.train[0])) == (3, 2, 7)
    torch.save(torch.zeros(3, 2), path)
    with pytest.raises(InputError, match=r"own\.pt has no labels"):
        make_data(str(path), seed=0)


# Refusals


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("digit", {}, 'unknown data "digit"; valid are digits, mnist5k, moons, linear, one_hidden, mnist'),
        ("moons:nois=1", {}, 'data moons has no parameter "nois"; it has noise'),
        ("moons:noise=-1", {}, 'noise of data moons must be .* got "-1"'),
        (
            "one_hidden:activation=gelu",
            {},
            'activation of data one_hidden must be one of .*tanh, got "gelu"',
        ),
        ("mnist", {}, "data mnist needs the folder of its files"),
        ("mnist:path=", {}, "data mnist needs the folder of its files"),
        ("digits:path=x", {}, 'data digits has no parameter "path"'),
        (3, {}, "data must be .* got 3"),
        ("moons", {"scale": "unit"}, 'scale must .* got "unit"'),
        ("moons", {"validation": 1}, "validation must .* got 1"),
        ("moons", {"validation": "0.2"}, 'validation must .* got "0.2"'),
        ("moons", {"validation": -0.1}, "validation must .* got -0.1"),
        ("moons", {"validation": 0.001, "rows": 100}, "0.001 of 100 rows .* got 100 and 0"),
        ("moons", {"validation": 0.999, "rows": 100}, "got 0 and 100"),
        ("moons", {"rows": 1, "validation": 0.5}, "of 1 rows"),
        ("linear:noise=1e39", {}, "data linear:noise=1e[+]39 has values too large for torch.float32"),
    ],
)
def test_what_is_not_valid(spec, options, message):
    with pytest.raises(InputError, match=message):
        make_data(spec, seed=0, **options)


def test_every_source_has_a_name_of_its_own():
    names = [name for source in DATA for name in (source.name, *source.aliases)]
    assert len(names) == len(set(names))
    assert all(source.formula and source.source for source in DATA)
