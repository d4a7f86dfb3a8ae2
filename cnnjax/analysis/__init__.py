"""What can be said of a model without training it."""

from cnnjax.analysis.cost import activations, multiply_adds
from cnnjax.analysis.layer_warnings import LayerWarning
from cnnjax.analysis.receptive_field import ReceptiveField, receptive_fields
from cnnjax.analysis.signal import gradient_norms, layers, responses
from cnnjax.analysis.summarize import Analysis, Coverage, Layer, summarize

__all__ = [
    "Analysis",
    "Coverage",
    "Layer",
    "LayerWarning",
    "ReceptiveField",
    "activations",
    "gradient_norms",
    "layers",
    "multiply_adds",
    "receptive_fields",
    "responses",
    "summarize",
]
