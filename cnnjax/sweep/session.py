"""A whole sweep, from arguments to rows: what the command line and a user's script both call."""

import dataclasses
import datetime
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax.data.catalog import DataConfig
from cnnjax.data.feed import Mode
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep import execute
from cnnjax.sweep.grid import NOTHING, Grid
from cnnjax.sweep.plan import Bundle, Plan, plan, points
from cnnjax.sweep.store import Row, Store
from cnnjax.train.program import Driver
from cnnjax.train.run import CHECKPOINT_SECONDS
from cnnjax.train.spec import Hyper, Spec, to_json
from cnnjax.typing import UsageError


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a sweep is executed. Apart from ``driver`` and ``threads``, nothing here changes a result.

    Attributes:
      workers: processes on a CPU, each pinned; 0 runs in this process. Ignored on accelerators.
      threads: cores of each worker process.
      driver: for every group, in place of the rule.
      feed: "auto", "resident" or "stream".
      checkpoint_seconds: least time between two checkpoints of a bundle.
      mix_signatures: go on in a directory whose rows were made under another execution signature.
    """

    workers: int = 0
    threads: int = 1
    driver: Driver | None = None
    feed: Mode = "auto"
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    mix_signatures: bool = False


def run(
    spec: Spec,
    grid: Grid = NOTHING,
    seeds: Sequence[int] = range(3),
    hyper: Hyper | None = None,
    *,
    directory: str | Path | None = None,
    execution: Execution | None = None,
) -> list[Row]:
    """Runs every point of the grid with every seed, and returns a row for each, in the grid's order.

    Args:
      spec: the static part of every run, where the grid does not say otherwise.
      grid: what varies; see ``sweep.product``, ``sweep.zipped`` and ``sweep.explicit``.
      seeds: every point is run with each of them, so that differences are paired.
      hyper: the numbers of every run, where the grid does not say otherwise.
      directory: where rows are kept; a second call continues there. None keeps them in memory only.
      execution: how; in this process by default.

    Raises:
      UsageError: anything that cannot work, before data are loaded or anything compiled.
      Interrupted: by Ctrl-C, with the state saved where there is a directory.
    """
    execution = execution or Execution()
    platform = jax.default_backend()
    planned = plan(points(spec, hyper or Hyper(), grid, seeds), platform, execution.driver)
    configuration = {"spec": to_json(spec), "hyper": to_json(hyper or Hyper()), "grid": grid, "seeds": list(seeds)}
    session = Session(planned, execution, Path(directory) if directory else None, {"configuration": configuration})
    session.check()
    session.start()
    session.execute()
    return session.rows()


class Session:
    """One sweep over one directory: ``check``, ``start``, ``execute``, ``rows``, in this order.

    Args:
      planned: what to run.
      execution: how.
      directory: where rows are kept, or None.
      description: goes into the manifest: at least ``configuration``.
    """

    def __init__(self, planned: Plan, execution: Execution, directory: Path | None, description: dict[str, Any]):
        self.plan, self.execution, self.description = planned, execution, description
        self.store = Store(directory) if directory else None
        self._memory: dict[str, Row] = {}
        device = jax.devices()[0]
        threads = execution.threads if execution.workers else bundles.threads_here()
        self.signatures = {
            (b.spec, b.driver): bundles.signature(b, threads, device.platform, device.device_kind)
            for b in planned.bundles
        }

    def manifest(self) -> dict[str, Any]:
        """What the results belong to: configuration, versions, device, runs, signatures, weights, command."""
        digests = {key: bundles.digest(signature) for key, signature in self.signatures.items()}
        started = [b for b in self.plan.bundles if b.spec.weights]
        return {
            **to_json(self.description),
            **bundles.environment(),
            "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs": {p.run_id: digests[(b.spec, b.driver)] for b in self.plan.bundles for p in b.points},
            "signatures": {digests[key]: signature for key, signature in self.signatures.items()},
            "programs": self.plan.programs,
            "weights": {b.spec.weights: self.signatures[(b.spec, b.driver)]["weights"] for b in started},
        }

    def check(self) -> None:
        """Refuses a directory that holds something else; loads and writes nothing."""
        if not self.store and any(bundle.spec.keep_weights for bundle in self.plan.bundles):
            raise UsageError("keep_weights=True needs a place for them: give the sweep a directory.")
        if self.store:
            self.store.check(self.manifest(), self.execution.mix_signatures)

    def start(self) -> None:
        """Loads the data, checks that they are those of the directory, and opens it."""
        self.fingerprints = {
            config: bundles.dataset_of(config).fingerprint for config in {b.spec.data for b in self.plan.bundles}
        }
        if self.store:
            data = {_label(config): fingerprint for config, fingerprint in self.fingerprints.items()}
            manifest = {**self.manifest(), "data": data}
            self.store.check(manifest, self.execution.mix_signatures)
            self.store.open(manifest)

    def pending(self) -> list[Bundle]:
        """The bundles without their finished runs; none where all are done."""
        done = self.store.done(p.run_id for p in self.plan.points) if self.store else set(self._memory)
        left = [
            dataclasses.replace(b, points=tuple(p for p in b.points if p.run_id not in done)) for b in self.plan.bundles
        ]
        return [b for b in left if b.points]

    def execute(self, listen: execute.Listener = lambda news: None) -> None:
        """Runs what is pending.

        Raises:
          Interrupted: by Ctrl-C; the same call resumes.
          RuntimeError: a bundle failed, after the others were finished.
        """
        jobs = [execute.Job(b, self.signatures[(b.spec, b.driver)]) for b in self.pending()]
        settings = execute.Settings(
            self.store.directory if self.store else None,
            self.fingerprints,
            self.execution.feed,
            self.execution.checkpoint_seconds,
            self.execution.threads,
        )
        if jobs and jax.default_backend() != "cpu":
            made = execute.on_devices(jobs, settings, listen, jax.devices())
        elif jobs and self.execution.workers:
            made = execute.in_workers(jobs, settings, listen, self.execution.workers)
        else:
            made = execute.in_process(jobs, settings, listen)
        self._memory.update({row["run_id"]: row for row in made})
        if self.store:
            self.store.clean()

    def rows(self) -> list[Row]:
        """The row of every run, in the order of the points."""
        if not self.store:
            return [self._memory[point.run_id] for point in self.plan.points]
        return [self.store.read(point.run_id) for point in self.plan.points]


def _label(config: DataConfig) -> str:
    """The dataset's name and what is not as usual: one name may stand for several sizes."""
    fields = (field for field in dataclasses.fields(config) if field.name != "name")
    changed = (field.name for field in fields if getattr(config, field.name) != field.default)
    return " ".join([config.name, *(f"{name}={getattr(config, name)}" for name in changed)])
