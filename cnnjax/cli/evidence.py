"""Evidence: what every experiment asserts, and the best verdicts on it.

Evidence is a folder with a ``verdict.json``, in the workdir or among the committed ones in ``experiments/results``. One
experiment may have several, such as ``degradation`` and ``degradation-cifar10``; its ``verdict.json`` says whose it is.
Of folders of one name the preset decides: paper before quick before smoke, whose few steps prove nothing. Of one preset
the workdir's goes before the committed. ``degradation-smoke``, of that preset, counts as ``degradation``.
"""

import importlib
import json
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cnnjax.cli.presets import rank
from cnnjax.provenance import code_since
from cnnjax.report.gallery import NOT_RUN
from cnnjax.sweep.validity import check_manifest, check_verdict
from cnnjax.typing import UsageError

Entry = dict[str, Any]


def experiments() -> dict[str, ModuleType]:
    """Every module of ``experiments`` that makes claims, by name."""
    package = importlib.import_module("experiments")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name != "__main__")
    modules = {name: importlib.import_module(f"experiments.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "CLAIMS")}


def ledger(workdir: Path, modules: Mapping[str, ModuleType] | None = None) -> list[Entry]:
    """One entry in the form of ``verdict.json`` for each evidence, experiment by experiment.

    Beside the keys of ``verdict.json`` an entry has ``name`` (of the folder), ``created`` (when the runs
    started, ISO 8601), ``signatures`` (digests), ``data`` (names), ``code`` (in words, how cnnjax has changed since;
    empty where it has not) and ``from`` (the file). A claim has
    ``current``: whether the code still holds the statement, rule and unit that were judged. Claims without
    a verdict are "not run"; verdicts on claims that the code no longer has are left out.

    Args:
      workdir: its verdicts go before the committed ones of the same folder name and preset.
      modules: the experiments; all by default.

    Raises:
      UsageError: a file is damaged.
    """
    modules = experiments() if modules is None else modules
    committed = dict.fromkeys(Path(str(module.__file__)).parent / "results" for module in modules.values())
    found = _evidence([*committed, workdir])
    entries = []
    for name, module in modules.items():
        own = {folder: path for (owner, folder), path in found.items() if owner == name}
        entries += [entry_of(name, module, own[folder]) for folder in sorted(own, key=lambda f: (f != name, f))]
        if not own:
            entries.append(entry_of(name, module, None))
    return entries


def _evidence(places: Sequence[Path]) -> dict[tuple[str, str], Path]:
    """(experiment, folder name without its preset) -> the best ``verdict.json``; see above."""
    best: dict[tuple[str, str], tuple[int, Path]] = {}
    for path in (path for place in places for path in sorted(place.glob("*/verdict.json"))):
        verdict = _verdict(path)
        key = (str(verdict["experiment"]), path.parent.name.removesuffix(f"-{verdict['preset']}"))
        if rank(verdict["preset"]) >= best.get(key, (-1, path))[0]:
            best[key] = (rank(verdict["preset"]), path)
    return {key: path for key, (_, path) in best.items()}


def entry_of(name: str, module: ModuleType, path: Path | None) -> Entry:
    """One entry of ``ledger``, of the verdict at ``path``; without one, nothing was run."""
    verdict = _verdict(path) if path else {"preset": None, "claims": []}
    manifest = manifest_of(path.parent) if path else {}
    judged = {claim["id"]: claim for claim in verdict["claims"]}
    return {
        "experiment": name,
        "preset": verdict["preset"],
        "claims": [_claim(claim, judged.get(claim.id)) for claim in module.CLAIMS],
        "name": path.parent.name if path else name,
        "created": manifest.get("created"),
        "signatures": sorted(manifest.get("signatures", {})),
        "data": sorted(manifest.get("data", {})),
        "code": code_since(manifest.get("code", {})) if path else "",
        "from": str(path) if path else None,
    }


def _claim(claim: Any, judged: Mapping[str, Any] | None) -> Entry:
    """A claim of the code with the verdict on it."""
    asserted = {name: getattr(claim, name) for name in ("id", "statement", "source", "rule", "unit")}
    blank = {"verdict": NOT_RUN, "effect": None, "interval": [None, None], "n": 0, "seeds_to_decide": None, "note": ""}
    if judged is None:
        return {**asserted, **blank, "current": True}
    shown = {**asserted, **blank, **judged}
    return {**shown, "current": all(shown[name] == asserted[name] for name in ("statement", "rule", "unit"))}


def _verdict(path: Path) -> dict[str, Any]:
    found = read(path)
    try:
        return check_verdict(found)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read ({error}). Remove it, or run the experiment again.") from error


def manifest_of(directory: Path) -> dict[str, Any]:
    """The manifest in a folder; empty where there is none.

    Raises:
      UsageError: it is damaged, or a part of it is missing or of another type.
    """
    path = directory / "manifest.json"
    if not path.exists():
        return {}
    found = read(path)
    try:
        return check_manifest(found)
    except ValueError as error:
        raise UsageError(f"{path} cannot be read ({error}). Remove it, or run the experiment again.") from error


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      UsageError: it is damaged.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no JSON object")
        return found
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Remove it, or run the experiment again.") from error
