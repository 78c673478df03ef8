"""Draw the pictures of README.md and of docs/ into outputs/: `python benches/pictures.py`."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from timing import OUTPUTS
from torch import Tensor, nn

import propscope
from propscope.cli.example import examples_folder
from propscope.networks import SQUARE_DEFAULTS
from propscope.networks.spec import load_callable
from propscope.plots import draw_all
from propscope.plots.comparison import draw_comparison, prepare_comparison
from propscope.plots.gallery import write_figure
from propscope.plots.phase_map import draw_phase, prepare_phase
from propscope.plots.style import styled
from propscope.plots.width_check import draw_width_check, prepare_width_check
from propscope.theory.phase import phase_chart

MODELS = examples_folder() / "models.py"


def main() -> None:
    """Draw all pictures."""
    relu = propscope.profile_mlp(depth=20, activation="relu", initializer=SQUARE_DEFAULTS)
    several = propscope.profile_mlp(
        depth=50,
        activation=["relu", "tanh", "sigmoid", "gelu", "selu"],
        initializer=["he_normal", "xavier_normal", "lecun_normal", "orthogonal", "default"],
    )
    expected = propscope.profile_mlp(
        depth=30,
        width=500,
        activation=["relu", "tanh"],
        initializer=["he_normal", "xavier_normal", "orthogonal", "normal:std=0.05", "default"],
        seeds=3,
    )
    spectra = propscope.profile_mlp(
        depth=20,
        width=128,
        activation=["relu", "tanh"],
        initializer=["critical", "orthogonal", "xavier_normal"],
        seeds=2,
        jacobian=True,
    )
    trained = propscope.train_mlp(
        depth=20,
        width=64,
        activation="relu",
        initializer=["he_normal", "xavier_normal", "default", "normal:std=0.05"],
        seeds=3,
        data="digits",
        scale="zscore",
        optimizer="adam",
        learning_rate=1e-3,
        epochs=20,
        profile_every=20,
    )
    drawn = (
        ("readme", relu, "curves"),
        ("readme", several, "overview"),
        ("theory", expected, "curves"),
        ("theory", spectra, "jacobian"),
        ("readme", trained, "learning"),
        ("readme", trained, "signal"),
    )
    with tempfile.TemporaryDirectory() as directory:
        for stem, profiles, name in drawn:
            (picture,) = draw_all(profiles, Path(directory), stem=stem, only=[name])
            print(picture.replace(OUTPUTS / f"{stem}-{name}.png"))
    monitored("overview", "steps")
    explained()
    examples("densities", "lstm", "moons", "symmetry", "ten_layers", "twenty_layers", "weights")
    phase("tanh", OUTPUTS / "theory-phase.png")
    compared(OUTPUTS / "compare.png")
    widths("perceptron", "adam", "standard")
    widths("mup_perceptron", "mup_adam", "mup")


def monitored(*names: str) -> None:
    """Draw pictures of the run that examples/monitor.py makes."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([sys.executable, examples_folder() / "monitor.py"], cwd=directory, check=True, stdout=sys.stderr)
        run = propscope.load(Path(directory, "outputs", "monitored.propscope"))
        for picture in draw_all(run, Path(directory), stem="monitored", only=list(names)):
            print(shutil.move(picture, OUTPUTS / picture.name))


def examples(*names: str) -> None:
    """Draw the pictures of these examples."""
    with tempfile.TemporaryDirectory() as directory:
        for name in names:
            line = sys.executable, examples_folder() / f"{name}.py"
            subprocess.run(line, cwd=directory, check=True, stdout=sys.stderr)
        for picture in Path(directory, "outputs").glob("*.png"):
            print(shutil.move(picture, OUTPUTS / f"docs-{picture.name}"))


def explained() -> None:
    """Draw those pictures of docs/pictures.md that no other page has."""
    shapes = propscope.profile_mlp(
        depth=10, activation="tanh", initializer=["normal:std=0.01", "normal:std=1", "xavier_normal"]
    )
    swept = propscope.profile_mlp(
        depth="10..40:10", width=128, activation="tanh", initializer="xavier_normal", gain="0.5..2:10", seeds=3
    )
    torch.manual_seed(0)
    recurrent = propscope.profile(Reader(), torch.randn(64, 100, 32))
    trained = propscope.train_mlp(
        depth=8, activation="relu", initializer=["he_normal", "default"], seeds=1, epochs=12, profile_every=1
    )
    critical = propscope.train_mlp(
        depth=30,
        activation="tanh",
        initializer="normal",
        weight_variance="0.6..2.4:7",
        seeds=2,
        optimizer="sgd",
        learning_rate=1e-2,
        epochs=15,
    )
    drawn = (
        (shapes, "activations"),
        (swept, "sweep"),
        (propscope.ProfileSet((recurrent,)), "over-time"),
        (trained, "activation-map"),
        (critical, "final-loss"),
    )
    for profiles, name in drawn:
        print(*draw_all(profiles, OUTPUTS, stem="docs", only=[name], overwrite=True))


class Reader(nn.Module):
    """Reads a sequence, and answers at its end."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(32, 64, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the last state says."""
        last: Tensor = self.head(self.lstm(x)[0][:, -1])
        return last


def phase(activation: str, path: Path) -> None:
    """Draw an activation's phase diagram with the initializers of a square network."""
    chart = phase_chart(activation, initializers=SQUARE_DEFAULTS)
    with styled():
        write_figure(draw_phase(prepare_phase(chart, note="initializers for 256 units per layer")), path)
    print(path)


def compared(path: Path) -> None:
    """Draw a network of 12 layers before and after the weights of the sixth are half as large again."""
    torch.manual_seed(0)
    layers = [part for _ in range(11) for part in (torch.nn.Linear(64, 64), torch.nn.Tanh())]
    model, batch = torch.nn.Sequential(*layers, torch.nn.Linear(64, 4)), torch.randn(64, 64)
    before = propscope.profile(model, batch)
    with torch.no_grad():
        model.get_parameter("10.weight").mul_(1.5)
    found = propscope.compare(before, propscope.profile(model, batch))
    prepared = prepare_comparison(replace(found, names=("before", "after")))
    assert prepared is not None
    with styled():
        write_figure(draw_comparison(prepared), path)
    print(path)


def widths(model: str, optimizer: str, expect: str) -> None:
    """Draw the sizes and changes of an example's network against its width."""
    batch = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    make_model = load_callable(f"{MODELS}:{model}", "model")
    trained = load_callable(f"{MODELS}:{optimizer}", "optimizer") if optimizer.startswith("mup") else optimizer
    check = propscope.width_check(make_model, (64, 128, 256, 512), batch, trained, 1e-3, expect=expect)
    path = OUTPUTS / f"width-check-{expect}.png"
    with styled():
        write_figure(draw_width_check(prepare_width_check(check)), path)
    print(path)


if __name__ == "__main__":
    main()
