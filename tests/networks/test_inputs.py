import numpy as np
import pytest
import torch
from building.idx_files import write_images
from scipy import stats

from propscope.errors import InputError
from propscope.networks.inputs import INPUTS, default_features, make_input


def values(spec, **more):
    return make_input(spec, **{"batch": 20_000, "seed": 0, **more}).values


def test_normal():
    x = values("normal", features=4)
    assert x.shape == (20_000, 4)
    assert x.dtype == torch.float32
    assert stats.kstest(x.double().flatten().numpy(), "norm").pvalue > 0.01


def test_uniform():
    assert stats.kstest(values("uniform", features=3).flatten().numpy(), stats.uniform(-1, 2).cdf).pvalue > 0.01
    x = values("uniform:low=2:high=5", features=3)
    assert stats.kstest(x.flatten().numpy(), stats.uniform(2, 3).cdf).pvalue > 0.01


def test_mixed_tiles_three_distributions():
    x = values("mixed").double().numpy()
    assert x.shape == (20_000, 3)
    assert stats.kstest(x[:, 0], stats.norm(2, 1).cdf).pvalue > 0.01
    assert stats.kstest(x[:, 1], stats.uniform(-2, 6).cdf).pvalue > 0.01
    third = 1 + np.sin(2 * np.random.default_rng(0).uniform(-1, 1, 20_000))
    assert stats.ks_2samp(x[:, 2], third).pvalue > 0.01
    wide = values("mixed", features=7).double()
    for column in range(7):
        assert wide[:, column].mean() == pytest.approx((2, 1, 1)[column % 3], abs=0.06)
        assert wide[:, column].std() == pytest.approx((1, 3**0.5, float(np.std(third)))[column % 3], rel=0.03)
    assert not torch.equal(wide[:, 0], wide[:, 3])


def test_digits():
    batch = make_input("digits", batch=200, seed=0)
    assert batch.values.shape == (200, 64)
    assert batch.targets.shape == (200,)
    assert batch.targets.dtype == torch.int64
    assert (batch.values.min(), batch.values.max()) == (0, 16)
    everything = make_input("digits", batch=5000, seed=1)
    assert everything.values.shape == (1797, 64)
    # Drawn without replacement: all rows, each once, with its own label.
    again = make_input("digits", batch=1797, seed=2)
    assert not torch.equal(everything.values, again.values)
    for batch in (everything, again):
        assert batch.targets.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    pairs = [
        sorted(zip(map(bytes, batch.values.numpy()), batch.targets.tolist(), strict=True))
        for batch in (everything, again)
    ]
    assert pairs[0] == pairs[1]


def test_mnist5k():
    batch = make_input("MNIST5k", batch=300, seed=0)
    assert (batch.name, batch.values.shape, batch.targets.shape) == ("mnist5k", (300, 784), (300,))
    # A sample of all ten digits, though the file has them in order.
    assert len(batch.targets.unique()) == 10
    with pytest.raises(InputError, match="features must be 784 for input mnist5k, got 64"):
        make_input("mnist5k", batch=3, seed=0, features=64)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("spec", "inside"), [("mnist", "MNIST/raw"), ("fashion_mnist", "FashionMNIST/raw")])
def test_images_of_torchvision(tmp_path, zipped, spec, inside):
    images, labels = write_images(tmp_path / inside, zipped=zipped)
    batch = make_input(f"{spec}:path={tmp_path}", batch=100, seed=0)
    assert batch.name == f"{spec}:path={tmp_path}"
    expected = sorted(zip(labels.tolist(), images.reshape(len(images), -1).tolist(), strict=True))
    found = (255 * batch.values).round().int().tolist()
    assert sorted(zip(batch.targets.tolist(), found, strict=True)) == expected
    # Where the files lie does not decide which rows are drawn.
    write_images(tmp_path / "elsewhere")
    some, same = (make_input(f"{spec}:path={place}", batch=7, seed=1) for place in (tmp_path, tmp_path / "elsewhere"))
    assert torch.equal(some.values, same.values)


def test_images_need_their_folder(tmp_path):
    with pytest.raises(InputError, match="input mnist needs the folder of its files") as caught:
        make_input("mnist", batch=3, seed=0)
    assert caught.value.hint == "mnist:path=DIR"
    with pytest.raises(InputError, match=f"{tmp_path} has no train-images-idx3-ubyte"):
        make_input(f"mnist:path={tmp_path}", batch=3, seed=0)
    with pytest.raises(InputError, match='input digits has no parameter "path"'):
        make_input("digits:path=x", batch=3, seed=0)


@pytest.mark.parametrize("spec", ["normal", "uniform:low=0:high=1", "mixed", "digits", "mnist5k"])
def test_seed_determines_the_batch_and_torch_is_left_alone(spec):
    features = {"digits": 64, "mnist5k": 784}.get(spec, 5)
    before = torch.get_rng_state()
    first = make_input(spec, batch=8, seed=0, features=features)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.values, make_input(spec, batch=8, seed=0, features=features).values)
    assert not torch.equal(first.values, make_input(spec, batch=8, seed=1, features=features).values)
    for dtype in (torch.float64, torch.bfloat16):
        other = make_input(spec, batch=8, seed=0, features=features, dtype=dtype).values
        assert other.dtype == dtype
        torch.testing.assert_close(other.float(), first.values.to(dtype).float())


