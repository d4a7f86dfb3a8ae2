import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from cnnjax.sweep import work
from cnnjax.sweep.bundle import run_bundle
from cnnjax.sweep.execute import in_process, on_devices
from cnnjax.sweep.grid import product
from cnnjax.sweep.store import Store
from cnnjax.train.run import Interrupted

ROOT = Path(__file__).parents[2]
NAN = {"learning_rate": 1e30}


def fail_for(monkeypatch, chosen, error):
    """Bundles that are not ``chosen`` are run; that one raises."""

    def run(bundle, *args, **options):
        if bundle == chosen.bundle:
            raise error
        return run_bundle(bundle, *args, **options)

    monkeypatch.setattr(work, "run_bundle", run)


@pytest.mark.parametrize("driver", ["in_process", "on_devices"])
@pytest.mark.slow
def test_here_too_the_others_are_finished_first(driver, jobs, settings, monkeypatch, tmp_path):
    made = jobs(product(l2=[0.0, 0.1, 0.2]), [0, 1])
    fail_for(monkeypatch, made[0], FloatingPointError("no such bundle"))
    run = in_process if driver == "in_process" else lambda *args: on_devices(*args, jax.devices())
    with pytest.raises(RuntimeError) as error:
        run(made, settings(tmp_path), lambda news: None)
    assert str(error.value).startswith("1 of 3 bundles failed; the first (l2=0.0): ")
    assert "FloatingPointError: no such bundle" in str(error.value)
    done = Store(tmp_path).done(point.run_id for job in made for point in job.bundle.points)
    assert done == {point.run_id for job in made[1:] for point in job.bundle.points}


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("driver", ["in_process", "on_devices"])
@pytest.mark.slow
def test_a_signal_stops_after_the_chunk_and_the_rest_can_be_resumed(
    driver, which, jobs, settings, rows_of, timeless, tmp_path
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
        run(made, settings(tmp_path), stop)
    assert seen == [6]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    resumed = []
    run(made, settings(tmp_path), lambda news: resumed.append((news.steps, news.finished)))
    assert resumed == [(12, False), (12, True), (6, False), (12, False), (12, True)]
    in_process(made, settings(tmp_path / "whole"), lambda news: None)
    assert timeless(rows_of(tmp_path, made)) == timeless(rows_of(tmp_path / "whole", made))


def test_a_run_that_diverges_is_marked_and_its_partner_is_not(jobs, settings, rows_of, timeless, tmp_path):
    made, single = jobs((*product(l2=[0.0]), NAN), [0]), jobs(product(l2=[0.0]), [0])
    in_process(made, settings(tmp_path / "both"), lambda news: None)
    in_process(single, settings(tmp_path / "alone"), lambda news: None)
    broken = {row["seed"] if "l2" in row["assignment"] else "nan": row for row in rows_of(tmp_path / "both", made)}
    assert broken["nan"]["status"] == "diverged"
    assert 1 <= broken["nan"]["diverged_step"] <= 3
    (alone,) = rows_of(tmp_path / "alone", single)
    assert alone["status"] == "done"
    assert timeless([broken[0]]) == timeless([alone])


# Several devices of one process, in a process of their own

ON_TWO = """
import json, sys
from pathlib import Path
import jax
from cnnjax.data.catalog import DataConfig, load
from cnnjax.data.feed import Feed
from cnnjax.sweep.bundle import signature
from cnnjax.sweep.execute import on_devices
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import product
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Job, Settings
from cnnjax.train.program import Driver
from cnnjax.train.run import Interrupted, train
from cnnjax.train.spec import Hyper, Spec

spec = Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16, evaluate_every=6)
digits = load(DataConfig())
made = points(spec, Hyper(dropout=0.2), product(l2=[0.0, 0.01, 0.02]), range(2))
jobs = [Job(bundle, signature(bundle, 1, "cpu", "cpu")) for bundle in plan(made, "cpu", Driver("scan", 2)).bundles]
root = Path(sys.argv[1])
devices = jax.devices()
places = []
for device in devices:
    with jax.default_device(device):
        (chunk,) = Feed(digits, "resident", [0], [0], 16, 50).chunks([(0, 1)])
        places.append(sorted(d.id for d in chunk.pool["images"].devices()))

def rows(devices):
    directory = root / str(len(devices))
    on_devices(jobs, Settings(directory, {DataConfig(): digits.fingerprint}, Execution()), lambda news: None, devices)
    return [Store(directory).read(point.run_id) for point in made]

def digests(rows):
    return {row["run_id"]: row["parameters_digest"] for row in rows}

two, one = rows(devices), rows(devices[:1])
resumed = []
with jax.default_device(devices[1]):
    run = (spec, [Hyper(dropout=0.2)] * 2, [0, 1], digits, Driver("scan", 2))
    try:
        train(*run, checkpoints=root / "checkpoints", should_stop=lambda: True)
    except Interrupted:
        pass
    outcomes = train(*run, checkpoints=root / "checkpoints", on_progress=resumed.append)
print(json.dumps({"devices": len(devices), "places": places, "workers": sorted({row["worker"] for row in two}),
                  "one": digests(one), "two": digests(two), "resumed": resumed,
                  "first": [outcome.parameters_digest for outcome in outcomes]}))
"""


@pytest.mark.slow
def test_two_devices_share_the_bundles_and_give_the_bits_of_one(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ON_TWO, tmp_path], cwd=ROOT, env={**os.environ, **flags},
        capture_output=True, text=True, check=False, timeout=200,
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
