"""What timm says in the ``config.json`` beside its weights: the architecture (see ``architecture``), how images are
prepared, and the names of the classes.
"""

import json
from pathlib import Path
from typing import Any

from cnnjax.typing import UsageError
from cnnjax.weights.hub import CONFIG


def read(path: Path | None) -> dict[str, Any] | None:
    """The configuration beside a file of weights; None where there is none.

    Raises:
      UsageError: it is no JSON object.
    """
    config = path.with_name(CONFIG) if path is not None else None
    if config is None or not config.is_file():
        return None
    try:
        found = json.loads(config.read_text())
    except ValueError as error:
        raise UsageError(f"{config} is no JSON of timm: {error}.") from error
    if not isinstance(found, dict):
        raise UsageError(f"{config} is no JSON of timm: it holds a {type(found).__name__}, not an object.")
    return found


def is_beside(path: Path | None) -> bool:
    """Whether timm's configuration lies beside a file."""
    try:
        return isinstance((read(path) or {}).get("pretrained_cfg"), dict)
    except UsageError:
        return False


def class_names(path: Path) -> tuple[str, ...]:
    """The names of the classes in their order, where the configuration beside a file has them."""
    if not is_beside(path):
        return ()
    config = read(path) or {}
    names = config.get("label_names") or config["pretrained_cfg"].get("label_names")
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if known else ()
