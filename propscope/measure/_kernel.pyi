from typing import NewType

from numpy import float32, float64, int32
from numpy.typing import NDArray

Plan = NewType("Plan", object)

def plan(
    bfloat16: bool,
    elements: tuple[int, int, int],
    stride: int,
    figures: NDArray[float64],
    bins: NDArray[int32] | None,
    extremes: NDArray[float32] | None,
    rows: tuple[int, int, int, int, int],
    products: NDArray[float32] | None,
    /,
) -> Plan:
    """`elements`: (outer, units, inner), units 0 where none are wanted. Arrays are written to by `run`."""

def run(plan: Plan, data: int, /) -> float:
    """`data`: the address of CPU memory, from `Tensor.data_ptr()`."""

def all_differ(extremes: NDArray[float32], /) -> bool: ...
def occupied(bins: NDArray[int32], /) -> tuple[bytes, bytes]: ...
def digest(words: int, count: int, factors: NDArray[int32], /) -> int:
    """`words`: the address of CPU memory, a multiple of 4."""

def alone() -> None: ...
