"""Checkpoints of a bundle of runs: written by Orbax, believed only after every digest agrees.

A checkpoint is a directory ``<step>`` made by Orbax and a file ``<step>.json`` written after it,
which holds the SHA-256 of every array and whatever else must be carried along. Without that file
the directory counts for nothing, so a kill in mid-save loses one checkpoint and corrupts none.
Orbax itself restores a flipped bit without a word; the digests catch it.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cnnjax import tree

KEEP = 2  # the newest, and one to fall back on
log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint held: the arrays, and the JSON that was saved beside them."""

    arrays: Any
    extra: dict[str, Any]


def save(directory: Path, step: int, arrays: Any, extra: dict[str, Any]) -> None:
    """Writes the checkpoint of ``step`` and removes all but the newest ``KEEP``.

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
    record = {"digests": tree.leaf_digests(arrays), "extra": extra}
    partial = directory / f".{step}.partial"
    with open(partial, "w") as file:
        json.dump(record, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, _record(directory, step))
    for old in steps(directory)[:-KEEP]:
        _record(directory, old).unlink()
        shutil.rmtree(_arrays(directory, old), ignore_errors=True)


def restore(directory: Path, like: Any) -> Restored | None:
    """The newest checkpoint whose digests agree, or None where there is none.

    One that does not agree is named in the log and passed over for the one before.

    Args:
      directory: where ``save`` wrote.
      like: a tree of arrays or shapes with the structure to restore.
    """
    if not steps(directory):
        return None
    from orbax.checkpoint import v1 as ocp

    shapes = jax.tree_util.tree_map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), like)
    for step in reversed(steps(directory)):
        try:
            record = json.loads(_record(directory, step).read_text())
            arrays = ocp.load_pytree(_arrays(directory, step).absolute(), shapes)
            found = tree.leaf_digests(arrays)
            wrong = [name for name, digest in record["digests"].items() if found.get(name) != digest]
            if not wrong:
                return Restored(arrays, record["extra"])
            reason = f"{wrong[0]} is not what was saved"
        except Exception as error:  # Orbax raises many types for a damaged file
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("checkpoint %s passed over: %s", _arrays(directory, step), reason)
    return None


def remove(directory: Path) -> None:
    """Removes every checkpoint of a finished bundle."""
    shutil.rmtree(directory, ignore_errors=True)


def steps(directory: Path) -> list[int]:
    """The steps of the complete checkpoints, oldest first."""
    return sorted(int(path.stem) for path in directory.glob("*.json") if path.stem.isdigit())


def _arrays(directory: Path, step: int) -> Path:
    return directory / str(step)


def _record(directory: Path, step: int) -> Path:
    return directory / f"{step}.json"
