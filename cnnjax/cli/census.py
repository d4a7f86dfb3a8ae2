"""The numbers of every network in the table of models, from its traced program.

To trace all takes half a minute, so they are kept in the user's cache, for as long as the source files that decide them
stay as they are.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from cnnjax import __version__, models, tree
from cnnjax.analysis.cost import products
from cnnjax.analysis.program import trace
from cnnjax.analysis.receptive_field import ReceptiveField, fields_of_outputs
from cnnjax.data import cache
from cnnjax.strict_json import encode

Row = dict[str, Any]
COUNTED = ("models", "nn", "ops", "analysis")  # the parts of the package that decide the numbers


def census(names: Sequence[str], listen: Callable[[int, str], None]) -> list[Row]:
    """One row for each name: ``name``, ``year``, ``image_shape`` (H, W, C), ``parameters``, ``multiply_adds`` of one
    image, and ``receptive_field`` of the last map, with ``endpoint``, or None where the network has no map.

    Args:
      names: in ``models.MODELS``.
      listen: called with the number of networks that are known and the name of the next.
    """
    key = source_digest()
    rows = _kept(place(), key)
    missing = [name for name in names if name not in rows]
    try:
        for done, name in enumerate(missing, start=len(names) - len(missing)):
            listen(done, name)
            rows[name] = count(name)
    finally:  # what was counted before an interruption stays counted
        if missing:
            with contextlib.suppress(OSError):  # without a cache the counts are made again
                _keep(place(), key, rows)
    return [rows[name] for name in names]


def count(name: str) -> Row:
    """The row of one network, by tracing it once, at its published image shape."""
    entry = models.MODELS[name]
    program = trace(entry.build(), entry.image_shape)
    return {
        "name": name,
        "year": entry.year,
        "image_shape": list(entry.image_shape),
        "parameters": tree.count(program.variables["params"]),
        "multiply_adds": sum(product.repeats * product.multiply_adds for product in products(program)),
        "receptive_field": _last_map(fields_of_outputs(program)),
    }


def _last_map(fields: dict[str, ReceptiveField]) -> Row | None:
    """Of the deepest map that the head reads; ``logits_map`` is the head itself."""
    names = [name for name in fields if name != "logits_map"]
    if not names:
        return None
    field = fields[names[-1]]
    numbers = {name: list(getattr(field, name)) for name in ("size", "stride", "start")}
    return {"endpoint": names[-1], **numbers, "whole_image": field.whole_image}


@lru_cache(maxsize=1)
def source_digest() -> str:
    """SHA-256 over the version and the source files that decide the numbers."""
    package = Path(models.__file__).parents[1]
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(path for part in COUNTED for path in (package / part).rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def place() -> Path:
    """The file of the counts."""
    return cache.root() / "census.json"


def _kept(path: Path, key: str) -> dict[str, Row]:
    """Rows counted before from the same source; none where the file is missing, damaged or of another source."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(path.read_text())
        if kept["source"] == key:
            return dict(kept["rows"])
    return {}


def _keep(path: Path, key: str, rows: dict[str, Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    lines = ",\n".join(f"{encode(name)}: {encode(row)}" for name, row in rows.items())
    partial.write_text(f'{{"source": "{key}", "rows": {{\n{lines}\n}}}}\n')
    partial.replace(path)  # whole or not at all
