"""A whole sweep, from arguments to rows: what the command line and a user's script both call."""

import dataclasses
import datetime
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from cnnjax.data.catalog import DataConfig
from cnnjax.provenance import code
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep import execute, joint
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import NOTHING, Grid
from cnnjax.sweep.log import check_writers
from cnnjax.sweep.plan import Bundle, Plan, plan, points
from cnnjax.sweep.store import Row, Store
from cnnjax.sweep.supervise import in_workers
from cnnjax.sweep.work import Job, Listener, Settings
from cnnjax.train import peers
from cnnjax.train.spec import Hyper, Spec, to_json
from cnnjax.typing import UsageError

log = logging.getLogger(__name__)


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
    return session.rows() if execution.member is None else session.finished()


class Session:
    """One sweep over one directory: ``check``, ``start``, ``execute``, ``rows``, in this order.

    Args:
      planned: what to run.
      execution: how.
      directory: where rows are kept, or None.
      description: goes into the manifest: at least ``configuration``.
    """

    def __init__(self, planned: Plan, execution: Execution, directory: Path | None, description: dict[str, Any]):
        self.plan, self.execution, self.description = planned, execution, to_json(description)
        self.store = Store(directory) if directory else None
        self._memory: dict[str, Row] = {}
        if execution.log:
            check_writers(execution.log)
        device = jax.devices()[0]
        threads = execution.threads if execution.workers else bundles.threads_here()
        self.signatures = {
            program: bundles.signature(b, threads, device.platform, device.device_kind)
            for program, b in {(b.spec, b.driver): b for b in planned.bundles}.items()
        }

    def manifest(self) -> dict[str, Any]:
        """What the results belong to: configuration, versions, device, runs, signatures, weights, command."""
        digests = {key: bundles.digest(signature) for key, signature in self.signatures.items()}
        started = [b for b in self.plan.bundles if b.spec.weights]
        return {
            **self.description,
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
        if not self.store and self.execution.member:
            raise UsageError("CNNJAX_SHARD is set, and a fleet meets in a directory: give the sweep one.")
        if self.store:
            self._check(self.store, self.manifest())

    def _check(self, store: Store, manifest: dict[str, Any]) -> None:
        first = not self.execution.member or self.execution.member.number == 0  # one that reads all rows is enough
        store.check(manifest, self.execution.mix_signatures, read_rows=first)

    def start(self) -> None:
        """Loads the data, checks that they are those of the directory, and opens it."""
        configs = {b.spec.data for b in self.plan.bundles}
        if any(config.external for config in configs):
            bundles.dataset_of.cache_clear()  # its files may have changed since an earlier sweep of this process
        datasets = {config: bundles.dataset_of(config) for config in configs}
        self.fingerprints = {config: dataset.fingerprint for config, dataset in datasets.items()}
        skipped = {_label(config): dataset.skipped for config, dataset in datasets.items() if dataset.skipped}
        for name, images in skipped.items():
            log.warning(
                "%d images of %s cannot be read and are skipped, such as %s (%s)", len(images), name, *images[0]
            )
        if self.store:
            data = {_label(config): fingerprint for config, fingerprint in self.fingerprints.items()}
            manifest = {**self.manifest(), "data": data, **({"skipped": skipped} if skipped else {}), "code": code()}
            self._check(self.store, manifest)
            with self.store.opening():
                self._check(self.store, manifest)  # another sweep may have been faster
                self.store.open(manifest)

    def pending(self) -> list[Bundle]:
        """The bundles without all of their finished runs; none where all are done."""
        done = self.done()
        return [bundle for bundle in self.plan.bundles if not done.issuperset(bundle.runs)]

    def done(self) -> set[str]:
        """The runs that have a row."""
        runs = (point.run_id for point in self.plan.points)
        return self.store.done(runs) if self.store else set(self._memory) & set(runs)

    def execute(self, listen: Listener = lambda news: None) -> None:
        """Runs what is pending.

        Raises:
          Interrupted: by Ctrl-C; the same call resumes.
          RuntimeError: a bundle failed, after the others were finished.
        """
        jobs = [Job(b, self.signatures[(b.spec, b.driver)]) for b in self.pending()]
        if self.store:
            self._execute(jobs, self.store, listen)
            self.store.clean((point.run_id for point in self.plan.points), self.execution.keep_checkpoints)
        elif jobs:
            with tempfile.TemporaryDirectory() as directory:
                store = Store(Path(directory))
                self._execute(jobs, store, listen)
                self._memory.update({p.run_id: store.read(p.run_id) for job in jobs for p in job.bundle.points})

    def _execute(self, jobs: list[Job], store: Store, listen: Listener) -> None:
        if not jobs:
            return
        settings = Settings(store.directory, self.fingerprints, self.execution, store.failures())
        if peers.count() > 1:
            joint.jointly(jobs, settings, listen)
        elif any(job.bundle.driver.devices > 1 for job in jobs):  # all devices of this process
            execute.in_process(jobs, settings, listen)
        elif jax.default_backend() != "cpu":
            execute.on_devices(jobs, settings, listen, jax.devices())
        elif self.execution.workers:
            in_workers(jobs, settings, listen, self.execution.workers)
        else:
            execute.in_process(jobs, settings, listen)

    def finished(self) -> list[Row]:
        """The rows that there are, in the order of the points."""
        done = self.done()
        return [self._row(point.run_id) for point in self.plan.points if point.run_id in done]

    def rows(self) -> list[Row]:
        """The row of every run, in the order of the points."""
        return [self._row(point.run_id) for point in self.plan.points]

    def _row(self, run: str) -> Row:
        return self.store.read(run) if self.store else self._memory[run]


def _label(config: DataConfig) -> str:
    """The dataset's name and what is not as usual: one name may stand for several sizes."""
    fields = (field for field in dataclasses.fields(config) if field.name != "name")
    changed = (field.name for field in fields if getattr(config, field.name) != field.default)
    return " ".join([config.name, *(f"{name}={getattr(config, name)}" for name in changed)])
