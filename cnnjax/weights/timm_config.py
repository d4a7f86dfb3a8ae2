"""What timm says in the ``config.json`` beside its weights: the architecture, and how images are prepared.

Some of its architectures have the keys and the shapes of another and compute something else: what differs, such as
padding, has no weights. They are told apart by the configuration, or by the name of the file.
"""

import json
from pathlib import Path
from typing import Any

import flax.linen as nn

from cnnjax.models.efficientnet import EfficientNet
from cnnjax.typing import UsageError
from cnnjax.weights.hub import CONFIG

# Beginning of an architecture's name -> the fields of ours that it has.
FIELDS: dict[str, dict[str, Any]] = {
    "efficientnet_b": {"padding": "half", "epsilon": 1e-5},
    "tf_efficientnet_b": {"padding": "SAME", "epsilon": 1e-3},
}
FOREIGN = ("resnetblur", "resnetaa", "efficientnet_blur")  # blur or average where ours takes strides


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


def check(model: nn.Module, path: Path, label: str) -> None:
    """Refuses weights of timm for a network that takes them and computes something else.

    Args:
      model: the network.
      path: of the weights.
      label: what errors call the weights.

    Raises:
      UsageError: fields of the network must differ, or it has no such fields.
    """
    name = _architecture(path)
    if name.startswith(FOREIGN):
        raise UsageError(f"{label} is of timm's {name}, which differs from {type(model).__name__} in its pooling.")
    if not isinstance(model, EfficientNet):
        return
    known = {start: fields for start, fields in FIELDS.items() if name.startswith(start)} or FIELDS
    if not any(all(getattr(model, field) == value for field, value in fields.items()) for fields in known.values()):
        needed = " and ".join(f"{name or start + '*'} has {_shown(fields)}" for start, fields in known.items())
        ours = _shown({field: getattr(model, field) for field in FIELDS["efficientnet_b"]})
        raise UsageError(f"{label} is of timm, where {needed}. This network has {ours}. Give these fields.")


def _shown(fields: dict[str, Any]) -> str:
    return ", ".join(f"{field}={value!r}" for field, value in fields.items())


def _architecture(path: Path) -> str:
    """As the configuration says, or else the file's own name; empty where neither is a known beginning."""
    named = (read(path) or {}).get("architecture") if is_beside(path) else None
    name = named if isinstance(named, str) else path.name
    return name.partition(".")[0] if name.startswith((*FIELDS, *FOREIGN)) else ""
