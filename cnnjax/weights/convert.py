"""State dicts of other libraries to variables, and back."""

import dataclasses
from collections import Counter
from collections.abc import Mapping

import flax.linen as nn
import jax
import numpy as np

from cnnjax import tree
from cnnjax.typing import UsageError
from cnnjax.weights import fit
from cnnjax.weights.detect import detect, fitting, layout_of, unexpected
from cnnjax.weights.layout import Layout
from cnnjax.weights.leaves import (
    CHANNELS,
    KEYS,
    SEPARATORS,
    Leaf,
    Variables,
    apart,
    leaves,
    our_shape,
    ours,
    theirs,
    together,
)
from cnnjax.weights.preprocessing import Preprocessing


def convert(
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    source: str | None = None,
    *,
    head: str = "strict",
    label: str = "the state dict",
) -> Variables:
    """The variables of a network from a state dict: float32 arrays in the network's structure.

    Every tensor is used exactly once. Half precision becomes float32 here, one tensor after the other.

    Args:
      tensors: by the file's keys.
      model: the network.
      source: the library that wrote the file, such as "torchvision"; None finds it from the keys.
      head: "strict", or "new": a head for another number of classes is left out of the result.
      label: what errors call the tensors, such as the file's name.

    Raises:
      UsageError: the network has no layout of the source, or computes something else than the source's of these keys;
        tensors are missing, not expected, or of other shapes.
    """
    source = source or detect(tensors, model, label)
    layout = layout_of(model, source)
    fit.check_fields(model, layout.fields, f"{label} is of {source}, whose network of these keys has")
    if vars(model).get("num_classes") == 0:  # the network has no head; the file may have one
        head_module = f"{layout.modules['head']}{SEPARATORS[layout.style]}"
        layout = dataclasses.replace(layout, optional=(*layout.optional, head_module))
    every = leaves(model, layout, _channels(tensors, layout))
    expected = [leaf for leaf in every if leaf.key]
    twice = [key for key, times in Counter(leaf.key for leaf in expected).items() if times > 1]
    if twice:
        raise UsageError(f"The layout of {type(model).__name__} reads a tensor twice: {fit.some(twice)}.")
    extra = unexpected(tensors, [leaf.key for leaf in expected], layout)
    pairs = [_pair(leaf, tensors.get(leaf.key)) for leaf in expected]
    left_out = fit.check(pairs, extra, model, label, head=head, fitting=lambda: fitting(tensors))
    flat = {leaf.path: ours(leaf, tensors[leaf.key]) for leaf in expected if leaf.path not in left_out}
    flat |= {leaf.path: np.ones(leaf.shape, np.float32) for leaf in every if not leaf.key}
    return together(model, flat)


def export(variables: Variables, model: nn.Module, source: str) -> dict[str, np.ndarray]:
    """The state dict of a network's variables: the inverse of ``convert``, without ``num_batches_tracked``.

    Raises:
      UsageError: the network has no layout of the source, or computes something else than the source's of these keys;
        or the variables are not the network's.
    """
    layout = layout_of(model, source)
    fit.check_fields(model, layout.fields, f"A network of {source} with these keys has")
    single = apart(model, jax.device_get(variables))
    flat = dict(zip(tree.names(single), jax.tree_util.tree_leaves(single), strict=True))
    first = flat.get(f"params/{next(iter(layout.modules))}/kernel")
    expected = leaves(model, layout, first.shape[2] if first is not None and first.ndim == 4 else CHANNELS)
    scaled = [leaf.path for leaf in expected if not leaf.key and not np.all(flat.get(leaf.path, 1) == 1)]
    if scaled:
        raise UsageError(f"{source} has no place for scales other than one: {fit.some(scaled)}.")
    shapes = {leaf.path: flat[leaf.path].shape if leaf.path in flat else None for leaf in expected}
    pairs = [fit.Pair(leaf.path, leaf.shape, leaf.path, shapes[leaf.path], shapes[leaf.path]) for leaf in expected]
    fit.check(pairs, sorted(set(flat) - set(shapes)), model, "the tree of variables")
    return {leaf.key: theirs(leaf, np.asarray(flat[leaf.path])) for leaf in expected if leaf.key}


def rgb(variables: Variables, model: nn.Module, preprocessing: Preprocessing) -> tuple[Variables, Preprocessing]:
    """The same network for RGB images, and the preprocessing that belongs to it: its first layer's inputs turned.

    Raises:
      UsageError: the network has no layouts, so that its first layer is not known.
    """
    if preprocessing.channels == "RGB":
        return variables, preprocessing
    first = f"params/{next(iter(layout_of(model).modules))}/kernel"
    turned = tree.mask(variables, lambda name, leaf: leaf[:, :, ::-1] if name == first else leaf)
    mean, std = preprocessing.mean[::-1], preprocessing.std[::-1]
    return turned, dataclasses.replace(preprocessing, mean=mean, std=std, channels="RGB")


def _pair(leaf: Leaf, array: np.ndarray | None) -> fit.Pair:
    shapes = (None, None) if array is None else (array.shape, our_shape(leaf, array.shape))
    return fit.Pair(leaf.path, leaf.shape, leaf.key, *shapes)


def _channels(tensors: Mapping[str, np.ndarray], layout: Layout) -> int:
    """Channels of the images that the file's first convolution reads."""
    kernel = KEYS[layout.style]["kernel"]
    first = tensors.get(f"{next(iter(layout.modules.values()))}{SEPARATORS[layout.style]}{kernel}")
    axis = {"torch": 1, "keras": 2}[layout.style]
    return first.shape[axis] if first is not None and first.ndim == 4 else CHANNELS
