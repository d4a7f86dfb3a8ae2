"""How much the filters of a first layer are like Gabor functions, oriented, and coloured (S4:603; S3:331-436).

    from cnnjax import weights
    from cnnjax.analysis import gabor

    variables = weights.load("alexnet-owt-7be5be79.pth", "alexnet_one_column")
    kernel = variables["params"]["conv1"]["conv"]["kernel"]  # (11, 11, 3, 64); or gabor.first_kernel(model, variables)
    fit = gabor.fit(kernel)
    fit.r2.mean(), gabor.noise(kernel.shape)  # the share explained, and what white noise would give

A Gabor function is a wave under a Gaussian (``ops.filters.gabor``). Each filter is projected on every function of a
fixed dictionary, so that the fit is a few matrix products: it always ends, at the same numbers. Of a place, a width, a
wavelength and an orientation the dictionary has two functions, cosine and sine, made orthonormal, so that the phase is
fitted exactly; and one colour, a weight for each channel, is fitted exactly to their best mixture.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cnnjax.analysis.signal import layers
from cnnjax.ops.filters import wave
from cnnjax.typing import UsageError

ORIENTATIONS = 16  # over half a turn
WAVELENGTHS = 10  # from SHORTEST to twice the filter's side, equally spaced in logarithm
SHORTEST = 2.5  # pixels
WIDTHS = (0.25, 0.4, 0.6)  # standard deviations of the Gaussian, in wavelengths
PLACES = 5  # of the centre along each axis, at least, over the middle half of the filter; at most a pixel apart
DEPENDENT = 1e-3  # of the sine, what must be left beside the cosine for two functions to be told apart
NOISE_FILTERS = 256
AT_ONCE = 16  # filters that are fitted side by side

Kernel = Float[Array, "kh kw c o"]


class Fit(NamedTuple):
    """The best Gabor function of each of O filters.

    Attributes:
      r2: (O,) share of the filter's sum of squares (its mean not removed) that it explains, 0 to 1.
      wavelength, sigma: (O,) pixels.
      orientation: (O,) radians, 0 to pi: where the wave goes, anticlockwise from the right.
      phase: (O,) radians; 0 is a bright line, ±pi/2 an edge.
      centre: (O, 2) pixels (down, right) from the middle of the filter.
      colour: (C, O) the weight of each channel, the largest one positive.
      filters: (kh, kw, C, O) the functions themselves.
    """

    r2: Float[Array, " o"]
    wavelength: Float[Array, " o"]
    sigma: Float[Array, " o"]
    orientation: Float[Array, " o"]
    phase: Float[Array, " o"]
    centre: Float[Array, "o 2"]
    colour: Float[Array, "c o"]
    filters: Kernel


class Dictionary(NamedTuple):
    """Pairs of orthonormal functions, D in all, on K = kh * kw pixels.

    Attributes:
      basis: (D, 2, K) the cosine's direction, and that of the sine's part beside it.
      mixing: (D, 2, 2) what the weights of a pair are multiplied with to be those of cosine and sine.
      parameters: (D, 5) wavelength, sigma, orientation, down and right.
    """

    basis: Any
    mixing: Any
    parameters: Any


def fit(kernel: Kernel) -> Fit:
    """The best Gabor function of every filter. May be compiled; a filter of zeros has an ``r2`` of 0.

    A wave much longer than its Gaussian is a blob: ``orientation_selectivity`` tells blobs from edges.

    Args:
      kernel: (kh, kw, C, O).

    Raises:
      UsageError: a kernel of fewer than 3x3 pixels.
    """
    check(kernel.shape)
    return _fit(kernel, dictionary(*kernel.shape[:2]))


def noise(shape: tuple[int, ...]) -> float:
    """The mean ``r2`` of filters (kh, kw, C, ...) of white noise: a dictionary fits something to everything.

    It is the lower, the larger the filter: about 0.21 for 5x5x3, 0.12 for 7x7x3, 0.06 for 11x11x3.
    """
    check(shape)
    drawn = np.random.default_rng(0).standard_normal((*shape[:3], NOISE_FILTERS)).astype(np.float32)
    return float(fit(jnp.asarray(drawn)).r2.mean())


def orientation_selectivity(kernel: Kernel) -> Float[Array, " o"]:
    """How much one orientation prevails in each filter, from 0 to 1 (a grating); blobs have about 0.

    The length of the mean of exp(2 i angle) over the frequencies above 0 and up to half a cycle per pixel, each
    weighted by its power in all channels together.

    Args:
      kernel: (kh, kw, C, O).

    Raises:
      UsageError: a kernel of fewer than 3x3 pixels.
    """
    kh, kw, channels, features = kernel.shape
    check(kernel.shape)
    # Twice the side: all that the power spectrum of so many pixels can say.
    up, right = np.meshgrid(np.fft.fftfreq(2 * kh), np.fft.fftfreq(2 * kw), indexing="ij")
    inside = (np.hypot(up, right) > 0) & (np.hypot(up, right) <= 0.5)
    up, right = up[inside], right[inside]
    y, x = np.mgrid[:kh, :kw].reshape(2, -1)
    turns = 2 * np.pi * (np.outer(up, y) + np.outer(right, x))
    flat = kernel.astype(jnp.float32).reshape(kh * kw, -1)
    parts = [jnp.matmul(jnp.asarray(f(turns), jnp.float32), flat, precision="highest") for f in (np.cos, np.sin)]
    power = sum(jnp.square(part) for part in parts).reshape(-1, channels, features).sum(1)
    double = 2 * np.arctan2(up, right)
    mean = [jnp.asarray(f(double), jnp.float32) @ power for f in (np.cos, np.sin)]
    return jnp.hypot(*mean) / jnp.maximum(power.sum(0), jnp.finfo(jnp.float32).tiny)


def colour_share(kernel: Kernel) -> Float[Array, " o"]:
    """The part of each filter's sum of squares that a grey picture does not see: 0 is grey, 1 all colour.

    Of C channels, white noise has (C - 1) / C; with one channel there is no colour.

    Args:
      kernel: (kh, kw, C, O).
    """
    energy = jnp.square(kernel).sum((0, 1, 2))
    grey = jnp.square(kernel.sum(2)).sum((0, 1)) / kernel.shape[2]
    return jnp.clip(1 - grey / jnp.maximum(energy, jnp.finfo(jnp.float32).tiny), 0, 1)


def first_kernel(model: nn.Module, variables: Mapping[str, Any]) -> Kernel:
    """The kernel (kh, kw, C, O) of the first convolution of a network.

    Args:
      model: the network.
      variables: as from ``model.init`` or ``weights.load``.

    Raises:
      UsageError: it has no convolution.
    """
    kernels = [found for found in layers(model, variables["params"], "kernel").values() if found.ndim == 4]
    if not kernels:
        raise UsageError(f"{type(model).__name__} has no convolution, and so no filters to look at.")
    return kernels[0]


def check(shape: tuple[int, ...]) -> None:
    """Refuses kernels that have no room for a wave.

    Raises:
      UsageError: fewer than 3x3 pixels.
    """
    if min(shape[:2]) < 3:
        raise UsageError(f"Filters of {shape[0]}x{shape[1]} pixels are too small for a Gabor function: 3x3 at least.")


@lru_cache(maxsize=4)
def dictionary(kh: int, kw: int) -> Dictionary:
    """The functions that filters of kh x kw pixels are compared with."""
    side = max(kh, kw)
    lengths = np.geomspace(SHORTEST, 2 * side, WAVELENGTHS)
    angles = np.arange(ORIENTATIONS) * np.pi / ORIENTATIONS
    down, right = (np.linspace(-0.25, 0.25, max(PLACES, 2 * -(-(n - 1) // 4) + 1)) * (n - 1) for n in (kh, kw))
    grid = np.stack([axis.ravel() for axis in np.meshgrid(lengths, WIDTHS, angles, down, right)], -1)
    grid[:, 1] *= grid[:, 0]  # widths in pixels
    y, x = np.mgrid[:kh, :kw].reshape(2, 1, -1)
    wavelength, sigma, angle, down, right = grid.T[..., None]
    relative = (kh - 1) / 2 + down - y, x - (kw - 1) / 2 - right
    cosine, sine = (wave(*relative, wavelength, angle, phase, sigma, 1.0) for phase in (0.0, -np.pi / 2))
    length = np.linalg.norm(cosine, axis=-1, keepdims=True)
    first = cosine / length
    shadow = (first * sine).sum(-1, keepdims=True)
    beside = sine - shadow * first
    rest = np.linalg.norm(beside, axis=-1, keepdims=True)
    apart = (rest > DEPENDENT * np.linalg.norm(sine, axis=-1, keepdims=True))[:, 0]
    # a first + b second = (a - b shadow / rest) / length cosine + b / rest sine
    rest = np.maximum(rest, 1e-12)
    rows = [[1 / length, -shadow / (rest * length)], [np.zeros_like(rest), 1 / rest]]
    mixing = np.stack([np.concatenate(row, -1) for row in rows], 1)
    found = (np.stack([first, beside / rest], 1), mixing, grid)
    return Dictionary(*(each[apart].astype(np.float32) for each in found))


@jax.jit
def _fit(kernel, words):
    kh, kw, channels, features = kernel.shape
    flat = kernel.astype(jnp.float32).reshape(kh * kw, channels, features)

    def best(filter_):
        """Of the weights (D, 2, C) on all pairs, the pair and the mixture of its two that one colour fits best."""
        weights = jnp.einsum("dpk,kc->dpc", words.basis, filter_, precision="highest")
        first, second = jnp.square(weights).sum(-1).T
        both = (weights[:, 0] * weights[:, 1]).sum(-1)
        # The largest squared singular value of each 2 x C block.
        explained = (first + second) / 2 + jnp.hypot((first - second) / 2, both)
        place = jnp.argmax(explained)
        turn = 0.5 * jnp.arctan2(2 * both[place], first[place] - second[place])
        mixture = jnp.stack([jnp.cos(turn), jnp.sin(turn)])
        colour = mixture @ weights[place]
        sign = jnp.where(colour[jnp.argmax(jnp.abs(colour))] < 0, -1.0, 1.0)
        cosine, sine = words.mixing[place] @ (sign * mixture)
        energy = jnp.square(filter_).sum()
        r2 = jnp.where(energy > 0, explained[place] / jnp.where(energy > 0, energy, 1), 0)
        function = jnp.outer(mixture @ words.basis[place], colour)
        return jnp.clip(r2, 0, 1), words.parameters[place], jnp.arctan2(-sine, cosine), sign * colour, function

    found = jax.lax.map(best, jnp.moveaxis(flat, -1, 0), batch_size=min(AT_ONCE, features))
    r2, parameters, phase, colour, function = found
    wavelength, sigma, angle, down, right = parameters.T
    return Fit(
        r2=r2,
        wavelength=wavelength,
        sigma=sigma,
        orientation=angle,
        phase=phase,
        centre=jnp.stack([down, right], -1),
        colour=colour.T / jnp.maximum(jnp.linalg.norm(colour, axis=-1), jnp.finfo(jnp.float32).tiny),
        filters=jnp.moveaxis(function, 0, -1).reshape(kernel.shape),
    )
