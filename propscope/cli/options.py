"""Options that several commands share, and how the text of an option becomes a value."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli.loudness import detail, timed
from propscope.errors import InputError
from propscope.printable import printable
from propscope.ranges import real_numbers, whole_numbers

if TYPE_CHECKING:
    from propscope.plots.table import Choice, Plot
    from propscope.records import ProfileSet, TrainingSet
    from propscope.records.finding import Stage

# The headings under which --help lists the options.
NETWORK, MODEL, INPUT, RUN = "Network", "Model", "Input and loss", "Run"
RESULTS, SELECTION, VIEW, JUDGEMENT = "Results", "Selection", "View", "Judgement"


def option(help: str, heading: str, *flags: str, metavar: str | None = None) -> Any:
    """Return an option that --help lists under a heading; without `flags` it is named as its parameter."""
    return typer.Option(*flags, help=help, metavar=metavar, rich_help_panel=heading)


# A result file, and which of its networks

File = Annotated[Path, typer.Argument(metavar="FILE", help="Result file (.h5).", show_default=False)]


@dataclass(frozen=True, slots=True)
class Selection:
    """The networks of a result file that a command is about, as typed."""

    act: Annotated[str | None, option("Only these activations.", SELECTION, metavar="LIST")] = None
    init: Annotated[str | None, option("Only these initializers.", SELECTION, metavar="LIST")] = None
    depth: Annotated[str | None, option("Only these depths.", SELECTION, metavar="LIST")] = None
    width: Annotated[str | None, option("Only these widths.", SELECTION, metavar="LIST")] = None
    seed: Annotated[str | None, option("Only these seeds.", SELECTION, metavar="LIST")] = None
    step: Annotated[
        str | None, option("Only the samples of these steps of a monitored run.", SELECTION, metavar="LIST")
    ] = None

    def labels(self) -> dict[str, list[str | int]]:
        """Return the labels that are asked for; raises `InputError`."""
        labels: dict[str, list[str | int]] = {}
        for name, text in (("activation", self.act), ("initializer", self.init)):
            if text is not None:
                labels[name] = [part.strip() for part in text.split(",")]
        for name in ("depth", "seed", "step"):
            if (text := getattr(self, name)) is not None:
                labels[name] = list(numbers(text, f"--{name}"))
        if self.width is not None:
            # Python refuses to read thousands of digits.
            labels["width"] = [
                int(part) if part.isdecimal() and len(part) < 100 else part
                for part in map(str.strip, self.width.split(","))
            ]
        return labels

    def load(self, file: Path) -> ProfileSet | TrainingSet:
        """Return the profiles or training runs of a file that are asked for.

        What is chosen of a monitored run are samples, each a network of its own.
        """
        from propscope.records import MonitoredRun, ProfileSet
        from propscope.store import load

        labels = self.labels()
        with warnings_as_lines(), timed(f"reading {file}"):
            found = load(file, **labels)
        detail(f"{len(found)} entries with {labels or 'any label'}")
        return ProfileSet(tuple(found)) if isinstance(found, MonitoredRun) and labels else found


# How it is judged

JudgedStage = Annotated[
    str | None,
    option("Judge as weights that are initialized, trained or unknown. [default: what the weights show]", JUDGEMENT),
]

# What is written and printed

Output = Annotated[
    Path | None, option("Result file to write. [default: a new name in outputs/]", RESULTS, "--output", "-o")
]
Plots = Annotated[
    str | None,
    option(
        "Plots beside the file: main, all, none or the names that `propscope plot --help` lists. "
        "[default: all of up to 24 pairs, else main]",
        RESULTS,
        metavar="LIST",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Resume = Annotated[
    Path | None,
    option(
        "Continue the stopped run of this result file; give the other options as for that run.",
        RESULTS,
        "--resume",
        metavar="FILE",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")]

# The MLPs of a grid

Depths = Annotated[str, option("Numbers of hidden layers.", NETWORK, metavar="LIST")]
Widths = Annotated[
    str, option("Units per layer; 256-128-64 gives each of three layers its own.", NETWORK, metavar="LIST")
]
Activations = Annotated[str, option("Activations, or all; see `propscope list`.", NETWORK, metavar="LIST")]
Seeds = Annotated[int, option("Number of seeds; each draws new weights and data.", NETWORK)]
Bias = Annotated[
    float | None, option("Standard deviation of the biases. [default: 0, or as the initializer sets it]", NETWORK)
]
BiasVariance = Annotated[str | None, option("Variances of the biases, instead of --bias.", NETWORK, metavar="LIST")]
Gains = Annotated[str | None, option("Factors on the weights of every initializer.", NETWORK, "--gain", metavar="LIST")]
WeightVariance = Annotated[
    str | None,
    option("sigma_w^2 = fan_in Var[W], to which the initializer's weights are scaled.", NETWORK, metavar="LIST"),
]
Norms = Annotated[
    str, option("Normalizations before each activation: none, batch, layer, rms.", NETWORK, "--norm", metavar="LIST")
]
Residual = Annotated[bool, option("Add the input of each layer to its output.", NETWORK, "--residual")]
ResidualScale = Annotated[
    str | None,
    option("Residual layers with these factors on the branch: numbers, 1/sqrt(L), none.", NETWORK, metavar="LIST"),
]
Dropout = Annotated[float, option("Dropout probability after each activation.", NETWORK)]
AlphaDropout = Annotated[float, option("AlphaDropout probability; it keeps mean and variance (for selu).", NETWORK)]
UnitsPerLayer = Annotated[int, typer.Option(help="Units per layer, for initializers with a fixed standard deviation.")]

# Where they run

Workers = Annotated[
    int | None, option("Networks at the same time, one thread each. [default: as many as cores help]", RUN)
]
Engine = Annotated[str, option("joblib (processes on this machine), or dask:ADDRESS, a cluster by its scheduler.", RUN)]

# The model of a target, what it is run on and with which loss

TARGETS = "module:callable, file.py:callable, timm:NAME, torchvision:NAME or transformers:Class"

Arg = Annotated[list[str] | None, option("Keyword argument for the callable; repeatable.", MODEL, metavar="NAME=VALUE")]
Config = Annotated[
    str | None,
    option(
        "Configuration values for a model class of transformers; tiny, or tiny,NAME=VALUE,... makes it small.",
        MODEL,
        metavar="NAME=VALUE,...",
    ),
]
Checkpoint = Annotated[
    Path | None, option("Weights to load: a state_dict saved by torch.save, read with weights_only=True.", MODEL)
]
Train = Annotated[bool, option("Mode of the model.", MODEL, "--train/--eval")]
InputShape = Annotated[
    list[str] | None,
    option(
        "Shape of a random input, e.g. 8,3,32,32, or of a keyword argument, input_ids=8,32; repeat it for several. "
        "[default: what timm, torchvision, transformers or Lightning say of the model]",
        INPUT,
        metavar="SHAPE",
    ),
]
InputKind = Annotated[
    str | None,
    option(
        "Kind of random input: float (N(0, 1)), tokens, image (smooth noise) or ones. "
        "[default: tokens for names such as input_ids, ones for masks, else float]",
        INPUT,
    ),
]
InputFile = Annotated[
    Path | None,
    option(
        "Input from a .pt, .npy or .npz file: a tensor or array, a tuple of arguments, or a dict of keyword arguments.",
        INPUT,
    ),
]
Batches = Annotated[int, option("Input batches per seed.", INPUT)]
Loss = Annotated[str, option("cotangent (an N(0, 1) gradient at the output), cross-entropy, mse or sum.", INPUT)]
Dtype = Annotated[str, option("float32, float64, bfloat16 or float16.", RUN)]
Dtypes = Annotated[str, option("float32, float64, bfloat16, float16.", RUN, "--dtype", metavar="LIST")]
Device = Annotated[str, option("cpu, cuda or mps.", RUN)]
Include = Annotated[str | None, option("Record only sites whose name matches this regular expression.", RUN)]
Exclude = Annotated[str | None, option("Leave out sites whose name matches this regular expression.", RUN)]


def numbers(text: str, option: str) -> list[int]:
    """Return the whole numbers of a list of numbers and ranges; raises `InputError` naming the option."""
    return list(whole_numbers(option, text))


def decimals(text: str, option: str) -> list[float]:
    """Return the numbers of a list of numbers and ranges; raises `InputError` naming the option."""
    return list(real_numbers(option, text))


# What --weight-variance scales where no initializer is named: weights N(0, sigma_w^2 / fan_in).
SCALED_INITIALIZER = "normal"


def swept(
    *,
    init: str | None,
    usual: str,
    gain: str | None,
    weight_variance: str | None,
    bias_variance: str | None,
    residual: bool,
    residual_scale: str | None,
) -> dict[str, Any]:
    """Return the axes of a grid that these options set; `usual`: the initializers by default. Raises `InputError`."""
    if residual and residual_scale is not None:
        raise InputError("--residual and --residual-scale cannot both be given", hint="leave --residual out")
    factors = {"gain": gain, "weight_variance": weight_variance, "bias_variance": bias_variance}
    axes: dict[str, Any] = {
        name: real_numbers(f"--{name.replace('_', '-')}", text) for name, text in factors.items() if text is not None
    }
    usual = usual if weight_variance is None else SCALED_INITIALIZER
    axes["residual"] = residual if residual_scale is None else residual_scale
    return axes | {"initializer": usual if init is None else init}


def unused_path(stem: str, ending: str) -> Path:
    """Return a path in outputs/ that does not exist: `stem` with the ending, numbered from the second on."""
    for number in range(1, 100_000):
        path = Path("outputs") / (f"{stem}{ending}" if number == 1 else f"{stem}-{number}{ending}")
        if not path.exists():
            return path
    raise InputError(f"outputs/ already has 100,000 files named {stem}", hint="choose another name with --output")


def check_picture(path: Path, *, overwrite: bool) -> None:
    """Raise `InputError` or `StoreError` where a picture cannot be written under the name that was typed."""
    from propscope.plots import FORMATS
    from propscope.store import check_output

    if path.suffix[1:] not in FORMATS:
        raise InputError(f'--output must end in one of .{", .".join(FORMATS)}, got "{path!s}"')
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists", hint="add --overwrite to replace it, or choose another name")
    check_output(path, overwrite=overwrite)


def short_name(spec: str) -> str:
    """Return what a file name says of a spec: its name, and of the user's own file.py:callable the file's."""
    return Path(spec.split(":")[0]).stem


def plots_of(text: str | None, plots: Sequence[Plot]) -> Choice | list[str] | None:
    """Return what --plots asks for of these plots: a choice, their names, or None where it is not given.

    Raises `InputError`.
    """
    from propscope.errors import unknown_name
    from propscope.plots.table import CHOICES

    if text is None or text in CHOICES:
        # A choice or None.
        return text  # type: ignore[return-value]
    named, known = [part.strip() for part in text.split(",")], [plot.name for plot in plots]
    for name in named:
        if name not in known:
            raise unknown_name("plot", name, known, also=", and alone main, all or none")
    return named


def stage_of(text: str | None) -> Stage | None:
    """Return the stage that --stage names, None where it is not given; raises `InputError`."""
    from propscope.checks import one_of
    from propscope.records.finding import STAGES

    # The check leaves nothing but a stage.
    return None if text is None else one_of("--stage", text, STAGES)  # type: ignore[return-value]


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings as lines on stderr, without a place in the code."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        yield
    for warning in found:
        print(printable(str(warning.message)), file=sys.stderr)