@pytest.mark.parametrize(
    "spec, name", [("Gaussian", "normal"), ("uniform:low=-1:high=1", "uniform"), ("uniform:high=3", "uniform:high=3")]
)
def test_name_is_canonical(spec, name):
    assert make_input(spec, batch=2, features=2, seed=0).name == name


@pytest.fixture
def table(tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 4)) * [1, 1e-3, 1e4, 0] + [0, 5, -1e4, 0.1]
    np.save(tmp_path / "x.npy", x)
    return str(tmp_path / "x.npy"), x


def test_file_rows_are_drawn_by_the_seed(table):
    path, x = table
    batch = make_input(path, batch=10, seed=0, dtype=torch.float64)
    assert batch.name == path
    assert batch.targets is None
    rows = {tuple(row) for row in batch.values.tolist()}
    assert len(rows) == 10
    assert rows <= {tuple(row) for row in x.tolist()}
    assert len(make_input(path, batch=1000, seed=0).values) == 50


def test_file_labels_stay_with_their_rows(tmp_path):
    x = torch.arange(20.0).reshape(20, 1)
    torch.save({"x": x, "y": torch.arange(20)}, tmp_path / "d.pt")
    batch = make_input(str(tmp_path / "d.pt"), batch=7, seed=3)
    assert torch.equal(batch.values[:, 0].long(), batch.targets)


def test_zscore(table):
    x = make_input(table[0], batch=50, seed=0, scale="zscore", dtype=torch.float64).values
    assert x[:, :3].mean(0).abs().max() < 1e-9
    torch.testing.assert_close(x[:, :3].std(0, correction=0), torch.ones(3, dtype=torch.float64))
    assert (x[:, 3] == 0).all()
    shuffled = table[1][np.lexsort(table[1].T[::-1])][:, 0]
    ours = np.sort(x[:, 0].numpy())
    np.testing.assert_allclose(ours, (shuffled - shuffled.mean()) / shuffled.std(), rtol=1e-9)


def test_minmax(table):
    x = make_input(table[0], batch=50, seed=0, scale="minmax").values
    assert torch.equal(x[:, :3].amin(0), torch.zeros(3))
    assert torch.equal(x[:, :3].amax(0), torch.ones(3))
    assert (x[:, 3] == 0).all()


def test_scaling_survives_extreme_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1e300, 1e-300], [-1e300, 3e-300], [5e299, 2e-300]]))
    x = make_input(str(tmp_path / "x.npy"), batch=3, seed=0, scale="zscore").values
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2))


def test_none_leaves_the_values():
    assert torch.equal(values("normal", features=2, scale="none"), values("normal", features=2))


def test_one_row_scales_to_zero():
    assert (values("normal", features=3, batch=1, scale="zscore") == 0).all()


def test_default_features(table):
    assert default_features("normal", 128) == 128
    assert default_features("uniform:low=0:high=1", 128) == 128
    assert [default_features(spec, 128) for spec in ("mixed", "digits", table[0])] == [None, None, None]
    assert values("digits", batch=2, features=default_features("digits", 128)).shape == (2, 64)


@pytest.mark.parametrize(
    "spec, more, message",
    [
        ("normal", {"batch": 0}, "batch must .* got 0"),
        ("normal", {"features": 0}, "features must .* got 0"),
        ("normal", {"features": None}, "features must be a number for input normal"),
        ("normal", {"scale": "l2"}, 'scale must .* got "l2"'),
        ("normal:std=1", {}, 'input normal has no parameter "std"; it has none'),
        ("uniform:low=2", {}, "low of input uniform must be below high, got low 2 and high 1"),
        ("uniform:low=x", {}, 'low of input uniform must be .* got "x"'),
        ("digits", {"features": 10}, "features must be 64 for input digits, got 10"),
        (
            "normal",
            {"batch": 10**9, "features": 10**9},
            "input normal of 1000000000 rows and 1000000000 features needs",
        ),
        ("uniform", {"batch": 10**30}, "input uniform of .* rows and 3 features needs"),
        ("mixed", {"batch": 10**12}, "input mixed of .* rows and 3 features needs"),
        ("data.csv", {}, r"unknown input \"data\.csv\"; valid are normal.* ends in \.npy or \.pt"),
        ("missing.npy", {}, r"missing\.npy does not exist"),
        ("MISSING.PT", {}, r"MISSING\.PT does not exist"),
    ],
)
def test_refuses(spec, more, message):
    with pytest.raises(InputError, match=message):
        make_input(spec, **{"batch": 4, "seed": 0, "features": 3, **more})


def test_unknown_input_gets_the_nearest():
    with pytest.raises(InputError) as caught:
        make_input("digit", batch=3, seed=0)
    assert caught.value.hint.startswith('did you mean "digits"?')


def test_file_with_other_features(table):
    with pytest.raises(InputError, match=r"features must be 4 for input .*x\.npy, got 7"):
        make_input(table[0], batch=4, seed=0, features=7)


def test_values_that_the_type_cannot_hold(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[1e300, 1.0]]))
    with pytest.raises(InputError, match=r"too large for torch\.float32"):
        make_input(str(tmp_path / "x.npy"), batch=4, seed=0)


def test_table_is_complete():
    assert [entry.name for entry in INPUTS] == [
        "normal",
        "uniform",
        "mixed",
        "digits",
        "mnist5k",
        "mnist",
        "fashion_mnist",
        ".npy",
        ".pt",
    ]
    assert all(entry.formula for entry in INPUTS)
