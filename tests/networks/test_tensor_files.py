"""Files from strangers: each is used as it is, or refused by one line before anything of its size is allocated."""

import os
import socket
import struct
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from propscope import checks
from propscope.errors import InputError
from propscope.networks import tensor_files
from propscope.networks.tensor_files import check_structure, read_array, read_arrays, read_tensors, usable

ONES = torch.ones(4, 4)


def header(shape, kind="<f8"):
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def refused(read, path):
    with pytest.raises(InputError) as caught:
        read(path, what="input")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


class TestArrays:
    @pytest.mark.parametrize(
        "kind, expected",
        [("longdouble", "float64"), ("clongdouble", "complex128"), (">f4", "float32"), (">i2", "int16")],
    )
    def test_types_that_torch_lacks_become_those_it_has(self, tmp_path, kind, expected):
        np.save(tmp_path / "x.npy", np.ones((2, 3), kind))
        array = read_array(tmp_path / "x.npy", what="input")
        assert array.dtype == expected
        assert array.dtype.isnative
        assert torch.equal(torch.from_numpy(array).real.double(), torch.ones(2, 3).double())

    @pytest.mark.parametrize("shape", ["(1000000000000, 4)", "(-5, 4)", "(9223372036854775807, 9223372036854775807)"])
    def test_a_header_that_promises_more_than_the_file_holds(self, tmp_path, shape):
        (tmp_path / "x.npy").write_bytes(header(shape) + bytes(64))
        tracemalloc.start()
        said = refused(read_array, tmp_path / "x.npy")
        assert tracemalloc.get_traced_memory()[1] < 1e7
        tracemalloc.stop()
        assert shape in said
        assert "64 bytes" in said

    def test_a_file_larger_than_the_memory(self, tmp_path):
        with (tmp_path / "x.npy").open("wb") as file:
            file.write(header("(100000000000, 4)"))
            file.truncate(file.tell() + 32 * 10**11)
        assert "6,400.0 GB; this machine has" in refused(read_array, tmp_path / "x.npy")

    def test_archives_objects_and_records(self, tmp_path):
        path = tmp_path / "x.npy"
        with path.open("wb") as file:
            np.savez(file, a=np.ones(3))
        assert "zip archive" in refused(read_array, path)
        torch.save(ONES, path)
        assert "zip archive" in refused(read_array, path)
        for array in (np.array([{}], dtype=object), np.zeros(3, dtype=[("a", "O")]), np.zeros(3, dtype=[("a", "f4")])):
            np.save(path, array, allow_pickle=True)
            assert "x.npy" in refused(read_array, path)


@pytest.mark.parametrize("read", [read_array, read_tensors])
class TestPlaces:
    def test_what_is_no_file_is_named_and_not_opened(self, tmp_path, read):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "folder").mkdir()
        (tmp_path / "dangling").symlink_to("nowhere")
        with socket.socket(socket.AF_UNIX) as one:
            here = Path.cwd()
            os.chdir(tmp_path)  # The path of a socket is short.
            one.bind("socket")
            os.chdir(here)
            for name, said in {
                "fifo": "is a FIFO",
                "folder": "is a directory",
                "socket": "is a socket",
                "dangling": "does not exist",
                "none": "does not exist",
                "fifo/x": "Not a directory",
                "x" * 300: "too long",
                "a\0b": "null",
            }.items():
                assert said in refused(read, tmp_path / name)
        assert "is a device" in refused(read, Path("/dev/zero"))


