"""What can be said of a model without training it."""

from cnnjax.analysis.cost import activations, multiply_adds
from cnnjax.analysis.signal import gradient_norms, layers, responses

__all__ = ["activations", "gradient_norms", "layers", "multiply_adds", "responses"]
