"""How far a sweep is, read from its directory alone: rows, leases, failures and the workers' logs."""

import contextlib
import csv
import json
import os
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cnnjax.cli import results
from cnnjax.provenance import code_since
from cnnjax.sweep import log
from cnnjax.sweep.store import Store
from cnnjax.typing import UsageError

RECENT_SECONDS = 600.0  # that the throughput is of
STATUS = re.compile(rb'\n "status": "(\w+)"')  # of the row itself: one space deep
SECONDS = re.compile(rb'\n "seconds": ([0-9.e+-]+)')
ORIGIN = re.compile(rb'\n "(data|signature_digest)": "(\w+)"')


@dataclass
class Working:
    """A bundle that somebody works on, or worked on when its worker was lost.

    Attributes:
      bundle: its id.
      runs: ids of its runs that have no row yet.
      worker: what its worker calls itself.
      host: where that is.
      since: when it took the bundle, Unix seconds.
      silent: seconds since its lease was last renewed.
      live: whether it is still believed to be at work.
      step: of its training, as last told; None before the first news.
      steps: of its training.
      images_per_second: as last told.
    """

    bundle: str
    runs: list[str]
    worker: str
    host: str
    since: float
    silent: float
    live: bool
    step: int | None = None
    steps: int | None = None
    images_per_second: float | None = None


@dataclass
class Status:
    """What ``cnnjax status`` tells of one directory. Counts are of runs.

    Attributes:
      directory: as given.
      total: runs that the manifest names; those that are found where there is none.
      done: with a row, and not diverged.
      diverged: with a row that says so.
      failed: run id -> reason, of those without a row that nobody works on.
      working: bundles in somebody's hands, the live ones first.
      per_minute: runs that ended in the last ``RECENT_SECONDS``, by minute.
      seconds_left: forecast; None where nothing is left, or nothing is known yet.
      work_left: seconds of one worker that the runs left need; None where no run has ended.
      problems: what is missing or damaged, a sentence each.
      damaged: run ids of rows that cannot be read.
      code: in words, how the code that made it differs from that here; empty where it does not.
    """

    directory: str
    total: int
    done: int
    diverged: int
    failed: dict[str, str] = field(default_factory=dict)
    working: list[Working] = field(default_factory=list)
    per_minute: float = 0.0
    seconds_left: float | None = None
    work_left: float | None = None
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    code: str = ""

    @property
    def running(self) -> int:
        """Runs in training."""
        return sum(len(each.runs) for each in self.working if each.live)

    @property
    def waiting(self) -> int:
        """Runs that nobody works on and that have not failed."""
        return max(0, self.total - self.done - self.diverged - len(self.damaged) - len(self.failed) - self.running)

    @property
    def images_per_second(self) -> float:
        """Of all live workers together."""
        return sum(each.images_per_second or 0.0 for each in self.working if each.live)

    @property
    def over(self) -> bool:
        """Whether every run is done or has failed."""
        return not self.waiting and not self.running and not self.damaged


def sweeps(directory: Path) -> list[Path]:
    """The directory itself, or the sweeps in it and in its folders.

    Raises:
      UsageError: there are none.
    """
    if directory.is_dir() and not results.is_sweep(directory):
        found = {path.parent for pattern in ("*", "*/*") for path in directory.glob(f"{pattern}/manifest.json")}
        if found:
            return sorted(found)
    return [results.checked(directory)]


