"""Two sweeps, run by run: whether their bits agree, by how much they differ, and whether that is explained.

  cnnjax compare DIR DIR [--json]

Runs are matched by run id, and where ids differ, as those of older versions may, by assignment and seed. DIR may also
be committed evidence, which has results.csv in place of rows. Bits agree where the digests of the final parameters and
all metrics are the same. They must where configuration, data and execution signature are: other differences are not
explained.

exit codes: 0 all bits agree, 1 some differ, or no run is in both, 2 bad input

examples:
  cnnjax compare runs/gridding experiments/results/gridding
  cnnjax compare runs/on_laptop runs/on_cluster --json
"""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode

if TYPE_CHECKING:
    from cnnjax.cli.results import Results
    from cnnjax.sweep.store import Row

SHOWN = 20  # lines of a list on the screen; JSON has all


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags."""
    arguments.add("json", bool, False, "print everything as JSON")


def run(arguments: Arguments) -> int:
    """Prints what differs.

    Raises:
      UsageError: a directory is not named, or is none of a sweep.
    """
    from cnnjax.cli import results
    from cnnjax.typing import UsageError

    if len(arguments.at_most(2)) < 2:
        raise UsageError("Name two directories of sweeps, such as runs/gridding experiments/results/gridding.")
    one, other = (results.read(Path(name)) for name in arguments.positional)
    found = compared(one, other)
    if arguments.json:
        print(encode(found, indent=1))
    else:
        _show(found, one, other)
    return 0 if found["runs"] and not found["differ"] else 1


def compared(one: "Results", other: "Results") -> dict[str, Any]:
    """What ``--json`` prints.

    Returns:
      ``runs`` in both, ``by_id`` of them, ``agree``; ``differ``: a dict for each run whose bits differ, with
      ``differences`` of metrics and the ``causes`` that explain it; ``code``: how the code of both differs, in words,
      with the number of runs, also where bits agree; ``only``: labels of the runs on one side
      by directory; ``largest``: of all differences, by metric.
    """
    from cnnjax.cli.results import label

    by_id = [(row, other.rows[run]) for run, row in one.rows.items() if run in other.rows]
    left, right = ([row for run, row in a.rows.items() if run not in b.rows] for a, b in ((one, other), (other, one)))
    unique = [{key: rows[0] for key, rows in _grouped(side).items() if len(rows) == 1} for side in (left, right)]
    by_condition = [(row, unique[1][key]) for key, row in unique[0].items() if key in unique[1]]
    pairs = [*by_id, *by_condition]
    differ = [found for pair in pairs if (found := _difference(pair, one, other)) is not None]
    largest: dict[str, float] = {}
    for entry in differ:
        for name, difference in entry["differences"].items():
            largest[name] = max(largest.get(name, 0.0), difference or 0.0)
    matched = {id(row) for pair in by_condition for row in pair}
    return {
        "directories": [str(one.directory), str(other.directory)],
        "runs": len(pairs),
        "by_id": len(by_id),
        "agree": len(pairs) - len(differ),
        "differ": differ,
        "code": _code(pairs, one, other),
        "unexplained": sum(not entry["causes"] for entry in differ),
        "largest": largest,
        "only": [
            [f"{row['run_id']} ({label(row)})" for row in side if id(row) not in matched] for side in (left, right)
        ],
        "damaged": [each.damaged for each in (one, other)],
    }


def _grouped(rows: list["Row"]) -> dict[Any, list["Row"]]:
    from cnnjax.cli.results import condition

    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(condition(row), []).append(row)
    return groups


def _difference(pair: tuple["Row", "Row"], one: "Results", other: "Results") -> dict[str, Any] | None:
    """How the rows of one run differ; None where they agree."""
    from cnnjax.cli.results import label

    first, second = pair
    metrics = metric_differences(first["metrics"], second["metrics"])
    outcome = [f"{name}: {first[name]} and {second[name]}" for name in ("status", "diverged_step")
               if first[name] != second[name]]  # fmt: skip
    if not metrics and not outcome and first["parameters_digest"] == second["parameters_digest"]:
        return None
    return {
        "run_ids": [first["run_id"], second["run_id"]],
        "label": label(first),
        "parameters": first["parameters_digest"] == second["parameters_digest"],
        "outcome": outcome,
        "differences": metrics,
        "causes": _causes(pair, one, other),
    }


def _causes(pair: tuple["Row", "Row"], one: "Results", other: "Results") -> list[str]:
    """What two rows do not have in common that may make their bits differ."""
    from cnnjax.cli.results import difference, differences, settings_of, signature_of

    signatures = [signature_of(row, each.manifest) for row, each in zip(pair, (one, other), strict=True)]
    settings = [settings_of(row, each.manifest) for row, each in zip(pair, (one, other), strict=True)]
    both = [name for name in settings[0] if name in settings[1]]  # newer versions know more of them
    changed = [text for name in both if (text := difference(name, *settings))]
    known = [signature for signature in signatures if signature is not None]
    return changed + (differences(*known) if len(known) == 2 else ["a signature is not known"])


def _code(pairs: list[tuple["Row", "Row"]], one: "Results", other: "Results") -> dict[str, int]:
    """Sentences on how the code that made two rows differs, and of how many runs each is true."""
    from cnnjax.cli.results import signature_of
    from cnnjax.provenance import code_differences

    found: Counter[str] = Counter()
    for pair in pairs:
        signatures = [signature_of(row, each.manifest) or {} for row, each in zip(pair, (one, other), strict=True)]
        found.update(["; ".join(told)] if (told := code_differences(*signatures)) else [])
    return dict(found)


def metric_differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float | None]:
    """Metric -> absolute difference of those that both have; None where one of them is not a number."""
    both = [name for name in one if name in other and one[name] != other[name]]
    return {name: None if None in (one[name], other[name]) else abs(one[name] - other[name]) for name in both}


def _show(found: dict[str, Any], one: "Results", other: "Results") -> None:
    from rich.table import Table
    from rich.text import Text

    from cnnjax.tables import show

    names = found["directories"]
    parts: list[Any] = [
        f"{found['runs']} runs are in both: {found['by_id']} by their ids, "
        f"{found['runs'] - found['by_id']} by assignment and seed. The bits of {found['agree']} agree."
    ]
    parts += [Text(f"The code of {count} runs is not the same: {told}.") for told, count in found["code"].items()]
    for name, only, damaged in zip(names, found["only"], found["damaged"], strict=True):
        parts += _listed(f"{len(only)} runs are only in {name}:", only)
        parts += _listed(f"{len(damaged)} rows of {name} cannot be read:", list(damaged.values()))
    if found["differ"]:
        table = Table()
        for title in ("run", "parameters", "largest difference of a metric", "explained by"):
            table.add_column(title)
        for entry in found["differ"][:SHOWN]:
            explained = ", ".join(cause.partition(":")[0] for cause in entry["causes"])
            table.add_row(
                Text(entry["label"]), "same" if entry["parameters"] else "differ",
                Text("; ".join([*entry["outcome"], _largest(entry["differences"])])),
                Text(explained) if explained else Text("NOT EXPLAINED", style="bold red"),
            )  # fmt: skip
        parts.append(table)
        if len(found["differ"]) > SHOWN:
            parts.append(f"and {len(found['differ']) - SHOWN} more; --json has all.")
        parts += _explained(found)
    show(*parts)


def _explained(found: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    causes = Counter("; ".join(entry["causes"]) for entry in found["differ"] if entry["causes"])
    lines: list[Any] = [Text(f"{count} runs differ, made with {cause}") for cause, count in causes.items()]
    if found["unexplained"]:
        lines.append(
            Text(
                f"Warning: the bits of {found['unexplained']} runs differ though their signatures are the same. This "
                "is not explained: the code has changed, or a machine errs.",
                style="bold red",
            )
        )
    return lines


def _largest(differences: dict[str, float | None]) -> str:
    known = {name: value for name, value in differences.items() if value is not None}
    if not known:
        return "none" if not differences else ", ".join(differences)
    name = max(known, key=lambda metric: known[metric])
    return f"{name} {known[name]:.3g}"


def _listed(title: str, lines: list[str]) -> list[str]:
    """The title and the first lines, where there are any."""
    more = [f"  and {len(lines) - SHOWN} more; --json has all."] if len(lines) > SHOWN else []
    return [title, *(f"  {line}" for line in lines[:SHOWN]), *more] if lines else []
