"""Addresses are those of CPU memory, from `Tensor.data_ptr()`; 0 where nothing is wanted."""

def summarize(
    data: int,
    bfloat16: int,
    outer: int,
    units: int,
    inner: int,
    low: int,
    high: int,
    figures: int,
    bins: int,
    stride: int,
    /,
) -> None: ...
def all_differ(low: int, high: int, units: int, /) -> bool: ...
def gram(
    data: int, bfloat16: int, rows: int, pitch: int, blocks: int, apart: int, length: int, out: int, /
) -> float: ...
def occupied(bins: int, /) -> tuple[bytes, bytes]: ...
