"""A phase chart made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from propscope.records.phase import PhaseChart, Standing

CRITICAL = Standing("critical", 1.0, 0.0)


def chart(**changes) -> PhaseChart:
    """A chart with a straight critical line sigma_w^2 = 1 + 2 sigma_b^2 on 0 to 3 by 0 to 0.5."""
    weight, bias = (np.arange(30) + 0.5) / 10, (np.arange(20) + 0.5) / 40
    excess = weight - 1 - 2 * bias[:, None]
    line = np.linspace(0, 2, 50)
    made = PhaseChart(
        activation="tanh",
        weight_variance=weight,
        bias_variance=bias,
        q=np.ones_like(excess),
        chi=1 + excess / 10,
        correlation_depth=1 / np.abs(excess),
        line_weight=1 + 2 * line,
        line_bias=line,
        line_stable=np.ones(50, dtype=bool),
        no_line="",
        critical=CRITICAL,
        standings=(
            Standing("xavier_uniform", 1.0, 0.0),
            Standing("xavier_normal", 1.0, 0.0),
            Standing("he_normal", 2.0, 0.0),
            Standing("normal:std=1", 256.0, 0.01),
            Standing("normal:std=2", 1024.0, 0.01),
            Standing("odd", 0.5, 3.0),
        ),
        without_place=(("zeros", "it is zero"), ("ones", "it is zero"), ("eye", "no draw")),
    )
    return replace(made, **changes)
