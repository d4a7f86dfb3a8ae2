"""Reading what sweeps have left: a results directory, or committed evidence, which has results.csv in place of rows."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax.provenance import CODE, code_differences
from cnnjax.report.table import csv_text
from cnnjax.strict_json import encode
from cnnjax.sweep.store import Row, Store
from cnnjax.typing import UsageError

TAIL = ("run_id", "signature_digest", "parameters_digest")  # the last columns of results.csv
FIXED = ("seed", "status", "diverged_step")  # those between what was swept and the metrics


class Results(NamedTuple):
    """The finished runs of a directory.

    Attributes:
      directory: where they lie.
      manifest: of the sweep; empty where there is none.
      rows: by run id. From results.csv they have no history, spec or hyper, and their assignment is text.
      damaged: run id -> what is wrong with its row.
      committed: whether they were read from results.csv.
    """

    directory: Path
    manifest: dict[str, Any]
    rows: dict[str, Row]
    damaged: dict[str, str]
    committed: bool


def is_sweep(directory: Path) -> bool:
    """Whether something of a sweep is there."""
    return any((directory / name).exists() for name in ("manifest.json", "rows"))


def checked(directory: Path) -> Path:
    """The directory itself.

    Raises:
      UsageError: nothing of a sweep is there.
    """
    if not directory.is_dir():
        raise UsageError(f"There is no directory {directory}. Give the directory of a sweep, such as runs/degradation.")
    if not is_sweep(directory):
        raise UsageError(
            f"{directory} is no directory of a sweep: it has neither manifest.json nor rows. Give one, such as "
            "runs/degradation."
        )
    return directory


def read(directory: Path) -> Results:
    """Every row of a directory, checked against its digest and the manifest.

    Raises:
      UsageError: nothing of a sweep is there, or its manifest or results.csv is damaged.
    """
    store = Store(checked(directory))
    known = store.manifest
    manifest = known or {}
    if not (directory / "rows").is_dir() and (directory / "results.csv").exists():
        rows = from_csv(directory / "results.csv")
        return Results(directory, manifest, {row["run_id"]: row for row in rows}, {}, committed=True)
    found: dict[str, Row] = {}
    damaged: dict[str, str] = {}
    for run in run_ids(directory):
        try:
            found[run] = store.read(run, known)
        except UsageError as error:
            damaged[run] = str(error)
    return Results(directory, manifest, found, damaged, committed=False)


def run_ids(directory: Path) -> list[str]:
    """The runs that have a row, sound or damaged."""
    return sorted(path.stem for path in (directory / "rows").glob("[!.]*.json"))


def from_csv(path: Path) -> list[Row]:
    """The lines of a results.csv as rows; see ``report.table.write_results_csv``.

    Raises:
      UsageError: it is no such file.
    """
    try:
        with open(path, newline="") as file:
            header, *lines = csv.reader(file)
        at = next(n for n in range(len(header)) if tuple(header[n : n + len(FIXED)]) == FIXED)
        if tuple(header[-len(TAIL) :]) != TAIL:
            raise ValueError(f"its last columns are not {', '.join(TAIL)}")
        return [_row(header, at, line) for line in lines]
    except (OSError, ValueError, StopIteration) as error:
        raise UsageError(f"{path} cannot be read as a sweep's results ({error}). Restore it.") from error


def _row(header: list[str], at: int, line: list[str]) -> Row:
    cells = dict(zip(header, line, strict=True))
    step = cells["diverged_step"]
    return {
        "assignment": {name: cells[name] for name in header[:at] if cells[name]},
        "seed": int(cells["seed"]),
        "status": cells["status"],
        "diverged_step": int(step) if step else None,
        "metrics": {name: float(cells[name]) for name in header[at + len(FIXED) : -len(TAIL)] if cells[name]},
        **{name: cells[name] or None for name in TAIL},
    }


def condition(row: Row) -> tuple[tuple[tuple[str, str], ...], int]:
    """Assignment and seed, the same for a row of its own file and for its line in results.csv."""
    texts = {name: csv_text(value) for name, value in row["assignment"].items()}
    return tuple(sorted((name, text) for name, text in texts.items() if text)), row["seed"]


def label(row: Row) -> str:
    """Assignment and seed, for people."""
    assigned, seed = condition(row)
    return ", ".join([*(f"{name}={text}" for name, text in assigned), f"seed {seed}"])


def signature_of(row: Row, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """The execution signature of a row, with the fingerprint of its data as far as that is known; None where it is not.

    The digest of the spec is left out: it changes when specs gain fields.
    """
    found = row.get("signature") or manifest.get("signatures", {}).get(row["signature_digest"])
    if found is None:
        return None
    data = manifest.get("data", {})
    fingerprint = row.get("data") or (next(iter(data.values())) if len(data) == 1 else None)
    return {**{name: value for name, value in found.items() if name != "spec"}, "data": fingerprint}


def settings_of(row: Row, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is apart from its assignment and seed: name -> value, as far as the row or the manifest says it."""
    source = row if "spec" in row else manifest.get("configuration", {})
    spec = {name: value for name, value in source.get("spec", {}).items() if name != "model_fields"}
    data = spec.pop("data", {})
    fields = {f"model.{name}": value for name, value in source.get("spec", {}).get("model_fields", [])}
    found = {**spec, **{f"data.{name}": value for name, value in data.items()}, **fields, **source.get("hyper", {})}
    return {name: value for name, value in found.items() if name not in row["assignment"]}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The fields of two signatures that differ, with both values; data that only one knows are no difference."""
    names = [name for name in {**one, **other} if name != "data" or None not in (one[name], other[name])]
    told = [text for name in names if name not in CODE and (text := difference(name, one, other))]
    return told + [f"code: {text}" for text in code_differences(one, other)]


def difference(name: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """``name: value and value`` where they differ, else nothing; of digests their beginnings."""
    texts = [encode(each[name])[:40] if name in each else "not recorded" for each in (one, other)]
    return f"{name}: {texts[0]} and {texts[1]}" if one.get(name) != other.get(name) else ""
