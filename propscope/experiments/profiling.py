"""`profile_mlp` and `run`: each network of a grid is built, sent one batch forward and backward, and profiled."""

from __future__ import annotations

import json
from collections.abc import Collection, Generator, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from propscope.errors import InputError, OutOfMemoryError
from propscope.experiments.engine import (
    JOBLIB,
    Extent,
    Outcome,
    Outline,
    Recipe,
    engine_for,
    outcomes,
    without_failures,
)
from propscope.experiments.grid import RANDOM_CLASSES, Cell, Choice, Grid, make_grid
from propscope.experiments.predictions import Theory, theory_for
from propscope.measure.joint_backward import backward_with
from propscope.measure.recorder import Recorder
from propscope.measure.signal_graph import Traced
from propscope.measure.sites import Options
from propscope.networks import (
    MLP,
    InputBatch,
    Layer,
    MLPSpec,
    global_stream,
    make_input,
    seeded_generator,
)
from propscope.records.network import Label, NetworkProfile, Site
from propscope.records.profile_set import ProfileSet
from propscope.records.stored_spec import read_spec
from propscope.records.uncollected import uncollected
from propscope.spectra.jacobian import jacobian
from propscope.theory.initialization import critical_initializer

# So many graphs of networks are kept at once.
_MOST_GRAPHS = 8
_WEIGHTS = ("initializer", "bias", "gain", "weight_variance", "bias_variance")
_NO_MEMORY = ("out of memory", "allocate memory", "enough memory")


def typed_work(**options: Any) -> GridWork:
    """Return the profiles of the grid that these options of `make_grid` describe; raises `InputError`."""
    return GridWork(make_grid(**options))


class GridWork:
    """The networks of a grid, profiled: number n is the n-th of `Grid.cells`.

    Nothing is drawn from torch's global generator. Overflow inside a network is a result, not an error. Raises
    `InputError` when the input cannot be made, and `run` does when a network does not fit in memory after all.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.batch_for = lru_cache(maxsize=64)(self._batch_for)
        self._pairs = tuple(grid.pairs())
        first = self.cell(0)

        def first_of(batch: int, seed: int) -> InputBatch:
            return self.batch_for(first.network.input_size, seed, batch, first.torch_dtype)

        if "batch" in grid.norm and any(len(first_of(batch, grid.seeds[0]).values) < 2 for batch in grid.batch):
            raise InputError("batch must have at least two rows for norm batch, got 1", hint="choose another norm")
        self._classes = _classes(grid, (first_of(batch, seed) for batch in grid.batch for seed in grid.seeds))
        self._theory, self._graphs = theory_for(grid.loss), _Graphs({})

    @property
    def extent(self) -> Extent:
        """How much work there is."""
        grid = self.grid
        # What is recorded takes about as long as the pass, and the Jacobian ten times as long.
        often = (12 if grid.jacobian else 2) * len(grid.seeds)
        each = (network.seconds_of_a_pass(batch) for network, batch, _ in self._pairs)
        return Extent(len(grid), often * sum(each), parallel=torch.device(grid.device).type == "cpu")

    @property
    def outline(self) -> Outline:
        """What a command has to know of the run."""
        grid = self.grid
        names = tuple(activation.label for activation in grid.activation)
        return Outline(len(grid), len(self._pairs), names, grid.depth, {"command": "profile", **grid.description()})

    def labels(self, number: int) -> dict[str, Label]:
        """Return the labels of a network's profile."""
        return self.cell(number).labels

    def all_labels(self) -> list[dict[str, Label]]:
        """Return the labels of every network, by number."""
        return [self.labels(number) for number in range(self.extent.networks)]

    def cell(self, number: int) -> Cell:
        """Return a network with its seed."""
        pair, seed = divmod(number, len(self.grid.seeds))
        return self.grid.cell(self._pairs[pair], self.grid.seeds[seed])

    def run(self, number: int) -> NetworkProfile:
        """Return the profile of a network."""
        cell = self.cell(number)
        batch = self.batch_for(cell.network.input_size, cell.seed, cell.batch, cell.torch_dtype)
        return _profile(self.grid, cell, batch, self._classes, self._theory, self._graphs)

    # Every pair gets the same inputs, so that only the pairs themselves differ.
    @torch.inference_mode(False)
    def _batch_for(self, features: int | None, seed: int, batch: int, dtype: torch.dtype) -> InputBatch:
        grid = self.grid
        return make_input(
            grid.input, batch=batch, features=features, scale=grid.scale, seed=seed, dtype=dtype, device=grid.device
        )