class TestTensors:
    def test_a_compressed_archive_is_not_unpacked(self, tmp_path, monkeypatch):
        torch.save(torch.zeros(2**20), tmp_path / "plain.pt")
        with (
            zipfile.ZipFile(tmp_path / "plain.pt") as plain,
            zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
        ):
            for entry in plain.infolist():
                bomb.writestr(entry.filename, plain.read(entry.filename))
        monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("it was opened"))
        assert "unpack to 4.2 MB" in refused(read_tensors, tmp_path / "bomb.pt")

    def test_no_code_is_run_and_none_is_advised(self, tmp_path):
        torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
        said = refused(read_tensors, tmp_path / "module.pt")
        assert "torch.nn.modules.linear.Linear" in said
        for content in (b"", b"nonsense", b"PK\x03\x04nonsense"):
            (tmp_path / "x.pt").write_bytes(content)
            assert "weights_only=True" in refused(read_tensors, tmp_path / "x.pt")

    def test_another_format_is_named_in_the_hint(self, tmp_path):
        with (tmp_path / "x.pt").open("wb") as file:
            np.save(file, np.ones(3))
        with pytest.raises(InputError) as caught:
            read_tensors(tmp_path / "x.pt", what="input")
        assert ".npy" in caught.value.hint

    @pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz"])
    def test_float8_is_widened(self, kind):
        made = usable("x", ONES.to(getattr(torch, kind)))
        assert made.dtype == torch.float32
        assert torch.equal(made, ONES)

    @pytest.mark.parametrize("kind", ["float64", "bfloat16", "int8", "bool", "uint16", "complex64"])
    def test_other_types_stay(self, kind):
        assert usable("x", ONES.to(getattr(torch, kind))).dtype == getattr(torch, kind)

    def test_tensors_without_plain_values(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensors = {
                "sparse_coo": ONES.to_sparse(),
                "sparse_csr": ONES.to_sparse_csr(),
                "meta": ONES.to("meta"),
                "nested": torch.nested.nested_tensor([ONES, ONES[:2]]),
                "quint8": torch.quantize_per_tensor(ONES, 0.1, 0, torch.quint8),
            }
            for said, tensor in tensors.items():
                with pytest.raises(InputError, match=f"the input x.pt .*{said}") as caught:
                    usable("the input x.pt", tensor)
                assert caught.value.hint

    def test_a_tensor_that_repeats_a_few_numbers(self):
        assert usable("x", torch.ones(1, 4).expand(1000, 4)).shape == (1000, 4)
        with pytest.raises(InputError, match=r"\(1000000000, 4\), 16\.0 GB, but stores 4 numbers"):
            usable("x", torch.ones(1, 4).expand(10**9, 4))

    def test_what_exceeds_the_memory(self, monkeypatch):
        monkeypatch.setattr(checks, "machine_memory", lambda: 100.0)
        with pytest.raises(InputError, match="128 bytes; this machine has 100 bytes"):
            usable("x", ONES)


class TestStructure:
    def test_lists_that_hold_a_list_twice(self):
        held = [ONES, ONES]
        for _ in range(25):
            held = [held, held]
        with pytest.raises(InputError, match="at most 100,000 values"):
            check_structure("x", held)

    def test_depth_and_circles(self):
        deep = (ONES,)
        for _ in range(10_000):
            deep = (deep,)
        circle = []
        circle.append(circle)
        for held in (deep, circle):
            with pytest.raises(InputError, match="more than 32 deep"):
                check_structure("x", held)

    def test_the_arguments_of_a_language_model_are_99_values(self, monkeypatch):
        held = {"x": ONES, "past": [(ONES, ONES)] * 48, "words": {"a", "b"}}
        check_structure("x", held)
        monkeypatch.setattr(tensor_files, "_MOST_ENTRIES", 98)
        with pytest.raises(InputError, match="at most 98 values in lists and dicts, got 99"):
            check_structure("x", held)


class TestArchives:
    def test_arrays_by_name_compressed_or_not(self, tmp_path):
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "x.npz", a=np.ones((2, 3), ">f4"), b=np.arange(4))
            found = read_arrays(tmp_path / "x.npz", what="input")
            assert {name: (array.shape, array.dtype.name) for name, array in found.items()} == {
                "a": ((2, 3), "float32"), "b": ((4,), "int64")
            }  # fmt: skip
            assert found["b"].tolist() == [0, 1, 2, 3]

    def test_what_unpacks_to_more_than_the_memory(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "x.npz", a=np.zeros(100_000))
        assert (tmp_path / "x.npz").stat().st_size < 10_000
        monkeypatch.setattr(checks, "machine_memory", lambda: 1e6)
        tracemalloc.start()
        assert "this machine has" in refused(read_arrays, tmp_path / "x.npz")
        assert tracemalloc.get_traced_memory()[1] < 5e5
        tracemalloc.stop()

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            (b"", "cannot be read as an archive of numpy arrays (BadZipFile"),
            ({"note.txt": b"hello"}, "holds no arrays"),
            ({"a.npy": header("(1000000000000, 4)")}, "its header promises"),
            ({"a.npy": b"junk"}, "a of the input"),
            ({"a.npy": header("(1,)", "|O") + bytes(8)}, "cannot be read as a numpy array"),
            ({"a.npy": header("(1,)", "<U1") + bytes(4)}, "must hold numbers"),
        ],
    )
    def test_what_is_no_archive_of_arrays(self, tmp_path, content, said):
        path = tmp_path / "x.npz"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, value in content.items():
                    archive.writestr(name, value)
        assert said in refused(read_arrays, path)
