"""What a unit really reads, by its gradient: whether a pixel counts at all, and how much.

``receptive_fields`` says by the network's arithmetic what a unit may read. The gradient says what it reads: pixels
between the taps of dilated kernels have none, and most of the field's border has next to none (Luo et al. 2016,
arXiv:1701.04128).
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.typing import Images, UsageError

Maps = Float[Array, "n h2 w2 c2"]


def gradient_support(model: nn.Module, image_shape: tuple[int, int, int], endpoint: str = "") -> np.ndarray:
    """The pixels that the unit in the middle of a map depends on: the network's connections, whatever its weights.

    The parameters and the images are positive random numbers, so that no two paths cancel and no ReLU is shut.

    Args:
      model: in evaluation mode. Its maps may pass through convolutions, pooling, ReLU and additions; the gradient
        of a maximum has one path at a time, so max pooling hides what it did not choose.
      image_shape: (H, W, C).
      endpoint: name of a map among the endpoints, where the model gives these; else its output is the map.

    Returns:
      (H, W) of bool.

    Raises:
      UsageError: there is no such map.
    """
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.uniform(0.5, 1, (1, *image_shape)), jnp.float32)
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(draw.uniform(0.5, 1, leaf.shape) / max(1, np.prod(leaf.shape[:-1])), jnp.float32),
        jax.eval_shape(model.init, jax.random.key(0), images),
    )

    @jax.jit
    def gradient(variables, images):
        def middle(images):
            found = _map(model.apply(variables, images), endpoint)
            return found[:, found.shape[1] // 2, found.shape[2] // 2].sum()

        return jax.grad(middle)(images)

    return np.asarray(jnp.abs(gradient(variables, images))[0].max(-1) > 0)


def gradient_energy(maps: Callable[[Images], Maps], images: Images) -> Float[Array, "n h w"]:
    """The squared gradient of the unit in the middle of each image's map by every pixel, summed over channels.

    The map's channels are added up with random signs, always the same, which gives on average the sum of the squared
    gradients of all channels from one backward pass.

    Args:
      maps: images (N, H, W, C) to maps (N, H', W', C'); image by image, as in evaluation.
      images: (N, H, W, C).
    """

    def middle(images):
        found = maps(images)
        signs = jax.random.rademacher(jax.random.key(0), (found.shape[-1],), found.dtype)
        return (found[:, found.shape[1] // 2, found.shape[2] // 2] * signs).sum()

    return jnp.square(jax.grad(middle)(images)).sum(-1)


def effective_side(energy: Float[Array, "n h w"]) -> Float[Array, " n"]:
    """The side of the evenly read square whose energy is spread as wide: the effective receptive field, in pixels.

    Along each axis the square of side r has the variance (r^2 - 1) / 12, so r = sqrt(12 variance + 1) of the mean
    variance of both axes. One layer of random weights and kernel k gives k; L layers of kernel 3 give about
    sqrt(1 + 8 L), where the receptive field is 2 L + 1. Where no pixel has any energy it is nan.
    """
    total = energy.sum((1, 2))
    variance = sum(_variance(energy.sum(axis), total) for axis in (1, 2)) / 2
    return jnp.sqrt(12 * variance + 1)


def roughness(maps: Maps) -> Float[Array, " n"]:
    """Of neighbouring units: mean squared difference over twice the variance, averaged over channels and axes.

    0 for a map that is constant, or smooth; 1 where neighbours have nothing in common, as in white noise; 2 where
    they alternate. Channels without variance count as 0.
    """
    scale = 2 * jnp.square(maps - maps.mean((1, 2), keepdims=True)).mean((1, 2))
    differences = [jnp.square(jnp.diff(maps, axis=axis)).mean((1, 2)) for axis in (1, 2)]
    return jnp.where(scale > 0, sum(differences) / 2 / jnp.where(scale > 0, scale, 1), 0).mean(-1)


def _variance(marginal, total):
    places = jnp.arange(marginal.shape[1])
    mean = (marginal * places).sum(1) / total
    return (marginal * jnp.square(places - mean[:, None])).sum(1) / total


def _map(outputs: Any, endpoint: str) -> Maps:
    if not endpoint:
        found = outputs[0] if isinstance(outputs, tuple) else outputs
        name = "The output"
    else:
        endpoints = outputs[1] if isinstance(outputs, tuple) and len(outputs) > 1 else {}
        if endpoint not in endpoints:
            raise UsageError(f"There is no endpoint {endpoint!r}. Choices: {', '.join(endpoints) or 'none'}.")
        found, name = endpoints[endpoint], f"The endpoint {endpoint!r}"
    if found.ndim != 4:
        raise UsageError(f"{name} is of shape {found.shape}, not a map (N, H, W, C). Name an endpoint that is one.")
    return found
