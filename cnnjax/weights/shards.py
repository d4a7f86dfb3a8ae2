"""State dicts in several files: an index in JSON says which file holds which tensor.

The form of the Hugging Face hub, ``model.safetensors.index.json`` and ``pytorch_model.bin.index.json``:
``{"metadata": {...}, "weight_map": {"layer.weight": "model-00001-of-00002.safetensors"}}``.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.typing import UsageError
from cnnjax.weights.fit import some

SUFFIX = ".index.json"
LARGEST = 16 << 20  # bytes of an index; a thousand tensors take a tenth of a megabyte
MOST = 1_000  # files


def is_index(path: Path) -> bool:
    """Whether the file's name is that of an index."""
    return path.name.endswith(SUFFIX)


def names(path: Path) -> tuple[str, ...]:
    """The names of the files that an index lists; they lie beside it.

    Raises:
      UsageError: as ``read``, but for what the files hold.
    """
    return tuple(sorted(set(_weight_map(path).values())))


def files(path: Path) -> tuple[Path, ...]:
    """The files that an index lists.

    Raises:
      UsageError: as ``read``, but for what the files hold.
    """
    found = tuple(path.with_name(name) for name in names(path))
    missing = [file.name for file in found if not file.is_file()]
    if missing:
        raise UsageError(f"{path} lists files that are not beside it: {some(missing)}. Fetch them, too.")
    return found


def read(path: Path, read_file: Callable[[Path], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors of all the files together.

    Args:
      path: of the index.
      read_file: reads one of the files.

    Raises:
      UsageError: the index is no JSON of this form, names a tensor twice or a file that is missing or lies elsewhere;
        or a file holds other tensors than the index says.
    """
    expected: dict[str, set[str]] = {}
    for key, name in _weight_map(path).items():
        expected.setdefault(name, set()).add(key)
    tensors: dict[str, np.ndarray] = {}
    for file in files(path):
        part, listed = read_file(file), expected[file.name]
        if set(part) != listed:
            missing, extra = sorted(listed - set(part)), sorted(set(part) - listed)
            lacks = f" Missing: {some(missing)}." if missing else ""
            more = f" Not in the index: {some(extra)}." if extra else ""
            raise UsageError(f"{file} does not hold what {path.name} says.{lacks}{more} Fetch both again.")
        tensors |= part
    return tensors


def _weight_map(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    if path.stat().st_size > LARGEST:
        raise UsageError(f"{path} has {path.stat().st_size} bytes; an index of weights has at most {LARGEST}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no index of weights: {error}. Fetch it again.") from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"{path} is no index of weights: it has no weight_map of tensors' and files' names.")
    listed = set(found.values())
    if len(listed) > MOST:
        raise UsageError(f"{path} lists {len(listed)} files; weights lie in at most {MOST}.")
    for name in listed:
        if Path(name).name != name or name in ("", ".", "..") or set(name) & set("\\/:\0") or is_index(Path(name)):
            raise UsageError(f"{path} lists {name!a:.100}, which is no name of a file of weights beside it.")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!a:.100} stands in it twice")
    return found
