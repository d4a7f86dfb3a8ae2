"""A sweep as a command: started, killed and looked at from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.finding import Place

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "compile_seconds", "images_per_second", "worker")  # differ between two executions
LIMIT = 600.0  # seconds: no process takes so long, it hangs


class Ended(NamedTuple):
    """How a process ended: its exit code (negative: the signal that killed it), what it said, its seconds."""

    code: int
    out: str
    err: str
    seconds: float


class Process:
    """A process group of its own, so that a kill reaches its workers too."""

    def __init__(self, log: Path, command: list[str], environment: Mapping[str, str]):
        log.parent.mkdir(parents=True, exist_ok=True)
        self.outputs = [log.with_suffix(".out"), log.with_suffix(".err")]
        with self.outputs[0].open("w") as out, self.outputs[1].open("w") as err:
            self.started = time.monotonic()
            self.popen = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, **environment}, stdout=out, stderr=err, start_new_session=True
            )

    def wait(self, limit: float = LIMIT) -> Ended:
        """Waits for the end; beyond the limit the group is killed, and the time is out.

        Raises:
          TimeoutError: it did not end.
        """
        try:
            code = self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.popen.wait()
            raise TimeoutError(f"{self.popen.args!r} did not end within {limit} s: {self._text(1)[-2000:]}") from None
        finally:
            self.signal(signal.SIGKILL)  # workers that outlived it
        return Ended(code, self._text(0), self._text(1), time.monotonic() - self.started)

    def signal(self, which: int, group: bool = True) -> None:
        """Sends a signal to the process, or to all of its group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.popen.pid, which)

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self.popen.poll() is None

    def _text(self, which: int) -> str:
        return self.outputs[which].read_text(errors="replace")


class Sweep:
    """The command of a sweep on one directory.

    Args:
      place: for the cache.
      workdir: of the command; the results lie in ``workdir/NAME``.
      flags: of the command.
      module: of the experiment.
      environment: beside the usual.
    """

    def __init__(
        self,
        place: Place,
        workdir: Path,
        *flags: str,
        module: str = "benchmarks.faults.storm",
        environment: Mapping[str, str] | None = None,
    ):
        self.workdir, self.directory = workdir, workdir / module.rpartition(".")[2]
        self.command = [sys.executable, "-m", module, f"--workdir={workdir}", *flags]
        # Programs that compile in less than JAX's usual second are kept too: a hundred starts wait for none.
        self.environment = {
            "CNNJAX_CACHE": str(place.cache),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(place.cache / "xla"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_ENABLE_COMPILATION_CACHE": "true",
            "COLUMNS": "200",
            **(environment or {}),
        }
        self.starts = 0
        self.log = self.workdir.with_name(f"{self.workdir.name}-log")

    def start(self, *flags: str, **environment: str) -> Process:
        """Starts the command."""
        self.starts += 1
        return Process(self.log / f"{self.starts}", [*self.command, *flags], {**self.environment, **environment})

    def run(self, *flags: str, limit: float = LIMIT, **environment: str) -> Ended:
        """Starts the command and waits for its end."""
        return self.start(*flags, **environment).wait(limit)

    def finish(self, tries: int = 1) -> Ended:
        """Runs the command, again where it fails, and at last returns how it ended."""
        ended = self.run()
        for _ in range(tries - 1):
            if ended.code == 0:
                break
            ended = self.run()
        return ended

    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows by run, without what may differ between two executions."""
        found = {}
        for path in sorted((self.directory / "rows").glob("*.json")):
            row = json.loads(path.read_text())
            found[path.stem] = {name: value for name, value in row.items() if name not in TIMES}
            found[path.stem].pop("sha256", None)  # of the row, and so of its times
        return found

    def events(self, *names: str) -> list[dict[str, Any]]:
        """What the workers' logs say, in order of time; torn lines are skipped."""
        found = []
        for path in sorted((self.directory / "log").glob("*.jsonl")):
            for line in path.read_text(errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    found.append(json.loads(line))
        chosen = [event for event in found if not names or event.get("event") in names]
        return sorted(chosen, key=lambda event: event.get("time", 0.0))

    def leftovers(self) -> list[str]:
        """Files of a finished sweep's directory that only an unfinished one may have."""
        passing = ("checkpoints", "leases", "failed")
        return sorted(
            str(path.relative_to(self.directory))
            for path in self.directory.rglob("*")
            if path.name.startswith(".") or "tmp" in path.name or "partial" in path.name or path.name in passing
        )


def differences(expected: dict[str, dict], found: dict[str, dict]) -> list[str]:
    """How the rows of two executions of one sweep differ."""
    problems = [f"run {run} is missing" for run in expected.keys() - found.keys()]
    problems += [f"run {run} is too many" for run in found.keys() - expected.keys()]
    for run in expected.keys() & found.keys():
        names = expected[run].keys() | found[run].keys()
        if wrong := sorted(name for name in names if expected[run].get(name) != found[run].get(name)):
            problems.append(f"run {run} differs in {', '.join(wrong)}")
    return problems


@contextlib.contextmanager
def ended_afterwards(*processes: Process) -> Iterator[None]:
    """No process is left when the context ends."""
    try:
        yield
    finally:
        for process in processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
            process.popen.wait()


def wait_for(condition: Callable[[], Any], limit: float = 120.0, every: float = 0.002) -> Any:
    """Waits until a condition holds and returns what it returned; None where the time is out."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(every)
    return None
