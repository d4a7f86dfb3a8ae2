"""Single layers and small stacks of them: what they give, how large, with how many parameters, from how many pixels.

Sizes are traced, not computed. Images and kernels of one channel are matrices (rows, columns).
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import models, tree
from cnnjax.analysis import receptive_fields
from cnnjax.nn import Conv
from cnnjax.ops.conv import conv
from cnnjax.ops.correlate import correlate
from cnnjax.ops.pool import max_pool
from cnnjax.ops.transposed import conv_transpose
from cnnjax.tables import sides

# What runs once need not run fast: it is compiled in a quarter of the time.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Step(NamedTuple):
    """A layer of a stack: a convolution, or where ``features`` is 0 a max pooling of that window."""

    side: int
    features: int = 1
    stride: int = 1
    dilation: int = 1


class Stack(nn.Module):
    """Layers without padding, one after the other; the endpoints are their outputs, "layer1" and so on."""

    steps: tuple[Step, ...]

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(N, H, W, C) to the last layer's output, and all layers'."""
        endpoints = {}
        for index, step in enumerate(self.steps, start=1):
            window, strides = (step.side, step.side), (step.stride, step.stride)
            if step.features:
                dilation = (step.dilation, step.dilation)
                x = Conv(step.features, window, strides=strides, padding="VALID", dilation=dilation)(x)
            else:
                x = max_pool(x, window, strides)
            endpoints[f"layer{index}"] = x
        return x, endpoints


def correlated(
    image: np.ndarray, kernel: np.ndarray, stride: int = 1, padding: str | int = "VALID", dilation: int = 1
) -> np.ndarray:
    """One channel filtered by one kernel; the kernel is not flipped."""
    settings = (stride, stride), padding, (dilation, dilation)
    found = compiled(lambda x, k: conv(x, k, *settings))(image[None, :, :, None], kernel[:, :, None, None])
    return np.asarray(found)[0, :, :, 0]


def transposed(image: np.ndarray, kernel: np.ndarray, **settings: int) -> np.ndarray:
    """The transposed convolution of one channel by one kernel; settings as of ``conv_transpose``."""
    function = compiled(partial(conv_transpose, **settings))
    return np.asarray(function(image[None, :, :, None], kernel[:, :, None, None]))[0, :, :, 0]


def pooled(function: Callable[..., jax.Array], image: np.ndarray) -> np.ndarray:
    """One channel after a pooling by windows of 2x2 that do not overlap."""
    return np.asarray(compiled(lambda x: function(x, (2, 2)))(image[None, :, :, None]))[0, :, :, 0]


def shape_after(shape: tuple[int, ...], filters: int, side: int, stride: int = 1, padding: str | int = "VALID") -> str:
    """What a convolution makes of a signal (L, C), image (H, W, C) or volume (D, H, W, C): ``"4x4x2"``.

    Of one filter it is ``"4x4"``.
    """
    axes = len(shape) - 1
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    kernel = jax.ShapeDtypeStruct((*[side] * axes, shape[-1], filters), jnp.float32)
    found = jax.eval_shape(lambda x, k: correlate(x, k, stride, padding), images, kernel).shape
    return sides(found[1:] if filters > 1 else found[1:-1])


def side_after(n: int, f: int, p: int = 0, s: int = 1) -> int:
    """The side of the output of a convolution of n x n by f x f with padding p and stride s, as it is computed."""
    return int(shape_after((n, n, 1), 1, f, s, p).split("x")[0])


def pooled_side(n: int, f: int, s: int) -> int:
    """The side of n x n after max pooling with windows of f x f and stride s, as it is computed."""
    images = jax.ShapeDtypeStruct((1, n, n, 1), jnp.float32)
    return jax.eval_shape(lambda x: max_pool(x, (f, f), (s, s)), images).shape[1]


def parameters(channels: int, filters: int, side: int, bias: bool = True) -> int:
    """Of a convolutional layer."""
    layer = Conv(filters, (side, side), use_bias=bias)
    shapes = jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, side, side, channels)))
    return sum(math.prod(leaf.shape) for leaf in jax.tree_util.tree_leaves(shapes))


def inputs(shape: tuple[int, int, int]) -> int:
    """The numbers that a unit of a fully connected layer reads of an image (H, W, C)."""
    params = models.parameter_shapes(models.create("mlp"), shape)["params"]
    return int(params["dense1"]["kernel"].shape[0])


def outputs(steps: tuple[Step, ...], side: int) -> str:
    """The rows and columns that a stack makes of square grey images: ``"2x2"``."""
    images = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    stack = Stack(steps)
    return sides(jax.eval_shape(lambda x: stack.init_with_output(jax.random.key(0), x)[0][0], images).shape[1:3])


def field_sizes(steps: tuple[Step, ...]) -> list[int]:
    """The side of the receptive field after each layer of a stack."""
    fields = receptive_fields(Stack(steps), (32, 32, 1))
    return [fields[f"layer{index}"].size[0] for index in range(1, len(steps) + 1)]


@cache
def network_shapes(name: str, **fields: Any) -> Any:
    """The shapes of a network's parameters at its published image shape."""
    return models.parameter_shapes(models.create(name, **fields), models.MODELS[name].image_shape)["params"]


def network_parameters(name: str, **fields: Any) -> int:
    """How many parameters a network has."""
    return tree.count(network_shapes(name, **fields))


def weighted_layers(name: str, **fields: Any) -> dict[str, int]:
    """How many convolutions and dense layers a network has; the projections of shortcuts do not count."""
    counts = {"convolutions": 0, "fully connected": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(network_shapes(name, **fields)):
        names = [entry.key for entry in path]
        if names[-1] == "kernel" and "projection" not in names:
            axes = 2 if leaf.ndim == 2 else 4
            repeats = math.prod(leaf.shape[:-axes])  # scanned blocks are stacked along a first axis
            counts["fully connected" if axes == 2 else "convolutions"] += repeats
    return counts
