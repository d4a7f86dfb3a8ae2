"""Talking to SLURM: whether it answers, whether it would take a job, and how its jobs are."""

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterable

from cnnjax.typing import UsageError

PATIENCE = 10.0  # seconds for an answer; SLURM's own commands try for minutes
REMEDY = "Log in where sbatch works, or use --cluster=local; launch/slurm_single_node.sh starts a SLURM for trying."


def check_reachable() -> None:
    """Refuses to go on where no SLURM answers.

    Raises:
      UsageError: a command is missing, or the controller is down or silent.
    """
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol", "scancel") if shutil.which(name) is None]
    if missing:
        raise UsageError(f"--cluster=slurm: there is no {missing[0]} here. {REMEDY}")
    try:
        answer = _ask(["scontrol", "ping"])
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--cluster=slurm: its controller is silent for {PATIENCE:.0f} s. {REMEDY}") from error
    if answer.returncode or " is UP" not in answer.stdout:
        said = _line(answer.stdout + answer.stderr) or "no answer"
        raise UsageError(f"--cluster=slurm: its controller does not answer ({said}). {REMEDY}")


def check_accepted(script: str) -> None:
    """Asks SLURM whether it would take a job, without giving it.

    Args:
      script: text of the file for sbatch.

    Raises:
      UsageError: it would not.
    """
    try:
        answer = _ask(["sbatch", "--test-only"], script)
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"--cluster=slurm: sbatch is silent for {PATIENCE:.0f} s. {REMEDY}") from error
    if answer.returncode:
        raise UsageError(f"SLURM would refuse the job: {_line(answer.stderr)}. See sinfo for partitions and limits.")


def states(job_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """State and reason of jobs, "12" or "12_0" each; those that SLURM has forgotten are left out.

    The controller is asked first: many clusters keep no accounts. It forgets jobs some minutes after their end.

    Raises:
      ConnectionError: the controller does not answer now.
    """
    wanted = set(job_ids)
    form = "JobArrayID:|,State:|,Reason:|"
    found: dict[str, tuple[str, str]] = {}
    for array in {job_id.partition("_")[0] for job_id in wanted}:
        try:
            answer = _ask(["squeue", "--noheader", "--array", "--states=all", f"--jobs={array}", f"--Format={form}"])
        except subprocess.TimeoutExpired as error:
            raise ConnectionError(f"squeue is silent for {PATIENCE:.0f} s") from error
        if answer.returncode and "Invalid job id" not in answer.stderr:
            raise ConnectionError(_line(answer.stderr))
        for line in answer.stdout.splitlines():
            job_id, state, reason, *_ = line.split("|")
            found[job_id] = (state, "" if reason == "None" else reason)
    left = wanted - found.keys()
    if left:
        found |= _accounted(sorted({job_id.partition("_")[0] for job_id in left}))
    return {job_id: found[job_id] for job_id in wanted & found.keys()}


def _accounted(arrays: list[str]) -> dict[str, tuple[str, str]]:
    """State of jobs by the accounts, where the cluster keeps some."""
    found: dict[str, tuple[str, str]] = {}
    if shutil.which("sacct") is None:
        return found
    with contextlib.suppress(subprocess.TimeoutExpired):
        listing = ["--allocations", "--noheader", "--parsable2", "--format=JobID,State"]
        for line in _ask(["sacct", *listing, f"--jobs={','.join(arrays)}"]).stdout.splitlines():
            job_id, _, state = line.partition("|")
            found[job_id] = (state.split(" ")[0], "")  # "CANCELLED by 1000"
    return found


def cancel(job_ids: Iterable[str]) -> None:
    """Cancels jobs; one that has ended is no error."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        _ask(["scancel", "--quiet", *job_ids])


def _ask(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=PATIENCE, check=False)


def _line(text: str) -> str:
    """What SLURM says, on one line."""
    lines = [re.sub(r"^(\w+: error: |allocation failure: )", "", line).strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line).rstrip(".")
