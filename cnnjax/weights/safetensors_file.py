"""Files of the safetensors format: a JSON header with every tensor's type, shape and place, then the bytes.

The ``safetensors`` package checks a file; the arrays are then views of the mapped file, of the types that it
reads and of bfloat16, for which NumPy has no name.
"""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from cnnjax.typing import UsageError
from cnnjax.weights.archive import mapped

TYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.dtype(jnp.bfloat16)},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_},
}


def is_safetensors(path: Path) -> bool:
    """Whether the file's first bytes are those of the format, whole or not.

    Raises:
      UsageError: there is no such file, or nothing in it.
    """
    return mapped(path)[8:9] == b"{"


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a file by key: read-only arrays in the file's types.

    Raises:
      UsageError: no such file; it is truncated, its header lies, or a tensor is of a type without an array.
    """
    return _read(Path(path))[0]


def metadata(path: str | Path) -> dict[str, str]:
    """What the header says beside the tensors.

    Raises:
      UsageError: as ``read``.
    """
    return _read(Path(path))[1]


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    data = mapped(path)
    try:
        with safe_open(path, framework="numpy"):  # the header within the file, every tensor within its bounds
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise UsageError(f"{path} is no whole safetensors file: {error}. Fetch it again.") from error
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    other = header.pop("__metadata__", None) or {}
    tensors = {}
    for key, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise UsageError(f"{path}: {key} is of type {entry['dtype']}; weights are of {', '.join(TYPES)}.")
        first, last = entry["data_offsets"]
        content = memoryview(data)[start + first : start + last]
        tensors[key] = np.frombuffer(content, np.uint8).view(TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, other
