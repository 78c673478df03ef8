"""`propscope theory`: gain, critical point, fixed points and depth scales of an activation."""

from __future__ import annotations

from typing import Annotated

import typer

from propscope.cli.options import Json, UnitsPerLayer
from propscope.cli.view import View


def theory(
    *,
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
        typer.Option(metavar="LIST", help="Show the networks of these initializers instead.", show_default=False),
    ] = None,
    width: UnitsPerLayer = 256,
    view: View,
    json: Json = False,
) -> None:
    """Print what mean-field theory predicts for an activation: gain, critical point, fixed points, depth scales.

    A LIST is separated by commas.
    """
    from propscope.networks import parse_activation, split_list
    from propscope.report.terminal import print_json
    from propscope.report.theory import theory_document, theory_tables
    from propscope.theory.activation_theory import activation_theory

    initializers = () if init is None else split_list(init)
    specs = {spec.label: spec for spec in map(parse_activation, split_list(act))}
    found = [
        activation_theory(
            spec,
            initializers=initializers,
            weight_variance=weight_variance,
            bias_variance=bias_variance,
            width=width,
        )
        for spec in specs.values()
    ]
    if json:
        print_json([theory_document(one) for one in found])
    else:
        view.print(theory_tables(found))
