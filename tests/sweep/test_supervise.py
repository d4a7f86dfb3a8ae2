import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cnnjax.sweep import log, supervise
from cnnjax.sweep.execute import in_process
from cnnjax.sweep.grid import NOTHING, product
from cnnjax.sweep.place import Unwritable
from cnnjax.sweep.store import Store
from cnnjax.sweep.supervise import in_workers
from tests.sweep.conftest import ELSEWHERE

# Worker processes: each costs seconds, so few of them do much.


@pytest.fixture(scope="module")
def long_jobs(jobs):
    """Three bundles of 300 steps."""
    return jobs(product(l2=[0.0, 0.01]), range(3), steps=300, evaluate_every=100)


@pytest.fixture(scope="module")
def two_workers(long_jobs, jobs, settings, tmp_path_factory):
    """What two workers made of three good bundles and one whose data have changed: store, error and news."""
    directory, news = tmp_path_factory.mktemp("two"), []
    bad = jobs(NOTHING, [0], data=ELSEWHERE)
    with pytest.raises(RuntimeError) as error:
        in_workers([*bad, *long_jobs], settings(directory, failed={}), news.append, 2)
    return Store(directory), str(error.value), news


@pytest.mark.slow
def test_a_bundle_that_fails_is_reported_after_the_others_were_finished(two_workers, long_jobs, rows_of):
    store, error, _ = two_workers
    assert error.startswith("1 of 4 bundles failed; the first (")
    assert "digits has changed since the sweep started" in error
    rows = rows_of(store.directory, long_jobs)
    assert [row["status"] for row in rows] == ["done"] * 6
    assert len({row["parameters_digest"] for row in rows}) == 6
    assert {row["worker"] for row in rows} <= {0, 1}
    assert {row["signature_digest"] for row in rows} == {rows[0]["signature_digest"]}


@pytest.mark.slow
def test_workers_tell_their_progress(two_workers, long_jobs):
    _, _, news = two_workers
    for job in long_jobs:
        own = [(each.steps, each.finished) for each in news if each.bundle == job.bundle]
        assert own == [(50 * k, False) for k in range(1, 7)] + [(300, True)]
        assert len({each.worker for each in news if each.bundle == job.bundle}) == 1


@pytest.mark.slow
def test_a_killed_worker_is_replaced_and_no_bit_changes(two_workers, long_jobs, settings, rows_of, timeless, tmp_path):
    news = []

    def kill_once(each):
        news.append((each.bundle.bundle_id, each.steps, each.finished))
        if len(news) == 4:  # the checkpoint of step 50 is written, a later one perhaps half
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)

    in_workers(long_jobs, settings(tmp_path, checkpoint_seconds=0.0), kill_once, 1)
    expected = rows_of(two_workers[0].directory, long_jobs)
    assert timeless(rows_of(tmp_path, long_jobs)) == timeless(expected)
    killed = news[0][0]
    resumed = [steps for bundle, steps, _ in news[4:] if bundle == killed]
    assert 50 not in resumed
    assert resumed[-2:] == [300, 300]
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_in_process_agrees_with_the_workers_to_rounding(two_workers, long_jobs, settings, rows_of, tmp_path):
    (first, *_) = rows_of(two_workers[0].directory, long_jobs)
    in_process(long_jobs[:1], settings(tmp_path), lambda news: None)
    here, _ = rows_of(tmp_path, long_jobs[:1])
    assert here["run_id"] == first["run_id"]
    assert here["metrics"] == pytest.approx(first["metrics"], rel=1e-2, abs=1e-2)


class Watch:
    """A listener that does something to the worker process at its first news, every time or once."""

    def __init__(self, which, times):
        self.which, self.times, self.pids = which, times, []

    def __call__(self, news):
        (child,) = multiprocessing.active_children()
        if len(self.pids) < self.times and child.pid not in self.pids:
            self.pids.append(child.pid)
            os.kill(child.pid, self.which)


