"""Weights of a file as the start of a run (S4:599-602; S2:363): read and checked on the host."""

import hashlib
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from cnnjax import tree
from cnnjax.models.stages import HEAD, stages
from cnnjax.tasks.frozen import merge
from cnnjax.typing import UsageError
from cnnjax.weights import saved
from cnnjax.weights.convert import convert
from cnnjax.weights.load import library
from cnnjax.weights.load import read as read_tensors
from cnnjax.weights.place import files, local_path
from cnnjax.weights.preprocessing import Preprocessing
from cnnjax.weights.presets import preprocessing_of

SHOWN = 3  # names in an error
Arrays = dict[str, np.ndarray]  # by name, such as params/stem/kernel


class Normalization(NamedTuple):
    """What is subtracted from each channel's values in [0, 1], and what they are then divided by."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Loaded(NamedTuple):
    """A file's arrays, and the library that wrote it; empty for a file of our own."""

    arrays: Arrays
    source: str


def sha256(path: str) -> str:
    """The word sha256, a colon and the SHA-256 of a file, read anew only where its size or its time has changed.

    Of an index and the files that it lists: the digest of theirs, in order.

    Raises:
      UsageError: there is no such file, or it cannot be read.
    """
    try:
        digests = []
        for file in files(_local(path)):
            found = os.stat(file)
            digests.append(_sha256(str(file), found.st_size, found.st_mtime_ns, found.st_ino))
    except OSError as error:
        raise UsageError(f"weights={path} cannot be read ({error.strerror}). Give the path of a file.") from error
    return digests[0] if len(digests) == 1 else f"sha256:{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


@lru_cache(maxsize=64)
def _local(path: str) -> Path:
    return local_path(path)


@lru_cache(maxsize=64)
def _sha256(path: str, size: int, modified: int, inode: int) -> str:
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def read(path: str, model: nn.Module, shapes: Mapping[str, Any], fresh_head: bool = False) -> Arrays:
    """The arrays that a run of ``model`` starts from, by name; those not in it stay as they were drawn.

    Layers that count classes are left out where the file has another number of classes.

    Args:
      path: of the file; see ``weights.load``.
      model: the network.
      shapes: of the run's variables; see ``spec.variable_shapes``.
      fresh_head: whether the head is left out in any case.

    Raises:
      UsageError: the file cannot be read, or does not fit the network and its images.
    """
    found = _loaded(path, sha256(path), model).arrays
    whole = merge(shapes)
    wanted = {name: leaf.shape for name, leaf in zip(tree.names(whole), jax.tree_util.tree_leaves(whole), strict=True)}
    missing = [name for name in wanted if name not in found and not _classifies(name)]
    extra = [name for name in found if name not in wanted]
    differ = [
        f"{name} {shape}, not {found[name].shape}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    for problem, names in (("lacks", missing), ("has, and nothing reads,", extra), ("does not fit", differ)):
        if names:
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            raise UsageError(
                f"weights={path} {problem} {'; '.join(names[:SHOWN])}{more}. Use the network, its fields and the "
                "images' size and channels that the weights were trained with."
            )
    prefixes = tuple(f"params/{prefix}" for prefix in (stages(model) or {}).get(HEAD, (HEAD,)))
    return {name: array for name, array in found.items() if not (fresh_head and name.startswith(prefixes))}


def normalization(path: str, model: nn.Module, name: str) -> Normalization | None:
    """How the images were normalised that the weights were trained on, so that a run can do the same.

    Args:
      path: of the file; see ``weights.load``.
      model: the network.
      name: of the network in ``models.MODELS``; empty where it has none.

    Returns:
      None where a file of our own does not say: the run's data are then normalised by their own statistics.

    Raises:
      UsageError: nothing is known of another library's file.
    """
    source = _loaded(path, sha256(path), model).source
    if not source:
        steps = saved.preprocessing(_local(path))
        return _of_rgb(steps, path) if steps else None
    if not name:
        raise UsageError(
            f"weights={path} are of another library, and how they expect images is known by the network's name. "
            f"Give the network by its name in cnnjax.models.MODELS, not {type(model).__name__} itself."
        )
    try:
        steps = preprocessing_of(name, source, path)
    except UsageError as error:
        raise UsageError(
            f"weights={path}: {str(error).partition(' Give it as ')[0]} Make a file of our own that says it, with "
            "cnnjax convert and its flags --resize, --crop, --mean and --std."
        ) from error
    return _of_rgb(steps, path)


def _of_rgb(steps: Preprocessing, path: str) -> Normalization:
    if steps.channels != "RGB":
        raise UsageError(
            f"weights={path} expect images as {steps.channels}, and a run has RGB. Make a file of our own, whose first "
            "layer reads RGB, with cnnjax convert."
        )
    return Normalization(steps.mean, steps.std)


def _classifies(name: str) -> bool:
    """Whether an array belongs to the head or an auxiliary one, which may be left out."""
    return any(part.startswith((HEAD, "aux")) for part in name.split("/"))


@lru_cache(maxsize=2)
def _loaded(path: str, content: str, model: nn.Module) -> Loaded:
    local, source = _local(path), ""
    if saved.is_saved(local):
        variables = saved.load(local, model, head="new")
    else:
        tensors = read_tensors(local)
        source = library(tensors, model, local, path)
        variables = convert(tensors, model, source, head="new", label=path)
    variables = jax.device_get(variables)
    arrays = dict(zip(tree.names(variables), jax.tree_util.tree_leaves(variables), strict=True))
    return Loaded(arrays, source)
