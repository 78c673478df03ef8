"""`predict`: the profile that a multilayer perceptron should show, before any of it is built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.checks import count, number
from propscope.networks.mlp import MLPSpec
from propscope.records.network import Expected, Label, NetworkProfile, Role, Site
from propscope.theory.mlp_chain import Chain, chain_of
from propscope.theory.mlp_path import Path, nearly, path_of
from propscope.theory.mlp_width import Band, ChainWidth, chain_width

Array = NDArray[np.float64]

_NORM_KINDS = {"batch": "BatchNorm1d", "layer": "LayerNorm", "rms": "RMSNorm"}


@dataclass(frozen=True, slots=True)
class _Gradients:
    """The rms of the gradient, arrays (layers,): of dL/dz, of what leaves the norm, of phi and of what leaves dropout.

    `output`: at the readout.
    """

    stream: Array
    inner: Array
    activation: Array
    outer: Array
    output: float


def predict(
    spec: MLPSpec,
    *,
    input_mean_square: float = 1.0,
    input_cosine: float = 0.0,
    batch: int | None = 256,
    output_gradient_rms: float = 1.0,
    output_gradient_cosine: float = 0.0,
) -> NetworkProfile:
    """Return the profile that theory expects of a spec's networks: the sites of a measured one, each with `expected`.

    `input_mean_square` of the inputs' elements, `input_cosine` the mean cosine of two inputs. The gradient that is sent
    into the network's output, the last activation or the readout, has the rms `output_gradient_rms`, and the root mean
    square `output_gradient_cosine` of the cosine between two samples'. The band (`forward_log_std`, `backward_log_std`)
    is that of the rms of a whole `batch`; None: very many samples. `forward` and `backward` of each site are None.

    Infinite width: Poole et al. 2016; Schoenholz et al. 2017; the norms and residual connections of
    `NormalizedMeanField`. Batch norm has no band, nor has what a norm gives, whose rms is not left to chance. Of
    arithmetic without rounding: a value may lie beyond what float32 holds.

    Raises `InputError` for what mean field does not cover, with the reason, and for numbers that are not valid.
    """
    mean_square = number("input_mean_square", input_mean_square)
    cosine = number("input_cosine", input_cosine, low=-1.0, high=1.0)
    alike = number("output_gradient_cosine", output_gradient_cosine, low=-1.0, high=1.0) ** 2
    rms = number("output_gradient_rms", output_gradient_rms)
    samples = None if batch is None else count("batch", batch)
    chain = chain_of(spec, mean_square=mean_square)
    expected = expectations(
        chain, mean_square=mean_square, cosine=cosine, samples=samples, output_gradient_rms=rms, alike=alike
    )
    labels: dict[str, Label] = {
        "initializer": spec.initializer.label,
        "activation": spec.activation.label,
        "depth": spec.depth,
        "width": spec.width if isinstance(spec.width, int) else spec.width_label,
    }
    return NetworkProfile(sites=tuple(_sites(spec, samples or 0, expected)), labels=labels)


def expectations(
    chain: Chain, *, mean_square: float, cosine: float, samples: int | None, output_gradient_rms: float, alike: float
) -> dict[str, Expected]:
    """Return what theory expects, by the name of the site."""
    # Beyond the numbers that there are is Inf, and NaN what depends on it.
    with np.errstate(all="ignore"):
        path = path_of(chain, mean_square=mean_square, cosine=cosine, batch=samples)
        # The band hardly depends on these, and so it is worked out once for many batches of one kind.
        rounded = {"mean_square": nearly(mean_square), "cosine": round(cosine, 2), "gradients": round(alike, 2)}
        band = chain_width(chain, samples=samples, **rounded)
        gradients = _gradients(chain, path, output_gradient_rms)
        return dict(_expected(chain, path, band, gradients, math.inf if samples is None else samples))


def _gradients(chain: Chain, path: Path, rms: float) -> _Gradients:
    depth = path.q.size
    outer, inner, activation, stream = (np.empty(depth) for _ in range(4))
    n = [float(width) for width in chain.widths]
    here = 2 * math.log(rms) if rms else -math.inf
    if chain.readout is not None:
        here += math.log(chain.readout.weight_variance * chain.outputs / n[-1])
    for layer in reversed(range(depth)):
        if layer < depth - 1:
            after = stream[layer + 1]
            here = after + math.log(chain.layers[layer + 1].weight_variance * n[layer + 1] / n[layer])
        outer[layer] = here
        activation[layer] = here + math.log(chain.kept)
        inner[layer] = activation[layer] + np.log(path.slope[layer])
        stream[layer] = inner[layer] - np.log(path.divisor[layer])
        if chain.residual and layer < depth - 1:
            stream[layer] = np.logaddexp(stream[layer], after)
    return _Gradients(np.exp(stream / 2), np.exp(inner / 2), np.exp(activation / 2), np.exp(outer / 2), rms)


def _expected(
    chain: Chain, path: Path, band: ChainWidth, gradients: _Gradients, samples: float
) -> Iterator[tuple[str, Expected]]:
    zero, unknown = np.zeros(path.q.size), np.full(path.q.size, math.nan)
    nothing = Band(unknown, unknown)
    kept = chain.kept * path.value
    # Rounding must not leave a negative variance where phi hardly varies.
    spread, spread_kept = (np.sqrt(np.maximum(square - path.mean**2, 0)) for square in (path.value, kept))
    stream, branch = np.sqrt(path.q), np.sqrt(path.branch)
    over_stream, over_branch = (
        square * (1 / samples + (1 - 1 / samples) * np.maximum(c, 0)) / chain.widths
        for square, c in ((path.q, path.c), (path.branch, path.branch_c))
    )
    # Mean, std, mean square, their band, the variances of the mean and of ln of the variance, and the cosine; the rms
    # of the gradient and its band.
    phi = band.activation, band.activation_mean, band.activation_spread
    back = gradients.stream, band.gradient
    columns = {
        "linear": (zero, branch, path.branch, band.branch, over_branch, band.branch.variance, path.branch_c, *back),
        "add": (zero, stream, path.q, band.stream, over_stream, band.stream.variance, path.c, *back),
        "norm": (
            *(zero, np.sqrt(path.at), path.at, nothing, unknown, unknown, path.at_c),
            *(gradients.inner, band.inner),
        ),
        "activation": (
            *(path.mean, spread, path.value, *phi, path.product / path.value),
            *(gradients.activation, band.outer),
        ),
        "dropout": (
            *(path.mean, spread_kept, kept, *phi, path.product / kept),
            *(gradients.outer, band.outer),
        ),
    }
    for part, (mean, std, square, forth, over, wide, cosine, gradient, backward) in columns.items():
        rows = zip(
            *(mean, std, np.sqrt(square), _log_std(forth.variance), gradient, _log_std(backward.variance), cosine),
            *(forth.mean / 2, backward.mean / 2, np.sqrt(over), _log_std(wide)),
            strict=True,
        )
        for layer, row in enumerate(rows):
            yield f"layers.{layer}.{part}", Expected(*map(float, row))
    if chain.readout is not None:
        yield "output", _readout(chain, path, band, gradients.output, samples)


def _log_std(variance: Array) -> Array:
    """Return the standard deviation of ln rms from the variance of ln of the mean square, NaN where that is none."""
    # Orthogonal weights leave nothing to chance but rounding.
    return np.where(variance > 1e-10, np.sqrt(variance) / 2, math.nan)


def _readout(chain: Chain, path: Path, band: ChainWidth, gradient: float, samples: float) -> Expected:
    assert chain.readout is not None
    weight, bias = chain.readout.weight_variance, chain.readout.bias_variance
    drawn, shared = weight * chain.kept * path.value[-1], weight * path.product[-1]
    q = drawn + bias
    cosine = float((shared + bias) / q)
    alike = 1 / samples + (1 - 1 / samples) * cosine**2
    own = 2 * alike / chain.outputs * (1 - chain.readout.orthogonal * min(1.0, chain.outputs / chain.units[-1]))
    variance = (drawn / q) ** 2 * float(band.activation.variance[-1]) + own
    rms, log_std = math.sqrt(q), math.sqrt(variance) / 2
    return Expected(
        forward_mean=0.0,
        forward_std=rms,
        forward_rms=rms,
        forward_log_std=log_std,
        backward_rms=gradient,
        backward_log_std=float(_log_std(np.array(band.output))),
        mean_cosine=cosine,
        forward_log_drift=float(drawn / q * band.activation.mean[-1] - own / 2) / 2,
        backward_log_drift=-band.output / 4,
        forward_mean_std=math.sqrt(q * (1 / samples + (1 - 1 / samples) * max(cosine, 0.0)) / chain.outputs),
        forward_std_log_std=log_std,
    )


def _sites(spec: MLPSpec, samples: int, expected: dict[str, Expected]) -> Iterator[Site]:
    activation = type(spec.activation.module()).__name__
    for layer, width in enumerate(spec.widths):
        parts = ["linear"]
        parts += ["add"] if spec.residual and layer else []
        parts += ["norm"] if spec.norm != "none" else []
        entering = parts[-1]
        parts += ["activation"] + (["dropout"] if spec.dropout else [])
        kinds = {"linear": "Linear", "add": "Add", "dropout": "Dropout", "activation": activation}
        for part in parts:
            name = f"layers.{layer}.{part}"
            role: Role = "residual" if part == "add" else "other"
            if part in ("activation", entering):
                role = "pre-activation" if part == entering else "activation"
            elif part == parts[-1] and layer == spec.depth - 1 and not spec.output_size:
                role = "output"
            yield Site(
                name=name,
                kind=kinds.get(part) or _NORM_KINDS[spec.norm],
                role=role,
                shape=(samples, width),
                layer=layer + 1,
                activation=activation if part == entering else "",
                expected=expected[name],
            )
    if spec.output_size:
        shape = (samples, spec.output_size)
        yield Site(name="output", kind="Linear", role="output", shape=shape, expected=expected["output"])
