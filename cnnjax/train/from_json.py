"""A Spec, a Hyper or a DataConfig from the JSON of a row: the inverse of ``spec.to_json``.

A Linen module is written as its class and fields, a function as ``module:name``. A file may name any module, and to
import one runs it: that is done for this package, for ``experiments`` beside it, and for those that the caller names.
Of modules that are imported already, nothing runs.
"""

import dataclasses
import importlib
import re
import sys
from collections.abc import Collection, Mapping
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn

from cnnjax.data.catalog import DataConfig
from cnnjax.train import pretrained
from cnnjax.train.spec import Hyper, Spec, to_json
from cnnjax.typing import UsageError, unknown

Config = TypeVar("Config", Spec, Hyper, DataConfig)
CODE = ("model", "model_fields")  # fields of a Spec that may name some
OWN = ("cnnjax", "experiments")
REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")  # of something at the top of a module


def from_json(
    kind: type[Config],
    written: Mapping[str, Any],
    weights: Mapping[str, str] | None = None,
    code: Collection[str] = (),
) -> Config:
    """What ``to_json`` has written. Fields that it lacks, as older rows do, have their defaults.

    Args:
      kind: Spec, Hyper or DataConfig.
      written: JSON values.
      weights: path -> SHA-256 of the files that runs start from, as in the manifest: a Spec's JSON has the SHA alone.
      code: modules that may be imported, with all beneath them.

    Raises:
      UsageError: a field that is unknown here, a network or function that cannot or may not be imported, or no file has
        the SHA of the weights any more. All else is checked before anything is imported.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    for name in written:
        if name not in known:
            raise unknown(f"field of {kind.__name__}", name, known)
    values: dict[str, Any] = {}
    for name, value in sorted(written.items(), key=lambda item: item[0] in CODE):
        if kind is Spec and name == "data":
            values[name] = from_json(DataConfig, value)
        elif kind is Spec and name == "weights":
            values[name] = _file_of(value, weights or {})
        elif kind is Spec and name in CODE:
            values[name] = value if isinstance(value, str) else _value(value, code)
        else:
            values[name] = _tuples(value)
    return kind(**values)


def assignment_from_json(written: Mapping[str, Any], code: Collection[str] = ()) -> dict[str, Any]:
    """An assignment of a grid, as a row or a manifest has it, with its values as they were.

    Args:
      written: JSON values.
      code: modules that may be imported, with all beneath them.

    Raises:
      UsageError: a network that it names cannot or may not be imported.
    """
    return {
        name: _value(value, code) if name.startswith("model.") or isinstance(value, dict) else _tuples(value)
        for name, value in written.items()
    }


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _value(value: Any, code: Collection[str]) -> Any:
    """A field of a network: a plain value, a tuple, a function, or another network."""
    if isinstance(value, list):
        return tuple(_value(each, code) for each in value)
    if isinstance(value, dict):
        return _module(value, code)
    if isinstance(value, str) and REFERENCE.fullmatch(value):
        return _function(value, code)
    return value


def _module(written: Mapping[str, Any], code: Collection[str]) -> nn.Module:
    fields = {name: value for name, value in written.items() if name != "module"}
    name = str(written.get("module", ""))
    found = _imported(name, code) if REFERENCE.fullmatch(name) else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(
            f"The network {name or sorted(written)!r} of a row cannot be found. Make its module importable, such as by "
            "starting the command where the sweep was started."
        )
    known = {field.name for field in dataclasses.fields(found)} - {"parent", "name"}
    for field in fields:
        if field not in known:
            raise unknown(f"field of {found.__name__}", field, known)
    return found(**{field: _value(value, code) for field, value in fields.items()})


def _function(text: str, code: Collection[str]) -> Any:
    """What the text names, if that is written so; else the text itself."""
    found = _imported(text, code)
    return found if callable(found) and to_json(found) == text else text


def _imported(name: str, code: Collection[str]) -> Any:
    place, _, path = name.partition(":")
    found: Any = sys.modules.get(place)
    try:
        if found is None:
            _check_trusted(place, name, code)
            found = importlib.import_module(place)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found


def _check_trusted(place: str, name: str, code: Collection[str]) -> None:
    """Refuses to run what a file alone has named; a module that does not exist is no matter."""
    top = place.partition(".")[0]
    if any(place == own or place.startswith(f"{own}.") for own in code):
        return
    found = PathFinder.find_spec(top, [*sys.path, str(Path.cwd())])  # looks, and runs nothing
    origins = [str(Path(each).parent) for each in (found.submodule_search_locations or ())] if found else []
    if found is None or (top in OWN and origins == [str(Path(__file__).parents[2])]):
        return
    raise UsageError(
        f"The row names code, {name}, which runs when it is imported. If you trust it, say so: --code={top}."
    )


def _file_of(content: str, weights: Mapping[str, str]) -> str:
    """The path of the file with this SHA-256."""
    if not content:
        return ""
    candidates = [path for path, known in weights.items() if known == content]
    for path in candidates:
        try:
            if pretrained.sha256(path) == content:
                return path
        except UsageError:
            continue
    tried = f" {', '.join(candidates)} had it, and has it no more." if candidates else ""
    raise UsageError(f"No file is known with the weights {content} that the run started from.{tried} Restore it.")
