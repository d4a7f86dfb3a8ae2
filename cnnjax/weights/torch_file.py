"""State dicts in the files of ``torch.save``, read without torch and without running anything in them.

Two formats: a zip file with the pickle ``data.pkl`` and a member for each storage, since torch 1.6; before, four
pickles in a row (a magic number, a version, the machine, the objects), a fifth with the keys of the storages, and
then each storage after its count. Tensors are views of the mapped file.
"""

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from cnnjax.typing import UsageError
from cnnjax.weights.archive import LOCAL, Archive, damaged, mapped
from cnnjax.weights.unpickle import Record, Storage, Stream, Tensor, unpickle

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old format
PICKLE = b"\x80"
CONTAINERS = ("state_dict", "model", "model_state_dict", "net", "network", "state_dict_ema", "model_ema")
ARGUMENTS = ("args", "opt", "config", "hparams", "hyper_parameters")  # of a training script, in its checkpoints
Arrays = dict[str, np.ndarray]


def read(path: str | Path) -> Arrays:
    """The state dict of a ``.pth`` or ``.pt`` file: read-only arrays by key, in the file's types.

    A checkpoint that holds the state dict beside other things is opened (``CONTAINERS``).

    Raises:
      UsageError: no such file; not of torch; truncated; it names anything beside tensors; a tensor does not lie
        within its storage; no state dict.
    """
    path = Path(path)
    objects, buffers, order = _opened(path)
    tensors = _state_dict(objects, path)
    types = _types(tensors, path)
    flat = {key: _numbers(buffers, types[key], order, path) for key in types}
    return {name: _view(tensor, flat[tensor.storage.key], f"{path}: {name}") for name, tensor in tensors.items()}


def texts(path: str | Path) -> dict[str, str]:
    """What a checkpoint says in words beside its tensors, by name; of its arguments as ``args.NAME``.

    Only the outermost dictionary and the arguments in it (a dictionary or an ``argparse.Namespace``) are looked at.

    Raises:
      UsageError: as ``read``.
    """
    objects, _, _ = _opened(Path(path))
    found: dict[str, str] = {}
    for name, value in objects.items() if isinstance(objects, dict) else ():
        value = value.state if isinstance(value, Record) else value
        if isinstance(value, str):
            found[str(name)] = value
        elif isinstance(value, dict) and name in ARGUMENTS:
            found |= {f"args.{inner}": text for inner, text in value.items() if isinstance(text, str)}
    return found


def _opened(path: Path) -> tuple[Any, Any, str]:
    """The pickled object, the storages' bytes by key, and the order of bytes."""
    data = mapped(path)
    first = data[:4]
    if first == LOCAL:
        return _zip(Archive(path))
    if first[:1] == PICKLE:
        return _legacy(path, data)
    raise UsageError(f"{path} is no file of torch.save: it starts with {first!r}.")


class _Members:
    """The storages of a zip file, read when asked for."""

    def __init__(self, archive: Archive, folder: str):
        self.archive, self.folder = archive, folder

    def __getitem__(self, key: str) -> memoryview:
        return self.archive.read(f"{self.folder}data/{key}")


def _zip(archive: Archive) -> tuple[Any, Any, str]:
    """As ``_opened``, of the zip format."""
    found = [name for name in archive.entries if name.rpartition("/")[2] == "data.pkl" and name.count("/") <= 1]
    if len(found) != 1:
        raise UsageError(f"{archive.path} is a zip file without one data.pkl: not of torch.save.")
    folder = found[0].removesuffix("data.pkl")
    objects = unpickle(Stream(archive.read(found[0])), str(archive.path))
    order = bytes(archive.read(f"{folder}byteorder")) if f"{folder}byteorder" in archive.entries else b"little"
    if order not in (b"little", b"big"):
        raise damaged(archive.path, f"the order of bytes is {order[:20]!r}")
    return objects, _Members(archive, folder), order.decode()