def run(
    grid: Grid, *, workers: int | None = None, engine: str = JOBLIB, leave_out: Collection[int] = ()
) -> Generator[Outcome, None, None]:
    """Yield the number of each of the grid's cells (of `Grid.cells`) with its profile, as it is finished, in any order.

    `workers`, `engine`: see `engine_for`; the profiles depend on neither. The cells whose number is in `leave_out` are
    left out. A network that fails twice has a `Failure` in place of its profile. Closing the iterator ends every
    worker. Raises `InputError`, where the grid or its input are not valid at once.
    """
    chosen = engine_for(Recipe(f"{__name__}:GridWork", {"grid": grid}), engine=engine, workers=workers)
    return outcomes(chosen, leave_out=leave_out)


def profiled(grid: Grid, *, workers: int | None = None, engine: str = JOBLIB) -> ProfileSet:
    """Return the profiles of `run` in the grid's order, and warn of networks that failed."""
    found = dict(run(grid, workers=workers, engine=engine))
    return ProfileSet.of(without_failures(found, lambda: GridWork(grid)).values())


@dataclass(frozen=True, slots=True)
class _Graphs:
    """What was traced of the networks that ran last, by all of their spec but the weights, which change no graph."""

    known: dict[tuple[object, ...], Traced]

    def of(self, network: MLPSpec) -> Traced | None:
        """Return the graph of a network that another one had."""
        return self.known.get(_without_weights(network))

    def keep(self, network: MLPSpec, traced: Traced) -> None:
        """Keep the graph of a network for the next ones; a user's own activation may call other things each time."""
        if network.activation.custom:
            return
        if len(self.known) >= _MOST_GRAPHS:
            self.known.clear()
        self.known[_without_weights(network)] = traced


def _without_weights(network: MLPSpec) -> tuple[object, ...]:
    return tuple(getattr(network, one.name) for one in fields(network) if one.name not in _WEIGHTS)


# The caller may have switched gradients off.
@torch.inference_mode(False)
@torch.enable_grad()
@uncollected()
def _profile(
    grid: Grid, cell: Cell, batch: InputBatch, classes: int | None, theory: Theory, graphs: _Graphs
) -> NetworkProfile:
    cell = replace(cell, network=at_criticality(cell.network, batch.values))
    network = replace(cell.network, input_size=batch.values.shape[1])
    if grid.loss == "cross-entropy" and network.output_size is None:
        network = replace(network, output_size=classes or RANDOM_CLASSES)
    try:
        net = network.build(seed=cell.seed, device=grid.device, dtype=cell.torch_dtype)
        recorder = recorder_of(net, histogram_limit=grid.histogram_limit, traced=graphs.of(network))
        # Dropout is the only draw in a forward pass.
        with global_stream(seeded_generator(cell.seed, "dropout"), (torch.device(grid.device),)), recorder:
            _backward(net, batch, grid, cell, classes)
        profile = recorder.profile(labels=cell.labels, spec=grid.spec(cell), seed=cell.seed)
        if not profile.coverage:
            graphs.keep(network, recorder.traced)
        profile = theory(profile, network, batch.values)
        if grid.jacobian:
            with global_stream(seeded_generator(cell.seed, "dropout"), (torch.device(grid.device),)):
                profile = _with_jacobian(profile, net, batch.values, samples=grid.jacobian, seed=cell.seed)
    except InputError:
        raise
    except Exception as error:
        if (problem := problem_of(error, network, cell.batch)) is None:
            raise
        raise problem from error
    return profile


def recorder_of(net: MLP, *, histogram_limit: int, traced: Traced | None = None) -> Recorder:
    """Return a recorder that knows an MLP's layers and nonlinearities, and its graph where it is `traced`."""
    return Recorder(
        net,
        options=Options(histogram_limit=histogram_limit),
        # A user's own class is a nonlinearity here because the spec says so.
        activations=[layer.activation for layer in net.layers if isinstance(layer, Layer)],
        layer_of=_layer_of,
        functions=False,
        traced=traced,
    )


def at_criticality(network: MLPSpec, values: Tensor) -> MLPSpec:
    """Return the network with the numbers that `critical` has for its activation and this input.

    `values`: the input, shape (rows, features). A network with any other initializer is returned unchanged.
    """
    if network.initializer.name != "critical":
        return network
    mean_square = float(values.double().square().mean())
    found = critical_initializer(
        network.initializer, network.activation, bias=network.bias_std, mean_square=mean_square
    )
    return replace(network, initializer=found)


def problem_of(error: Exception, network: MLPSpec, batch: int) -> InputError | None:
    """Return the error to show a user for one that a network raised; None where propscope itself is at fault."""
    # torch has no one type for this: its CPU allocator raises a bare RuntimeError.
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return OutOfMemoryError(
            f"depth {network.depth}, width {network.width_label}, batch {batch} ran out of memory",
            hint="choose a smaller width, depth or batch",
        )
    if network.activation.custom:
        problem = " ".join(str(error).split())
        return InputError(
            f'activation "{network.activation.label}" failed on a tensor of shape ({batch}, {network.widths[0]}) '
            f"({type(error).__name__}: {problem})",
            hint="give an nn.Module class, or an elementwise, differentiable function of a tensor",
        )
    return None


