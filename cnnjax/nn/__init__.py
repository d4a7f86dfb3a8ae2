"""Flax Linen layers that Flax lacks, or whose rates must be traced so that a sweep can vary them."""

from cnnjax.nn.conv import Conv
from cnnjax.nn.dropout import Dropout
from cnnjax.nn.norm import NORMS, BatchNorm, norm_layer

__all__ = ["NORMS", "BatchNorm", "Conv", "Dropout", "norm_layer"]
