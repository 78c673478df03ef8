"""Copies of the weights that are about to change, to restore them bit for bit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from propscope.checks import shown
from propscope.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Saved:
    """A parameter with its original values, and a digest of its values after calibration."""

    name: str
    parameter: nn.Parameter
    original: Tensor
    digest: str

    @property
    def unchanged(self) -> bool:
        """Whether the parameter still has its values after calibration."""
        return digest(self.parameter) == self.digest


class WeightBackup:
    """Keeps a copy of every weight before its first change."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[str, nn.Parameter, Tensor]] = {}

    def keep(self, name: str, parameter: nn.Parameter) -> None:
        """Copy the parameter, unless it was copied before."""
        if id(parameter) not in self._kept:
            self._kept[id(parameter)] = (name, parameter, parameter.detach().clone())

    def restore(self) -> None:
        """Put every copy back."""
        with torch.no_grad():
            for _, parameter, original in self._kept.values():
                parameter.copy_(original)

    def close(self) -> tuple[Saved, ...]:
        """Return the copies, with digests of the current values of the parameters."""
        return tuple(Saved(name, now, before, digest(now)) for name, now, before in self._kept.values())


def restore_all(saved: tuple[Saved, ...]) -> None:
    """Restore all originals; raises `InputError`, and restores none, where a parameter has changed since."""
    changed = [entry.name for entry in saved if not entry.unchanged]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"undo: the weights of {', '.join(map(shown, changed[:3]))}{more} have changed since calibrate; "
            "nothing was restored",
            hint="call undo once, before training or loading a state",
        )
    with torch.no_grad():
        for entry in saved:
            entry.parameter.copy_(entry.original)


def digest(tensor: Tensor) -> str:
    """Return a hash of the dtype, shape and bits of a tensor."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return hashlib.blake2b(repr((tensor.dtype, tuple(tensor.shape))).encode() + content, digest_size=16).hexdigest()
