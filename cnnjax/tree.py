"""Names, masks, counts and digests of pytrees."""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def names(tree: Any) -> list[str]:
    """The path of every leaf, joined with "/": ``params/stage1/conv1/kernel``."""
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join(_entry(entry) for entry in path) for path, _ in paths]


def mask(tree: Any, keep: Callable[[str, Any], bool]) -> Any:
    """A tree of the same structure holding ``keep(name, leaf)`` at every leaf."""
    leaves, structure = jax.tree_util.tree_flatten(tree)
    return jax.tree_util.tree_unflatten(
        structure, [keep(name, leaf) for name, leaf in zip(names(tree), leaves, strict=True)]
    )


def count(tree: Any) -> int:
    """The number of scalars in the tree; leaves may be arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree_util.tree_leaves(tree))


def first_not_finite(tree: Any, index: int) -> str | None:
    """The name of the first leaf, a NumPy array, that is not finite at ``index`` of its first axis."""
    leaves = zip(names(tree), jax.tree_util.tree_leaves(tree), strict=True)
    return next((name for name, leaf in leaves if not np.isfinite(leaf[index]).all()), None)


def digest(tree: Any) -> str:
    """SHA-256 over every leaf's name, dtype, shape and bytes: equal only where every bit is."""
    total = hashlib.sha256()
    for name, leaf_digest in leaf_digests(tree).items():
        total.update(f"{name}={leaf_digest}\n".encode())
    return total.hexdigest()


def leaf_digests(tree: Any) -> dict[str, str]:
    """The SHA-256 of each leaf, by name."""
    leaves = jax.tree_util.tree_leaves(jax.device_get(tree))
    return {name: array_digest(leaf) for name, leaf in zip(names(tree), leaves, strict=True)}


def array_digest(array: Any) -> str:
    """The SHA-256 of one array's dtype, shape and bytes."""
    array = np.asarray(array)
    header = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(header + array.tobytes()).hexdigest()


def _entry(entry: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
