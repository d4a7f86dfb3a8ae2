"""Runs the tests of faults, prints the table and writes ``results/faults.json``; see the package."""

import argparse
import json
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults import (
    chance,
    code,
    devices,
    disk,
    distributed,
    inputs,
    killed,
    names,
    orphans,
    places,
    repeated,
)
from benchmarks.faults.finding import Finding, Place
from benchmarks.measure import RESULTS, machine
from cnnjax.strict_json import encode


class Test(NamedTuple):
    """A test, and when it passes."""

    run: Callable[[Place], Finding]
    passes: str


TESTS = {
    "kill": Test(
        killed.kill,
        "after SIGKILL at random moments, and inside saves, renames and the writing of rows, the table and all "
        "parameters are those of a sweep left in peace; at most a period is lost; nothing is left behind",
    ),
    "signal": Test(
        killed.interrupt,
        "after SIGTERM and Ctrl-C it ends within 10 s with code 130, the state saved, and says how to resume; the "
        "resumed sweep is the uninterrupted one",
    ),
    "orphans": Test(
        orphans.orphans,
        "where the supervisor is killed, also within a second of starting a worker, no worker lives 10 s later, and "
        "the same command finishes with the table of a sweep left in peace",
    ),
    "workers": Test(
        killed.workers,
        "one row for each run, of the bits of one worker, though workers die all the time; who was frozen past its "
        "lease and wakes writes nothing",
    ),
    "order": Test(
        repeated.order,
        "in another order, with other partners, one of them diverging, all other rows are equal to the bit; the "
        "diverging one says at which step, and in which parameter",
    ),
    "devices": Test(
        devices.devices,
        "going on with another number of devices is refused, naming both; if asked for, it is accepted, and the rows "
        "say so",
    ),
    "every_step": Test(
        repeated.every_step,
        "stopped at any look and resumed, parameters and history are the same, and each epoch shows each example once",
    ),
    "damage": Test(
        disk.damage,
        "no damaged file of a checkpoint is restored silently: an earlier one is taken, with a line that names it, or "
        "the run stops naming it",
    ),
    "full_disk": Test(
        disk.full_disk,
        "where a result cannot be kept it ends with an error; earlier checkpoints stay; with room again it goes on to "
        "the same table; full and read-only places are refused at the start",
    ),
    "places": Test(
        places.places,
        "where the directory is moved, exchanged, removed, made unwritable or filled in training, it ends with code 1 "
        "and one line within a bundle; nothing is made elsewhere; mended, the same command goes on to the same table",
    ),
    "two_sweeps": Test(
        killed.two_sweeps,
        "two commands on one directory train each run once between them; all rows of many writers parse",
    ),
    "configurations": Test(
        inputs.configurations,
        "each is refused with code 2 within 2 s of the imports, before data are loaded or a program is compiled, "
        "naming the key, the value and the remedy; nothing is written",
    ),
    "hostile_files": Test(
        inputs.hostile_files,
        "each is refused by name; nothing of it runs, nothing is written, memory grows by less than 200 MiB",
    ),
    "bad_data": Test(
        inputs.bad_data,
        "each bad image is named with the reason, or skipped, counted and listed; changed data stop a resumed sweep",
    ),
    "exchanged_files": Test(
        names.exchanged_files,
        "pictures of a folder that change places with sizes and times kept are noticed, between two commands and by a "
        "stopped sweep; a copy elsewhere is the same data",
    ),
    "names": Test(
        names.names,
        "file, class and directory names with brackets, bytes that are not UTF-8, newlines, control characters and 255 "
        "characters: on terminals of UTF-8 and ASCII no traceback, nothing misnamed, exit codes as documented",
    ),
    "distributed": Test(
        distributed.joined,
        "where one of several processes that share each batch dies or freezes, the others end with an error within "
        "60 s; started again, the bits are the same; a checkpoint counts only if all have committed it",
    ),
    "identical_arms": Test(
        repeated.identical_arms,
        "false claims at 95 % stay within the binomial bound; fewer than three seeds decide nothing",
    ),
    "code_changes": Test(
        code.code_changes,
        "after an edit of the network, of a module that it imports, of the program or of cnnjax, going on is refused, "
        "naming what differs; if asked for, it is accepted, and rows and command say so",
    ),
    "copied_results": Test(
        code.copied_results,
        "rows, manifests and checkpoints of another run, seed, signature or data set, and such without a part or with "
        "one of another type, are refused by name, without a traceback, by the sweep and by the commands that look",
    ),
    "false_verdicts": Test(
        chance.false_verdicts,
        "of families of 1 to 10 claims on counts with no effect, or one at the margin, at most 5 % have a false "
        "reproduction, for each number of claims, each of 3 to 10 seeds and each kind of claim and of counts",
    ),
    "accelerator": Test(
        devices.accelerator,
        "with deterministic operations cold, cold and warm executions agree to the bit; without, the row says so",
    ),
}


def main() -> None:
    """Parses the arguments, runs the tests one after another, and keeps what was found of the others before."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", default=",".join(TESTS), help=f"some of {','.join(TESTS)}")
    parser.add_argument("--quick", action="store_true", help="a small part of each; nothing is recorded")
    chosen = parser.parse_args()
    wanted = chosen.only.split(",")
    if unknown := set(wanted) - set(TESTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(TESTS)}")
    results = {} if chosen.quick else _recorded()
    with tempfile.TemporaryDirectory(prefix="faults-cache-") as cache:
        for name in wanted:
            results[name] = _one(name, Path(cache), chosen.quick)
            if not chosen.quick:
                _record(results)
    _print(results)
    raise SystemExit(1 if any(result["passed"] is False for result in results.values()) else 0)


def _one(name: str, cache: Path, quick: bool) -> dict[str, Any]:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"faults-{name}-", ignore_cleanup_errors=True) as directory:
        try:
            found = TESTS[name].run(Place(Path(directory), cache, quick))
        except Exception:  # one that breaks is no reason not to do the others
            found = Finding.of([traceback.format_exc()[-1500:]])
    result = {
        "passes_if": TESTS[name].passes,
        "passed": found.passed,
        "found": found.figures,
        "problems": list(found.problems),
        "seconds": round(time.monotonic() - started),
        "ran_on": machine(),
    }
    print(_line(name, result), flush=True)
    return result


def _line(name: str, result: dict[str, Any]) -> str:
    verdict = {True: "passed", False: "FAILED", None: "not done here"}[result["passed"]]
    figures = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["found"].items())
    return f"{name}: {verdict} ({result['seconds']} s). {figures}" + "".join(f"\n  {p}" for p in result["problems"])


def _recorded() -> dict[str, Any]:
    path = RESULTS / "faults.json"
    return json.loads(path.read_text())["results"] if path.exists() else {}


def _record(results: dict[str, Any]) -> None:
    ordered = {name: results[name] for name in TESTS if name in results}
    ordered.update({name: result for name, result in results.items() if name not in ordered})
    content = {
        "question": "What survives killed processes, full disks, damaged and hostile files, and bad input?",
        "command": "python -m benchmarks.faults",
        "results": ordered,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "faults.json").write_text(encode(content, indent=1) + "\n")


def _print(results: dict[str, Any]) -> None:
    width = shutil.get_terminal_size((160, 24)).columns
    print("\n" + "-" * min(width, 100))
    for name, result in results.items():
        print(f"{_line(name, result)}\n  It passes if: {result['passes_if']}.\n")


if __name__ == "__main__":
    main()
