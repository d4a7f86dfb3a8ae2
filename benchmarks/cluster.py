"""Does a cluster lose or double a run, and what does its coordination cost?

A simulated cluster: every worker is a thread of this process that executes the real loop of a worker (``sweep.work``)
on one real directory; only the training is replaced, by a short sleep and a row that is a function of the run. Between
sleeps ``AT_ONCE`` of them run at a time, for a thousand threads that fight over one interpreter would measure just
that. Workers die in the middle of a run (no release, no more beats; another one takes their place), freeze for longer
than their lease and then go on, and meet errors. At the end every run must have exactly one row, of the right content.

  python -m benchmarks.cluster                       1,000 workers, 100,000 runs; an hour
  python -m benchmarks.cluster --workers=50 --runs=2000
"""

import argparse
import random
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import machine, record
from cnnjax import process
from cnnjax.data.catalog import DataConfig, describe
from cnnjax.sweep import lease, log, work
from cnnjax.sweep.bundle import LeaseLost
from cnnjax.sweep.execution import Execution, Member
from cnnjax.sweep.grid import NOTHING
from cnnjax.sweep.plan import Bundle, points
from cnnjax.sweep.store import Store
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec, digest, to_json

DIES, FREEZES, FAILS = 0.02, 0.005, 0.005  # chance for each run
LEASE_SECONDS = 6.0
RUN_SECONDS = 0.2  # on average
AT_ONCE = 2  # threads that run: more would wait for the interpreter, not for each other's work


class Died(BaseException):
    """The worker is no more."""


class Cluster:
    """The workers, and what happened to them."""

    def __init__(self, directory: Path, workers: int, runs: int, seed: int):
        self.directory, self.workers = directory, workers
        self.random = random.Random(seed)
        self.events: Counter[str] = Counter()
        self.lock, self.turns = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)
        self.silent: set[Any] = set()  # leases of the dead and the frozen: no beat, no release
        spec = Spec(model="mlp", model_fields=(("hidden", (2,)),), steps=1)
        info = describe(DataConfig())
        made = points(spec, Hyper(), NOTHING, range(runs))
        self.jobs = [work.Job(Bundle(spec, info, Driver(), 1, (point,)), {"threads": 1}) for point in made]
        self.ids = [point.run_id for point in made]
        for job in self.jobs:  # now: threads that ask for it first would wait for one another, as processes do not
            assert job.bundle.bundle_id
        execution = Execution(lease_seconds=LEASE_SECONDS, member=Member())
        self.settings = work.Settings(directory, {DataConfig(): ""}, execution)

    def run(self) -> None:
        """All workers, until none has anything left to do; then again, as a user would, until nothing is missing."""
        while len(Store(self.directory).done(self.ids)) < len(self.jobs):
            self.events["fleets"] += 1
            self.settings = self.settings._replace(failed=Store(self.directory).failures())  # tried again
            threads = [threading.Thread(target=self.serve, args=(number,)) for number in range(self.workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    def sleep(self, seconds: float) -> None:
        """Lets other workers run meanwhile."""
        self.turns.release()
        time.sleep(seconds)
        self.turns.acquire()

    def note(self, event: str) -> None:
        """Counts it."""
        with self.lock:
            self.events[event] += 1

    def serve(self, number: int) -> None:
        """One worker, and those who replace it when it dies."""
        worker = work.Worker(number, Member(number, self.workers))
        while True:
            try:
                with self.turns:
                    return work.work(self.jobs, self.settings, worker)
            except Died:
                self.note("deaths")

    def train(
        self, bundle: Bundle, signature: Any, fingerprint: str, store: Store, execution: Execution, **options: Any
    ) -> list[dict]:
        """In the place of ``run_bundle``."""
        self.note("executions")
        fate, (point,), held = self.random.random(), bundle.points, options["may_write"].__self__
        self.sleep(self.random.uniform(0.0, 2 * RUN_SECONDS))
        if fate < DIES:
            self.silent.add(held)
            raise Died
        if fate < DIES + FREEZES:
            self.note("frozen")
            self.silent.add(held)
            self.sleep(2 * LEASE_SECONDS)
            self.silent.remove(held)
        elif fate < DIES + FREEZES + FAILS:
            self.note("errors")
            raise RuntimeError("an error of this run")
        if not held.held():
            self.note("late writes refused")
            raise LeaseLost
        made = {"spec": digest(point.spec)}
        row = {
            **{"assignment": {}, "seed": point.seed, "spec": to_json(point.spec), "hyper": to_json(point.hyper)},
            **{"signature": made, "signature_digest": digest(made), "data": "none", "diverged_step": None},
            **{**content(point.run_id), "status": "done", "metrics": {}, "seconds": 0.0},
        }
        store.write(row)
        return [row]


def content(run: str) -> dict[str, Any]:
    """The row of a run: a function of the run, and about as long as a real one."""
    return {
        "run_id": run,
        "parameters_digest": digest(run) * 4,
        "history": [{"step": k, "loss": 0.5} for k in range(20)],
    }


def simulate(directory: Path, workers: int, runs: int, seed: int = 0) -> dict[str, Any]:
    """What came of it, and the time it took."""
    cluster = Cluster(directory, workers, runs, seed)

    def unless_silent(method: Any) -> Any:
        return lambda held: None if held in cluster.silent else method(held)

    started, processor = time.perf_counter(), time.process_time()
    with (
        patch.object(work, "run_bundle", cluster.train),
        patch.object(work, "_wait", lambda seconds, should_stop: cluster.sleep(seconds)),  # in one, for the turns
        patch.object(process, "identity", lambda: {"host": "another", "pid": 1}),  # nobody sees that a process ended
        patch.object(lease.Lease, "release", unless_silent(lease.Lease.release)),
        patch.object(lease.Lease, "beat", unless_silent(lease.Lease.beat)),
    ):
        cluster.run()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    store, ids = Store(directory), cluster.ids
    wrong = [run for run in ids if any(store.read(run)[name] != value for name, value in content(run).items())]
    done = Counter(event["run"] for event in log.read(directory) if event["event"] == "done")
    names = [path.name for path in (directory / "rows").iterdir()]
    return {
        "workers": workers,
        "runs": runs,
        "rows": len(names),
        "rows lost": runs - len(store.done(ids)),
        "rows that are no run's": len(set(names) - {f"{run}.json" for run in ids}),
        "rows with wrong content": len(wrong),
        "runs done twice, by the logs": sum(count > 1 for count in done.values()),
        **{name: cluster.events[name] for name in ("deaths", "frozen", "late writes refused", "errors", "fleets")},
        "executions per run": cluster.events["executions"] / runs,
        "at once": AT_ONCE,
        "seconds": seconds,
        "milliseconds of processor for each run": 1000 * processor / runs,
    }


def main() -> None:
    """Prints and records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        found = simulate(Path(directory), options.workers, options.runs, options.seed)
    for name, value in found.items():
        print(f"{name:40s} {value:,.2f}" if isinstance(value, float) else f"{name:40s} {value:,}")
    if (options.workers, options.runs) == (1000, 100_000):
        question = "What does a simulated cluster lose, double, and spend on coordination?"
        record("cluster", question, "python -m benchmarks.cluster", machine(), found)


if __name__ == "__main__":
    main()
