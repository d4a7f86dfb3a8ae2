import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cnnjax.sweep.joint import Watch

ROOT = Path(__file__).parents[2]
LIMIT = 240  # seconds: a process that is still there hangs

# One of several processes: DIRECTORY PORT PROCESSES PROCESS; the first one says how far it is, and what it found
MEMBER = """
import json, sys, time
from pathlib import Path
import jax
directory, (port, processes, process) = Path(sys.argv[1]), map(int, sys.argv[2:])
from cnnjax.train import peers
if processes > 1:
    peers.join(f"127.0.0.1:{port}", processes, process)
from cnnjax.data.catalog import DataConfig, load
from cnnjax.sweep import execute, joint
from cnnjax.sweep.bundle import signature
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.grid import product
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Job, Settings
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec

def lead(run):
    spec = Spec(model="mlp", model_fields=(("hidden", (8,)), ("norm", "batch")), steps=250, batch_size=16,
                evaluate_every=125)
    made = points(spec, Hyper(dropout=0.2, train_size=300), product(l2=[0.0, 0.01]), [0])
    bundles = plan(made, "cpu", Driver("scan", 1, data=2)).bundles
    jobs = [Job(bundle, signature(bundle, 1, "cpu", "cpu")) for bundle in bundles]
    settings = Settings(directory, {DataConfig(): load(DataConfig()).fingerprint}, Execution(checkpoint_seconds=0.0))
    def listen(news):
        print(json.dumps([news.bundle.bundle_id, news.steps, news.finished]), flush=True)
        time.sleep(0.05)
    run(jobs, settings, listen)
    print(json.dumps([Store(directory).read(point.run_id) for point in made]))

if processes == 1:
    lead(execute.in_process)
elif peers.leads():
    with joint.leading():
        lead(joint.jointly)
else:
    joint.follow()
peers.leave()
"""


def start(directory, processes, devices=1):
    """The processes of one joint sweep."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    flags = {"XLA_FLAGS": several, "JAX_PLATFORMS": "cpu"}
    directory.mkdir(exist_ok=True)
    return [
        subprocess.Popen(
            [sys.executable, "-c", MEMBER, *map(str, (directory, port, processes, process))], cwd=ROOT,
            env={**os.environ, **flags}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for process in range(processes)
    ]  # fmt: skip


def finish(processes):
    """What the first process said, line by line, once all have ended well; and what it warned of."""
    watchdog = threading.Timer(LIMIT, lambda: [process.kill() for process in processes])
    watchdog.start()
    try:
        said = [process.communicate() for process in processes]
    finally:
        watchdog.cancel()
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), [err[-2000:] for _, err in said]
    return [json.loads(line) for line in said[0][0].splitlines() if line.startswith(('["', "[{"))], said[0][1]


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed_and_the_bits_of_one_process(timeless, tmp_path):
    processes = start(tmp_path / "two", 2)
    watchdog = threading.Timer(LIMIT, lambda: [process.kill() for process in processes])
    watchdog.start()
    try:
        assert processes[0].stdout is not None
        for line in processes[0].stdout:
            if line.startswith('["') and json.loads(line)[1] >= 150:
                break
        processes[1].kill()
        assert processes[0].wait(60) != 0  # by itself, and soon
    finally:
        watchdog.cancel()
        for process in processes:
            process.kill()
            process.communicate()
    (checkpoints,) = (tmp_path / "two" / "checkpoints").iterdir()
    saved = max((path for path in checkpoints.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))
    (checkpoints / f"{saved.name}.commit-1").unlink()  # as if it had died before it said so

    (*news, rows), warnings = finish(start(tmp_path / "two", 2))
    assert f"{saved} passed over: process 1 of 2 has not committed it" in warnings
    first = [steps for bundle, steps, _ in news if bundle == news[0][0]]
    assert 50 < first[0] <= int(saved.name)  # it went on from the checkpoint before
    assert first[-1] == 250

    (*_, expected), _ = finish(start(tmp_path / "one", 1, devices=2))
    assert {row["signature"]["processes"] for row in rows} == {2}
    assert {row["signature"]["processes"] for row in expected} == {1}
    same = ("parameters_digest", "metrics", "history", "status")
    assert [[row[name] for name in same] for row in rows] == [[row[name] for name in same] for row in expected]
    assert len({row["parameters_digest"] for row in rows}) == 2
    assert sorted(path.name for path in (tmp_path / "two" / "rows").iterdir()) == sorted(
        f"{row['run_id']}.json" for row in expected
    )
    assert not list((tmp_path / "two" / "checkpoints").glob("*/*"))


def test_whoever_hears_nothing_gives_up(monkeypatch):
    said, over = [], threading.Event()
    monkeypatch.setattr("cnnjax.train.peers.abandon", lambda reason: (said.append(reason), over.set()))
    with Watch(0.2) as watch:
        assert not over.wait(0.5)  # nothing is in training
        watch.news()
        assert over.wait(30)
        watch.over()
    assert said[0].startswith("no steps were finished for 0 s")


@pytest.mark.parametrize("how", ["fails", "is stopped"])
def test_the_others_are_let_go_however_it_ends(monkeypatch, how):
    from cnnjax.sweep import joint
    from cnnjax.train.run import Interrupted

    orders = []
    monkeypatch.setattr(joint.peers, "told", orders.append)
    error = Interrupted("stopped") if how == "is stopped" else RuntimeError("no")
    with pytest.raises(type(error)), joint.leading():
        raise error
    assert orders == [joint.Order(interrupted=how == "is stopped")]
