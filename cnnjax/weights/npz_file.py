"""State dicts in the files of ``numpy.savez``: a zip file with a member ``KEY.npy`` for every tensor.

Members are read as ``archive`` reads them; an array of Python objects, which would be a pickle, is refused.
"""

import io
import math
from pathlib import Path

import numpy as np

from cnnjax.typing import UsageError
from cnnjax.weights.archive import LOCAL, Archive, damaged, mapped

MEMBER = ".npy"
HEADER = 10_000  # bytes at most; one takes 128


def is_npz(path: Path) -> bool:
    """Whether the file is a zip file whose members are all arrays of NumPy.

    Raises:
      UsageError: there is no such file, or nothing in it; or it is a damaged zip file.
    """
    if mapped(path)[:4] != LOCAL:
        return False
    names = Archive(path).entries
    return bool(names) and all(name.endswith(MEMBER) for name in names)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays by key, read-only.

    Raises:
      UsageError: no such file; it is damaged; or a member is no array of numbers.
    """
    archive = Archive(Path(path))
    return {name.removesuffix(MEMBER): _array(archive, name) for name in archive.entries}


def _array(archive: Archive, name: str) -> np.ndarray:
    content = archive.read(name)
    header = io.BytesIO(bytes(content[:HEADER]))
    try:
        version = np.lib.format.read_magic(header)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = reader(header, max_header_size=HEADER)
    except (ValueError, KeyError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise damaged(archive.path, f"member {name!r} is no array of NumPy ({error})") from error
    if dtype.hasobject or dtype.kind not in "fiub":
        raise UsageError(f"{archive.path}: {name.removesuffix(MEMBER)} is of type {dtype}; weights are numbers.")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or header.tell() + count * dtype.itemsize != len(content):
        raise damaged(archive.path, f"member {name!r} has {len(content)} bytes for an array of {shape}")
    flat = np.frombuffer(content, dtype, count, header.tell()) if count else np.zeros(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C")