def _legacy(path: Path, data: Any) -> tuple[Any, dict[str, memoryview], str]:
    """The same of the old format."""
    parts, position = [], 0
    for index in range(5):
        stream = Stream(data, position)
        parts.append(unpickle(stream, str(path)))
        position = stream.position
        if index == 0 and parts[0] != MAGIC:
            raise UsageError(f"{path} is a pickle, but not of torch.save.")
    _, _, machine, objects, keys = parts
    little = machine.get("little_endian", True) if isinstance(machine, dict) else True
    sizes = {storage.key: _dtype(storage).itemsize for storage in _storages(objects)}
    buffers: dict[str, memoryview] = {}
    for key in keys if isinstance(keys, list) else []:
        if key not in sizes:
            raise UsageError(f"{path}: no tensor tells the type of storage {key!a:.60}.")
        count = int.from_bytes(data[position : position + 8], "little" if little else "big", signed=True)
        start, position = position + 8, position + 8 + count * sizes[key]
        if count < 0 or position > len(data):
            raise damaged(path, f"storage {key!a:.60} needs {count} numbers, which are not there")
        buffers[key] = memoryview(data)[start:position]
    return objects, buffers, "little" if little else "big"


def _storages(objects: Any) -> list[Storage]:
    """Of every tensor in nested dictionaries, lists, tuples and records, each object seen once."""
    found, seen, waiting = [], set(), [objects]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.append(value.storage)
        elif isinstance(value, Storage):
            found.append(value)
        elif isinstance(value, dict | list | tuple | Record) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Record):
                waiting += [value.parts, value.state]
            else:
                waiting.extend(value.values() if isinstance(value, dict) else value)
    return found


def _state_dict(objects: Any, path: Path) -> dict[str, Tensor]:
    """The innermost dictionary with tensors, down the containers' names."""
    opened: list[int] = []
    found: dict[str, Tensor] = {}
    while isinstance(objects, dict) and id(objects) not in opened:
        opened.append(id(objects))
        tensors = {str(name): value for name, value in objects.items() if isinstance(value, Tensor)}
        found = tensors or found
        objects = next((objects[name] for name in CONTAINERS if isinstance(objects.get(name), dict)), None)
    if not found:
        names = ", ".join(CONTAINERS)
        raise UsageError(f"{path} holds no state dict: no dictionary of tensors, also not under {names}.")
    return found


def _types(tensors: dict[str, Tensor], path: Path) -> dict[str, Storage]:
    """One of the descriptions of each storage; all must name one type."""
    types: dict[str, Storage] = {}
    for tensor in tensors.values():
        known = types.setdefault(tensor.storage.key, tensor.storage)
        if known.dtype != tensor.storage.dtype:
            raise UsageError(f"{path}: storage {known.key!a:.60} is of two types.")
    return types


def _dtype(storage: Storage) -> np.dtype:
    return np.dtype(jnp.bfloat16 if storage.dtype == "bfloat16" else storage.dtype)


def _numbers(buffers: Any, storage: Storage, order: str, path: Path) -> np.ndarray:
    """A storage as a flat array."""
    dtype = _dtype(storage)
    try:
        content = buffers[storage.key]
    except KeyError:
        raise damaged(path, f"storage {storage.key!a:.60} is missing") from None
    if len(content) < storage.size * dtype.itemsize:
        raise damaged(path, f"storage {storage.key!a:.60} has {len(content)} bytes for {storage.size} numbers")
    flat = np.frombuffer(content, np.uint8, storage.size * dtype.itemsize)
    if order == "big" and dtype.itemsize > 1:
        flat = flat.view(f">u{dtype.itemsize}").astype(f"<u{dtype.itemsize}")
    return flat.view(dtype)


def _view(tensor: Tensor, flat: np.ndarray, label: str) -> np.ndarray:
    """The tensor as a view of its storage, after a check that it lies within."""
    offset, count = tensor.storage.view + tensor.offset, math.prod(tensor.shape)  # whole numbers of any size
    last = sum((side - 1) * stride for side, stride in zip(tensor.shape, tensor.strides, strict=True))
    if count and (count > flat.size or offset + last >= flat.size):
        raise UsageError(f"{label} of shape {tensor.shape} does not lie within its storage of {flat.size} numbers.")
    if not count:
        return np.zeros(tensor.shape, flat.dtype)
    strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[offset:], tensor.shape, strides, writeable=False)
