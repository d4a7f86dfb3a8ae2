"""Results on disk: one immutable file per finished run, and a manifest that says what they belong to.

``DIR/manifest.json`` is written when a sweep starts, ``DIR/rows/<run_id>.json`` when a run is done: under
another name, flushed, and then linked to its own, so a row is there whole or not at all, and never
written twice. Weights, where a run keeps them, lie in ``DIR/weights/<run_id>.safetensors`` before it has a row.
Nothing is listed anywhere else; what is done is what has a row.
"""

import base64
import difflib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.typing import UsageError

Row = dict[str, Any]
PARTIAL = ".partial-"  # how the names of files begin that a kill left behind half written


def outputs(row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities (N, classes) float32 and labels (N,) int32 of the test split, kept with ``keep_outputs``.

    Raises:
      UsageError: the row has none.
    """
    if not row.get("outputs"):
        raise UsageError(f"The run of {row['assignment']} kept no outputs. Set keep_outputs=True in its Spec.")
    labels = np.frombuffer(base64.b64decode(row["outputs"]["labels"]), "<i4")
    probabilities = np.frombuffer(base64.b64decode(row["outputs"]["probabilities"]), "<f2")
    return probabilities.reshape(len(labels), -1).astype(np.float32), labels


def arrays(row: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the probes of a run found, float32 with the precision of float16.

    Raises:
      UsageError: the row has none.
    """
    if not row.get("arrays"):
        raise UsageError(f"The run of {row['assignment']} kept no arrays. Name a probe that finds some in its Spec.")
    found = {
        name: np.frombuffer(base64.b64decode(kept["float16"]), "<f2").reshape(kept["shape"])
        for name, kept in row["arrays"].items()
    }
    return {name: array.astype(np.float32) for name, array in found.items()}


def weights_of(row: Row, directory: str | Path) -> Path:
    """The file of a run's final variables, kept with ``keep_weights``; ``Spec.weights`` and ``weights.load`` take it.

    Args:
      row: of the run.
      directory: of its sweep.

    Raises:
      UsageError: the run kept none, or the file is gone.
    """
    if not row.get("weights"):
        raise UsageError(f"The run of {row['assignment']} kept no weights. Set keep_weights=True in its Spec.")
    path = Path(directory) / row["weights"]["file"]
    if not path.exists():
        raise UsageError(f"{path} is missing. Restore it, or remove the run's row to have the run repeated.")
    return path


def encoded(kept: dict[str, np.ndarray] | None) -> dict[str, str] | None:
    """Outputs of a run (probabilities float16, labels int32) as text, for its row."""
    if kept is None:
        return None
    arrays = {"probabilities": kept["probabilities"].astype("<f2"), "labels": kept["labels"].astype("<i4")}
    return {name: base64.b64encode(array.tobytes()).decode() for name, array in arrays.items()}


def encoded_arrays(found: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Arrays of a run as text, for its row; ``arrays`` reads them."""
    return {
        name: {"shape": list(array.shape), "float16": base64.b64encode(array.astype("<f2").tobytes()).decode()}
        for name, array in found.items()
    }


class Store:
    """The results directory of one sweep. Making one touches nothing on disk."""

    def __init__(self, directory: Path):
        self.directory = directory

    @property
    def manifest(self) -> dict[str, Any] | None:
        """What the directory belongs to, or None where no sweep has started.

        Raises:
          UsageError: the file is damaged.
        """
        path = self.directory / "manifest.json"
        try:
            found = json.loads(path.read_text())
            if not isinstance(found, dict) or not {"configuration", "data", "runs"} <= set(found):
                raise ValueError("it is no manifest of a sweep")
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read ({error}). Use another --workdir, or remove the directory."
            ) from error

    def check(self, manifest: dict[str, Any], mix_signatures: bool = False) -> None:
        """Refuses a directory that holds something else; writes nothing.

        A sweep may go on, and may grow: more seeds or more points than before are welcome.

        Raises:
          UsageError: other data, weights that have changed, runs that the new sweep does not contain, runs made under
            another execution signature, or a directory that cannot be written.
        """
        _check_writable(self.directory)
        found = self.manifest
        if found is None:
            if self.directory.exists() and not all(_is_partial(path) for path in self.directory.iterdir()):
                raise UsageError(f"{self.directory} is not empty and holds no manifest. Use another --workdir.")
            return
        self._check_weights(found, manifest)
        gone = set(found["runs"]) - set(manifest["runs"])
        data = manifest.get("data", {})
        data_differ = any(found["data"][name] != data[name] for name in set(found["data"]) & set(data))
        if gone or data_differ:
            compared = ("data",) if data_differ else ("configuration",)
            differences = "\n".join(_differences(*({key: m[key] for key in compared} for m in (found, manifest))))
            raise UsageError(
                f"{self.directory} holds results of a different configuration:\n{differences}\n"
                "Use another --workdir, or remove the directory."
            )
        if not mix_signatures and len(self.done(manifest["runs"])) < len(manifest["runs"]):
            self._check_signatures(manifest)

    def _check_weights(self, found: dict[str, Any], manifest: dict[str, Any]) -> None:
        new = manifest.get("weights", {})
        for path, content in found.get("weights", {}).items():
            if new.get(path, content) != content:
                raise UsageError(
                    f"{path} has changed since the sweep in {self.directory} started ({content} before, "
                    f"{new[path]} now). Restore it, or use another --workdir."
                )

    def _check_signatures(self, manifest: dict[str, Any]) -> None:
        for run in self.done(manifest["runs"]):
            old, new = self.read(run)["signature"], manifest["signatures"][manifest["runs"][run]]
            if old != new:
                differences = "\n".join(_differences(old, new))
                raise UsageError(
                    f"{self.directory} holds rows made under another execution signature:\n{differences}\n"
                    "Their bits would not match. Use another --workdir, or --mix_signatures to merge them."
                )

    def open(self, manifest: dict[str, Any]) -> None:
        """Creates the directory, or continues in it, after ``check``.

        Raises:
          UsageError: it cannot be made.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{self.directory} cannot be made ({error.strerror}). Use another --workdir.") from error
        previous = self.manifest
        if previous is not None:
            manifest = {**manifest, "created": previous["created"]}
        write_atomically(self.directory / "manifest.json", dumps(manifest))

    def done(self, runs: Iterable[str]) -> set[str]:
        """Those of the runs that have a row."""
        return {run for run in runs if self._path(run).exists()}

    def read(self, run: str) -> Row:
        """The row of one run.

        Raises:
          UsageError: there is none, or it is damaged.
        """
        try:
            row = json.loads(self._path(run).read_text())
            if not isinstance(row, dict) or row.get("run_id") != run:
                raise ValueError("it is not the row of this run")
            return row
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self._path(run)} cannot be read ({error}). Remove it to have the run repeated."
            ) from error

    def write(self, row: Row) -> None:
        """Adds the row of a finished run; one that is there already stays as it is."""
        path = self._path(row["run_id"])
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}row-")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(dumps(row))
                file.flush()
                os.fsync(file.fileno())
            os.chmod(partial, 0o644)
            os.link(partial, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(partial)

    def checkpoints(self, checkpoint_id: str) -> Path:
        """Where the checkpoints of a bundle lie while it is in training."""
        return self.directory / "checkpoints" / checkpoint_id

    def weights(self, run: str) -> Path:
        """Where the final variables of a run lie, if it keeps them."""
        return self.directory / "weights" / f"{run}.safetensors"

    def clean(self) -> None:
        """Removes what only an unfinished sweep needs."""
        shutil.rmtree(self.directory / "checkpoints", ignore_errors=True)
        for partial in (self.directory / "weights").glob(".*.partial"):
            partial.unlink(missing_ok=True)
        for partial in (*self.directory.glob(".*"), *(self.directory / "rows").glob(".*")):
            if _is_partial(partial):
                partial.unlink(missing_ok=True)

    def _path(self, run: str) -> Path:
        return self.directory / "rows" / f"{run}.json"


def dumps(value: Any) -> str:
    """JSON in the given order; numbers that are not finite become null, which every reader understands."""
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file whole or not at all."""
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f"{PARTIAL}{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _is_partial(path: Path) -> bool:
    return path.name.startswith(PARTIAL)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _check_writable(directory: Path) -> None:
    """Refuses a place where nothing can be written, without writing."""
    existing = directory
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UsageError(f"{existing} is not a directory. Use another --workdir.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"No permission to write to {existing}. Use another --workdir.")


def _differences(old: Any, new: Any) -> list[str]:
    """The lines that differ, at most twelve."""
    lines = difflib.ndiff(dumps(old).splitlines(), dumps(new).splitlines())
    changed = [f"  {'there' if line[0] == '-' else 'asked'}: {line[2:].strip()}" for line in lines if line[0] in "-+"]
    return changed[:12] + (["  ..."] if len(changed) > 12 else [])
