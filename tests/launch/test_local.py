"""Fleets on this machine, for real: shared work, accidents, Ctrl-C, and nothing left behind."""

import signal
import sys

import pytest

from tests.launch.conftest import TABLE, children, until


@pytest.mark.slow
def test_three_tasks_and_one_that_is_killed_once(launch):
    launch.start("--cluster=local", "--tasks=3", "--setup=export GREETING=hello", more=("--kill=4",))
    assert launch.wait() == 0, launch.said()
    assert launch.table() == TABLE
    assert "task 1: KILLED, ended by SIGKILL" in launch.said()
    assert "try 2 of 3" in launch.said()
    assert not children(str(launch.results))


@pytest.mark.slow
def test_what_fails_by_itself_is_not_tried_again_and_accidents_not_for_ever(launch):
    script = "test $CNNJAX_SHARD = 0/2 && { echo oh; exit 3; }; kill -9 $$"
    launch.start("--cluster=local", "--tasks=2", "--retries=1", command=("bash", "-c", script))
    assert launch.wait() == 1
    said = launch.said()
    assert said.count("task 0: FAILED, exit code 3; log: ") == 1
    assert said.count("task 1: KILLED") == 2
    assert "2 of 2 tasks did not end well (0, 1)" in said
    assert "now here" not in said
    assert "oh" in launch.printed()


@pytest.mark.slow
def test_ctrl_c_saves_states_and_the_same_launch_continues(launch):
    launch.start("--cluster=local", "--tasks=2", more=("--pause=30",))
    until(lambda: len(list(launch.results.glob("began_*"))) == 2, "both tasks began")
    launch.process.send_signal(signal.SIGINT)
    assert launch.wait(30) == 130
    assert "The same launch continues" in launch.said()
    assert launch.printed().count("saved its state") == 2
    assert not children(str(launch.results))
    launch.start("--cluster=local", "--tasks=2", "--max_parallel=1")
    assert launch.wait() == 0, launch.said()
    assert launch.table() == TABLE


@pytest.mark.slow
def test_an_experiment_is_shared_and_reported(launch):
    tiny = (sys.executable, "-m", "tests.fixtures.tiny", "--preset=smoke", f"--workdir={launch.results}")
    launch.start("--cluster=local", "--tasks=2", "--no_check", command=(*tiny, "--workers=0"))
    assert launch.wait() == 0, launch.said() + launch.printed()
    assert len(list((launch.results / "tiny" / "rows").glob("*.json"))) == 4
    assert (launch.results / "tiny" / "verdict.json").exists()


@pytest.mark.slow
def test_tasks_do_not_outlive_the_launcher(launch):
    launch.start("--cluster=local", "--tasks=2", more=("--pause=300",))
    until(lambda: len(list(launch.results.glob("began_*"))) == 2, "both tasks began")
    launch.process.send_signal(signal.SIGKILL)
    until(lambda: not children(str(launch.results)), "the tasks ended", 10)
    assert launch.printed().count("saved its state") == 2
