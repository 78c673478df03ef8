"""Runs a grid: builds each network, sends one batch through it and back, and keeps the profile."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from propscope.errors import InputError
from propscope.measure.recorder import Recorder
from propscope.measure.sites import Options
from propscope.networks import MLP, InputBatch, make_input, split_list, stream
from propscope.results.network import NetworkProfile
from propscope.results.profile_set import ProfileSet
from propscope.sweep.grid import RANDOM_CLASSES, Cell, Grid, canonical


def run(grid: Grid) -> Iterator[NetworkProfile]:
    """Yield the profile of each cell of the grid, in the order of `Grid.cells`.

    Nothing is drawn from torch's global generator. Overflow inside a network is a result, not an error.
    """

    # Every pair meets the same inputs, so that a difference between pairs is the pairs'.
    @lru_cache(maxsize=64)
    def batch_for(features: int | None, seed: int) -> InputBatch:
        _check_memory(grid, features)
        return make_input(
            grid.input,
            batch=grid.batch,
            features=features,
            scale=grid.scale,
            seed=seed,
            dtype=grid.torch_dtype,
            device=grid.device,
        )

    for cell in grid.cells():
        yield _profile(grid, cell, batch_for(cell.network.input_size, cell.seed))


def _profile(grid: Grid, cell: Cell, batch: InputBatch) -> NetworkProfile:
    from dataclasses import replace

    network = replace(cell.network, input_size=batch.values.shape[1])
    if grid.loss == "cross-entropy" and network.output_size is None:
        network = replace(network, output_size=_classes(batch))
    net = network.build(seed=cell.seed, device=grid.device, dtype=grid.torch_dtype)
    activations = [layer.activation for layer in net.layers]
    recorder = Recorder(
        net,
        options=Options(histogram_limit=grid.histogram_limit),
        activations=activations,  # a user's own class is a nonlinearity here because the spec says so
        layer_of=_layer_of,
    )
    # Dropout is the only draw in a forward pass.
    with torch.random.fork_rng(devices=_cuda(grid.device)):
        torch.manual_seed(cell.seed)
        with recorder:
            _backward(net, batch, grid, cell)
    return recorder.profile(labels=cell.labels, spec=grid.spec(cell), seed=cell.seed)


def _backward(net: MLP, batch: InputBatch, grid: Grid, cell: Cell) -> None:
    output = net(batch.values)
    generator = stream(cell.seed, "targets", grid.loss)
    if grid.loss == "cotangent":
        drawn = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        output.backward(drawn.to(output))
        return
    if grid.loss == "cross-entropy":
        nn.functional.cross_entropy(output, _class_targets(batch, output, generator)).backward()
        return
    nn.functional.mse_loss(output, _regression_targets(batch, output, generator)).backward()


def _classes(batch: InputBatch) -> int:
    return RANDOM_CLASSES if batch.targets is None else int(batch.targets.max()) + 1


def _class_targets(batch: InputBatch, output: Tensor, generator: torch.Generator) -> Tensor:
    if batch.targets is None:
        return torch.randint(output.shape[1], (len(output),), generator=generator).to(output.device)
    if int(batch.targets.max()) >= output.shape[1]:
        raise InputError(
            f"output_size is {output.shape[1]}, but the labels of {batch.name} go up to {int(batch.targets.max())}",
            hint="leave output_size out, or make it larger",
        )
    return batch.targets


def _regression_targets(batch: InputBatch, output: Tensor, generator: torch.Generator) -> Tensor:
    if batch.targets is not None and output.shape[1] > int(batch.targets.max()):
        return nn.functional.one_hot(batch.targets, output.shape[1]).to(output)
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) + 1 if parts[0] == "layers" and len(parts) > 1 else None


def _cuda(device: str) -> list[int]:
    place = torch.device(device)
    return [place.index or 0] if place.type == "cuda" else []


def _check_memory(grid: Grid, features: int | None) -> None:
    """Refuse what cannot fit before the system ends the process for it."""
    if torch.device(grid.device).type != "cpu" or not hasattr(os, "sysconf"):
        return
    cell = next(grid.cells())
    values = grid.batch * (sum(cell.network.widths) * 2 + (features or 0))
    needed = values * grid.torch_dtype.itemsize + 2 * cell.network.parameter_bytes(grid.torch_dtype)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > total:
        raise InputError(
            f"depth {cell.network.depth}, width {cell.network.width_label}, batch {grid.batch} need "
            f"{needed / 1e9:,.1f} GB; this machine has {total / 1e9:.1f} GB",
            hint="choose a smaller width, depth or batch",
        )


def profile_mlp(
    depth: int | Sequence[int] = 20,
    width: int | Sequence[int | tuple[int, ...]] = 256,
    *,
    activation: str | Sequence[str] = "relu",
    initializer: str | Sequence[str] = "he_normal",
    seeds: int | Sequence[int] = 5,
    batch: int = 256,
    input: str = "normal",
    scale: str | None = None,
    **options: Any,
) -> ProfileSet:
    """Profile an MLP for every combination of the axes: depth, width, activation, initializer, seed.

    Each axis takes one value or a list; `activation` and `initializer` also a comma-separated string. A tuple within
    the widths gives each layer's width: [(256, 64)] tapers. `seeds`: a number of seeds, from 0, or a list. `options`
    are those of `sweep.Grid`: loss, input_size, output_size, bias, norm, residual, dropout, alpha_dropout, dtype,
    device, histogram_limit. Raises `InputError` for anything that is not valid.
    """
    return ProfileSet.of(
        run(
            make_grid(
                depth=depth,
                width=width,
                activation=activation,
                initializer=initializer,
                seeds=seeds,
                batch=batch,
                input=input,
                scale=scale,
                **options,
            )
        )
    )


def make_grid(
    *,
    depth: int | Iterable[int],
    width: int | Iterable[int | tuple[int, ...]],
    activation: str | Iterable[str],
    initializer: str | Iterable[str],
    seeds: int | Iterable[int],
    **options: Any,
) -> Grid:
    """Return the grid of what a user wrote: single values and comma-separated text become axes."""
    unknown = set(options) - set(Grid.__dataclass_fields__)
    if unknown:
        raise InputError(
            f"unknown option {', '.join(sorted(unknown))}; valid are {', '.join(list(Grid.__dataclass_fields__)[5:])}"
        )
    return Grid(
        activation=canonical(_names(activation), "activation"),
        initializer=canonical(_names(initializer), "initializer"),
        depth=_axis(depth),
        width=_axis(width),
        seeds=_seeds(seeds),
        **options,
    )


def _names(value: str | Iterable[str]) -> tuple[str, ...]:
    return tuple(split_list(value)) if isinstance(value, str) else tuple(value)


def _axis(value: Any) -> tuple[Any, ...]:
    listed = tuple(value) if isinstance(value, (list, tuple, range)) else (value,)
    return tuple(dict.fromkeys(tuple(item) if isinstance(item, list) else item for item in listed))


def _seeds(value: int | Iterable[int]) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise InputError(f"seeds is {value}; valid is a number of seeds of at least 1, or a list of seeds")
        return tuple(range(value))
    return _axis(value)
