"""The options that say which model of a target is run, on what input and with which loss."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

MODEL, INPUT = "Model of a TARGET", "Input and loss of a TARGET"

Arg = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--arg", help="name=value, an argument of the callable; repeatable.", rich_help_panel=MODEL),
]
Config = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--config", help="name=value,...: configuration of a model of transformers.", rich_help_panel=MODEL),
]
Checkpoint = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--checkpoint", help="Weights to load: a state_dict, with weights_only.", rich_help_panel=MODEL),
]
Train = Annotated[bool, typer.Option("--train/--eval", help="Mode of the model.", rich_help_panel=MODEL)]
Dtype = Annotated[str, typer.Option("--dtype", help="float32, float64, bfloat16 or float16.", rich_help_panel=MODEL)]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, mps.", rich_help_panel=MODEL)]
InputShape = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--input-shape", help="Shape to draw, 8,3,32,32; again for each further argument.", rich_help_panel=INPUT
    ),
]
InputKind = Annotated[
    str, typer.Option("--input-kind", help="float (N(0, 1)), tokens or image (smooth noise).", rich_help_panel=INPUT)
]
InputFile = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option("--input", help=".pt or .npy file: a tensor, a tuple or a dict of arguments.", rich_help_panel=INPUT),
]
Loss = Annotated[
    str,
    typer.Option("--loss", help="cotangent (N(0, 1) at the output), cross-entropy, mse or sum.", rich_help_panel=INPUT),
]
Batches = Annotated[int, typer.Option("--batches", help="Batches drawn for each seed.", rich_help_panel=INPUT)]
Include = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--include", help="Record only sites whose name has this regular expression.", rich_help_panel=INPUT),
]
Exclude = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--exclude", help="Record no site whose name has it.", rich_help_panel=INPUT),
]
