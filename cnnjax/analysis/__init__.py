"""What can be said of a model without training it."""

from cnnjax.analysis.cost import activations, multiply_adds

__all__ = ["activations", "multiply_adds"]
