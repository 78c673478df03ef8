"""`propscope profile`: a grid of MLPs, measured, stored, tabulated and drawn."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from propscope.cli.options import Json, Overwrite, numbers, short_name, unused_file
from propscope.errors import PropscopeError

if TYPE_CHECKING:
    from propscope.experiments import Grid
    from propscope.records import NetworkProfile, ProfileSet

_NETWORK, _INPUT, _OUTPUT = "Network", "Input and loss", "Results"


def profile(
    depth: Annotated[str, typer.Option(help="Layers; a comma-separated list.", rich_help_panel=_NETWORK)] = "20",
    width: Annotated[
        str, typer.Option(help="Units a layer; 256-64 tapers; a comma-separated list.", rich_help_panel=_NETWORK)
    ] = "256",
    act: Annotated[
        str, typer.Option(help="Activations, comma-separated; see `propscope list`.", rich_help_panel=_NETWORK)
    ] = "relu",
    init: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Initializers, comma-separated. [default: all that suit a square MLP]"),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 5,
    bias: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Standard deviation of the biases. [default: zeros, or the initializer's own]"),
    ] = None,
    norm: Annotated[str, typer.Option(help="none, batch, layer or rms, on the pre-activation.")] = "none",
    residual: Annotated[bool, typer.Option("--residual", help="Add each layer to the one before.")] = False,
    dropout: Annotated[float, typer.Option(help="Probability, after each activation.")] = 0.0,
    alpha_dropout: Annotated[float, typer.Option(help="The same, keeping mean and variance (for selu).")] = 0.0,
    input: Annotated[
        str, typer.Option(help="normal, uniform:low=-1:high=1, mixed, digits, or a .npy or .pt file.")
    ] = "normal",
    scale: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="zscore, minmax or none, per feature of the input."),
    ] = None,
    batch: Annotated[int, typer.Option(help="Rows of input.")] = 256,
    input_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Features of the input. [default: the width, or what the data has]"),
    ] = None,
    output_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Add a linear readout with this many outputs."),
    ] = None,
    loss: Annotated[
        str, typer.Option(help="cotangent (a random unit-variance gradient at the output), mse or cross-entropy.")
    ] = "cotangent",
    jacobian: Annotated[
        bool, typer.Option("--jacobian", help="Take the singular values of the Jacobian at every layer; slower.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="float32, float64, bfloat16 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, mps.")] = "cpu",
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", "-o", help="Result file. [default: a new name in outputs/]"),
    ] = None,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw the pictures beside the file.")] = True,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Compare initializers on deep MLPs: record every layer, store it, print a table, draw the curves."""
    started = time.perf_counter()
    wanted = {
        "depth": numbers(depth, "--depth"),
        "seeds": seeds,
        "batch": batch,
        "bias": bias,
        "norm": norm,
        "residual": residual,
        "dropout": dropout,
        "alpha_dropout": alpha_dropout,
        "input": input,
        "scale": scale,
        "input_size": input_size,
        "output_size": output_size,
        "loss": loss,
        "jacobian": jacobian,
        "dtype": dtype,
        "device": device,
    }
    grid = _grid(width, act, init, wanted)
    profiles, stopped = _measure(grid, output, overwrite=overwrite, quiet=json)
    if profiles:
        # Only now: another run may have taken a name meanwhile.
        path = output or _unused(grid)
        _keep(profiles, path, plots=plots, overwrite=overwrite, json=json, started=started)
    if isinstance(stopped, KeyboardInterrupt) or (stopped and profiles):
        kept = "; those are kept" if profiles else ""
        print(f"stopped after {len(profiles)} of {len(grid)} networks{kept}", file=sys.stderr)
    if isinstance(stopped, KeyboardInterrupt):
        raise typer.Exit(130)
    if stopped:
        raise stopped


def _grid(width: str, act: str, init: str | None, options: dict[str, object]) -> Grid:
    from propscope.experiments import make_grid
    from propscope.networks import SQUARE_DEFAULTS, parse_width

    return make_grid(
        width=[parse_width(part) for part in width.split(",")],
        activation=act,
        initializer=SQUARE_DEFAULTS if init is None else init,
        **options,  # type: ignore[arg-type]
    )


def _measure(
    grid: Grid, output: Path | None, *, overwrite: bool, quiet: bool
) -> tuple[ProfileSet, KeyboardInterrupt | PropscopeError | None]:
    """Return the finished profiles, and what stopped the run before its end."""
    from tqdm import tqdm

    from propscope.experiments import run
    from propscope.records import ProfileSet
    from propscope.store import check_target

    profiles = run(grid)
    # After everything that may be wrong with what was asked for, and before any work.
    check_target(output or _unused(grid), overwrite=overwrite)
    done: list[NetworkProfile] = []
    silent = quiet or not sys.stderr.isatty()
    try:
        for profile in tqdm(profiles, total=len(grid), unit="net", disable=silent, leave=False, file=sys.stderr):
            done.append(profile)  # noqa: PERF402  an interrupt must find what is finished
    except (KeyboardInterrupt, PropscopeError) as error:
        return ProfileSet.of(done), error
    return ProfileSet.of(done), None


def _keep(profiles: ProfileSet, path: Path, *, plots: bool, overwrite: bool, json: bool, started: float) -> None:
    from propscope.report.documents import grid_document, print_grid, print_json
    from propscope.store import save

    save(path, profiles, overwrite=overwrite)
    pictures: list[Path] = []
    if plots:
        from propscope.plots import draw_all

        # The file is new or was to be replaced, so pictures of its name are an earlier run's.
        pictures = draw_all(profiles, path.parent, stem=path.stem, overwrite=True)
    seconds = time.perf_counter() - started
    if json:
        document = {"file": str(path), "pictures": [str(picture) for picture in pictures], "seconds": seconds}
        print_json({"pairs": grid_document(profiles), **document})
        return
    print_grid(profiles)
    print(f"\nfile      {path}")
    for number, picture in enumerate(pictures):
        print(f"{'' if number else 'pictures':10}{picture}")
    print(f"{len(profiles)} network{'s' * (len(profiles) != 1)} in {seconds:.1f} s")


def _unused(grid: Grid) -> Path:
    names = map(short_name, grid.activation[:3])
    return unused_file("-".join(["mlp", *names, *(f"d{depth}" for depth in grid.depth[:3])]))
