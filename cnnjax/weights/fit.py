"""Whether the arrays of a file are those of a network, and what to say where they are not."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from cnnjax.typing import UsageError, unknown

HEADS = ("strict", "new")
SHOWN = 4  # names in an error


class Pair(NamedTuple):
    """One array of a network beside the file's.

    Attributes:
      path: ours, such as params/stage1/conv/kernel.
      shape: ours.
      key: the file's name for it.
      theirs: the shape in the file, or None where the file has no such key.
      turned: the same with our axes.
    """

    path: str
    shape: tuple[int, ...]
    key: str
    theirs: tuple[int, ...] | None
    turned: tuple[int, ...] | None


def check(
    pairs: Iterable[Pair],
    extra: list[str],
    model: nn.Module,
    label: str,
    *,
    head: str = "strict",
    fitting: Callable[[], list[str]] = list,
) -> set[str]:
    """Our paths that stay without an array: none, or with head="new" those of a head for other classes.

    Args:
      pairs: every array of the network.
      extra: the file's keys that nothing reads.
      model: the network.
      label: what errors call the file.
      head: "strict" or "new".
      fitting: finds the names of networks that the file fits; called where this one does not.

    Raises:
      UsageError: something is missing, not expected, or of another shape; the message names both sides.
    """
    if head not in HEADS:
        raise unknown("value of head", head, HEADS)
    pairs = list(pairs)
    missing = [pair.key for pair in pairs if pair.theirs is None]
    others = [pair for pair in pairs if pair.theirs is not None and pair.turned != pair.shape]
    headless = {pair.path for pair in pairs if pair.path.startswith("params/head/")}
    if missing and not extra and not others and {pair.path for pair in pairs if pair.theirs is None} == headless:
        if head == "new":
            return headless
        raise UsageError(
            f"{label} has no head. Missing: {some(missing)}. Use num_classes=0 for the network without one, or "
            "head='new' to leave it out."
        )
    only_classes = not missing and not extra and all(_differs_in_classes(pair, model) for pair in others)
    if only_classes and (head == "new" or not others):
        return {pair.path for pair in others}
    shapes = some([f"{pair.path} {pair.shape} <- {pair.key} {pair.theirs}" for pair in others])
    if only_classes:
        classes = others[0].turned[-1]  # type: ignore[index]
        raise UsageError(
            f"{label} has {classes} classes and this network {vars(model)['num_classes']}: {shapes}. "
            f"Use num_classes={classes}, or head='new' to leave the head out."
        )
    names = fitting()
    absent = {pair.path for pair in pairs if pair.theirs is None}
    no_dense = bool(absent) and all(path.startswith(("params/dense", "params/head")) for path in absent)
    lines = [
        f"{label} does not fit this {type(model).__name__}"
        + (f"; it fits {' or '.join(names[:SHOWN])}." if names else "."),
        f"Missing: {some(missing)}." if missing else "",
        f"Not expected: {some(extra)}." if extra else "",
        f"Shapes differ (ours <- the file's): {shapes}." if others else "",
        "Use dense=() for the layers before the dense ones." if no_dense and not extra else "",
    ]
    raise UsageError(" ".join(line for line in lines if line))


def check_fields(model: nn.Module, fields: Mapping[str, Any], start: str, end: str = "") -> None:
    """Refuses a network that computes something else than the file's, though its arrays fit.

    Args:
      model: the network.
      fields: that it must have, those of them that its class has; in a tuple, several values are good.
      start: of the error, which the fields follow.
      end: of the error.

    Raises:
      UsageError: it has others.
    """
    fields = {field: value for field, value in fields.items() if hasattr(model, field)}
    if not has_fields(model, fields):
        ours = shown_fields({field: getattr(model, field) for field in fields})
        needed = shown_fields(fields)
        raise UsageError(f"{start} {needed}. This network has {ours}. Give these fields. {end}".rstrip())


def has_fields(model: nn.Module, fields: Mapping[str, Any]) -> bool:
    """Whether a network has these values; of several in a tuple, one."""
    values = {field: value if isinstance(value, tuple) else (value,) for field, value in fields.items()}
    return all(getattr(model, field) in good for field, good in values.items())


def shown_fields(fields: Mapping[str, Any]) -> str:
    """The fields as a user gives them."""
    return ", ".join(
        f"{field}={' or '.join(map(repr, value)) if isinstance(value, tuple) else repr(value)}"
        for field, value in fields.items()
    )


def some(names: list[str]) -> str:
    """The first few names, and the number of the others."""
    more = len(names) - SHOWN
    return "; ".join(names[:SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _differs_in_classes(pair: Pair, model: nn.Module) -> bool:
    """Whether the array belongs to a classifier, the head or an auxiliary one, for other classes."""
    classifier = any(part.startswith(("head", "aux")) for part in pair.path.split("/"))
    return (
        classifier
        and pair.turned is not None
        and pair.turned[:-1] == pair.shape[:-1]
        and pair.shape[-1] == vars(model).get("num_classes")
    )
