"""`propscope theory`: gain, critical point, fixed points and depth scales of an activation."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from propscope.cli.options import Json, UnitsPerLayer

if TYPE_CHECKING:
    from propscope.records.theory import ActivationTheory, NetworkTheory
    from propscope.report.table import Table

_MEANINGS = (
    "gain: weights of variance gain^2 / fan_in keep E[z^2] at 1; torch's: nn.init.calculate_gain, another convention.",
    "critical: sigma_w^2 = fan_in Var[W] and sigma_b^2 = Var[b] where chi_1 = 1 at a fixed point q of the variance.",
)
_SCALES = (
    "q*: a variance of pre-activations that a layer keeps; <- marks where an input of mean square 1 ends.",
    "chi_1: the squared gradient's factor per layer at q*; below 1 it vanishes (ordered), above it explodes (chaotic).",
    "chi_par: factor of a small change of q per layer; below 1 q* is stable.",
    "xi_q, xi_c: layers over which q, and the correlation of two inputs, come nearer to their end by a factor e.",
    "trainable: 6 xi_c layers, to which plain networks were found to train (Schoenholz et al. 2017).",
)


def theory(
    act: Annotated[
        str, typer.Option("--act", metavar="LIST", help="Activations; see `propscope list`.", show_default=False)
    ],
    weight_variance: Annotated[
        float | None,
        typer.Option(help="Weight variance sigma_w^2 = fan_in Var[W]. [default: at the critical point]"),
    ] = None,
    bias_variance: Annotated[
        float | None,
        typer.Option(
            help="Bias variance sigma_b^2 = Var[b]. Without --weight-variance: the critical point with this bias "
            "variance. [default: 0, or at the critical point]"
        ),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Initializers whose networks to show instead.", show_default=False),
    ] = None,
    width: UnitsPerLayer = 256,
    json: Json = False,
) -> None:
    """Print what mean-field theory predicts for an activation: gain, critical point, fixed points, depth scales.

    A LIST is separated by commas.
    """
    from propscope.networks import parse_activation, split_list
    from propscope.report.terminal import print_json, print_table
    from propscope.theory.account import account

    initializers = () if init is None else split_list(init)
    specs = {spec.label: spec for spec in map(parse_activation, split_list(act))}
    found = [
        account(
            spec,
            initializers=initializers,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            width=width,
        )
        for spec in specs.values()
    ]
    if json:
        print_json([_document(one) for one in found])
        return
    print_table(_activations(found))
    for title, notes in (("no critical point", _without_point(found)), ("no mean field", _without_field(found))):
        if notes:
            print("\n".join(("", f"{title}:", *notes)))
    networks = _networks(found)
    if networks.rows:
        print()
        print_table(networks)


def _document(one: ActivationTheory) -> dict[str, Any]:
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


def _activations(accounts: list[ActivationTheory]) -> Table:
    from propscope.records.numerals import number
    from propscope.report.table import Table

    rows = []
    for one in accounts:
        point = one.critical
        critical = ("none", "-", "-", "") if point is None else (
            number(point.weight_variance, 6), number(point.bias_variance, 6), number(point.q, 6), point.note
        )  # fmt: skip
        rows.append((one.activation, number(one.gain, 8), number(one.torch_gain, 8), *critical))
    columns = ("activation", "gain", "torch's", "critical sigma_w^2", "sigma_b^2", "q", "")
    return Table("activations", columns, tuple(rows), left=frozenset({"activation", ""}), notes=_MEANINGS)


def _without_point(accounts: list[ActivationTheory]) -> list[str]:
    return [f"{one.activation} {one.no_critical}" for one in accounts if one.no_critical]


def _without_field(accounts: list[ActivationTheory]) -> list[str]:
    return list(dict.fromkeys(network.reason for one in accounts for network in one.networks if network.reason))


def _networks(accounts: list[ActivationTheory]) -> Table:
    """Return the table of fixed points: all of them, or with several activations those that are reached."""
    from propscope.records.numerals import number
    from propscope.report.table import Table

    rows = []
    for one in accounts:
        for network in one.networks:
            for fixed in network.fixed_points:
                if len(accounts) > 1 and not fixed.reached:
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
    left = frozenset({"activation", "network", "", "stability", "phase"})
    return Table("fixed points", columns, tuple(rows), left=left, notes=_SCALES)
