"""One run of a sweep again, under its own execution signature, and whether its bits agree.

  cnnjax rerun DIR RUN_ID [--keep=NEWDIR] [--code=MODULE]

A beginning of RUN_ID that no other run has is enough. DIR is not touched; it may also be committed evidence, which has
results.csv in place of rows. On a CPU the run is made in one process of as many cores as the signature says. Where the
signature cannot be had here, for other versions or another device, what differs is named. A row may name a network of
somebody's own; its module, which runs when it is imported, is looked for in the current directory too, and only if
--code names it.

exit codes: 0 the bits agree, 1 they differ, or the run fails, 2 bad input

examples:
  cnnjax rerun experiments/results/gridding 0859
  cnnjax rerun runs/degradation 3f2983c5 --keep=runs/again
  cnnjax rerun runs/mine 77a0 --code=mine
"""

import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnjax.cli.arguments import Arguments
from cnnjax.strict_json import encode
from cnnjax.text import printable_lines

if TYPE_CHECKING:
    from cnnjax.cli.results import Results
    from cnnjax.sweep.plan import Point
    from cnnjax.sweep.store import Row

NEAREST = 3  # ids named where one is not known


def define(arguments: Arguments, argv: list[str]) -> None:
    """Defines the flags."""
    arguments.add("keep", str, None, "a new directory for the new row")
    arguments.add("code", tuple, [], "modules that the row's network may be imported from")
    arguments.add("json", bool, False, "print the comparison as JSON")


def run(arguments: Arguments) -> int:
    """Runs it, and prints whether its bits agree.

    Raises:
      UsageError: there is no such run, or it cannot be made here.
    """
    from cnnjax.cli import results
    from cnnjax.train.run import Interrupted
    from cnnjax.typing import UsageError

    if len(arguments.at_most(2)) < 2:
        raise UsageError("Name the directory of a sweep and a run, such as experiments/results/gridding 0859.")
    found = results.read(Path(arguments.positional[0]))
    old = chosen(found, arguments.positional[1])
    made = signature(old, found)
    keep = _free(Path(arguments.keep)) if arguments.keep else None
    if arguments.code and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last: what is there stands for no library
    point = point_of(old, found.manifest, arguments.code)
    with tempfile.TemporaryDirectory() as directory:
        try:
            new = again(point, made, keep or Path(directory) / "rerun")
        except Interrupted as stopped:
            raise KeyboardInterrupt from stopped
        except RuntimeError as error:
            print(f"cnnjax rerun: {printable_lines(str(error))}", file=sys.stderr)
            return 1
    compared = comparison(old, new, found)
    print(encode(compared, indent=1)) if arguments.json else _show(compared, old, new)
    return 0 if compared["agree"] else 1


def chosen(found: "Results", prefix: str) -> "Row":
    """The row of the one run whose id begins so.

    Raises:
      UsageError: there is none, there are several, or it is damaged.
    """
    import difflib

    from cnnjax.typing import UsageError

    names = [run for run in {**found.rows, **found.damaged} if run.startswith(prefix)]
    if prefix in names:
        names = [prefix]
    if len(names) == 1 and names[0] in found.damaged:
        raise UsageError(found.damaged[names[0]])
    if len(names) == 1:
        return found.rows[names[0]]
    near = names or difflib.get_close_matches(prefix, [*found.rows], n=NEAREST, cutoff=0) or sorted(found.rows)
    problem = f"Several runs of {found.directory} begin" if names else f"No run of {found.directory} begins"
    listed = ", ".join(near[:NEAREST]) if near else "no run is done there"
    raise UsageError(f"{problem} with {prefix!r}. {'Give more of the id' if names else 'Nearest'}: {listed}.")


def point_of(row: "Row", manifest: Mapping[str, Any], code: Collection[str] = ()) -> "Point":
    """The run of a row: from what the row says of it, or else from the manifest's configuration and the assignment.

    Args:
      row: of a directory, or of its results.csv.
      manifest: of the directory.
      code: modules that may be imported for its network.

    Raises:
      UsageError: neither says enough, or names something that is not known here.
    """
    from cnnjax.sweep.plan import Point, assign
    from cnnjax.train.from_json import assignment_from_json, from_json
    from cnnjax.train.spec import Hyper, Spec
    from cnnjax.typing import UsageError

    weights = manifest.get("weights", {})
    if "spec" in row:
        hyper, spec = from_json(Hyper, row["hyper"]), from_json(Spec, row["spec"], weights, code)
        return Point(spec, hyper, row["seed"], tuple(assignment_from_json(row["assignment"], code).items()))
    configuration = manifest.get("configuration", {})
    entries = [entry for entry in configuration.get("grid", []) if _same_assignment(entry, row)]
    if not ({"spec", "hyper"} <= set(configuration) and entries):
        raise UsageError(f"The manifest does not say what the run {row['run_id']} is. Use a directory with its row.")
    hyper = from_json(Hyper, configuration["hyper"])
    assignment = assignment_from_json(entries[0], code)
    if "weights" in assignment:
        configuration = {**configuration, "spec": {**configuration["spec"], "weights": ""}}
    spec = from_json(Spec, configuration["spec"], weights, code)
    return Point(*assign(spec, hyper, assignment), row["seed"], tuple(assignment.items()))


