"""Checkpoints of a bundle of runs: arrays written by Orbax, believed only after every digest agrees.

A checkpoint is a directory ``<step>`` that holds ``arrays``, made by Orbax, and ``record.json``: whose it is, the
SHA-256 of every file and of every array, whatever else must be carried along, and a SHA-256 of itself. Both are
written into a directory of another name, flushed, read back and compared, and only then take their name, by one
rename: so a kill or a full disk loses the checkpoint being written and no other. Orbax itself restores a flipped bit
without a word, and meets other damage with pages of errors; so it is given no file whose digest does not agree.

A damaged checkpoint is passed over for the one before. One that is whole but belongs to other runs, or to a program
with other arrays, is refused: to go on from an older one, or from the start, would hide the mistake.
"""

import collections
import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax import process, tree
from cnnjax.provenance import code_differences
from cnnjax.strict_json import encode
from cnnjax.typing import UsageError, differences

KEEP = 2  # the newest, and one to fall back on
ARRAYS, RECORD = "arrays", "record.json"
PLAIN = "arrays.npz"  # in place of ARRAYS where several processes have joined: Orbax would save from all at once
ORBAXS_TASKS = re.compile("orbax|OCDBT|tensorstore")  # one of these words is in what asyncio reports of them
FAILED_HANDLES = 8  # of failed saves, kept open while the last of their writes may go on
log = logging.getLogger(__name__)
_saving = threading.Lock()
_failed: collections.deque[int] = collections.deque()


class Restored(NamedTuple):
    """What a checkpoint held: the arrays, the JSON that was saved beside them, and whose it was."""

    arrays: Any
    extra: dict[str, Any]
    owner: dict[str, Any] | None = None


def save(
    directory: Path, owner: Mapping[str, Any], step: int, arrays: Any, extra: Mapping[str, Any], keep: int = KEEP
) -> None:
    """Writes the checkpoint of ``step`` and removes all but the newest ``keep`` up to it.

    Several processes may save into one directory at once. Later steps, which another one has written, stay.

    Args:
      directory: made if missing, and so is the one around it.
      owner: JSON that describes the runs that the checkpoint belongs to; ``restore`` takes no other's.
      step: steps done.
      arrays: a tree of arrays.
      extra: JSON to be kept beside them.
      keep: how many checkpoints stay.

    Raises:
      OSError: it could not be written whole; earlier checkpoints stay as they were.
    """
    arrays = jax.device_get(arrays)
    unfinished = process.partial(directory, str(step))
    try:
        make(directory)
        process.sweep_up(directory)
        _check_room(directory, arrays)
        unfinished.mkdir()
        _write(unfinished, {"owner": owner, "step": step, "extra": extra, "leaves": _described(arrays)}, arrays)
        _place(unfinished, directory / str(step), arrays)
    except Exception as error:  # Orbax raises many types, also where the disk is full
        raise OSError(
            f"The checkpoint of step {step} could not be written to {directory} ({_reason(error)}). Make room or "
            "change its permissions, or use another --workdir. Earlier checkpoints are as they were."
        ) from error
    finally:
        _remove(unfinished)
    for old in [found for found in steps(directory) if found <= step][:-keep]:
        _drop(directory / str(old))


def restore(directory: Path, owner: Mapping[str, Any], like: Any, mix_signatures: bool = False) -> Restored | None:
    """The newest checkpoint whose digests agree, or None where there is none.

    One that is damaged is named in the log and passed over for the one before.

    Args:
      directory: where ``save`` wrote.
      owner: as it was saved.
      like: a tree of arrays or shapes with the structure to restore.
      mix_signatures: take one that was made under another execution signature (``owner["signature"]``), too.

    Raises:
      UsageError: a checkpoint is whole and belongs to other runs, or was made under another execution signature, such
        as by other code, or its arrays are others than ``like``.
    """
    for step in reversed(steps(directory)):
        path = directory / str(step)
        try:
            record = _read_record(path)
            _refuse_others(path, record, owner, like, mix_signatures)
            return Restored(jax.device_put(_checked(path, record, like)), record["extra"], record["owner"])
        except (UsageError, MemoryError):
            raise
        except Exception as error:  # Orbax raises many types for a damaged file
            log.warning("checkpoint %s passed over: %s", path, _reason(error))
    return None


def make(directory: Path) -> None:
    """Makes a place for checkpoints. What is above the folder of all of them is there, or was moved away."""
    for path in (directory.parent, directory):
        path.mkdir(exist_ok=True)


