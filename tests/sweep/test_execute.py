import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from cnnjax.data.catalog import DataConfig, load
from cnnjax.sweep import execute
from cnnjax.sweep.bundle import run_bundle, signature
from cnnjax.sweep.execute import Job, Settings, in_process, in_workers, on_devices
from cnnjax.sweep.grid import NOTHING, product
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.store import Store
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted
from cnnjax.train.spec import Hyper

ROOT = Path(__file__).parents[2]
NAN = {"learning_rate": 1e30}
ELSEWHERE = DataConfig(valid_fraction=0.2)  # the same digits by another name


@pytest.fixture(scope="module")
def fingerprint():
    return load(DataConfig()).fingerprint


@pytest.fixture(scope="module")
def jobs(spec):
    """``jobs(grid, seeds, **changes)``: the bundles of two lanes, under a worker's signature."""

    def make(grid, seeds, **changes):
        made = points(dataclasses.replace(spec, **changes), Hyper(dropout=0.2, label_noise=0.1), grid, seeds)
        bundles = plan(made, "cpu", Driver("scan", 2)).bundles
        return [Job(bundle, signature(bundle, 1, "cpu", jax.devices()[0].device_kind)) for bundle in bundles]

    return make


def settings(fingerprint, directory=None, **options):
    return Settings(directory, {DataConfig(): fingerprint, ELSEWHERE: "changed"}, **options)


# Worker processes: each costs seconds, so few of them do much.


@pytest.fixture(scope="module")
def long_jobs(jobs):
    """Three bundles of 300 steps."""
    return jobs(product(l2=[0.0, 0.01]), range(3), steps=300, evaluate_every=100)


@pytest.fixture(scope="module")
def two_workers(long_jobs, jobs, fingerprint, tmp_path_factory):
    """What two workers made of three good bundles and one whose data have changed: store, error and news."""
    directory, news = tmp_path_factory.mktemp("two"), []
    bad = jobs(NOTHING, [0], data=ELSEWHERE)
    with pytest.raises(RuntimeError) as error:
        in_workers([*bad, *long_jobs], settings(fingerprint, directory), news.append, 2)
    return Store(directory), str(error.value), news


def rows_of(store, jobs):
    return [store.read(point.run_id) for job in jobs for point in job.bundle.points]


def test_a_bundle_that_fails_is_reported_after_the_others_were_finished(two_workers, long_jobs):
    store, error, _ = two_workers
    assert error.startswith("1 of 4 bundles failed; the first (")
    assert "digits has changed since the sweep started" in error
    rows = rows_of(store, long_jobs)
    assert [row["status"] for row in rows] == ["done"] * 6
    assert len({row["parameters_digest"] for row in rows}) == 6
    assert {row["worker"] for row in rows} <= {0, 1}
    assert {row["signature_digest"] for row in rows} == {rows[0]["signature_digest"]}


def test_workers_tell_their_progress(two_workers, long_jobs):
    _, _, news = two_workers
    for job in long_jobs:
        own = [(each.steps, each.finished) for each in news if each.bundle == job.bundle]
        assert own == [(50 * k, False) for k in range(1, 7)] + [(300, True)]
        assert len({each.worker for each in news if each.bundle == job.bundle}) == 1


def test_a_killed_worker_is_replaced_and_no_bit_changes(two_workers, long_jobs, fingerprint, timeless, tmp_path):
    news = []

    def kill_once(each):
        news.append((each.bundle.bundle_id, each.steps, each.finished))
        if len(news) == 2:  # the first checkpoint is written, the second perhaps half
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)

    rows = in_workers(long_jobs, settings(fingerprint, tmp_path, checkpoint_seconds=0.0), kill_once, 1)
    expected = rows_of(two_workers[0], long_jobs)
    by_run = {row["run_id"]: row for row in rows}
    assert timeless([by_run[row["run_id"]] for row in expected]) == timeless(expected)
    assert timeless(rows_of(Store(tmp_path), long_jobs)) == timeless(expected)
    killed = news[0][0]
    resumed = [steps for bundle, steps, _ in news[2:] if bundle == killed]
    assert 50 not in resumed
    assert resumed[-2:] == [300, 300]
    assert multiprocessing.active_children() == []


def test_in_process_agrees_with_the_workers_to_rounding(two_workers, jobs, long_jobs, fingerprint):
    (first, *_) = rows_of(two_workers[0], long_jobs)
    here, _ = in_process(long_jobs[:1], settings(fingerprint), lambda news: None)
    assert here["run_id"] == first["run_id"]
    assert here["metrics"] == pytest.approx(first["metrics"], rel=1e-2, abs=1e-2)


# In this process


def fail_for(monkeypatch, chosen, error):
    """Bundles that are not ``chosen`` are run; that one raises."""

    def run(bundle, *args, **options):
        if bundle == chosen.bundle:
            raise error
        return run_bundle(bundle, *args, **options)

    monkeypatch.setattr(execute, "run_bundle", run)