@pytest.mark.slow
def test_a_bundle_that_takes_two_workers_with_it_has_failed_and_says_how(long_jobs, settings, tmp_path):
    watch = Watch(signal.SIGKILL, 2)
    with pytest.raises(
        RuntimeError,
        match=r"1 of 3 bundles failed; the first .* killed \(signal 9\), by hand or for memory \(2 times\)",
    ):
        in_workers(long_jobs, settings(tmp_path), watch, 1)
    failures = Store(tmp_path).failures()
    assert len(failures) == 2  # runs of one bundle
    assert all("its worker process was killed (signal 9)" in failure["reason"] for failure in failures.values())
    assert len(Store(tmp_path).done(p.run_id for job in long_jobs for p in job.bundle.points)) == 4
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_limits_of_memory_and_time_are_hard_and_named(long_jobs, jobs, settings, tmp_path):
    with pytest.raises(RuntimeError, match=r"killed for memory: it used \d+ MiB of the 50 allowed"):
        in_workers(long_jobs[:1], settings(tmp_path / "memory", memory_limit=50), lambda news: None, 1)
    endless = jobs(NOTHING, [0], steps=10**6, evaluate_every=0)
    with pytest.raises(RuntimeError, match=r"killed after \d+ s: the time limit is 1 s$"):
        in_workers(endless, settings(tmp_path / "time", time_limit=1.0), lambda news: None, 1)
    for name in ("memory", "time"):
        reasons = {failure["reason"] for failure in Store(tmp_path / name).failures().values()}
        assert len(reasons) == 1
        assert "killed" in reasons.pop()


@pytest.mark.slow
def test_a_frozen_worker_is_replaced_and_no_bit_changes(two_workers, long_jobs, settings, rows_of, timeless, tmp_path):
    watch = Watch(signal.SIGSTOP, 1)
    in_workers(long_jobs, settings(tmp_path, lease_seconds=1.5), watch, 1)
    assert len(watch.pids) == 1
    expected = rows_of(two_workers[0].directory, long_jobs)
    assert timeless(rows_of(tmp_path, long_jobs)) == timeless(expected)


@pytest.mark.slow
def test_where_rows_cannot_be_written_all_workers_stop(long_jobs, jobs, settings, tmp_path):
    endless = jobs(NOTHING, [7], steps=10**6, evaluate_every=0)
    (tmp_path / "rows").write_text("in the way")
    with pytest.raises(Unwritable, match=r"rows cannot be written \(File exists\), so the sweep stops"):
        in_workers([*endless, *long_jobs], settings(tmp_path), lambda news: None, 2)
    assert multiprocessing.active_children() == []
    assert Store(tmp_path).failures() == {}  # nothing is wrong with the runs
    assert len([event for event in log.read(tmp_path) if event["event"] == "began"]) <= 2  # of four: one for each


UNGUARDED = """
from cnnjax import sweep
from cnnjax.train.spec import Spec
print("imported", flush=True)
spec, execution = Spec(model="mlp", steps=2), sweep.Execution(workers=2)
sweep.run(spec, sweep.product(), range(3), directory="runs", execution=execution)
"""


@pytest.mark.slow
def test_a_program_that_does_not_ask_whether_it_is_imported_fails_at_once(tmp_path):
    (tmp_path / "program.py").write_text(UNGUARDED)
    ended = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout.count("imported") <= 3  # each once: nobody tries again
    assert ended.stderr.count("Traceback") == 1
    assert "UsageError: The worker processes import your program" in ended.stderr.splitlines()[-1]
    assert list((tmp_path / "runs").glob("rows/*")) == []


def test_a_worker_is_pinned_to_cores_of_its_own(monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 3, 5, 9}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append(cores), raising=False)
    for number, threads in ((0, 1), (3, 1), (4, 1), (1, 2)):
        supervise.pin(number, threads)
    assert pinned == [{3}, {9}, {3}, {7, 9}]