def remove(directory: Path) -> None:
    """Removes every checkpoint of a finished bundle, and what kills left of others."""
    shutil.rmtree(directory, ignore_errors=True)


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints there, oldest first; none is half written, but some may be damaged."""
    return sorted(int(path.name) for path in directory.glob("[0-9]*") if path.name.isascii() and path.name.isdecimal())


def _check_room(directory: Path, arrays: Any) -> None:
    """Says at once and in one line what Orbax would find out in the middle."""
    needed = sum(leaf.nbytes for leaf in jax.tree_util.tree_leaves(arrays))
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"No space left: {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the log of Orbax, which tells of an error in pages before it raises it; for one thread at a time."""
    _drop_late_reports()
    orbax = logging.getLogger("absl")
    with _saving:
        before, orbax.disabled = orbax.disabled, True
        try:
            yield
        finally:
            orbax.disabled = before


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[Path]:
    """A path that leads to this very directory wherever it is moved to, and nowhere once it is removed.

    Orbax makes whatever is missing above a file that it writes. By the directory's own path it would make a directory
    again that was moved away meanwhile. Where there is no such path (not Linux), it is the directory's own.
    """
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        yield directory.absolute()
        return
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if not os.fstat(handle).st_nlink:  # where Orbax cannot make its first folder, its threads wait for minutes
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(directory))
        yield handles / str(handle)
    except BaseException:  # the number must not become another directory's while writes to it go on
        _failed.append(handle)
        if len(_failed) > FAILED_HANDLES:
            os.close(_failed.popleft())
        raise
    os.close(handle)


@functools.cache
def _drop_late_reports() -> None:
    """Where one of Orbax's writes or reads fails, it raises that, and closes its event loop before the others end.

    What becomes of those is printed later, beside the error raised: by asyncio, which logs a failed task that nobody
    asked for, and by TensorStore's threads, which can no longer report to the loop and are not Python's own.
    """
    logging.getLogger("asyncio").addFilter(lambda record: not ORBAXS_TASKS.search(record.getMessage()))
    before = sys.unraisablehook

    def hook(report: Any) -> None:
        if (report.exc_type, str(report.exc_value), report.object) != (RuntimeError, "Event loop is closed", None):
            before(report)

    sys.unraisablehook = hook


def _write(path: Path, record: Mapping[str, Any], arrays: Any) -> None:
    """Writes a checkpoint and makes sure that the disk has it."""
    if jax.process_count() > 1:
        np.savez(path / PLAIN, *jax.tree_util.tree_leaves(arrays))
    else:
        from orbax.checkpoint import v1 as ocp  # slow to import; short runs never save

        with _quiet(), _held(path) as held:
            ocp.save(held / ARRAYS, arrays)
    record = {**record, "files": {name: _file_digest(path / name) for name in _files(path)}}
    text = encode({"record": record, "sha256": _sha256(record)}, indent=1)
    (path / RECORD).write_text(text)
    for written in (*path.rglob("*"), path):
        _flush(written)
    if (path / RECORD).read_text() != text or not _equal(_load(path, arrays), arrays):
        raise OSError(errno.EIO, "what was written reads otherwise")


def _place(unfinished: Path, target: Path, arrays: Any) -> None:
    """Renames; where there is one already, damaged or by another process, it stays only if it holds the same."""
    for _ in range(10):  # another process may do the same at once
        try:
            os.rename(unfinished, target)
            return _flush(target.parent)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(Exception):  # damaged
            there, ours = _read_record(target), _read_record(unfinished)
            if _sha256({**there, "files": ours["files"]}) == _sha256(ours) and _checked(target, there, arrays):
                return None  # Orbax gives its files other names each time
        _drop(target)
    raise FileExistsError(errno.EEXIST, f"{target} comes again and again")


def _read_record(path: Path) -> dict[str, Any]:
    """What a record says; what it says of itself is checked first."""
    saved = json.loads((path / RECORD).read_bytes())
    if not isinstance(saved, dict) or _sha256(saved.get("record")) != saved.get("sha256"):
        raise ValueError(f"{RECORD} is not what was saved")
    return saved["record"]


