"""What `propscope theory` prints of an activation: tables of gains and fixed points, and one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from propscope.records.numerals import number
from propscope.records.theory import ActivationTheory, NetworkTheory
from propscope.report.table import Block, Table

_GAIN_LEGEND = (
    "gain: weights of variance gain^2 / fan_in keep E[z^2] at 1. torch's: nn.init.calculate_gain, another convention.",
    "critical: sigma_w^2 = fan_in Var[W] and sigma_b^2 = Var[b] with chi_1 = 1 at a fixed point q of the variance.",
)
_POINT_LEGEND = (
    "q*: a variance of the pre-activations that a layer keeps; <- marks the one where an input of mean square 1 ends.",
    "chi_1: the squared gradient's factor per layer at q*; below 1 it vanishes (ordered), above 1 explodes (chaotic).",
    "chi_par: factor of a small change of q per layer; below 1 q* is stable.",
    "xi_q, xi_c: layers over which q, and the correlation of two inputs, come closer to their limit by a factor e.",
    "trainable: 6 xi_c layers, the depth to which plain networks were found to train (Schoenholz et al. 2017).",
)
_GAIN_BRIEF = (
    "gain: weights of variance gain^2 / fan_in keep E[z^2] at 1; critical: chi_1 = 1",
    "at a fixed point q of the variance. Every column: propscope theory --explain",
)
_POINT_BRIEF = (
    "q*: variance that a layer keeps, <- the one reached; chi_1: the squared",
    "gradient's factor per layer. Every column: propscope theory --explain",
)


def theory_tables(found: Sequence[ActivationTheory]) -> list[Block]:
    """Return the table of gains, what theory cannot give and why, and the table of fixed points where there are any.

    Of one activation the table has every fixed point; of several only those that an input of mean square 1 reaches.
    """
    blocks: list[Block] = [_gains(found)]
    without_point = [f"{one.activation} {one.no_critical}" for one in found if one.no_critical]
    without_field = dict.fromkeys(network.reason for one in found for network in one.networks if network.reason)
    for title, notes in (("no critical point", without_point), ("no mean field", without_field)):
        if notes:
            blocks.append("\n".join((f"{title}:", *notes)))
    fixed_points = _fixed_points(found)
    return [*blocks, fixed_points] if fixed_points.rows else blocks


def theory_document(one: ActivationTheory) -> dict[str, Any]:
    """Return what theory says of an activation as one object."""
    return {
        "activation": one.activation,
        "gain": one.gain,
        "torch_gain": one.torch_gain,
        "critical_point": None if one.critical is None else asdict(one.critical),
        "no_critical_point": one.no_critical or None,
        "networks": [_network_document(network) for network in one.networks],
    }


def _network_document(network: NetworkTheory) -> dict[str, Any]:
    return {
        "network": network.name,
        "weight_variance": network.weight_variance,
        "bias_variance": network.bias_variance,
        "no_mean_field": network.reason or None,
        "fixed_points": [
            {
                "q": fixed.point.q,
                "stability": fixed.point.stability,
                "law": str(fixed.point.law) if fixed.point.law else None,
                "reached": fixed.reached,
                "chi_1": fixed.point.chi,
                "chi_parallel": fixed.point.chi_parallel,
                "depth_scales": asdict(fixed.scales),
            }
            for fixed in network.fixed_points
        ],
    }


def _gains(found: Sequence[ActivationTheory]) -> Table:
    rows = []
    for one in found:
        point = one.critical
        critical = ("none", "-", "-", "") if point is None else (
            number(point.weight_variance, 6), number(point.bias_variance, 6), number(point.q, 6), point.note
        )  # fmt: skip
        rows.append((one.activation, number(one.gain, 8), number(one.torch_gain, 8), *critical))
    columns = ("activation", "gain", "torch's", "critical sigma_w^2", "sigma_b^2", "q", "")
    return Table(
        "activations", columns, tuple(rows), left=frozenset({"activation", ""}), legend=_GAIN_LEGEND, brief=_GAIN_BRIEF
    )


def _fixed_points(found: Sequence[ActivationTheory]) -> Table:
    rows = []
    for one in found:
        for network in one.networks:
            for fixed in network.fixed_points:
                if len(found) > 1 and not fixed.reached:
                    continue
                point, scales = fixed.point, fixed.scales
                kind = f"{point.stability}, {point.law}" if point.law else point.stability
                rows.append((
                    one.activation,
                    network.name,
                    *(number(value, 5) for value in (network.weight_variance, network.bias_variance, point.q)),
                    "<-" if fixed.reached else "",
                    kind,
                    *(number(value, 5) for value in (point.chi, point.chi_parallel)),
                    scales.phase,
                    *(number(value, 4) for value in (scales.variance, scales.correlation, scales.trainable_depth)),
                ))  # fmt: skip
    columns = ("activation", "network", "sigma_w^2", "sigma_b^2", "q*", "", "stability", "chi_1", "chi_par", "phase",
               "xi_q", "xi_c", "trainable")  # fmt: skip
    left_aligned = frozenset({"activation", "network", "", "stability", "phase"})
    return Table("fixed points", columns, tuple(rows), left=left_aligned, legend=_POINT_LEGEND, brief=_POINT_BRIEF)