def _same_assignment(entry: Mapping[str, Any], row: "Row") -> bool:
    from cnnjax.cli.results import condition

    return condition({"assignment": dict(entry), "seed": row["seed"]}) == condition(row)


def signature(row: "Row", found: "Results") -> dict[str, Any]:
    """The whole execution signature that the row was made under.

    Raises:
      UsageError: it is not known, or asks for more cores than there are.
    """
    from cnnjax.sweep.bundle import threads_here
    from cnnjax.typing import UsageError

    made = row.get("signature") or found.manifest.get("signatures", {}).get(row["signature_digest"])
    if made is None:
        raise UsageError(f"{found.directory} does not say under which signature {row['run_id']} was made.")
    if made["threads"] > threads_here():
        raise UsageError(
            f"The run was made on {made['threads']} cores, and this process has {threads_here()}: its bits would "
            "differ. Use a machine with as many."
        )
    return made


def again(point: "Point", made: Mapping[str, Any], directory: Path) -> "Row":
    """The row of the run, made anew in ``directory`` under the signature ``made``, as far as this machine can.

    Raises:
      UsageError: the run cannot be made here, such as for data that are not here.
      RuntimeError: it failed.
    """
    import jax

    from cnnjax.sweep.execution import Execution
    from cnnjax.sweep.plan import plan
    from cnnjax.sweep.session import Session
    from cnnjax.train.program import Driver
    from cnnjax.train.spec import to_json

    fields = {name: made[name] for name in Driver._fields if name in made}
    execution = Execution(
        workers=1, threads=made["threads"] or 1, driver=Driver(**{**fields, "form": made["driver"]}), member=None
    )
    configuration = {
        "spec": to_json(point.spec), "hyper": to_json(point.hyper), "grid": [dict(point.assignment)],
        "seeds": [point.seed],
    }  # fmt: skip
    planned = plan([point], jax.default_backend(), execution.driver)
    session = Session(planned, execution, directory, {"configuration": configuration})
    session.check()
    session.start()
    session.execute()
    return session.rows()[0]


def _free(directory: Path) -> Path:
    from cnnjax.typing import UsageError

    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"--keep={directory} is there already. Give a new directory.")
    return directory


def comparison(old: "Row", new: "Row", found: "Results") -> dict[str, Any]:
    """Whether the rows agree, by what can be compared, and what of their signatures differs."""
    from cnnjax.cli.commands.compare import metric_differences
    from cnnjax.cli.results import differences, signature_of

    names = ("parameters_digest", "status", "diverged_step", "metrics", "history", "outputs", "arrays")
    same = {name: old[name] == new[name] for name in names if name in old and name in new}
    signatures = [signature_of(old, found.manifest), signature_of(new, {})]
    causes = differences(*(each or {} for each in signatures))
    return {
        "run_ids": [old["run_id"], new["run_id"]],
        "agree": all(same.values()),
        "same": same,
        "differences": metric_differences(old["metrics"], new["metrics"]),
        "causes": causes,
    }


def _show(compared: dict[str, Any], old: "Row", new: "Row") -> None:
    from rich.table import Table
    from rich.text import Text

    from cnnjax.cli.results import label
    from cnnjax.tables import show

    table = Table()
    for title in ("", "agrees", "then", "now"):
        table.add_column(title)
    for name, agrees in compared["same"].items():
        if name == "metrics":
            largest = max(((value or 0.0, metric) for metric, value in compared["differences"].items()), default=None)
            texts = ["", "" if largest is None else f"{largest[1]} differs by {largest[0]:.3g}"]
        else:
            texts = [str(row[name])[:16] if name not in ("history", "outputs", "arrays") else "" for row in (old, new)]
        table.add_row(
            name.replace("_", " "), Text("yes") if agrees else Text("NO", style="bold red"), *map(Text, texts)
        )
    parts: list[Any] = [f"{old['run_id']}: {label(old)}", table]
    if old["run_id"] != new["run_id"]:
        parts.append(f"The run is called {new['run_id']} now: configurations have more fields than when it was made.")
    if compared["causes"]:
        parts.append(Text(f"The signatures differ: {'; '.join(compared['causes'])}."))
    elif not compared["agree"]:
        warning = (
            "Warning: the signatures are the same. This is not explained: the code has changed, or a machine errs."
        )
        parts.append(Text(warning, style="bold red"))
    parts.append("The bits agree." if compared["agree"] else "The bits differ.")
    show(*parts)
