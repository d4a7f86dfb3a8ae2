import os
import signal
import subprocess
import sys
import time

import pytest

from cnnjax.process import oom_kills


@pytest.mark.parametrize(
    ("own", "counter", "text"),
    [
        ("0::/job/step\n", "job/step/memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("5:cpu:/x\n4:memory:/job/step\n0::/\n", "memory/job/step/memory.oom_control", "under_oom 0\noom_kill 2\n"),
    ],
    ids=["v2", "v1"],
)
def test_kills_for_memory_are_counted(tmp_path, own, counter, text):
    (tmp_path / "own").write_text(own)
    assert oom_kills(tmp_path, tmp_path / "own") == 0
    path = tmp_path / counter
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert oom_kills(tmp_path, tmp_path / "own") == 2


def test_in_a_container_its_own_group_is_the_root(tmp_path):
    (tmp_path / "own").write_text("0::/docker/5f3a\n")
    (tmp_path / "memory.events").write_text("oom_kill 3\n")
    assert oom_kills(tmp_path, tmp_path / "own") == 3


def test_a_system_without_control_groups_counts_nothing(tmp_path):
    assert oom_kills(tmp_path, tmp_path / "own") == 0


FAMILY = """
import multiprocessing, os, signal, subprocess, sys, time
from cnnjax import process
{slow_import}
def child():
    time.sleep(600)
if __name__ == "__main__":
    for which in (signal.SIGINT, signal.SIGTERM):
        signal.signal(which, signal.SIG_IGN)
    if {spawned}:
        with process.with_this_one(grace=0.2):
            born = multiprocessing.get_context("spawn").Process(target=child, daemon=True)
            born.start()
    else:
        born = subprocess.Popen(["sleep", "600"], preexec_fn=process.ending_with_this_one(signal.SIGKILL))
    print(born.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize(
    ("spawned", "slow_import", "wait"),
    [(True, "", 0.0), (True, "time.sleep(600 * (__name__ != '__main__'))", 0.5), (True, "", 1.0), (False, "", 0.0)],
    ids=["spawned in this moment", "in its imports", "at work", "command"],
)
@pytest.mark.slow
def test_nothing_outlives_its_parent(tmp_path, spawned, slow_import, wait):
    program = tmp_path / "family.py"
    program.write_text(FAMILY.format(spawned=spawned, slow_import=slow_import))
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen(
        [sys.executable, program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    with parent:
        born = int(parent.stdout.readline())
        time.sleep(wait)
        assert _lives(born)
        parent.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while (lives := _lives(born)) and time.monotonic() < end:
        time.sleep(0.05)
    if lives:
        os.kill(born, signal.SIGKILL)
    assert not lives


def _lives(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_warnings_are_printed_as_they_are_whatever_other_libraries_log():
    code = (
        "import logging, absl.logging; from cnnjax.process import print_warnings_plainly; print_warnings_plainly(); "
        "absl.logging.info('of absl'); logging.getLogger('cnnjax.train').warning('of ours')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == "of ours\n"
