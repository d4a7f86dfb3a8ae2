"""Fleets on a real SLURM: an array with a preempted task and one killed for memory, and what SLURM refuses.

launch/slurm_single_node.sh starts one; nothing here does.
"""

import re
import subprocess

import pytest

from tests.launch.conftest import TABLE, slurm_answers, until

pytestmark = pytest.mark.skipif(
    not slurm_answers(), reason="no SLURM answers here; launch/slurm_single_node.sh start brings one up"
)


def job_of(launch) -> str:
    until(lambda: re.search(r"tasks on SLURM: (\d+);", launch.said()), "the job was submitted")
    return re.search(r"tasks on SLURM: (\d+);", launch.said())[1]


def state_of(job: str) -> set[str]:
    asked = ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T"]
    return set(subprocess.run(asked, capture_output=True, text=True, timeout=20, check=True).stdout.split())


def signal_job(*arguments: str) -> None:
    subprocess.run(arguments, timeout=20, check=True)


@pytest.fixture(scope="module")
def enforced() -> bool:
    """Whether SLURM holds jobs to their memory."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=20, check=True)
    return bool(re.search(r"^TaskPlugin .*task/cgroup", shown.stdout, re.MULTILINE))


@pytest.mark.slow
def test_a_preempted_task_is_queued_again_and_a_killed_one_is_submitted_again(launch, enforced):
    accident = "--memory=1" if enforced else "--kill=1"
    launch.start("--cluster=slurm", "--tasks=2", "--time=10", "--memory=0.25", more=("--pause=0.5", accident))
    job = job_of(launch)
    until((launch.results / "began_0").exists, "task 0 began")
    signal_job("scancel", "--signal=USR2", f"{job}_0")
    assert launch.wait(120) == 0, launch.said() + launch.printed()
    assert launch.table() == TABLE
    assert "member 0 saved its state" in launch.printed()
    assert "Requeued job" in launch.printed()
    assert f"task 1: {'OUT_OF_MEMORY, killed for memory' if enforced else 'KILLED'}" in launch.said()
    assert "try 2 of 3" in launch.said()
    assert "task 0:" not in launch.said()  # the launcher has nothing to mend there


@pytest.mark.slow
def test_ctrl_c_leaves_the_jobs_and_cancel_on_interrupt_ends_them(launch):
    launch.start("--cluster=slurm", "--tasks=2", "--cancel_on_interrupt", "--memory=0.1", more=("--pause=60",))
    job = job_of(launch)
    until((launch.results / "began_0").exists, "task 0 began")
    launch.process.terminate()
    assert launch.wait(120) == 130
    assert "the jobs are cancelled" in launch.said()
    until(lambda: state_of(job) == {"CANCELLED"}, "the jobs are cancelled")
    until(lambda: "saved its state" in launch.printed(), "a state is saved", 10)

    launch.start("--cluster=slurm", "--tasks=2", "--memory=0.1", more=("--pause=60",))
    job = job_of(launch)
    launch.process.terminate()
    assert launch.wait(120) == 130
    assert f"to cancel them: scancel {job}" in launch.said()
    assert "CANCELLED" not in state_of(job)
    signal_job("scancel", job)


@pytest.mark.slow
def test_a_job_that_somebody_cancels_is_not_submitted_again(launch):
    launch.start("--cluster=slurm", "--tasks=1", "--memory=0.1", more=("--pause=60",))
    job = job_of(launch)
    until((launch.results / "began_0").exists, "it began")
    signal_job("scancel", job)
    assert launch.wait(120) == 1
    assert "task 0: CANCELLED, cancelled; log: " in launch.said()
    assert "try 2" not in launch.said()


@pytest.mark.slow
def test_detach_returns_at_once(launch):
    launch.start("--cluster=slurm", "--tasks=2", "--detach", "--memory=0.1")
    assert launch.wait(120) == 0
    job = job_of(launch)
    assert f"squeue --jobs={job}" in launch.said()
    until(lambda: state_of(job) == {"COMPLETED"}, "the jobs are done")
    assert len(list(launch.results.glob("row_*.json"))) == 6


@pytest.mark.parametrize(
    ("flag", "message"),
    [("--partition=nowhere", "nvalid partition"), ("--cpus=4000", "not available"), ("--slurm=bogus=1", "bogus")],
)
@pytest.mark.slow
def test_what_slurm_would_refuse_is_not_submitted(launch, flag, message):
    launch.start("--cluster=slurm", "--tasks=2", flag)
    assert launch.wait(120) == 2
    assert message in launch.said()
    assert len(launch.said().splitlines()) == 1
    assert not launch.logs.exists()
