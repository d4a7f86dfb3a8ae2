"""The stages of a network, by which transfer learning says what is frozen.

A network's ``parameter_stages`` names its stages from input to head, each with the prefixes of its top-level
parameters. Of a module without it, every top-level parameter is a stage of its own.
"""

from collections.abc import Iterable

import flax.linen as nn

from cnnjax.typing import UsageError, unknown

REGIMES = ("head", "late", "all")
HEAD = "head"


def stages(model: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """``parameter_stages`` of a network, without the head where it has no classes; None where it has none."""
    known = getattr(model, "parameter_stages", None)
    if known is None or vars(model).get("num_classes") != 0:
        return known
    return {stage: prefixes for stage, prefixes in known.items() if stage != HEAD}


def stage_prefixes(count: int, stem: bool = True) -> dict[str, tuple[str, ...]]:
    """``parameter_stages`` of a network of a stem, or none, ``count`` stages and a head, whose layers begin so."""
    names = (*(("stem",) if stem else ()), *(f"stage{number}" for number in range(1, count + 1)), HEAD)
    return {name: (name,) for name in names}


def regime_stages(model: nn.Module, name: str) -> tuple[str, ...]:
    """The stages that a regime of transfer learning freezes (S4:610-616; S2:349-355).

    "head", for few data: all but the head. "late", for a fair amount: the first half of the stages before the
    head, rounded down, so that the later ones train. "all", for many: none.

    Raises:
      UsageError: an unknown regime, or a module that does not name its stages.
    """
    if name not in REGIMES:
        raise unknown("regime", name, REGIMES)
    known = stages(model)
    if known is None:
        raise UsageError(f"{type(model).__name__} has no parameter_stages. Give the parameters to freeze by name.")
    body = [stage for stage in known if stage != HEAD]
    return tuple(body[: {"head": len(body), "late": len(body) // 2, "all": 0}[name]])


def prefixes(model: nn.Module, chosen: Iterable[str]) -> tuple[str, ...]:
    """How the names of the top-level layers of some stages begin.

    For a module without ``parameter_stages`` ``chosen`` holds names of parameters, or their beginnings.

    Raises:
      UsageError: there is no such stage.
    """
    known = stages(model)
    if known is None:
        return tuple(chosen)
    for stage in chosen:
        if stage not in known:
            raise unknown(f"stage of {type(model).__name__} in frozen", stage, known)
    return tuple(prefix for stage in chosen for prefix in known[stage])


def frozen_names(model: nn.Module, frozen: Iterable[str], names: Iterable[str]) -> set[str]:
    """Those of the top-level parameters ``names`` that lie in the stages ``frozen``, as ``prefixes`` takes them.

    Raises:
      UsageError: there is no such stage or parameter, or nothing is left to train.
    """
    names, begin = set(names), prefixes(model, frozen)
    for prefix in begin:
        if stages(model) is None and not any(name.startswith(prefix) for name in names):
            raise unknown(f"parameter of {type(model).__name__} in frozen", prefix, names)
    found = {name for name in names if name.startswith(begin)}
    if names and found == names:
        raise UsageError(f"frozen={','.join(frozen)} leaves nothing to train. Take one of them out.")
    return found
