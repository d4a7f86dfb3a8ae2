"""Where weights lie: a file, an index of several, a folder, or an address of the Hugging Face hub."""

from pathlib import Path

from cnnjax.typing import UsageError
from cnnjax.weights import fit, hub, shards

ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".th", ".npz", shards.SUFFIX)  # of files of weights in a folder


def local_path(path: str | Path) -> Path:
    """The path itself, that of the weights in a folder, or that of a file fetched from the hub.

    The weights in a folder are the file that the hub's repositories have (``hub.WEIGHTS``, in this order), or else the
    only file with the ending of one.

    Raises:
      UsageError: it cannot be fetched; or a folder has no weights, or several files of them.
    """
    if isinstance(path, str) and path.startswith(hub.PREFIX):
        return hub.fetch(path)
    path = Path(path)
    if not path.is_dir():
        return path
    for name in hub.WEIGHTS:
        if (path / name).is_file():
            return path / name
    names = sorted(file.name for file in path.iterdir() if file.name.endswith(ENDINGS) and file.is_file())
    if len(names) != 1:
        there = f"several files of weights ({fit.some(names)})" if names else "no file of weights"
        raise UsageError(f"The folder {path} has {there}. Give the path of one that ends with {', '.join(ENDINGS)}.")
    return path / names[0]


def files(path: str | Path) -> tuple[Path, ...]:
    """The files that the tensors come from: one, or an index and what it lists.

    Raises:
      UsageError: as ``local_path``, or files that an index lists are missing.
    """
    local = local_path(path)
    return (local, *shards.files(local)) if shards.is_index(local) else (local,)
