"""Weights, statistics and images that everybody draws alike from names and shapes alone, with NumPy."""

import math
import zlib
from collections.abc import Mapping

import numpy as np


def state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """A state dict in the torch style, by key and shape; each tensor depends on nothing else.

    Kernels have He's standard deviation, so that signals neither vanish nor grow; norm weights and running
    variances lie within 0.1 of one, biases and running means within 0.1 of zero, so that forgetting one shows.
    """
    return {key: _tensor(key, tuple(shape)) for key, shape in shapes.items()}


def keras(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The same in Keras's style: LAYER/kernel with the outputs last, gamma, moving_variance."""
    return {key: _keras_tensor(key, tuple(shape)) for key, shape in shapes.items()}


def images(count: int, size: int, channels: int = 3) -> np.ndarray:
    """Standard normal images (N, H, W, C)."""
    return np.random.default_rng(0).standard_normal((count, size, size, channels)).astype(np.float32)


def _tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if len(shape) > 1:
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
    centre = 1 if key.endswith((".weight", "running_var")) else 0
    return (centre + rng.uniform(-0.1, 0.1, shape)).astype(np.float32)


def _keras_tensor(key: str, shape: tuple[int, ...]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if len(shape) > 1:
        reads = math.prod(shape[:2] if len(shape) == 4 and shape[-1] == 1 else shape[:-1])
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / reads))
    centre = 1 if key.endswith(("gamma", "moving_variance")) else 0
    return (centre + rng.uniform(-0.1, 0.1, shape)).astype(np.float32)
