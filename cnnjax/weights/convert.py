"""State dicts of other libraries to variables, and back."""

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
from cnnjax.weights.leaves import CHANNELS, Leaf, Variables, apart, leaves, our_shape, ours, theirs, together


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
      UsageError: the network has no layout of the source; tensors are missing, not expected, or of other shapes.
    """
    layout = layout_of(model, source or detect(tensors, model, label))
    expected = leaves(model, layout, _channels(tensors, layout))
    twice = [key for key, times in Counter(leaf.key for leaf in expected).items() if times > 1]
    if twice:
        raise UsageError(f"The layout of {type(model).__name__} reads a tensor twice: {fit.some(twice)}.")
    extra = unexpected(tensors, [leaf.key for leaf in expected], layout)
    pairs = [_pair(leaf, tensors.get(leaf.key)) for leaf in expected]
    left_out = fit.check(pairs, extra, model, label, head=head, fitting=lambda: fitting(tensors))
    flat = {leaf.path: ours(leaf, tensors[leaf.key]) for leaf in expected if leaf.path not in left_out}
    return together(model, flat)


def export(variables: Variables, model: nn.Module, source: str) -> dict[str, np.ndarray]:
    """The state dict of a network's variables: the inverse of ``convert``, without ``num_batches_tracked``.

    Raises:
      UsageError: the network has no layout of the source, or the variables are not the network's.
    """
    layout = layout_of(model, source)
    single = apart(model, jax.device_get(variables))
    flat = dict(zip(tree.names(single), jax.tree_util.tree_leaves(single), strict=True))
    first = flat.get(f"params/{next(iter(layout.modules))}/kernel")
    expected = leaves(model, layout, first.shape[2] if first is not None and first.ndim == 4 else CHANNELS)
    shapes = {leaf.path: flat[leaf.path].shape if leaf.path in flat else None for leaf in expected}
    pairs = [fit.Pair(leaf.path, leaf.shape, leaf.path, shapes[leaf.path], shapes[leaf.path]) for leaf in expected]
    fit.check(pairs, sorted(set(flat) - set(shapes)), model, "the tree of variables")
    return {leaf.key: theirs(leaf, np.asarray(flat[leaf.path])) for leaf in expected}


def _pair(leaf: Leaf, array: np.ndarray | None) -> fit.Pair:
    shapes = (None, None) if array is None else (array.shape, our_shape(leaf, array.shape))
    return fit.Pair(leaf.path, leaf.shape, leaf.key, *shapes)


def _channels(tensors: Mapping[str, np.ndarray], layout: Layout) -> int:
    """Channels of the images that the file's first convolution reads."""
    first = tensors.get(f"{next(iter(layout.modules.values()))}.weight")
    return first.shape[1] if first is not None and first.ndim == 4 else CHANNELS
