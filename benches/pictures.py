"""The pictures that the README shows: `python benches/pictures.py` draws them again into outputs/."""

from __future__ import annotations

import tempfile
from pathlib import Path

from timing import OUTPUTS

import propscope
from propscope.networks import SQUARE_DEFAULTS
from propscope.plots import draw_all


def main() -> None:
    """Profile the README's grid and draw its curves and its overview."""
    relu = propscope.profile_mlp(depth=20, activation="relu", initializer=SQUARE_DEFAULTS)
    several = propscope.profile_mlp(
        depth=50,
        activation=["relu", "tanh", "sigmoid", "gelu", "selu"],
        initializer=["he_normal", "xavier_normal", "lecun_normal", "orthogonal", "default"],
    )
    with tempfile.TemporaryDirectory() as directory:
        for profiles, name in ((relu, "curves"), (several, "overview")):
            (picture,) = draw_all(profiles, Path(directory), stem="readme", only=[name])
            print(picture.replace(OUTPUTS / f"readme-{name}.png"))


if __name__ == "__main__":
    main()
