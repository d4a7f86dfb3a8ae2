"""A whole sweep, from arguments to rows: what the command line and a user's script both call."""

import dataclasses
import datetime
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
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
from cnnjax.sweep.plan import Bundle, Plan, Point, plan, points
from cnnjax.sweep.store import Row, Store
from cnnjax.sweep.supervise import end_if_imported, in_workers
from cnnjax.sweep.work import Job, Listener, Settings
from cnnjax.train import peers
from cnnjax.train.pretrained import sha256
from cnnjax.train.program import Driver
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
    end_if_imported()
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
        self.fingerprints: dict[DataConfig, str] = {}  # of the data, once they are loaded
        if execution.log:
            check_writers(execution.log)

    @cached_property
    def signatures(self) -> dict[tuple[Spec, Driver], dict[str, Any]]:
        """The execution signature of each program. Where a network is not cnnjax's own, its code is traced for it."""
        device = jax.devices()[0]
        threads = self.execution.threads if self.execution.workers else bundles.threads_here()
        return {
            program: bundles.signature(b, threads, device.platform, device.device_kind)
            for program, b in {(b.spec, b.driver): b for b in self.plan.bundles}.items()
        }

    def manifest(self) -> dict[str, Any]:
        """What the results belong to: configuration, versions, device, runs, signatures, weights, command.

        Where every run has its row, nothing will be made, and no signature is asked for.
        """
        over = self.store is not None and len(self.done()) == len(self.plan.points)
        signatures = {} if over else self.signatures
        digests = {key: bundles.digest(signature) for key, signature in signatures.items()}
        started = {b.spec: b for b in self.plan.bundles if b.spec.weights}.values()
        return {
            **self.description,
            **bundles.environment(),
            "command": shlex.join([Path(sys.executable).name, *sys.orig_argv[1:]]),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "runs": {p.run_id: digests.get((b.spec, b.driver), "") for b in self.plan.bundles for p in b.points},
            "signatures": {digests[key]: signature for key, signature in signatures.items()},
            "programs": self.plan.programs,
            "weights": {b.spec.weights: sha256(b.spec.weights) for b in started},
        }

    def check(self) -> None:
        """Refuses a directory that holds something else; loads and writes nothing."""
        if not self.store and any(bundle.spec.keep_weights for bundle in self.plan.bundles):
            raise UsageError("keep_weights=True needs a place for them: give the sweep a directory.")
        if not self.store and self.execution.member:
            raise UsageError("CNNJAX_SHARD is set, and a fleet meets in a directory: give the sweep one.")
        if self.store:
            self._check(self.store, self.manifest())
        else:
            _ = self.signatures  # of the files as they are now

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
                self.store.open(manifest, self.execution.mix_signatures)

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
          Unwritable: results cannot be written any more, or the directory was moved; the same call goes on.
          RuntimeError: a bundle failed, after the others were finished.
        """
        jobs = [Job(b, self.signatures[(b.spec, b.driver)]) for b in self.pending()]
        if self.store:
            self._execute(jobs, self.store, listen)
            self.store.hold()  # refuses another directory in its place
            self.store.clean((point.run_id for point in self.plan.points), self.execution.keep_checkpoints)
        elif jobs:
            with tempfile.TemporaryDirectory() as directory:
                store = Store(Path(directory))
                self._execute(jobs, store, listen)
                self._memory.update({p.run_id: store.read(p.run_id) for job in jobs for p in job.bundle.points})

    def _execute(self, jobs: list[Job], store: Store, listen: Listener) -> None:
        if not jobs:
            return
        settings = Settings(store.directory, self.fingerprints, self.execution, store.failures(), store.hold())
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
        return self._rows([point for point in self.plan.points if point.run_id in done])

    def rows(self) -> list[Row]:
        """The row of every run, in the order of the points."""
        return self._rows(self.plan.points)

    def _rows(self, points: Sequence[Point]) -> list[Row]:
        """The rows of some points, checked against the manifest and the data.

        A sweep may have grown by an axis since a row was written: the assignment is as the plan has it now.
        """
        if self.store is None:
            return [self._memory[point.run_id] for point in points]
        manifest, mixed, rows = self.store.manifest or {"runs": {}}, self.execution.mix_signatures, []
        for point in points:
            row = self.store.read(point.run_id, manifest, mixed)
            if row["data"] != self.fingerprints.get(point.spec.data, row["data"]):
                raise UsageError(
                    f"The row of {point.run_id} in {self.store.directory} was made with other data than "
                    f"{_label(point.spec.data)} holds. Remove it to have the run repeated."
                )
            rows.append({**row, "assignment": to_json(dict(point.assignment))})
        others = sum(row["signature_digest"] != manifest["runs"][row["run_id"]] for row in rows)
        others += sum("earlier_signatures" in row for row in rows)
        if others:
            log.warning(
                "%d of %d runs were made, wholly or in part, under another execution signature than the others: their "
                "signature_digest and earlier_signatures say which",
                others,
                len(rows),
            )
        return rows


def _label(config: DataConfig) -> str:
    """The dataset's name and what is not as usual: one name may stand for several sizes."""
    fields = (field for field in dataclasses.fields(config) if field.name != "name")
    changed = (field.name for field in fields if getattr(config, field.name) != field.default)
    return " ".join([config.name, *(f"{name}={getattr(config, name)}" for name in changed)])
