"""What can be said of a model without training it."""

from cnnjax.analysis.cost import multiply_adds

__all__ = ["multiply_adds"]
