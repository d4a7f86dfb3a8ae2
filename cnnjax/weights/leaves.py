"""Every array of a network with its key in a file, and the change of axes between the two.

The rules that hold for every network; what differs is a network's ``Layout``. In the style of torch, MODULE.weight:

  kernel <- weight: a convolution's (O, I, H, W) becomes (H, W, I, O); a dense layer's (O, I) becomes (I, O).
    Where one side has a dense layer and the other a convolution, the map is flattened.
  scale <- weight, bias <- bias, mean <- running_mean, var <- running_var

In the style of Keras, LAYER/kernel, axes stay, but for a depthwise convolution's (H, W, C, 1), here (H, W, 1, C):

  kernel <- kernel, bias <- bias; of a normalisation scale <- gamma, bias <- beta, mean <- moving_mean,
  var <- moving_variance
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax import models, tree
from cnnjax.typing import UsageError
from cnnjax.weights.layout import Layout

KEYS = {
    "torch": {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
    "keras": {"kernel": "kernel", "scale": "gamma", "bias": "bias", "mean": "moving_mean", "var": "moving_variance"},
}
SEPARATORS = {"torch": ".", "keras": "/"}
CHANNELS = 3  # of images, where nothing else tells
STRIP = 128

Variables = dict[str, Any]


class Leaf(NamedTuple):
    """One array of a network and its place in a file.

    Attributes:
      path: ours, such as params/stage1.0/conv1/kernel.
      shape: ours.
      key: the file's, such as layer1.0.conv1.weight; empty where the file has none, and ours is one.
      flattened: (H, W, C) of the map that a dense layer reads, or None.
      convolution: whether the file has this dense layer as a convolution.
      style: of the file; see ``Layout``.
      depthwise: whether this is the kernel of a depthwise convolution, whose axes the file has otherwise.
    """

    path: str
    shape: tuple[int, ...]
    key: str
    flattened: tuple[int, int, int] | None
    convolution: bool
    style: str = "torch"
    depthwise: bool = False


def leaves(model: nn.Module, layout: Layout, channels: int = CHANNELS) -> list[Leaf]:
    """Every array of the network, as shapes: nothing is computed.

    Args:
      model: the network.
      layout: of the file.
      channels: of the images.

    Raises:
      UsageError: the layout has no place for an array.
    """
    kinds, separator = KEYS[layout.style], SEPARATORS[layout.style]
    shapes = {_module(path, layout): shape for path, shape in _shapes(model, channels).items()}
    norms = {module for module, kind, _ in shapes if kind in ("scale", "mean")}
    found = []
    for (module, kind, path), shape in shapes.items():
        if module not in layout.modules or kind not in kinds:
            raise UsageError(f"{type(model).__name__} has {path}, which has no place in files of this layout.")
        name = "beta" if layout.style == "keras" and kind == "bias" and module in norms else kinds[kind]
        key = "" if kind == "scale" and layout.unscaled else f"{layout.modules[module]}{separator}{name}"
        flattened, convolution = layout.flattened.get(module), module in layout.convolutions
        found.append(Leaf(path, shape, key, flattened, convolution, layout.style, module in layout.depthwise))
    return found


def _module(path: str, layout: Layout) -> tuple[str, str, str]:
    """Our module, the kind of its array, and the path again."""
    module, _, kind = path.partition("/")[2].rpartition("/")
    if module not in layout.modules and module.endswith("/group"):
        module = module.removesuffix("/group")  # GroupNorm's inner module
    return module, kind, path


@lru_cache(maxsize=32)  # tracing a large network takes a second, and a file is held against several
def _shapes(model: nn.Module, channels: int) -> dict[str, tuple[int, ...]]:
    """The shape of every array by path, blocks apart."""
    size = getattr(model, "min_size", 1)
    shapes = models.parameter_shapes(model, (size, size, channels))
    single = jax.eval_shape(lambda variables: apart(model, variables), shapes)
    return {name: leaf.shape for name, leaf in zip(tree.names(single), jax.tree_util.tree_leaves(single), strict=True)}


def module_of(key: str) -> str:
    """The file's module that an array belongs to, in either style."""
    return key.rpartition(SEPARATORS["keras" if SEPARATORS["keras"] in key else "torch"])[0]


