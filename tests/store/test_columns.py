"""Only the schema's own datasets are opened: nothing leads out of the file, and no claim of its size is believed."""

import os
import tracemalloc
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from building.records import file_of, small_monitored, small_set, small_training

from propscope.errors import StoreError
from propscope.store import load, load_profiles, merge, save

SECRET = np.full(12, 12345.0)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A result file of 12 sites, and a secret beside it."""
    monkeypatch.chdir(tmp_path)
    Path("run.h5").write_bytes(file_of(small_set))
    Path("secret.bin").write_bytes(SECRET.tobytes())
    with h5py.File("secret.h5", "w") as secret:
        secret["value"] = SECRET
        secret["text"] = np.array(["secret"] * 12, dtype=object)
        secret.create_group("run")
    os.mkfifo("fifo")
    return Path("run.h5")


def external_storage(opened):
    del opened["site/forward_mean"]
    opened.create_dataset("site/forward_mean", (12,), "f8", external=[("secret.bin", 0, 96)])


def fifo_storage(opened):
    del opened["site/forward_mean"]
    opened.create_dataset("site/forward_mean", (12,), "f8", external=[("fifo", 0, 96)])


def link(name, target):
    def change(opened):
        opened.pop(name, None)
        opened[name] = target

    return change


def virtual(opened):
    del opened["site/forward_mean"]
    layout = h5py.VirtualLayout((12,), "f8")
    layout[:] = h5py.VirtualSource("secret.h5", "value", (12,))
    opened.create_virtual_dataset("site/forward_mean", layout)


def dataset(name, **how):
    def change(opened):
        opened.pop(name, None)
        opened.create_dataset(name, **how)

    return change


def reference(opened):
    values = np.array([opened["site/name"].ref] * 12, dtype=h5py.ref_dtype)
    dataset("site/forward_mean", data=values)(opened)


def vast_chunk(opened):
    dataset("site/forward_mean", shape=(12,), maxshape=(None,), chunks=(2**28,), dtype="f8", compression=9)(opened)
    # HDF5 itself would compress 2 GB.
    opened["site/forward_mean"].id.write_direct_chunk((0,), zlib.compress(bytes(96)))


def named_type(opened):
    opened["kept"] = np.dtype("f8")
    dataset("site/forward_mean", data=np.zeros(12), dtype=opened["kept"])(opened)


def attribute(name, value):
    def change(opened):
        opened.attrs[name] = value

    return change


HOSTILE = {
    "external storage": (external_storage, "site/forward_mean another file"),
    "external storage in a fifo": (fifo_storage, "site/forward_mean another file"),
    "external link": (link("site/forward_mean", h5py.ExternalLink("secret.h5", "value")), "forward_mean link file"),
    "external link to text": (link("site/name", h5py.ExternalLink("secret.h5", "text")), "site/name link file"),
    "external link to a fifo": (link("site/forward_mean", h5py.ExternalLink("fifo", "value")), "forward_mean file"),
    "external table": (link("site", h5py.ExternalLink("secret.h5", "/")), "site link file"),
    "external table of runs": (link("run", h5py.ExternalLink("fifo", "run")), "run link file"),
    "soft link": (link("site/forward_mean", h5py.SoftLink("/site/forward_std")), "site/forward_mean soft link"),
    "soft table": (link("parameter", h5py.SoftLink("/site")), "parameter soft link"),
    "dangling link": (link("site/forward_mean", h5py.SoftLink("/nowhere")), "site/forward_mean soft link"),
    "virtual": (virtual, "site/forward_mean another file"),
    "references": (reference, "site/forward_mean float64"),
    "named type": (named_type, "site/forward_mean float64"),
    "filter": (dataset("site/forward_mean", data=np.zeros(12), compression="lzf"), "forward_mean filter lzf"),
    "scaled": (dataset("site/layer", data=np.zeros(12, np.int64), scaleoffset=0), "site/layer filter scaleoffset"),
    "scalar": (dataset("site/forward_mean", data=1.0), "site/forward_mean 1-D 0-D"),
    "empty space": (dataset("site/forward_mean", data=h5py.Empty("f8")), "site/forward_mean"),
    "big-endian": (dataset("site/forward_mean", data=np.zeros(12, ">f8")), "site/forward_mean float64 >f8"),
    "compound": (dataset("site/forward_mean", data=np.zeros(12, "f8,f8")), "site/forward_mean float64"),
    "array type": (dataset("site/forward_mean", shape=(12,), dtype="2f8"), "site/forward_mean"),
    "fixed text": (dataset("site/name", data=np.zeros(12, "S9")), "site/name text"),
    "lists": (dataset("site/name", shape=(12,), dtype=h5py.vlen_dtype(np.int64)), "site/name text"),
    "opaque": (dataset("site/forward_mean", data=np.zeros(12, "V8")), "site/forward_mean float64"),
    "a group": (lambda opened: (opened.pop("site/kind"), opened.create_group("site/kind")), "site/kind dataset"),
    "a type": (link("site/kind", np.dtype("f8")), "site/kind dataset"),
    "a table that is a dataset": (dataset("parameter", data=np.zeros(6)), "parameter group"),
    "2^40 rows of nothing": (
        dataset("site/forward_mean", shape=(2**40,), maxshape=(None,), chunks=(1024,), dtype="f8"),
        "site/forward_mean 1,099,511,627,776",
    ),
    "2^60 rows of nothing": (dataset("site/name", shape=(2**60,), chunks=(1024,), dtype=h5py.string_dtype()), "name"),
    "rows without storage": (dataset("site/forward_mean", shape=(12,), dtype="f8"), "site/forward_mean 12"),
    "vast chunks": (vast_chunk, "site/forward_mean chunks 2,147,483,648"),
    "list of versions": (attribute("schema_version", [2, 2]), "schema_version"),
    "text as version": (attribute("schema_version", "2"), "schema_version"),
    "fraction as version": (attribute("schema_version", np.nan), "schema_version"),
    "long format": (attribute("format", np.zeros(4000)), "format"),
    "reference as format": (lambda opened: attribute("format", opened["site"].ref)(opened), "format"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_of_the_schema_is_refused_at_once(file, name):
    change, words = HOSTILE[name]
    with h5py.File(file, "r+") as opened:
        change(opened)
    for read in (load, load_profiles, lambda path: load(path, seed=1), lambda path: merge([path], "out.h5")):
        tracemalloc.start()
        with pytest.raises(StoreError) as caught:
            read(file)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 50e6
        assert "\n" not in str(caught.value)
        assert "Traceback" not in str(caught.value)
        assert all(word in str(caught.value) for word in words.split()), str(caught.value)
        assert "12345" not in str(caught.value)
        assert not Path("out.h5").exists()


def test_every_table_is_checked(file):
    save("trained.h5", small_training())
    for table, column in (("run", "task"), ("epoch", "number"), ("histogram", "count"), ("parameter", "name")):
        with h5py.File("trained.h5") as whole, h5py.File("changed.h5", "w") as changed:
            for name in whole:
                whole.copy(name, changed)
            changed.attrs.update(whole.attrs)
            del changed[f"{table}/{column}"]
            changed[f"{table}/{column}"] = h5py.ExternalLink("secret.h5", "value")
        with pytest.raises(StoreError, match=f"{table}/{column} is a link to another file"):
            load("changed.h5")


def test_rows_that_all_point_to_one_long_text_are_refused(file):
    rows = 12
    with h5py.File(file, "r+") as opened:
        del opened["site/name"]
        names = opened.create_dataset(
            "site/name", (rows,), h5py.string_dtype(), chunks=(rows,), maxshape=(None,), compression=2
        )
        names[0] = "x" * 16_000_000
        _, raw = names.id.read_direct_chunk((0,))
        names.id.write_direct_chunk((0,), zlib.compress(zlib.decompress(raw)[:16] * rows))
        assert len(names[11]) == 16_000_000
    for read in (load, lambda path: merge([path], "out.h5")):
        tracemalloc.start()
        with pytest.raises(StoreError, match=r"site/name has 192,000,000 bytes of text in a file of"):
            read(file)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()


def test_what_other_programs_may_store_otherwise_is_read(file):
    with h5py.File(file, "r+") as opened:
        for name in ("site/forward_mean", "site/name", "parameter/value_std"):
            held = opened[name][:]
            dtype = opened[name].dtype
            del opened[name]
            opened.create_dataset(name, data=held, dtype=dtype)
    assert len(load(file)) == 6


def beyond(opened):
    opened["site/name"][1] = 2**32 - 1


MONITORED = {
    "a number of no text": (beyond, "site/name text 4294967295"),
    "external texts": (link("text", h5py.ExternalLink("secret.h5", "text")), "dataset text link file"),
    "texts that are numbers": (dataset("text", data=np.zeros(90)), "dataset text text"),
    "numbers without texts": (lambda opened: opened.pop("text"), "labels text uint32"),
    "2^40 texts of nothing": (
        dataset("text", shape=(2**40,), chunks=(1024,), dtype=h5py.string_dtype()),
        "dataset text 1,099,511,627,776",
    ),
}


@pytest.mark.parametrize("name", MONITORED)
def test_the_shared_text_of_a_monitored_run_is_checked(file, name):
    change, words = MONITORED[name]
    file.write_bytes(file_of(small_monitored))
    with h5py.File(file, "r+") as opened:
        change(opened)
    with pytest.raises(StoreError) as caught:
        [*load(file)]
    assert all(word in str(caught.value) for word in words.split()), str(caught.value)
