"""Launching a command as a user does, and what the commands of these tests leave behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = [{"row": number, "square": number**2} for number in range(6)]


class Launch:
    """A launcher as a process; its command is the small sweep of ``tests.fixtures.shards``."""

    def __init__(self, folder: Path):
        self.folder, self.results, self.logs = folder, folder / "results", folder / "logs"
        self.errors = folder / "errors"
        self.command = [sys.executable, "-m", "tests.fixtures.shards", str(self.results)]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str, command: tuple[str, ...] = (), more: tuple[str, ...] = ()) -> None:
        run = [sys.executable, "-m", "launch", *flags, f"--logs={self.logs}", "--", *(command or self.command), *more]
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                run, cwd=ROOT, env=environment, stderr=errors, stdout=subprocess.DEVNULL, start_new_session=True
            )

    def wait(self, seconds: float = 180.0) -> int:
        assert self.process is not None
        return self.process.wait(seconds)

    def said(self) -> str:
        return self.errors.read_text()

    def printed(self) -> str:
        return "".join(path.read_text() for path in sorted(self.logs.rglob("*.out")))

    def table(self) -> list[dict]:
        return json.loads((self.results / "table.json").read_text())

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


@pytest.fixture
def launch(tmp_path):
    """A launcher that is over after the test."""
    found = Launch(tmp_path)
    yield found
    found.end()


def until(happened: Callable[[], object], what: str, seconds: float = 180.0) -> None:
    """Waits for something that another process does."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.05)


def children(text: str) -> list[int]:
    """Processes with a text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                text in (path / "cmdline").read_text().replace("\0", " ")
                and "State:\tZ" not in (path / "status").read_text()
            ):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def slurm_answers() -> bool:
    """Whether there is a SLURM to which a job can be given."""
    if not all(map(shutil.which, ("sbatch", "scontrol"))):
        return False
    try:
        return subprocess.run(["scontrol", "ping"], capture_output=True, timeout=5, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False
