"""Named random streams. Every random number of a run is drawn from (seed, stream, step).

There is no generator state to save: resuming at step n needs only the number n.
"""

import math

import jax
import numpy as np
from jax.extend.random import define_prng_impl
from jaxtyping import Array, Int, Integer, Key, UInt32, UInt64

from cnnjax.typing import unknown

# A stream's number is part of every result ever stored: append, never renumber.
STREAMS = {
    "init": 0,  # parameters
    "shuffle": 1,  # order of the examples within an epoch
    "augment": 2,
    "dropout": 3,
    "label_noise": 4,  # drawn on the host: it belongs to an example, not to a step
    "subset": 5,  # which examples a run with a smaller training set sees
    "split": 6,  # validation examples carved from a training split
    "generate": 7,  # procedural datasets
}


def abstract_key() -> jax.ShapeDtypeStruct:
    """Stands for any key where a function is only traced: to make a key itself, JAX compiles a program."""
    return jax.eval_shape(lambda: jax.random.key(0))


def _threefry(data):
    return jax.random.wrap_key_data(data, impl="threefry2x32")


# Threefry to the bit, but every draw is made flat and then reshaped: XLA on the CPU takes about
# ten times as long to compile a four-dimensional draw as a flat one, and a network's
# initialisation contains dozens. Threefry rather than ``rbg`` because its draws are the same inside
# and outside ``vmap``.
_FLAT_THREEFRY = define_prng_impl(
    key_shape=(2,),
    seed=lambda seed: jax.random.key_data(jax.random.key(seed, impl="threefry2x32")),
    split=lambda data, shape: jax.random.key_data(jax.random.split(_threefry(data), shape)),
    random_bits=lambda data, width, shape: jax.random.bits(
        _threefry(data), (math.prod(shape),), f"uint{width}"
    ).reshape(shape),
    fold_in=lambda data, number: jax.random.key_data(jax.random.fold_in(_threefry(data), number)),
    name="flat_threefry2x32",
    tag="flat",
)


def _number(stream: str) -> int:
    if stream not in STREAMS:
        raise unknown("random stream", stream, STREAMS)
    return STREAMS[stream]


def key(seed: int | Integer[Array, ""], stream: str, step: int | Integer[Array, ""] = 0) -> Key[Array, ""]:
    """The threefry key of (seed, stream, step); seed and step may be traced.

    Raises:
      UsageError: the stream has no name in ``STREAMS``.
    """
    return at_step(root(seed, stream), step)


def root(seed: int | Integer[Array, ""], stream: str) -> UInt32[Array, "2"]:
    """The data of the key that a stream's steps are folded into; a run computes it once and carries it.

    Raises:
      UsageError: the stream has no name in ``STREAMS``.
    """
    return jax.random.key_data(jax.random.fold_in(jax.random.key(seed, impl=_FLAT_THREEFRY), _number(stream)))


def at_step(root_data: UInt32[Array, "2"], step: int | Integer[Array, ""]) -> Key[Array, ""]:
    """The key of a step, from ``root``."""
    return jax.random.fold_in(jax.random.wrap_key_data(root_data, impl=_FLAT_THREEFRY), step)


def permutation(seed: int, stream: str, epoch: int, size: int) -> Int[np.ndarray, " size"]:
    """A permutation of ``range(size)``, drawn on the host from (seed, stream, epoch).

    The order of examples is decided on the host because its length may differ from run to run
    inside one compiled program. It sorts raw Philox output, whose bits NumPy promises never to
    change, rather than calling ``Generator.permutation``, whose algorithm it may change.
    """
    return np.argsort(bits(seed, stream, epoch, size), kind="stable")


def bits(seed: int, stream: str, epoch: int, size: int) -> UInt64[np.ndarray, " size"]:
    """Random words, drawn on the host from (seed, stream, epoch)."""
    # As a list, a seed of 2**63 or more would be rounded to a float.
    words = np.array([seed % 2**64, _number(stream) << 32 | epoch], np.uint64)
    return np.random.Philox(key=words).random_raw(size)
