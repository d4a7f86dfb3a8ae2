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


def differences(old: Any, new: Any) -> list[str]:
    """The lines in which two JSON values differ, at most twelve; none where they are equal."""
    there, asked = (encode(value, indent=1, sort_keys=True).splitlines() for value in (old, new))
    lines = difflib.ndiff([line.rstrip(",") for line in there], [line.rstrip(",") for line in asked])
    changed = [f"  {'there' if line[0] == '-' else 'asked'}: {line[2:].strip()}" for line in lines if line[0] in "-+"]
    return changed[:12] + (["  ..."] if len(changed) > 12 else [])