def _refuse_others(
    path: Path, record: dict[str, Any], owner: Mapping[str, Any], like: Any, mix_signatures: bool
) -> None:
    """Of a record that is what was saved: whether it is of these runs and this program."""
    if record["step"] != int(path.name):
        raise ValueError(f"{RECORD} is that of step {record['step']}")
    shapes = dict(zip(tree.names(like), map(_shape, jax.tree_util.tree_leaves(like)), strict=True))
    there = {name: _shape_text(leaf["dtype"], leaf["shape"]) for name, leaf in record["leaves"].items()}
    (runs_there, made_there), (runs, made) = map(_runs_and_signature, (record["owner"], owner))
    compared = [(runs_there, runs, "of other runs", ""), (there, shapes, "of a program with other arrays", "")]
    if not mix_signatures:
        remedy = ", or --mix_signatures to go on from it and mark the rows"
        compared.append((made_there, made, "made under another execution signature", remedy))
    for old, new, what, remedy in compared:
        if lines := differences(_flat(old), _flat(json.loads(encode(new)))):
            code = code_differences(old, new) if remedy else []
            lines += [f"The code is another: {'; '.join(code)}."] if code else []
            raise UsageError(
                f"{path} is a checkpoint {what}:\n" + "\n".join(lines) + f"\nRemove {path.parent} to begin anew, "
                f"or use another --workdir{remedy}."
            )


def _runs_and_signature(owner: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return {name: value for name, value in owner.items() if name != "signature"}, owner.get("signature") or {}


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """The values of a JSON value by their names, such as ``hypers/0/l2``."""
    parts = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    if not parts:
        return {name: value}
    joined = f"{name}/" if name else ""
    return {inner: found for key, part in parts for inner, found in _flat(part, f"{joined}{key}").items()}


def _checked(path: Path, record: dict[str, Any], like: Any) -> Any:
    """The arrays of a checkpoint, after comparing every digest."""
    for name, digest in record["files"].items():
        if _file_digest(path / name) != digest:
            raise ValueError(f"{name} is not what was saved")
    arrays = _load(path, like)
    found = tree.leaf_digests(arrays)
    wrong = [name for name, leaf in record["leaves"].items() if found.get(name) != leaf["sha256"]]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what was saved")
    return arrays


def _load(path: Path, like: Any) -> Any:
    if (path / PLAIN).exists():
        with np.load(path / PLAIN, allow_pickle=False) as file:
            return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), list(file.values()))
    from orbax.checkpoint import v1 as ocp

    # NumPy arrays, which belong to no device: Orbax cannot place others where there are several.
    hosts = jax.tree_util.tree_map(lambda leaf: np.empty(leaf.shape, leaf.dtype), like)
    with _alone():
        return ocp.load((path / ARRAYS).absolute(), hosts)


def _alone() -> Any:
    """Where several processes have joined, Orbax would wait for all of them; here one reads for all."""
    from orbax.checkpoint import v1 as ocp

    if jax.process_count() == 1:
        return contextlib.nullcontext()
    here = jax.process_index()
    only = ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
    )
    return ocp.Context(multiprocessing_options=only)


def _described(arrays: Any) -> dict[str, dict[str, Any]]:
    """Shape, type and digest of every leaf, by name."""
    digests = tree.leaf_digests(arrays)
    leaves = zip(digests.items(), jax.tree_util.tree_leaves(arrays), strict=True)
    return {
        name: {"shape": list(leaf.shape), "dtype": str(leaf.dtype), "sha256": digest} for (name, digest), leaf in leaves
    }


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two trees of arrays on the host agree to the bit."""
    pairs = zip(jax.tree_util.tree_leaves(ours), jax.tree_util.tree_leaves(theirs), strict=True)
    return all(_shape(a) == _shape(b) and np.array_equal(_bytes(a), _bytes(b)) for a, b in pairs)


def _bytes(array: Any) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _shape(leaf: Any) -> str:
    return _shape_text(str(leaf.dtype), leaf.shape)


def _shape_text(dtype: str, shape: Any) -> str:
    return f"{dtype} {tuple(shape)}"


def _drop(path: Path) -> None:
    """Removes a checkpoint; a kill meanwhile does not leave a part of it under its name."""
    aside = process.partial(path.parent, path.name)
    with contextlib.suppress(OSError):  # another process was faster
        os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(unfinished: Path) -> None:
    """Removes what was not finished, also where those writes of Orbax that did not fail still go on for a moment."""
    for _ in range(40):
        shutil.rmtree(unfinished, ignore_errors=True)
        if not unfinished.exists():
            return
        time.sleep(0.05)  # what stays longer is swept up by the next save


def _flush(path: Path) -> None:
    """Waits until the disk has a file, or the names in a directory."""
    if path.is_dir() and os.name == "nt":
        return  # cannot be opened there
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(record: Any) -> str:
    return hashlib.sha256(encode(record, sort_keys=True).encode()).hexdigest()


def _reason(error: Exception) -> str:
    text = re.sub(r"/proc/self/fd/\d+/?", "", str(error))  # of ``_held``
    return text.splitlines()[0][:200] if text else type(error).__name__