class Observer:
    """Looks at one sweep, again and again. A row never changes, so each is read once.

    Args:
      directory: of the sweep.
    """

    def __init__(self, directory: Path):
        self.directory, self.store = directory, Store(directory)
        self.leases = self.store.leases("status")
        self.rows: dict[str, tuple[str, float]] = {}  # status and seconds
        self.origins: dict[str, dict[str, str]] = {}  # what data a row says it is of, and what signature
        self.ended: dict[str, float] = {}  # when a row was written

    def look(self) -> Status:
        """How far the sweep is now."""
        manifest, problems = self._manifest()
        damaged = self._read_rows()
        committed = self.directory / "results.csv"
        if not self.ended and not (self.directory / "rows").exists() and committed.exists():
            self._read_results(committed)
            problems.append("It has results.csv and no rows: committed evidence, or a copy.")
        runs = set(manifest.get("runs", ())) or {*self.rows, *damaged}
        if strange := sorted({*self.rows, *damaged} - runs):
            problems.append(f"The manifest does not name {_named(strange)}.")
        if damaged:
            problems.append(f"Damaged rows, which the sweep's command would refuse to read: {_named(damaged)}.")
        if foreign := sorted(run for run, origin in self.origins.items() if not _is_of(origin, manifest)):
            problems.append(f"Rows of other data or of another signature than the manifest has: {_named(foreign)}.")
        statuses = Counter(status for run, (status, _) in self.rows.items() if run in runs)
        found = Status(
            str(self.directory), len(runs), sum(statuses.values()) - statuses["diverged"], statuses["diverged"],
            working=self._working(runs), problems=problems, damaged=[run for run in damaged if run in runs],
            code=_code(manifest),
        )  # fmt: skip
        busy = {run for each in found.working if each.live for run in each.runs}
        failures = self.store.failures()
        found.failed = {run: str(failure.get("reason", "")) for run, failure in failures.items()
                        if run in runs and run not in busy}  # fmt: skip
        now = time.time()
        found.per_minute = 60 / RECENT_SECONDS * sum(now - ended <= RECENT_SECONDS for ended in self.ended.values())
        self._forecast(found, manifest, runs)
        return found

    def _manifest(self) -> tuple[dict[str, Any], list[str]]:
        try:
            found = self.store.manifest
        except UsageError as error:
            return {}, [str(error)]
        if found is None:
            return {}, ["It has no manifest.json, so what is left to do is not known. Copy the whole directory."]
        return found, []

    def _read_rows(self) -> list[str]:
        """Reads the rows that are new; returns those that are damaged."""
        damaged = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.directory / "rows") as entries:
            for entry in entries:
                run, _, suffix = entry.name.rpartition(".")
                if suffix != "json" or entry.name.startswith(".") or run in self.rows:
                    continue
                row = _glance(Path(entry.path))
                if row is None:
                    damaged.append(run)
                else:
                    status, seconds, self.origins[run] = row
                    self.rows[run] = status, seconds
                    self.ended[run] = entry.stat().st_mtime
        return sorted(damaged)

    def _read_results(self, path: Path) -> None:
        with contextlib.suppress(OSError, csv.Error), open(path, newline="") as file:
            self.rows = {line["run_id"]: (line["status"], float("nan")) for line in csv.DictReader(file)}

    def _working(self, runs: Iterable[str]) -> list[Working]:
        holders = {bundle: holder for bundle, holder in self.leases.holders().items() if holder.get("runs")}
        if not holders:
            return []
        now, runs = time.time(), set(runs)
        news = {event["bundle"]: event for event in log.recent(self.directory, RECENT_SECONDS) if "step" in event}
        lost, found = set(self.leases.lost(holders)), []
        for bundle, holder in holders.items():
            silent = max(0.0, now - holder["beat"])
            last = news.get(bundle, {})
            if last.get("worker") != holder["worker"]:  # of the holder before
                last = {}
            live = silent <= holder.get("seconds", 0.0) and bundle not in lost
            found.append(
                Working(
                    bundle, [run for run in holder["runs"] if run in runs and run not in self.rows], holder["worker"],
                    str(holder.get("host", "")), holder.get("since", now), silent, live, last.get("step"),
                    last.get("steps"), last.get("images_per_second"),
                )
            )  # fmt: skip
        return sorted((each for each in found if each.runs), key=lambda each: (not each.live, each.since))

    def _forecast(self, found: Status, manifest: dict[str, Any], runs: set[str]) -> None:
        """From the mean seconds of the runs that have ended, by program; of a program without any, of all."""
        programs = manifest.get("runs", {})
        seconds: dict[Any, list[float]] = {}
        for run, (_, taken) in self.rows.items():
            if taken == taken and run in runs:
                seconds.setdefault(programs.get(run), []).append(taken)
        if not seconds:
            return
        means = {program: sum(taken) / len(taken) for program, taken in seconds.items()}
        overall = sum(map(sum, seconds.values())) / sum(map(len, seconds.values()))
        left = runs - set(self.rows) - set(found.failed)
        found.work_left = sum(means.get(programs.get(run), overall) for run in left)
        for each in found.working:
            if each.live and each.step and each.steps:
                share = each.step / each.steps
                found.work_left -= share * sum(means.get(programs.get(run), overall) for run in each.runs)
        workers = sum(each.live for each in found.working)
        found.seconds_left = found.work_left / workers if workers else None


def _code(manifest: dict[str, Any]) -> str:
    """How the code of a sweep differs from that here; what a network's own code makes is not looked at."""
    if not manifest:
        return ""
    sources = {made.get("source") for made in manifest.get("signatures", {}).values()}
    told = []
    if len(sources) > 1:
        told.append(f"it holds runs of {len(sources)} versions of cnnjax's sources")
    if changed := code_since(manifest.get("code", {})):
        told.append(f"{changed}: an unfinished sweep goes on only with --mix_signatures")
    return "; ".join(told)


def _is_of(origin: Mapping[str, str], manifest: Mapping[str, Any]) -> bool:
    """Whether a row with this origin can be one of the sweep; where the manifest says nothing, it can."""
    wanted = {"data": manifest.get("data", {}).values(), "signature_digest": manifest.get("signatures", {})}
    return all(not wanted[part] or said in wanted[part] for part, said in origin.items())


def _glance(path: Path) -> tuple[str, float, dict[str, str]] | None:
    """Status, seconds and origin of a row, without parsing all of it; None where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    status, seconds = STATUS.search(content), SECONDS.search(content)
    if status and content.endswith(b"\n}\n") and f'"run_id": "{path.stem}"'.encode() in content:
        origin = {part.decode(): said.decode() for part, said in ORIGIN.findall(content)}
        return status[1].decode(), float(seconds[1]) if seconds else float("nan"), origin
    try:  # written by another hand, perhaps
        row = json.loads(content)
        if row["run_id"] != path.stem:
            return None
        origin = {part: str(row[part]) for part in ("data", "signature_digest") if part in row}
        return str(row["status"]), float(row.get("seconds") or "nan"), origin
    except (ValueError, KeyError, TypeError):
        return None


def _named(runs: list[str]) -> str:
    return f"{len(runs)} ({', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''})"