def our_shape(leaf: Leaf, theirs: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that the file's array has with our axes."""
    if not leaf.path.endswith("/kernel") or len(theirs) not in (2, 4):
        return theirs
    if leaf.style == "keras":
        if len(leaf.shape) == 2:
            return (math.prod(theirs[:-1]), theirs[-1])
        return (*theirs[:2], theirs[3], theirs[2]) if leaf.depthwise and len(theirs) == 4 else theirs
    if len(leaf.shape) == 2:
        return (math.prod(theirs[1:]), theirs[0])
    height, width = theirs[2:] or (1, 1)
    return (height, width, theirs[1], theirs[0])


def ours(leaf: Leaf, array: np.ndarray) -> np.ndarray:
    """The file's array with our axes, as float32, in memory of its own."""
    if leaf.style == "keras":
        return _copy(array.reshape(our_shape(leaf, array.shape)))  # of the axes that change places, one is of length 1
    if leaf.path.endswith("/kernel"):
        outputs = array.shape[0]
        if len(leaf.shape) == 4:
            array = array.reshape(*array.shape[:2], *(array.shape[2:] or (1, 1))).transpose(2, 3, 1, 0)
        elif array.ndim == 4 or leaf.flattened:
            height, width, channels = leaf.flattened or (*array.shape[2:], array.shape[1])
            array = array.reshape(outputs, channels, height, width).transpose(2, 3, 1, 0)
            return _copy(array).reshape(-1, outputs)
        else:
            array = array.T
    return _copy(array)


def _copy(array: np.ndarray) -> np.ndarray:
    """As float32, row by row. In strips, which the cache holds: a dense layer of VGG-16 takes a fifth of the time."""
    out = np.empty(array.shape, np.float32)
    for start in range(0, array.shape[-1], STRIP):
        out[..., start : start + STRIP] = array[..., start : start + STRIP]
    return out


def theirs(leaf: Leaf, array: np.ndarray) -> np.ndarray:
    """Our array with the file's axes: the inverse of ``ours``."""
    if leaf.style == "keras":
        if leaf.depthwise:
            array = array.reshape(*array.shape[:2], array.shape[3], array.shape[2])
        elif leaf.convolution and leaf.path.endswith("/kernel"):
            array = array.reshape(*(leaf.flattened or (1, 1, len(array))), -1)
    elif leaf.path.endswith("/kernel"):
        outputs = array.shape[-1]
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif leaf.flattened:
            array = array.reshape(*leaf.flattened, outputs).transpose(3, 2, 0, 1)
            array = array if leaf.convolution else array.reshape(outputs, -1)
        else:
            array = array.T[:, :, None, None] if leaf.convolution else array.T
    return np.ascontiguousarray(array)


def apart(model: nn.Module, variables: Variables) -> Variables:
    """The variables with an entry for each scanned block."""
    unstack = getattr(model, "unstack", lambda collection: collection)
    return {collection: unstack(value) for collection, value in variables.items()}


def together(model: nn.Module, flat: dict[str, np.ndarray]) -> Variables:
    """The network's own structure from arrays by path: the inverse of ``apart``."""
    stack = getattr(model, "stack", lambda collection: collection)
    return {collection: stack(value) for collection, value in nested(flat).items()}


def nested(flat: dict[str, np.ndarray]) -> Variables:
    """The tree of arrays by path: the inverse of ``tree.names``."""
    root: Variables = {}
    for path, array in flat.items():
        *parents, last = path.split("/")
        node = root
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    return root
