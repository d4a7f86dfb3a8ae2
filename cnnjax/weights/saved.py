"""Our own files: the arrays as safetensors, and beside them in JSON what they are.

The JSON file has the same stem. It is written last, and holds a digest of the arrays and one of itself, so that a
file cut short, changed, or paired with another's is found.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from cnnjax import __version__, models, tree
from cnnjax.process import write_atomically
from cnnjax.strict_json import encode
from cnnjax.typing import UsageError
from cnnjax.weights import fit, safetensors_file
from cnnjax.weights.leaves import Variables, nested
from cnnjax.weights.place import local_path
from cnnjax.weights.preprocessing import Preprocessing

SUFFIX = ".safetensors"
FORMAT = "cnnjax"


@dataclasses.dataclass(frozen=True)
class Saved:
    """A network from a file of ``save``.

    Attributes:
      model: the network.
      variables: its arrays.
      name: in ``models.MODELS``.
      fields: of the model, those that were replaced.
      image_shape: (H, W, C) that it was saved for.
      preprocessing: of the images, if it was given.
      class_names: in the order of the logits, if they were given.
    """

    model: nn.Module
    variables: Variables
    name: str
    fields: dict[str, Any]
    image_shape: tuple[int, int, int]
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] = ()


def save(
    path: str | Path,
    variables: Variables,
    name: str,
    *,
    preprocessing: Preprocessing | None = None,
    class_names: tuple[str, ...] = (),
    image_shape: tuple[int, int, int] | None = None,
    overwrite: bool = False,
    **fields: Any,
) -> None:
    """Writes a network's variables, and a ``.json`` file of the same stem; each appears whole or not at all.

    Args:
      path: ends with ``.safetensors``.
      variables: of one network.
      name: in ``models.MODELS``.
      preprocessing: of the images, if known.
      class_names: in the order of the logits, if known.
      image_shape: (H, W, C) of the images; None is the shape that the model was published with.
      overwrite: replace files that are not of the same model.
      fields: of the model, those that were replaced.

    Raises:
      UsageError: another suffix; unknown model; the variables or the class names are not the model's; a file of
        something else is there.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise UsageError(f"Weights are written to a file that ends with {SUFFIX}, not to {path}.")
    model = models.create(name, **fields)
    image_shape = image_shape or models.MODELS[name].image_shape
    variables = jax.tree_util.tree_map(np.ascontiguousarray, jax.device_get(variables))
    _check(variables, model, image_shape, "the tree of variables")
    classes = vars(model).get("num_classes")
    if class_names and classes is not None and len(class_names) != classes:
        raise UsageError(f"{len(class_names)} class names do not fit num_classes={classes} of {name}.")
    if not overwrite:
        _refuse_another(path, name)
    described = {
        "cnnjax": __version__,
        "model": name,
        "fields": {field: _plain(field, value) for field, value in fields.items()},
        "image_shape": image_shape,
        "preprocessing": preprocessing and dataclasses.asdict(preprocessing),
        "class_names": class_names,
        "tensors": tree.digest(variables),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_tensors(path, variables)
    write_atomically(_json_path(path), encode({**described, "description": _digest(described)}, indent=1).encode())


def restore(path: str | Path) -> Saved:
    """The network of a file of ``save``, or of one in a folder, with its arrays.

    Raises:
      UsageError: no such files; not of ``save``; changed since, or not of each other.
    """
    path = local_path(path)
    described = _described(path)
    fields = {field: _from_plain(field, value) for field, value in described["fields"].items()}
    model = models.create(described["model"], **fields)
    image_shape = tuple(described["image_shape"])
    variables = _arrays(path, described)
    _check(variables, model, image_shape, str(path))
    steps = described["preprocessing"]
    return Saved(
        model=model,
        variables=variables,
        name=described["model"],
        fields=fields,
        image_shape=image_shape,
        preprocessing=steps and Preprocessing.of(steps),
        class_names=tuple(described["class_names"]),
    )


def load(path: Path, model: nn.Module, *, head: str = "strict") -> Variables:
    """The arrays of a file of ``save`` for a network; see ``weights.load``.

    Raises:
      UsageError: as ``restore``, or the arrays are not the network's.
    """
    described = _described(path)
    variables = _arrays(path, described)
    label = f"{path} (saved as {described['model']})"
    left_out = _check(variables, model, tuple(described["image_shape"]), label, head=head)
    leaves = zip(tree.names(variables), jax.tree_util.tree_leaves(variables), strict=True)
    return nested({leaf: array for leaf, array in leaves if leaf not in left_out})


def is_saved(path: Path) -> bool:
    """Whether the file is one of ``save``, as its header says."""
    if path.suffix != SUFFIX or not path.is_file() or not safetensors_file.is_safetensors(path):
        return False
    return safetensors_file.metadata(path).get("format") == FORMAT


def preprocessing(path: Path) -> Preprocessing | None:
    """Of the images, if the file has it.

    Raises:
      UsageError: the description is missing or was changed.
    """
    steps = _described(path)["preprocessing"]
    return Preprocessing.of(steps) if steps else None


def _check(variables, model, image_shape, label, head="strict") -> set[str]:
    """Our paths without an array, as ``fit.check`` finds them."""
    shapes = models.parameter_shapes(model, image_shape)
    given = dict(zip(tree.names(variables), jax.tree_util.tree_leaves(variables), strict=True))
    pairs = []
    for path, leaf in zip(tree.names(shapes), jax.tree_util.tree_leaves(shapes), strict=True):
        shape = given[path].shape if path in given else None
        pairs.append(fit.Pair(path, leaf.shape, path, shape, shape))
        if path in given and given[path].dtype != leaf.dtype:
            raise UsageError(f"{label}: {path} is of type {given[path].dtype}, not {leaf.dtype}.")
    extra = [path for path in given if path not in {pair.path for pair in pairs}]
    return fit.check(pairs, extra, model, label, head=head)


def _described(path: Path) -> dict[str, Any]:
    beside = _json_path(path)
    if not is_saved(path):
        raise UsageError(f"{path} is not a file of weights.save. Use weights.load for other libraries' files.")
    if not beside.is_file():
        raise UsageError(f"{beside} is missing: it says what {path.name} is, and is kept beside it.")
    try:
        described = json.loads(beside.read_text())
        digest = described.pop("description")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(f"{beside} is truncated or damaged. Save the weights again.") from error
    if digest != _digest(described):
        raise UsageError(f"{beside} was changed since it was written: its digest differs. Save the weights again.")
    return described


def _arrays(path: Path, described: dict[str, Any]) -> Variables:
    variables = nested({name: np.array(array) for name, array in safetensors_file.read(path).items()})
    if tree.digest(variables) != described["tensors"]:
        raise UsageError(
            f"{path} is not what {_json_path(path).name} describes: the digest of its arrays differs. It was "
            "changed, or belongs to another file. Save the weights again."
        )
    return variables


def _refuse_another(path: Path, name: str) -> None:
    beside = _json_path(path)
    if not path.exists() and not beside.exists():
        return
    try:
        known = _described(path)["model"]
    except UsageError:
        known = None
    if known != name:
        what = f"the weights of {known}" if known else "something else"
        raise UsageError(f"{path} or {beside.name} holds {what}. Give another path, or overwrite=True.")


def _write_tensors(path: Path, variables: Variables) -> None:
    from safetensors.numpy import save as serialized

    flat = dict(zip(tree.names(variables), jax.tree_util.tree_leaves(variables), strict=True))
    write_atomically(path, serialized(flat, metadata={"format": FORMAT}))


def _json_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _digest(described: dict[str, Any]) -> str:
    return hashlib.sha256(encode(described, sort_keys=True).encode()).hexdigest()


def _plain(field: str, value: Any) -> Any:
    return np.dtype(value).name if field == "dtype" else value


def _from_plain(field: str, value: Any) -> Any:
    if field == "dtype":
        return jax.numpy.dtype(value).type
    return tuple(_from_plain("", item) for item in value) if isinstance(value, list) else value
