"""What can be said of a model without training it."""

from cnnjax.analysis.cost import activations, multiply_adds
from cnnjax.analysis.receptive_field import ReceptiveField, receptive_fields
from cnnjax.analysis.signal import gradient_norms, layers, responses
from cnnjax.analysis.summary import Layer, summary

__all__ = [
    "Layer",
    "ReceptiveField",
    "activations",
    "gradient_norms",
    "layers",
    "multiply_adds",
    "receptive_fields",
    "responses",
    "summary",
]
