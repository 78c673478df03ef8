"""`predict`: the profile that theory expects of a multilayer perceptron, without building it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from propscope.checks import count, fits_memory, known_arguments, number
from propscope.networks.mlp import MLPSpec
from propscope.records.network import Expected, Label, NetworkProfile, Role, Site
from propscope.theory.mlp_bands import Band, MLPBands, mlp_bands
from propscope.theory.mlp_signal import MLPSignal, MLPVariances, mlp_signal, mlp_variances, nearly

Array = NDArray[np.float64]

# The sites of a layer, with what is expected there.
_LAYER_BYTES = 8192
_NORM_KINDS = {"batch": "BatchNorm1d", "layer": "LayerNorm", "rms": "RMSNorm"}


@dataclass(frozen=True, slots=True)
class _Gradients:
    """The rms of the gradient at four places of each layer, arrays of shape (layers,), and at the readout.

    `stream`: dL/dz. `inner`: at the output of the norm. `activation`: at phi. `outer`: at the output of dropout.
    """

    stream: Array
    inner: Array
    activation: Array
    outer: Array
    output: float


@known_arguments
def predict(
    spec: MLPSpec,
    *,
    input_mean_square: float = 1.0,
    input_cosine: float = 0.0,
    batch: int | None = 256,
    output_gradient_rms: float = 1.0,
    output_gradient_cosine: float = 0.0,
) -> NetworkProfile:
    """Return the profile that theory expects: the sites that a measured profile has, each with `expected` only.

    `input_mean_square`: of the elements of the inputs. `input_cosine`: the mean cosine of two inputs. The gradient that
    enters the network's output (the readout, or else the last activation) has the rms `output_gradient_rms`, and the
    cosine between two samples' gradients has the root mean square `output_gradient_cosine`. The bands
    `forward_log_std` and `backward_log_std` are those of the rms over a whole `batch`; None means very many samples.

    Infinite width: Poole et al. 2016; Schoenholz et al. 2017; for norms Yang et al. 2019, Ba et al. 2016, for residual
    connections Yang, Schoenholz 2017, De, Smith 2020. Networks with batch norm have no band, nor has the output of a
    norm, whose rms is fixed. Theory does not round: a value may lie beyond the range of float32.

    Raises `InputError` for a network that mean field does not cover, with the reason, and for an argument that is not
    valid.
    """
    mean_square = number("input_mean_square", input_mean_square)
    cosine = number("input_cosine", input_cosine, low=-1.0, high=1.0)
    alike = number("output_gradient_cosine", output_gradient_cosine, low=-1.0, high=1.0) ** 2
    rms = number("output_gradient_rms", output_gradient_rms)
    fits_memory(f"depth {spec.depth}", spec.depth * _LAYER_BYTES, hint="choose a smaller depth")
    samples = None if batch is None else count("batch", batch)
    mlp = mlp_variances(spec, mean_square=mean_square)
    expected = expectations(
        mlp, mean_square=mean_square, cosine=cosine, samples=samples, output_gradient_rms=rms, alike=alike
    )
    labels: dict[str, Label] = {
        "initializer": spec.initializer.label,
        "activation": spec.activation.label,
        "depth": spec.depth,
        "width": spec.width if isinstance(spec.width, int) else spec.width_label,
    }
    return NetworkProfile(sites=tuple(_sites(spec, samples or 0, expected)), labels=labels)


def expectations(
    mlp: MLPVariances,
    *,
    mean_square: float,
    cosine: float,
    samples: int | None,
    output_gradient_rms: float,
    alike: float,
) -> dict[str, Expected]:
    """Return what theory expects at each site, by the site's name.

    `alike`: the mean square of the cosine between two samples' gradients at the output.
    """
    # Overflow gives Inf, and NaN where that is used.
    with np.errstate(all="ignore"):
        signal = mlp_signal(mlp, mean_square=mean_square, cosine=cosine, batch=samples)
        # The band hardly depends on these: rounded, it is computed once for many batches.
        rounded = {"mean_square": nearly(mean_square), "cosine": round(cosine, 2), "squared_gradient": round(alike, 2)}
        band = mlp_bands(mlp, samples=samples, **rounded)
        gradients = _gradients(mlp, signal, output_gradient_rms)
        return dict(_expected(mlp, signal, band, gradients, math.inf if samples is None else samples))


def _gradients(mlp: MLPVariances, signal: MLPSignal, rms: float) -> _Gradients:
    depth = signal.q.size
    outer, inner, activation, stream = (np.empty(depth) for _ in range(4))
    n = [float(width) for width in mlp.widths]
    here = 2 * np.log(rms)
    if mlp.readout is not None:
        here += np.log(mlp.readout.weight_variance * mlp.outputs / n[-1])
    for layer in reversed(range(depth)):
        if layer < depth - 1:
            after = stream[layer + 1]
            here = after + np.log(mlp.layers[layer + 1].weight_variance * n[layer + 1] / n[layer])
        outer[layer] = here
        activation[layer] = here + math.log(mlp.dropout_factor)
        inner[layer] = activation[layer] + np.log(signal.slope[layer])
        stream[layer] = inner[layer] - np.log(signal.divisor[layer])
        if mlp.residual and layer < depth - 1:
            stream[layer] = np.logaddexp(stream[layer], after)
    return _Gradients(np.exp(stream / 2), np.exp(inner / 2), np.exp(activation / 2), np.exp(outer / 2), rms)


def _expected(
    mlp: MLPVariances, signal: MLPSignal, band: MLPBands, gradients: _Gradients, samples: float
) -> Iterator[tuple[str, Expected]]:
    zero, unknown = np.zeros(signal.q.size), np.full(signal.q.size, math.nan)
    nothing = Band(unknown, unknown)
    after_dropout = mlp.dropout_factor * signal.value
    # Rounding must not leave a negative variance where phi hardly varies.
    spread, spread_kept = (np.sqrt(np.maximum(square - signal.mean**2, 0)) for square in (signal.value, after_dropout))
    stream, branch = np.sqrt(signal.q), np.sqrt(signal.branch)
    over_stream, over_branch = (
        square * (1 / samples + (1 - 1 / samples) * np.maximum(c, 0)) / mlp.widths
        for square, c in ((signal.q, signal.c), (signal.branch, signal.branch_c))
    )
    # The linear layer of a branch is measured before its factor.
    scale = np.full(signal.q.size, mlp.branch_scale)
    scale[0] = 1.0
    own = branch / scale, signal.branch / scale**2, band.branch, over_branch / scale**2
    own_gradient = gradients.stream * scale, band.gradient
    # Forward: mean, std, mean square and its band, variances of the mean and of ln of the variance, cosine. Backward:
    # rms and band.
    phi = band.activation, band.activation_mean, band.activation_spread
    back = gradients.stream, band.gradient
    columns = {
        "linear": (zero, *own, band.branch.variance, signal.branch_c, *own_gradient),
        "add": (zero, stream, signal.q, band.stream, over_stream, band.stream.variance, signal.c, *back),
        "norm": (
            *(zero, np.sqrt(signal.at), signal.at, nothing, unknown, unknown, signal.at_c),
            *(gradients.inner, band.inner),
        ),
        "activation": (
            *(signal.mean, spread, signal.value, *phi, signal.product / signal.value),
            *(gradients.activation, band.outer),
        ),
        "dropout": (
            *(signal.mean, spread_kept, after_dropout, *phi, signal.product / after_dropout),
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
    if mlp.readout is not None:
        yield "output", _readout(mlp, signal, band, gradients.output, samples)


def _log_std(variance: Array) -> Array:
    """Return the standard deviation of ln rms from the variance of ln of the mean square; NaN below 1e-10."""
    # With orthogonal weights only rounding varies.
    return np.where(variance > 1e-10, np.sqrt(variance) / 2, math.nan)


def _readout(mlp: MLPVariances, signal: MLPSignal, band: MLPBands, gradient: float, samples: float) -> Expected:
    assert mlp.readout is not None
    weight, bias = mlp.readout.weight_variance, mlp.readout.bias_variance
    from_weights, shared = weight * mlp.dropout_factor * signal.value[-1], weight * signal.product[-1]
    q = from_weights + bias
    cosine = float((shared + bias) / q)
    alike = 1 / samples + (1 - 1 / samples) * cosine**2
    own = 2 * alike / mlp.outputs * (1 - mlp.readout.orthogonal * min(1.0, mlp.outputs / mlp.units[-1]))
    variance = (from_weights / q) ** 2 * float(band.activation.variance[-1]) + own
    rms, log_std = math.sqrt(q), math.sqrt(variance) / 2
    return Expected(
        forward_mean=0.0,
        forward_std=rms,
        forward_rms=rms,
        forward_log_std=log_std,
        backward_rms=gradient,
        backward_log_std=float(_log_std(np.array(band.output))),
        mean_cosine=cosine,
        forward_log_drift=float(from_weights / q * band.activation.mean[-1] - own / 2) / 2,
        backward_log_drift=-band.output / 4,
        forward_mean_std=math.sqrt(q * (1 / samples + (1 - 1 / samples) * max(cosine, 0.0)) / mlp.outputs),
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
