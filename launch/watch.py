"""Waiting for a fleet: progress on a terminal, one line for each accident, another try for its task."""

import collections
import time
from collections.abc import Callable, Mapping

from launch.states import ACCIDENTS, COMPLETED, RUNNING, Cluster, State

FIRST_LOOK, LAST_LOOK = 0.3, 15.0  # seconds between two looks: they grow, for a scheduler serves many


def wait(cluster: Cluster, tasks: int, retries: int, say: Callable[[str], None]) -> dict[int, State]:
    """Waits until every task has ended, giving those that met an accident to the cluster again.

    Args:
      cluster: to which the tasks were submitted.
      tasks: how many.
      retries: how often at most one of them is submitted again.
      say: prints a line.

    Returns:
      The last state of every task.
    """
    from cnnjax.console import Console

    tries: collections.Counter[int] = collections.Counter()
    said: set[int] = set()
    pause = FIRST_LOOK
    with Console(stderr=True).status("") as status:  # shown on a terminal only
        while True:
            states = cluster.states()
            status.update(f"{cluster.label}: {summary(states, tasks)}")
            again: list[int] = []
            for number, state in sorted(states.items()):
                if state.failed and number not in said:
                    last = state.name not in ACCIDENTS or tries[number] == retries
                    say(line(number, state) + ("" if last else f"; try {tries[number] + 2} of {retries + 1}"))
                    (said.add if last else again.append)(number)
            if again:
                tries.update(again)
                cluster.submit(again)
                pause = FIRST_LOOK
            elif len(states) == tasks and all(state.ended for state in states.values()):
                return states
            time.sleep(pause)
            pause = min(LAST_LOOK, pause * 1.2)


def summary(states: Mapping[int, State], tasks: int) -> str:
    """All tasks in a line: "3 waiting (Resources), 2 running, 1 done, 0 failed"."""
    counts: collections.Counter[str] = collections.Counter(waiting=tasks - len(states))
    reasons: set[str] = set()
    for state in states.values():
        kind = "failed" if state.failed else {COMPLETED: "done", RUNNING: "running"}.get(state.name, "waiting")
        counts[kind] += 1
        if kind == "waiting" and state.detail:
            reasons.add(state.detail)
    why = f" ({', '.join(sorted(reasons))})" if reasons else ""
    return f"{counts['waiting']} waiting{why}, {counts['running']} running, {counts['done']} done, " + (
        f"{counts['failed']} failed"
    )


def line(number: int, state: State) -> str:
    """A task that did not end well: number, state, why, and where to read more."""
    log = f"; log: {state.log}" if state.log else ""
    return f"task {number}: {state.name}{f', {state.detail}' if state.detail else ''}{log}"


def failed(states: Mapping[int, State]) -> list[int]:
    """The numbers of the tasks that did not end well."""
    return sorted(number for number, state in states.items() if state.failed)
