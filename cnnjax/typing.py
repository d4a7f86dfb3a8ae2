"""Shape aliases and the one base class of errors that a user can mend."""

import difflib
from collections.abc import Iterable

from jaxtyping import Array, Float, Int, UInt8

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
