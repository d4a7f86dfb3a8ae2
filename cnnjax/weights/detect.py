"""Which library wrote a file, and which of our networks it fits: read from its keys."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import flax.linen as nn
import numpy as np

from cnnjax import models
from cnnjax.typing import UsageError, unknown
from cnnjax.weights import fit, timm_config
from cnnjax.weights import leaves as rules
from cnnjax.weights.layout import Layout
from cnnjax.weights.layouts import LAYOUTS

IGNORED = "num_batches_tracked"


def layout_of(model: nn.Module, source: str | None = None) -> Layout:
    """The layout of a network in the files of a library, or of the first that has one.

    Raises:
      UsageError: the network has no layouts, or none of that source.
    """
    functions = _layouts(model)
    source = source or next(iter(functions))
    if source not in functions:
        raise unknown(f"source of weights for {type(model).__name__}", source, functions)
    return functions[source](model)


def detect(
    tensors: Mapping[str, np.ndarray], model: nn.Module, label: str = "the state dict", path: Path | None = None
) -> str:
    """The library whose layout of the network has the most modules in common with the file.

    Where the libraries have the same keys, it is timm if its ``config.json`` lies beside the file at ``path``.

    Raises:
      UsageError: the network has no layouts, or they have nothing in common with the file.
    """
    present = _modules(tensors)
    common = {name: len(present & set(layout.modules.values())) for name, layout in _possible(model).items()}
    best = max(common, key=lambda name: common[name])
    if common[best] == common.get("timm") and timm_config.is_beside(path):
        best = "timm"
    if not common[best]:
        keys, names = ", ".join(sorted(tensors)[:3]), fitting(tensors)
        fits = f"fits {' or '.join(names)}" if names else f"starts with {keys}"
        raise UsageError(f"{label} has no tensor of {type(model).__name__}; it {fits}.")
    return best


def fitting(tensors: Mapping[str, np.ndarray]) -> list[str]:
    """The names in ``MODELS`` that the file fits: every key and every shape, but for the number of classes."""
    return [name for name, entry in models.MODELS.items() if _fits(tensors, entry.build())]


def unexpected(tensors: Iterable[str], expected: Iterable[str], layout: Layout) -> list[str]:
    """The file's keys that nothing reads."""
    known = set(expected)
    return [
        key
        for key in tensors
        if key not in known and key.rpartition(".")[2] != IGNORED and not key.startswith(layout.optional or (" ",))
    ]


def _fits(tensors: Mapping[str, np.ndarray], default: nn.Module) -> bool:
    """Whether a network fits, with the fields that a layout asks for."""
    for source, layout in _possible(default).items() if type(default) in LAYOUTS else ():
        fields = {field: value for field, value in layout.fields.items() if not fit.has_fields(default, {field: value})}
        model = default.clone(**fields) if fields else default
        layout = layout_of(model, source) if fields else layout
        modules = set(layout.modules.values())
        if not modules <= _modules(tensors):  # cheap, and settles most
            continue
        found = rules.leaves(model, layout)
        if unexpected(tensors, [leaf.key for leaf in found], layout):
            continue
        if all(not leaf.key or (leaf.key in tensors and _same(leaf, tensors[leaf.key].shape)) for leaf in found):
            return True
    return False


def _same(leaf: rules.Leaf, theirs: tuple[int, ...]) -> bool:
    shape = rules.our_shape(leaf, theirs)
    return shape == leaf.shape or (leaf.path.startswith("params/head/") and shape[:-1] == leaf.shape[:-1])


def _possible(model: nn.Module) -> dict[str, Layout]:
    """The layouts by source, without those that have no place for what the network has.

    Raises:
      UsageError: there are none.
    """
    found, problem = {}, None
    for source, function in _layouts(model).items():
        try:
            found[source] = function(model)
        except UsageError as error:
            problem = error
    if not found and problem:
        raise problem
    return found


def _layouts(model: nn.Module):
    if type(model) not in LAYOUTS:
        known = ", ".join(sorted(network.__name__ for network in LAYOUTS))
        raise UsageError(f"{type(model).__name__} has no layout of other libraries' files. Those with one: {known}.")
    return LAYOUTS[type(model)]


def _modules(tensors: Iterable[str]) -> set[str]:
    return {rules.module_of(key) for key in tensors}
