"""`pack` and `unpack`: one profile or training run as bytes, for a journal; the rows are those of the result file.

The bytes are the length of a JSON object (8 bytes, little-endian), the object, and numbers. The object has the number
of rows of each table, the columns of text and the type of the counts; the numbers are, table by table, the columns of
float64, of int64, and those of the histograms, little-endian.
"""

from __future__ import annotations

import json
from itertools import chain
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from propscope.errors import StoreError
from propscope.records.network import NetworkProfile
from propscope.records.training import TrainingRun
from propscope.store.read import loose_profiles, training_runs
from propscope.store.schema import TABLES, StoredTable
from propscope.store.table_reader import TableReader, reading
from propscope.store.write import RowBatch

_DTYPES = {"float64": "<f8", "int64": "<i8", "uint16": "<u2", "uint64": "<u8"}
_NAMES = {
    table: {stored: [c.name for c in columns if c.stored == stored] for stored in (*_DTYPES, "text")}
    for table, columns in TABLES.items()
}


def pack(entry: NetworkProfile | TrainingRun) -> bytes:
    """Return a profile or a training run, with its profiles, as bytes; raises `InputError` as `save` does."""
    batch = RowBatch(dict.fromkeys(TABLES, 0))
    batch.add_run(entry) if isinstance(entry, TrainingRun) else batch.add(entry)
    rows: dict[str, int] = {table: len(entries) for table, entries in batch.rows.items() if entries}
    text: dict[str, list[list[str]]] = {}
    parts: list[bytes] = []
    counted = "<u8"
    for table, entries in batch.rows.items():
        if entries:
            names = _NAMES[table]
            text[table] = [[row[name] for row in entries] for name in names["text"]]
            for stored in ("float64", "int64"):
                # np.array of the rows takes three times as long.
                values = chain.from_iterable(map(itemgetter(*names[stored]), entries))
                flat = np.fromiter(values, _DTYPES[stored], len(entries) * len(names[stored]))
                parts.append(flat.reshape(len(entries), -1).T.tobytes())
    if batch.histograms:
        rows["histogram"] = sum(histogram.bins.size for histogram in batch.histograms)
        parts.append(np.concatenate([histogram.bins for histogram in batch.histograms], dtype="<u2").tobytes())
        counts = np.concatenate([histogram.counts for histogram in batch.histograms])
        # Half the bytes to digest and to write.
        counted = "<u4" if counts.max(initial=0) < 2**32 else "<u8"
        parts.append(counts.astype(counted).tobytes())
    head = json.dumps({"rows": rows, "text": text, "counts": counted}).encode()
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def unpack(payload: bytes, path: Any) -> NetworkProfile | TrainingRun:
    """Return what `pack` made the bytes of; raises `StoreError` naming the file `path` for other bytes."""
    with reading(path):
        tables = TableReader(path, _columns(payload))
        found: list[NetworkProfile | TrainingRun] = []
        found += training_runs(tables, {}) if tables.training else loose_profiles(tables, {})
    if len(found) != 1:
        raise StoreError(f"{path} is damaged: a record holds {len(found)} profiles", hint="remove it, and run again")
    return found[0]


def _columns(payload: bytes) -> dict[StoredTable, dict[str, Any]]:
    start = 8 + int.from_bytes(payload[:8], "little")
    head = json.loads(payload[8:start])
    columns: dict[StoredTable, dict[str, Any]] = {}
    for table in TABLES:
        if count := head["rows"].get(table, 0):
            columns[table] = {}
            for stored, dtype in _DTYPES.items():
                names = _NAMES[table][stored]
                if stored == "uint64" and head.get("counts") == "<u4":
                    dtype = "<u4"
                values = np.frombuffer(payload, dtype, count * len(names), start).reshape(len(names), count)
                columns[table] |= dict(zip(names, values.astype(stored), strict=True))
                start += values.nbytes
            names = _NAMES[table]["text"]
            columns[table] |= {n: _text(c) for n, c in zip(names, head["text"].get(table, []), strict=True)}
    return columns


def _text(values: list[str]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = [value.encode() for value in values]
    return column
