"""Weights from a file of any known kind."""

from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np

from cnnjax import models
from cnnjax.typing import UsageError
from cnnjax.weights import architecture, keras_keys, npz_file, safetensors_file, saved, shards, torch_file
from cnnjax.weights.archive import LOCAL, mapped
from cnnjax.weights.convert import convert
from cnnjax.weights.detect import detect
from cnnjax.weights.leaves import Variables
from cnnjax.weights.place import local_path

Tensors = dict[str, np.ndarray]  # a state dict
PREFIXES = ("module.", "model.", "_orig_mod.", "backbone.", "network.", "net.")  # of wrapped networks
COUNT = "n_averaged"  # beside the averages of torch.optim.swa_utils


def load(
    path: str | Path,
    model: str | nn.Module,
    *,
    source: str | None = None,
    head: str = "strict",
    check_architecture: bool = True,
    **overrides: Any,
) -> Variables:
    """The variables of a network from a file: ``params`` and ``batch_stats``, float32, in its structure.

    Args:
      path: of another library's file (``.pth``, ``.pt``, ``.bin``, ``.safetensors``, ``.npz``, or the ``.index.json``
        of several), or one of ``weights.save``; of a folder with one; or an address of the Hugging Face hub (see
        ``hub``): ``hf:timm/resnet50.a1_in1k``.
      model: a name of ``models.MODELS``, or the network.
      source: the library that wrote the file, or whose keys it has: one of ``layouts.SOURCES``; None finds it from
        the keys.
      head: "strict", or "new": a head for another number of classes is left out of the result.
      check_architecture: whether a file whose name, configuration or words say another architecture is refused; see
        ``architecture``.
      overrides: fields of the network called by name, such as num_classes.

    Raises:
      UsageError: no such file; it is damaged, of another kind, of another network, or of other classes; or the
        network computes something else than the file's of the same keys.
    """
    if isinstance(model, str):
        model = models.create(model, **overrides)
    elif overrides:
        raise UsageError(f"Fields ({', '.join(overrides)}) go with a name; this network is made already.")
    local = local_path(path)
    if saved.is_saved(local):
        return saved.load(local, model, head=head)
    tensors = read(local)
    source = library(tensors, model, local, str(path), source, check_architecture=check_architecture)
    return convert(tensors, model, source, head=head, label=str(path))


def library(
    tensors: Tensors,
    model: nn.Module,
    path: Path,
    label: str,
    source: str | None = None,
    *,
    check_architecture: bool = True,
) -> str:
    """The library that wrote a file, found from its keys unless ``source`` says it.

    Raises:
      UsageError: the tensors fit none's layout, or the file says an architecture that computes something else.
    """
    source = source or detect(tensors, model, label, path)
    if check_architecture:
        architecture.check(model, source, path, label)
    return source


def read(path: str | Path) -> Tensors:
    """The state dict of another library's file, without the prefixes of wrapped networks.

    Raises:
      UsageError: no such file, or it cannot be read (see ``torch_file``, ``safetensors_file``, ``npz_file`` and
        ``shards``).
    """
    path = local_path(path)
    if shards.is_index(path):
        return without_prefixes(shards.read(path, _read_file))
    return without_prefixes(_read_file(path))


def _read_file(path: Path) -> Tensors:
    start = mapped(path)[:4]
    if safetensors_file.is_safetensors(path):  # first: its length may begin as a pickle does
        return safetensors_file.read(path)
    if npz_file.is_npz(path):
        return npz_file.read(path)
    if start.startswith((LOCAL, torch_file.PICKLE)):
        return torch_file.read(path)
    if path.suffix == ".safetensors":
        return safetensors_file.read(path)
    raise UsageError(f"{path} is neither a file of torch.save nor safetensors nor npz: it starts with {start!r}.")


def without_prefixes(tensors: Tensors) -> Tensors:
    """The tensors without the prefixes that all their keys have; Keras's keys as ``keras_keys`` has them."""
    if any("/" in key for key in tensors):
        return keras_keys.canonical(tensors)
    tensors = {key: value for key, value in tensors.items() if key != COUNT}
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), ""):
        if not tensors:
            break
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors
