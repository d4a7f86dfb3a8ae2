"""Flax Linen layers that Flax lacks, or whose rates must be traced so that a sweep can vary them."""

from cnnjax.nn.activations import ACTIVATIONS, activation
from cnnjax.nn.conv import Conv
from cnnjax.nn.dropout import Dropout
from cnnjax.nn.initializers import INITIALIZERS, initializer
from cnnjax.nn.local import LocallyConnected
from cnnjax.nn.norm import NORMS, BatchNorm, norm_layer
from cnnjax.nn.transposed import ConvTranspose

__all__ = [
    "ACTIVATIONS",
    "INITIALIZERS",
    "NORMS",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "Dropout",
    "LocallyConnected",
    "activation",
    "initializer",
    "norm_layer",
]
