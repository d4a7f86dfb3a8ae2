"""One task: how a command ended, and that no signal loses it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from launch import task
from launch.task import Outcome, Task
from tests.launch.conftest import ROOT, children, until

RUN = """
import sys
from launch.task import Task
def go():
    print(Task(tuple(sys.argv[1:]), "1/4", ".", 5.0)(), flush=True)
go()
"""


def of(*command, grace=5.0):
    return Task(tuple(command), "1/4", ".", grace)()


@pytest.mark.parametrize(
    ("script", "outcome"),
    [
        ("exit 0", (0, False)),
        ("exit 3", (3, False)),
        ("kill -9 $$", (-9, False)),
        ('test "$CNNJAX_SHARD" = 1/4', (0, False)),
    ],
)
def test_how_a_command_ends(script, outcome):
    assert of("bash", "-c", script) == Outcome(*outcome)


def test_a_command_that_is_not_there(capfd):
    assert of("/no/such/program") == Outcome(task.NOT_FOUND, False)
    assert "/no/such/program cannot be started: No such file or directory" in capfd.readouterr().err


def start(*command):
    return subprocess.Popen([sys.executable, "-c", RUN, *command], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_sigterm_reaches_the_command_and_the_user_signal_of_a_cluster_does_not(tmp_path):
    script = (
        f"trap 'echo saved > {tmp_path}/saved; exit 130' TERM; touch {tmp_path}/began; while :; do sleep 0.05; done"
    )
    process = start("bash", "-c", script)
    until((tmp_path / "began").exists, "the command began")
    child = children(f"touch {tmp_path}/began")
    (inner,) = [number for number in child if number != process.pid]
    os.kill(inner, signal.SIGUSR2)  # as SLURM does, to every process of a job
    time.sleep(0.2)
    assert process.poll() is None
    process.terminate()
    assert process.wait(20) == task.INTERRUPTED
    process.stdout.close()
    assert (tmp_path / "saved").exists()
    assert not children(f"touch {tmp_path}/began")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
def test_a_command_whose_task_is_killed_saves_its_state(tmp_path):
    script = (
        f"trap 'echo saved > {tmp_path}/saved; exit 130' TERM; touch {tmp_path}/began; while :; do sleep 0.05; done"
    )
    process = start("bash", "-c", script)
    until((tmp_path / "began").exists, "the command began")
    process.kill()
    process.wait(20)
    process.stdout.close()
    until((tmp_path / "saved").exists, "the command saved its state", 10)
    until(lambda: not children(f"touch {tmp_path}/began"), "the command left", 10)


def test_stopping_ends_a_command_that_does_not_listen_and_all_it_started(tmp_path):
    script = f"trap '' TERM; sleep 987 & touch {tmp_path}/began; while :; do sleep 0.05; done"
    child = task._Child(("bash", "-c", script), ".", {})
    until((tmp_path / "began").exists, "the command began")
    child.stop(0.2)
    assert child.wait() == Outcome(-signal.SIGKILL, False)
    until(lambda: not children("sleep 987"), "what it started is gone", 10)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here")
def test_tasks_keep_to_cores_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(task.tempfile, "gettempdir", lambda: str(tmp_path))
    before = os.sched_getaffinity(0)
    with task.claimed(1):
        first = os.sched_getaffinity(0)
        os.sched_setaffinity(0, before)
        with task.claimed(1):
            second = os.sched_getaffinity(0)
        with task.claimed(len(before)):  # one is taken: all are shared
            assert os.sched_getaffinity(0) == before
    assert len(first) == 1
    assert len(before) == 1 or (len(second) == 1 and first.isdisjoint(second))
    assert os.sched_getaffinity(0) == before
