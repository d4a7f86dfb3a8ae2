"""Shape aliases, the one base class of errors that a user can mend, and what their messages show."""

import difflib
from collections.abc import Iterable
from typing import Any

from jaxtyping import Array, Float, Int, UInt8

from cnnjax.strict_json import encode

Images = Float[Array, "n h w c"]  # in [0, 1] before normalisation
RawImages = UInt8[Array, "n h w c"]
Labels = Int[Array, " n"]
Logits = Float[Array, "n classes"]
Scalar = Float[Array, ""]


class UsageError(ValueError):
    """Bad input: the message names the thing, its value and the remedy. The command exits with 2."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UsageError(f"Unknown {kind} {name!r}.{hint} Choices: {', '.join(choices)}.")


def first_difference(old: Any, new: Any) -> str:
    """Where two JSON values differ, in words: ``there: preset smoke; asked: quick (and 3 more differences)``.

    A preset goes before all else, for the rest follows from it.
    """
    there, asked = _leaves(old), _leaves(new)
    names = [name for name in dict.fromkeys([*there, *asked]) if there.get(name) != asked.get(name)]
    if not names:
        return "there and asked: the same"
    name = min(names, key=lambda name: name.rpartition(".")[2] != "preset")
    more = f" (and {len(names) - 1} more differences)" if len(names) > 1 else ""
    last = name.rpartition(".")[2]
    return f"there: {last} {there.get(name, 'is not said')}; asked: {asked.get(name, 'is not said')}{more}"


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """What is no table in a JSON value, by its names from the outside in, with dots between."""
    if not isinstance(value, dict):
        return {path: value}
    inner = (_leaves(each, f"{path}.{name}" if path else name) for name, each in value.items())
    return {name: leaf for leaves in inner for name, leaf in leaves.items()}


def differences(old: Any, new: Any) -> list[str]:
    """The lines in which two JSON values differ, at most twelve; none where they are equal."""
    there, asked = (encode(value, indent=1, sort_keys=True).splitlines() for value in (old, new))
    lines = difflib.ndiff([line.rstrip(",") for line in there], [line.rstrip(",") for line in asked])
    changed = [f"  {'there' if line[0] == '-' else 'asked'}: {line[2:].strip()}" for line in lines if line[0] in "-+"]
    return changed[:12] + (["  ..."] if len(changed) > 12 else [])
