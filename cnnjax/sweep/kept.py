"""What a run keeps beside its numbers: outputs and arrays as text in its row, weights as a file that the row names."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.sweep.validity import Row
from cnnjax.train.pretrained import sha256
from cnnjax.typing import UsageError


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
      UsageError: the run kept none, or the file is gone or another one.
    """
    kept = row.get("weights")
    if not kept:
        raise UsageError(f"The run of {row['assignment']} kept no weights. Set keep_weights=True in its Spec.")
    if not isinstance(kept, dict) or not all(isinstance(kept.get(name), str) for name in ("file", "content")):
        raise UsageError(f"The run of {row['assignment']} says {kept!r} of its weights, not a file and its content.")
    path = Path(directory) / kept["file"]
    if path.is_absolute() != Path(directory).is_absolute() or ".." in Path(kept["file"]).parts:
        raise UsageError(f"The run of {row['assignment']} names the weights {kept['file']}, outside of {directory}.")
    if not path.is_file():
        raise UsageError(f"{path} is missing. Restore it, or remove the run's row to have the run repeated.")
    if sha256(str(path)) != kept["content"]:
        raise UsageError(
            f"{path} is not what the run of {row['assignment']} wrote. Restore it, or remove the run's row to have the "
            "run repeated."
        )
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
