import json
import os
import signal
import time
from pathlib import Path

import pytest

from cnnjax import process
from cnnjax.sweep.lease import Leases

ELSEWHERE = {"host": "another", "boot": "b", "namespace": "n", "pid": 1, "started": "1"}


class Clock:
    """One that the test moves."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


@pytest.fixture
def workers(tmp_path):
    """``workers(name, clock)``: the leases of the directory as a worker on another host sees them."""
    return lambda name, clock: Leases(tmp_path / "leases", name, 60.0, clock, ELSEWHERE)


def later(lease, seconds):
    """What a beat does, for a filesystem whose times are coarse."""
    path = lease._path(lease.number)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + int(seconds * 1e9)))


def test_one_worker_at_a_time_has_a_bundle(workers, tmp_path):
    ours, theirs = workers("ours", Clock()), workers("theirs", Clock())
    lease = ours.acquire("b1", program="p")
    assert (lease.bundle, lease.number, lease.held()) == ("b1", 1, True)
    assert theirs.acquire("b1") is None
    assert theirs.acquire("b2") is not None
    assert ours.acquire("b2") is None
    assert {b: (h["worker"], h.get("program")) for b, h in ours.holders().items()} == {
        "b1": ("ours", "p"),
        "b2": ("theirs", None),
    }
    lease.release()
    assert not lease.held()
    assert theirs.acquire("b1").number == 1
    assert {path.name for path in (tmp_path / "leases").iterdir()} == {"b1.1", "b2.1"}


def test_a_lease_runs_out_by_the_observers_clock_alone(workers):
    early, late = Clock(5.0), Clock(1e9)  # hosts whose clocks are decades apart
    lease = workers("frozen", Clock()).acquire("b")
    os.utime(lease._path(1), (4e9, 4e9))  # in a file of the year 2096
    for clock, observer in ((early, workers("early", early)), (late, workers("late", late))):
        assert observer.acquire("b") is None
        clock.now += 59
        assert observer.acquire("b") is None
        assert not observer.run_out("b")
    early.now += 1
    second = workers("new", early).acquire("b")
    assert second is None  # it has only just come to look
    taken = None
    observer = workers("patient", early)
    assert observer.acquire("b") is None
    early.now += 60
    taken = observer.acquire("b")
    assert (taken.number, taken.held(), lease.held()) == (2, True, False)


def test_a_beat_keeps_it(workers):
    clock = Clock()
    lease, observer = workers("holder", Clock()).acquire("b"), workers("observer", clock)
    for _ in range(5):
        assert observer.acquire("b") is None
        clock.now += 59
        later(lease, 10)
    assert lease.held()
    assert observer.anyone()


def test_whoever_was_frozen_and_woken_finds_it_lost(workers, tmp_path):
    clock = Clock()
    frozen, observer = workers("frozen", Clock()).acquire("b"), workers("observer", clock)
    observer.acquire("b")
    clock.now += 60
    taken = observer.acquire("b")
    frozen.beat()
    frozen.release()  # does nothing: it is not its own any more
    assert (frozen.held(), taken.held()) == (False, True)
    assert workers("third", Clock()).acquire("b") is None
    taken.release()  # done
    assert not frozen.held()
    assert list((tmp_path / "leases").iterdir()) == []
    again = workers("third", Clock()).acquire("b")
    assert (again.number, again.held(), frozen.held()) == (1, True, False)


def test_of_many_that_see_it_run_out_one_takes_it(workers):
    clock = Clock()
    workers("lost", Clock()).acquire("b")
    observers = [workers(f"w{k}", clock) for k in range(20)]
    assert [o.acquire("b") for o in observers] == [None] * 20
    clock.now += 60
    taken = [lease for o in observers if (lease := o.acquire("b"))]
    assert len(taken) == 1
    assert taken[0].number == 2


def test_the_lease_of_a_process_that_has_ended_is_free_at_once(tmp_path):
    if not (child := os.fork()):
        Leases(tmp_path, "child").acquire("b")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    ours = Leases(tmp_path, "ours")
    assert ours.holders()["b"]["pid"] == child
    assert not ours.anyone()
    lease = ours.acquire("b")
    assert lease.number == 2
    assert Leases(tmp_path, "third").acquire("b") is None  # this process lives
    assert ours.anyone()


def test_the_number_of_a_process_may_be_used_again():
    mine = process.identity()
    assert not process.gone(mine)
    assert process.gone({**mine, "started": "1"})
    assert not process.gone({**mine, "pid": 2**22 + 1, "host": "another"})  # cannot be known from here
    assert not process.gone({**mine, "pid": 2**22 + 1, "boot": "another"})
    assert process.gone({**mine, "pid": 2**22 + 1})


def test_a_thread_beats_while_its_bundle_is_worked_on(tmp_path):
    lease = Leases(tmp_path, "ours").acquire("b")
    path = tmp_path / "b.1"
    os.utime(path, (1, 1))
    with lease.beating(0.06):
        limit = time.monotonic() + 20
        while path.stat().st_mtime == 1:
            assert time.monotonic() < limit
            time.sleep(0.01)
    os.utime(path, (1, 1))
    time.sleep(0.05)
    assert path.stat().st_mtime == 1  # no longer


def test_what_kills_leave_behind_is_removed_and_nothing_else(tmp_path):
    if not (child := os.fork()):
        Leases(tmp_path, "child").acquire("dead")
        process.partial(tmp_path, "lease").write_text("half")
        os._exit(0)
    os.waitpid(child, 0)
    (tmp_path / "torn.1").write_text("")  # a lease that says nothing is somebody's until it runs out
    clock = Clock()
    ours = Leases(tmp_path, "ours", clock=clock)
    lease = ours.acquire("mine")
    ours.clean()
    assert {path.name for path in tmp_path.iterdir()} == {"mine.1", "torn.1"}
    assert lease.held()
    clock.now += 60
    assert ours.acquire("torn").number == 2


def test_it_says_who_holds_it(tmp_path):
    Leases(tmp_path, "ours", 30.0).acquire("b", runs=["r1"])
    (record,) = [json.loads(path.read_text()) for path in Path(tmp_path).iterdir()]
    assert (record["worker"], record["seconds"], record["runs"]) == ("ours", 30.0, ["r1"])
    assert record["pid"] == os.getpid()
