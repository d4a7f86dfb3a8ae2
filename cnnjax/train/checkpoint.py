"""Checkpoints of a bundle of runs: written by Orbax, believed only after every digest agrees.

A checkpoint is a directory ``<step>`` made by Orbax and a file ``<step>.json`` written after it,
which holds the SHA-256 of every array, whatever else must be carried along, and a SHA-256 of its own.
Without that file the directory counts for nothing, so a kill in mid-save loses one checkpoint and
corrupts none. Orbax itself restores a flipped bit without a word; the digests catch it.
"""

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import tree

KEEP = 2  # the newest, and one to fall back on
log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint held: the arrays, and the JSON that was saved beside them."""

    arrays: Any
    extra: dict[str, Any]


def save(directory: Path, owner: str, step: int, arrays: Any, extra: dict[str, Any]) -> None:
    """Writes the checkpoint of ``step`` and removes all but the newest ``KEEP``.

    Args:
      directory: made if missing.
      owner: names the runs that the checkpoint belongs to; ``restore`` takes no other's.
      step: steps done.
      arrays: a tree of arrays.
      extra: JSON to be kept beside them.

    Raises:
      OSError: the disk is full or may not be written; earlier checkpoints stay as they were.
    """
    from orbax.checkpoint import v1 as ocp  # 1 s to import; short runs never save

    directory.mkdir(parents=True, exist_ok=True)
    target = _arrays(directory, step)
    if target.exists():  # left by a kill between the arrays and their JSON
        shutil.rmtree(target)
    arrays = jax.device_get(arrays)
    ocp.save_pytree(target.absolute(), arrays)
    record = {"owner": owner, "digests": tree.leaf_digests(arrays), "extra": extra}
    partial = directory / f".{step}.partial"
    with open(partial, "w") as file:
        json.dump({"record": record, "sha256": _sha256(record)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, _record(directory, step))
    for old in steps(directory)[:-KEEP]:
        _record(directory, old).unlink()
        shutil.rmtree(_arrays(directory, old), ignore_errors=True)


def restore(directory: Path, owner: str, like: Any) -> Restored | None:
    """The newest checkpoint of ``owner`` whose digests agree, or None where there is none.

    One that does not agree is named in the log and passed over for the one before.

    Args:
      directory: where ``save`` wrote.
      owner: as it was saved.
      like: a tree of arrays or shapes with the structure to restore.
    """
    if not steps(directory):
        return None
    from orbax.checkpoint import v1 as ocp

    # NumPy arrays, which belong to no device: Orbax cannot place others where there are several.
    hosts = jax.tree_util.tree_map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    for step in reversed(steps(directory)):
        try:
            saved = json.loads(_record(directory, step).read_text())
            record = saved["record"]
            if _sha256(record) != saved["sha256"]:
                raise ValueError(f"{_record(directory, step).name} is not what was saved")
            if record["owner"] != owner:
                raise ValueError("it belongs to other runs")
            arrays = ocp.load_pytree(_arrays(directory, step).absolute(), hosts)
            _check_shapes(arrays, hosts)
            found = tree.leaf_digests(arrays)
            wrong = [name for name, digest in record["digests"].items() if found.get(name) != digest]
            if not wrong:
                return Restored(jax.device_put(arrays), record["extra"])
            reason = f"{wrong[0]} is not what was saved"
        except Exception as error:  # Orbax raises many types for a damaged file
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        log.warning("checkpoint %s passed over: %s", _arrays(directory, step), reason)
    return None


def remove(directory: Path) -> None:
    """Removes every checkpoint of a finished bundle."""
    shutil.rmtree(directory, ignore_errors=True)


def steps(directory: Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first."""
    return sorted(int(path.stem) for path in directory.glob("*.json") if path.stem.isdigit())


def _check_shapes(arrays: Any, like: Any) -> None:
    """The program may have changed since: Orbax restores whatever shape it finds."""
    triples = zip(tree.names(like), jax.tree_util.tree_leaves(arrays), jax.tree_util.tree_leaves(like), strict=True)
    for name, array, expected in triples:
        if (array.shape, array.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{name} has shape {array.shape} and not {expected.shape}")


def _sha256(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _arrays(directory: Path, step: int) -> Path:
    return directory / str(step)


def _record(directory: Path, step: int) -> Path:
    return directory / f"{step}.json"