@pytest.mark.parametrize("driver", ["in_process", "on_devices"])
def test_here_too_the_others_are_finished_first(driver, jobs, fingerprint, monkeypatch, tmp_path):
    made = jobs(product(l2=[0.0, 0.1, 0.2]), [0, 1])
    fail_for(monkeypatch, made[0], FloatingPointError("no such bundle"))
    run = in_process if driver == "in_process" else lambda *args: on_devices(*args, jax.devices())
    with pytest.raises(RuntimeError) as error:
        run(made, settings(fingerprint, tmp_path), lambda news: None)
    assert str(error.value).startswith("1 of 3 bundles failed; the first (l2=0.0): ")
    assert "FloatingPointError: no such bundle" in str(error.value)
    done = Store(tmp_path).done(point.run_id for job in made for point in job.bundle.points)
    assert done == {point.run_id for job in made[1:] for point in job.bundle.points}


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("driver", ["in_process", "on_devices"])
def test_a_signal_stops_after_the_chunk_and_the_rest_can_be_resumed(
    driver, which, jobs, fingerprint, timeless, tmp_path
):
    made = jobs(product(l2=[0.0, 0.1]), [0, 1])
    run = in_process if driver == "in_process" else lambda *args: on_devices(*args, jax.devices())
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def stop(news):
        seen.append(news.steps)
        if len(seen) == 1:
            os.kill(os.getpid(), which)
            time.sleep(0 if driver == "in_process" else 0.3)  # the main thread, which only waits, handles it

    with pytest.raises(Interrupted):
        run(made, settings(fingerprint, tmp_path), stop)
    assert seen == [6]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    resumed = []
    rows = run(made, settings(fingerprint, tmp_path), lambda news: resumed.append((news.steps, news.finished)))
    assert resumed == [(12, False), (12, True), (6, False), (12, False), (12, True)]
    assert timeless(rows) == timeless(in_process(made, settings(fingerprint), lambda news: None))


def test_a_run_that_diverges_is_marked_and_its_partner_is_not(jobs, fingerprint, timeless):
    made = jobs((*product(l2=[0.0]), NAN), [0])
    broken = {row["seed"] if "l2" in row["assignment"] else "nan": row
              for row in in_process(made, settings(fingerprint), lambda news: None)}  # fmt: skip
    assert broken["nan"]["status"] == "diverged"
    assert 1 <= broken["nan"]["diverged_step"] <= 3
    (alone,) = in_process(jobs(product(l2=[0.0]), [0]), settings(fingerprint), lambda news: None)
    assert alone["status"] == "done"
    assert timeless([broken[0]]) == timeless([alone])


def test_a_worker_is_pinned_to_cores_of_its_own(monkeypatch):
    pinned = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {7, 3, 5, 9}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cores: pinned.append(cores), raising=False)
    for number, threads in ((0, 1), (3, 1), (4, 1), (1, 2)):
        execute.pin(number, threads)
    assert pinned == [{3}, {9}, {3}, {7, 9}]


# Several devices of one process, in a process of their own

ON_TWO = """
import json, sys
from pathlib import Path
import jax
from cnnjax.data.catalog import DataConfig, load
from cnnjax.data.feed import Feed
from cnnjax.sweep.execute import Job, Settings, in_process, on_devices
from cnnjax.sweep.grid import product
from cnnjax.sweep.plan import plan, points
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.train.spec import Hyper, Spec

spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16, evaluate_every=6)
digits = load(DataConfig())
made = points(spec, Hyper(dropout=0.2), product(l2=[0.0, 0.01, 0.02]), range(2))
signature = {"spec": "", "driver": "scan", "lanes": 2}
jobs = [Job(bundle, signature) for bundle in plan(made, "cpu", Driver("scan", 2)).bundles]
settings = Settings(None, {DataConfig(): digits.fingerprint})
devices = jax.devices()
places = []
for device in devices:
    with jax.default_device(device):
        (chunk,) = Feed(digits, "resident", [0], [0], 16, 50).chunks([(0, 1)])
        places.append(sorted(d.id for d in chunk.pool["images"].devices()))

def digests(rows):
    return {row["run_id"]: row["parameters_digest"] for row in rows}

two = on_devices(jobs, settings, lambda news: None, devices)
one = on_devices(jobs, settings, lambda news: None, devices[:1])
resumed = []
with jax.default_device(devices[1]):
    run = (spec, [Hyper(dropout=0.2)] * 2, [0, 1], digits, Driver("scan", 2))
    try:
        train(*run, checkpoints=Path(sys.argv[1]), should_stop=lambda: True)
    except Interrupted:
        pass
    outcomes = train(*run, checkpoints=Path(sys.argv[1]), on_progress=resumed.append)
print(json.dumps({"devices": len(devices), "places": places, "workers": sorted({row["worker"] for row in two}),
                  "one": digests(one), "two": digests(two), "resumed": resumed,
                  "first": [outcome.parameters_digest for outcome in outcomes]}))
"""


def test_two_devices_share_the_bundles_and_give_the_bits_of_one(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO, tmp_path / "checkpoints"], cwd=ROOT, env={**os.environ, **flags},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == 2
    assert found["places"] == [[0], [1]]
    assert found["workers"] == [0, 1]
    assert len(found["two"]) == 6
    assert found["two"] == found["one"]
    assert found["resumed"] == [12]
    assert found["first"] == list(found["one"].values())[:2]
