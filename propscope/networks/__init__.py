"""The networks that propscope builds: activations, initializers, MLPs and their inputs, chosen by spec strings."""

from propscope.networks.activations import ActivationSpec, Erf, FunctionActivation, Sin, parse_activation
from propscope.networks.initialize import initialize_
from propscope.networks.initializers import (
    INITIALIZERS,
    SQUARE_DEFAULTS,
    Initializer,
    InitializerSpec,
    parse_initializer,
)
from propscope.networks.inputs import (
    INPUTS,
    SCALES,
    InputBatch,
    InputSource,
    InputSpec,
    default_features,
    make_input,
    parse_input,
)
from propscope.networks.layers import MLP, Add, Layer, ResidualLayer
from propscope.networks.mlp import MLPSpec, parse_width
from propscope.networks.randomness import global_stream, seeded_generator
from propscope.networks.spec import ParsedSpec, parse_spec, split_list
from propscope.records.activations import ACTIVATIONS, Activation
from propscope.records.spec_parameter import SpecParameter

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "INPUTS",
    "MLP",
    "SCALES",
    "SQUARE_DEFAULTS",
    "Activation",
    "ActivationSpec",
    "Add",
    "Erf",
    "FunctionActivation",
    "Initializer",
    "InitializerSpec",
    "InputBatch",
    "InputSource",
    "InputSpec",
    "Layer",
    "MLPSpec",
    "ParsedSpec",
    "ResidualLayer",
    "Sin",
    "SpecParameter",
    "default_features",
    "global_stream",
    "initialize_",
    "make_input",
    "parse_activation",
    "parse_initializer",
    "parse_input",
    "parse_spec",
    "parse_width",
    "seeded_generator",
    "split_list",
]