def _backward(net: MLP, batch: InputBatch, grid: Grid, cell: Cell, classes: int | None) -> None:
    output = net(batch.values)
    generator = seeded_generator(cell.seed, "targets", grid.loss)
    if grid.loss == "cotangent":
        backward_with([output], [_drawn(output, generator)])
    elif grid.loss == "cross-entropy":
        labels = batch.targets
        if labels is None:
            labels = torch.randint(output.shape[1], (len(output),), generator=generator).to(output.device)
        torch.autograd.backward(nn.functional.cross_entropy(output, labels))
    else:
        target = _drawn(output, generator)
        if batch.targets is not None and classes is not None and output.shape[1] >= classes:
            target = nn.functional.one_hot(batch.targets, output.shape[1]).to(output)
        torch.autograd.backward(nn.functional.mse_loss(output, target))


def _drawn(output: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)


def _classes(grid: Grid, batches: Iterable[InputBatch]) -> int | None:
    """Return the number of classes in the labels of all seeds together, so that every seed gets the same network."""
    largest = -1
    for batch in batches:
        if batch.targets is None:
            return None
        largest = max(largest, int(batch.targets.max()))
    if grid.loss == "cross-entropy" and grid.output_size is not None and largest >= grid.output_size:
        raise InputError(
            f"output_size must be at least {largest + 1} for the labels of {grid.input}, got {grid.output_size}",
            hint="leave output_size out, or make it larger",
        )
    return largest + 1


def _with_jacobian(profile: NetworkProfile, net: MLP, x: Tensor, *, samples: int, seed: int) -> NetworkProfile:
    """Return the profile with the Jacobian's singular values at the pre-activations and the output of `net`.

    The Jacobian is taken for the first `samples` rows of `x`, in float64 where the device has it: float32 cannot
    distinguish the smallest singular values of a product of many layers from 0.
    """
    wide = None if x.device.type == "mps" else torch.float64
    found = jacobian(net, x, samples=samples, dtype=wide, seed=seed)
    taken = {site.name: site for site in found.sites}
    spec = read_spec(profile.provenance) | read_spec(found.provenance)
    return replace(
        profile,
        sites=tuple(_merged(site, taken.get(site.name)) for site in profile.sites),
        coverage=(*profile.coverage, *found.coverage),
        provenance=replace(profile.provenance, spec=json.dumps(spec)),
    )


def _merged(site: Site, taken: Site | None) -> Site:
    if taken is None:
        return site
    return replace(
        site,
        jacobian=taken.jacobian,
        jacobian_condition=taken.jacobian_condition,
        jacobian_square_variance=taken.jacobian_square_variance,
    )


def _layer_of(name: str) -> int | None:
    parts = name.split(".")
    return int(parts[1]) + 1 if parts[0] == "layers" and len(parts) > 1 else None


def profile_mlp(
    depth: int | str | Sequence[int | str] = 20,
    width: int | str | Sequence[int | str | tuple[int, ...]] = 256,
    *,
    activation: Choice | Sequence[Choice] = "relu",
    initializer: Choice | Sequence[Choice] = "he_normal",
    seeds: int | Sequence[int] = 5,
    batch: int | str | Sequence[int | str] = 256,
    input: str = "normal",
    scale: str | None = None,
    workers: int | None = None,
    engine: str = JOBLIB,
    **options: Any,
) -> ProfileSet:
    """Profile an MLP for every combination of the axes: those named here, those in `options`, and the seeds.

    Each axis takes one value, a list, or text as on the command line: `depth="10..50:10"`, `gain="0.5..2:16"`,
    `norm="none,layer"`. An activation is a spec string, a function of a tensor or an nn.Module class; an initializer is
    a spec string or a function that fills a weight in place; "all" stands for every one. A tuple in the list of widths
    gives the width of each layer: [(256, 64)] tapers. `seeds`: how many seeds, from 0, or a list of them.

    `options` are those of `Grid`: the axes gain, weight_variance, bias_variance, norm, residual and dtype, and loss,
    input_size, output_size, bias, dropout, alpha_dropout, device, histogram_limit, jacobian. `workers` and `engine` as
    in `engine_for`. A network that fails twice, as where memory runs out, is left out with a warning. Raises
    `InputError` for an argument that is not valid.
    """
    grid = make_grid(
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
    return profiled(grid, workers=workers, engine=engine)
