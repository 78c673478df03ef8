"""The table of activations: what each one is, and everything that the rest of propscope must know of it.

A new activation is one entry of `ACTIVATIONS` and its test. `propscope.networks.activations` makes the modules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from propscope.records.network import Label
from propscope.records.spec_parameter import SpecParameter


@dataclass(frozen=True, slots=True)
class Advice:
    """The options of `profile_mlp` that keep the signal of an activation at every depth, and the `source` for them."""

    options: Mapping[str, Label | bool] = field(hash=False)
    source: str


@dataclass(frozen=True, slots=True)
class Activation:
    """A nonlinearity: its formula phi(x), where it was published, and what follows from its shape.

    `torch_name`: the class of torch.nn that computes it, or, in lower case, the elementwise function of torch.
    `shorthands`: names that stand for a parameter's value, as (name, "parameter=value"). `bounded`: its values are
    bounded on both sides, so that large inputs saturate it. `offset`: all its values have one sign, so that their mean
    is not 0, whatever the input. `torch_gain`: the name under which `torch.nn.init.calculate_gain` has a gain for it;
    empty where torch has none. `advice`: the options that keep its signal. `initializers`: those that the literature
    recommends for it, by their names in `INITIALIZERS`.
    """

    name: str
    formula: str
    source: str
    torch_name: str
    advice: Advice
    aliases: tuple[str, ...] = ()
    parameters: tuple[SpecParameter, ...] = ()
    shorthands: tuple[tuple[str, str], ...] = ()
    bounded: bool = False
    offset: bool = False
    torch_gain: str = ""
    initializers: tuple[str, ...] = ()


# Residual sums around layer norms: what is left to try where no initializer keeps the signal.
NORMED_SUMS: Mapping[str, Label | bool] = {"norm": "layer", "residual": True}

# Each was diagnosed at depths 10, 20 and 40, and trained at depth 20: tests/diagnosis/test_advice.py.
HE = Advice({"initializer": "he_normal"}, "He et al. 2015")
_XAVIER = Advice({"initializer": "xavier_normal"}, "Glorot, Bengio 2010: the slope at 0 is 1")
_LECUN = Advice({"initializer": "lecun_normal"}, "Klambauer et al. 2017")
_CRITICAL = Advice({"initializer": "critical"}, "Schoenholz et al. 2017: weights and biases at the critical point")
# Without biases its slope falls as fast as its values rise, and the signal shrinks like a power of the depth.
_CRITICAL_LINE = Advice(
    {"initializer": "critical:bias_variance=0.05"},
    "Schoenholz et al. 2017: weights of the critical line at bias_std 0.22",
)
# The mean of their values grows until nothing else is left, also behind a norm: only a sum passes the rest.
_SUMS = Advice({"initializer": "he_normal", **NORMED_SUMS}, "He et al. 2016, Ba et al. 2016")

_HE_NAMES = ("he_uniform", "he_normal")
_XAVIER_NAMES = ("xavier_uniform", "xavier_normal")
_LECUN_NAMES = ("lecun_uniform", "lecun_normal")

# fmt: off
ACTIVATIONS: tuple[Activation, ...] = (
    Activation("identity", "x", "Saxe et al. 2014, deep linear networks", "Identity", _XAVIER, aliases=("linear",),
               torch_gain="linear", initializers=("orthogonal", "identity", "dirac")),
    Activation("relu", "max(0, x)", "Nair, Hinton 2010", "ReLU", HE, torch_gain="relu",
               initializers=(*_HE_NAMES, "identity", "dirac")),
    Activation("leaky_relu", "x if x > 0 else negative_slope x", "Maas et al. 2013", "LeakyReLU", HE,
               parameters=(SpecParameter("negative_slope", 0.01),), torch_gain="leaky_relu", initializers=_HE_NAMES),
    Activation("prelu", "x if x > 0 else a x, a learned, init at first", "He et al. 2015, eq. 1", "PReLU", HE,
               parameters=(SpecParameter("init", 0.25),), initializers=_HE_NAMES),
    Activation("relu6", "min(max(0, x), 6)", "Krizhevsky 2010", "ReLU6", HE, initializers=_HE_NAMES),
    Activation("elu", "x if x > 0 else alpha (e^x - 1)", "Clevert et al. 2016", "ELU", _XAVIER,
               parameters=(SpecParameter("alpha", 1.0),)),
    Activation("selu", "1.0507 (x if x > 0 else 1.6733 (e^x - 1))", "Klambauer et al. 2017, eq. 2", "SELU", _LECUN,
               torch_gain="selu", initializers=_LECUN_NAMES),
    Activation("celu", "x if x > 0 else alpha (e^(x/alpha) - 1)", "Barron 2017", "CELU", _XAVIER,
               parameters=(SpecParameter("alpha", 1.0, low=0, above=True),)),
    Activation("gelu", "x Phi(x); tanh: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))", "Hendrycks, Gimpel 2016",
               "GELU", _CRITICAL, parameters=(SpecParameter("approximate", "none", choices=("none", "tanh")),),
               shorthands=(("gelu_tanh", "approximate=tanh"),)),
    Activation("silu", "x / (1 + e^-x)", "Elfwing et al. 2018; Ramachandran et al. 2017", "SiLU", _CRITICAL,
               aliases=("swish",)),
    Activation("mish", "x tanh(ln(1 + e^x))", "Misra 2019", "Mish", _CRITICAL),
    Activation("softplus", "ln(1 + e^(beta x)) / beta", "Dugas et al. 2001", "Softplus", _SUMS, offset=True,
               parameters=(SpecParameter("beta", 1.0, low=0, above=True),)),
    Activation("softsign", "x / (1 + |x|)", "Bergstra et al. 2009", "Softsign", _CRITICAL_LINE, bounded=True,
               initializers=_XAVIER_NAMES),
    Activation("tanh", "tanh(x)", "LeCun et al. 1998", "Tanh", _XAVIER, bounded=True, torch_gain="tanh",
               initializers=(*_XAVIER_NAMES, *_LECUN_NAMES, "orthogonal")),
    Activation("hardtanh", "min(max(min, x), max)", "Collobert 2004", "Hardtanh", _XAVIER, bounded=True,
               parameters=(SpecParameter("min", -1.0), SpecParameter("max", 1.0)), initializers=_XAVIER_NAMES),
    Activation("sigmoid", "1 / (1 + e^-x)", "Rumelhart et al. 1986", "Sigmoid", _SUMS, aliases=("logistic",),
               bounded=True, offset=True, torch_gain="sigmoid", initializers=_XAVIER_NAMES),
    Activation("hardsigmoid", "min(max(0, x/6 + 1/2), 1)", "Howard et al. 2019", "Hardsigmoid", _SUMS, bounded=True,
               offset=True),
    Activation("hardswish", "x min(max(0, x/6 + 1/2), 1)", "Howard et al. 2019", "Hardswish", _CRITICAL),
    Activation("logsigmoid", "-ln(1 + e^-x)", "torch.nn.LogSigmoid", "LogSigmoid", _SUMS, offset=True),
    Activation("tanhshrink", "x - tanh(x)", "torch.nn.Tanhshrink", "Tanhshrink", _SUMS),
    Activation("erf", "erf(x)", "Williams 1997", "erf", _XAVIER, bounded=True, initializers=_XAVIER_NAMES),
    Activation("sin", "sin(x)", "Parascandolo et al. 2017; Sitzmann et al. 2020", "sin", _XAVIER, aliases=("sine",),
               bounded=True),
)
# fmt: on


def find_activation(name: str) -> Activation | None:
    """Return the entry that a spec or a torch class names: "leaky_relu:negative_slope=0.2", "LeakyReLU"; else None.

    Upper and lower case are the same.
    """
    return _BY_NAME.get(name.split(":")[0].lower())


_BY_NAME = {name: entry for entry in ACTIVATIONS for name in (entry.torch_name.lower(), *entry.aliases, entry.name)}
