"""One worker among others, who are played by leases, rows and failures that appear beside it."""

import contextlib
import json
import threading
import time

import pytest

from cnnjax.sweep import work as working
from cnnjax.sweep.execution import Member
from cnnjax.sweep.grid import product
from cnnjax.sweep.lease import Leases
from cnnjax.sweep.log import read
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Worker, explained, work
from cnnjax.typing import UsageError

ELSEWHERE = {"host": "another", "boot": "b", "namespace": "n", "pid": 1, "started": "1"}


@pytest.fixture(scope="module")
def three(jobs):
    """Three bundles of one program."""
    return jobs(product(l2=[0.0, 0.1, 0.2]), [0, 1])


@pytest.fixture(scope="module")
def expected(three, settings, rows_of, timeless, tmp_path_factory):
    """What one worker alone makes of them."""
    directory = tmp_path_factory.mktemp("alone")
    work(three, settings(directory), Worker())
    return timeless(rows_of(directory, three))


@pytest.fixture
def other(tmp_path):
    """The leases of a worker on another host, of one second."""
    return Leases(tmp_path / "leases", "other", 1.0, holder=ELSEWHERE)


def events(directory):
    return [event["event"] for event in read(directory) if event["event"] != "evaluated"]


@pytest.mark.slow
def test_a_member_of_a_fleet_begins_with_its_share_and_helps_with_the_rest(
    three, settings, tmp_path, expected, rows_of, timeless
):
    begun = []
    work(three, settings(tmp_path), Worker(0, Member(2, 3)), began=begun.append)
    assert begun == [job.bundle for job in (three[2], three[0], three[1])]
    assert timeless(rows_of(tmp_path, three)) == expected
    assert not list((tmp_path / "leases").iterdir())


def test_what_others_hold_is_left_to_them_in_a_fleet(three, settings, tmp_path, other):
    begun = []
    lease = other.acquire(three[1].bundle.bundle_id)
    with lease.beating(1.0):
        work(three, settings(tmp_path, member=Member()), Worker(), began=begun.append)
    assert begun == [three[0].bundle, three[2].bundle]
    assert lease.held()


def test_what_a_holder_finishes_while_others_wait_is_news(three, settings, tmp_path, other):
    news, lease = [], other.acquire(three[0].bundle.bundle_id)

    def end():
        for point in three[0].bundle.points:
            Store(tmp_path).write({"run_id": point.run_id, "by": "other"})
        lease.release()

    def listen(each):
        news.append(each)
        if len(news) == 1:
            threading.Timer(1.0, end).start()

    with lease.beating(1.0):
        work(three[:2], settings(tmp_path), Worker(), listen)
    assert [(each.bundle, each.elsewhere) for each in news if each.finished] == [
        (three[1].bundle, False),
        (three[0].bundle, True),
    ]


def test_of_many_that_others_hold_the_lost_ones_are_found(
    three, settings, tmp_path, other, monkeypatch, expected, rows_of
):
    monkeypatch.setattr(working, "WATCHED", 1)
    begun = []
    for job in three:
        other.acquire(job.bundle.bundle_id)
    work(three, settings(tmp_path, lease_seconds=1.0), Worker(), began=begun.append)
    assert {bundle.bundle_id for bundle in begun} == {job.bundle.bundle_id for job in three}
    assert len(begun) == 3
    assert [row["parameters_digest"] for row in rows_of(tmp_path, three)] == [
        row["parameters_digest"] for row in expected
    ]


@pytest.mark.parametrize("member", [None, Member()])
@pytest.mark.slow
def test_the_bundle_of_a_silent_holder_is_taken_over(
    member, three, settings, tmp_path, other, expected, rows_of, timeless
):
    begun = []
    lost = other.acquire(three[0].bundle.bundle_id)
    work(three, settings(tmp_path, lease_seconds=1.0, member=member), Worker(), began=begun.append)
    assert begun == [three[1].bundle, three[2].bundle, three[0].bundle]
    assert timeless(rows_of(tmp_path, three)) == expected
    assert not lost.held()


def test_what_others_finish_is_news_and_not_done_again(three, settings, tmp_path, other):
    news, begun = [], []
    lease = other.acquire(three[0].bundle.bundle_id)

    def listen(each):
        news.append(each)
        if len(news) == 1:  # this worker is busy with the second bundle
            store = Store(tmp_path)
            for point in three[0].bundle.points:
                store.write({"run_id": point.run_id, "by": "other"})
            lease.release()

    work(three, settings(tmp_path), Worker(), listen, began=begun.append)
    assert begun == [three[1].bundle, three[2].bundle]
    (first, *_) = three[0].bundle.runs
    assert json.loads((tmp_path / "rows" / f"{first}.json").read_text())["by"] == "other"


def test_rows_of_others_are_asked_for_one_by_one_and_after_a_share_of_them_listed(
    jobs, settings, tmp_path, monkeypatch
):
    many, asked, news = jobs(product(l2=[0.0]), range(4 * working.LISTINGS)), [], []
    listings, store = [], Store(tmp_path)
    for job in many:
        for run in job.bundle.runs:
            store.write({"run_id": run})
    has, done = Store.has, Store.done
    monkeypatch.setattr(Store, "has", lambda store, run: asked.append(run) or has(store, run))
    monkeypatch.setattr(Store, "done", lambda store, runs: listings.append(len(runs)) or done(store, runs))
    work(many, settings(tmp_path, {}), Worker(), news.append)
    assert len(asked) == 2 * len(many) / working.LISTINGS  # two lanes
    assert listings == [2 * len(many)]
    assert [each.bundle for each in news if each.elsewhere] == [job.bundle for job in many]


def test_a_worker_whose_lease_was_taken_over_writes_nothing(three, settings, tmp_path, expected, rows_of, timeless):
    """As where it was frozen for longer than its lease: another one has the bundle when it wakes."""
    bundle, taken, until = three[0].bundle, [], contextlib.ExitStack()

    def listen(news):
        if news.bundle == bundle and not taken:
            observer = Leases(tmp_path / "leases", "observer", 0.0, iter((0.0, 100.0, 200.0)).__next__, ELSEWHERE)
            taken.extend([observer.acquire(bundle.bundle_id), observer.acquire(bundle.bundle_id)])
            until.enter_context(taken[1].beating(1.0))

    with until:
        work(three[:1], settings(tmp_path, member=Member(), lease_seconds=50.0), Worker(), listen)
    assert taken[0] is None
    assert (taken[1].number, taken[1].held()) == (2, True)
    assert Store(tmp_path).done(p.run_id for p in bundle.points) == set()
    assert events(tmp_path) == ["began", "lost"]
    taken[1].release()
    work(three, settings(tmp_path), Worker())
    assert timeless(rows_of(tmp_path, three)) == expected


def test_a_bundle_that_failed_elsewhere_is_not_tried_here_too_but_the_next_time(three, settings, tmp_path):
    store, begun = Store(tmp_path), []

    def listen(news):
        for point in three[2].bundle.points:
            store.fail(point.run_id, "its worker process was killed")

    work(three, settings(tmp_path), Worker(), listen, began=begun.append)
    assert begun == [three[0].bundle, three[1].bundle]
    work(three, settings(tmp_path), Worker(), began=begun.append)
    assert begun[2:] == [three[2].bundle]
    assert store.failures() == {}


def test_a_failure_is_kept_told_and_logged(three, settings, tmp_path, monkeypatch):
    def run_bundle(*args, **options):
        raise MemoryError("9 GiB")

    failures = []
    monkeypatch.setattr(working, "run_bundle", run_bundle)
    work(three[:1], settings(tmp_path), Worker(), failed=failures.append)
    (failure,) = failures
    assert failure.job == three[0]
    assert failure.reason.startswith("out of memory (9 GiB). Use a smaller")
    reasons = {run: found["reason"] for run, found in Store(tmp_path).failures().items()}
    assert reasons == {point.run_id: failure.reason for point in three[0].bundle.points}
    assert events(tmp_path) == ["began", "failed"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UsageError("Use less."), "Use less."),
        (OSError(28, "No space left on device", "rows/a"), "No space left on device: rows/a. Make room"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."), "out of memory (RESOURCE_EXHAUSTED"),
        (ZeroDivisionError("by zero"), "Traceback|ZeroDivisionError: by zero"),
    ],
)
def test_why_a_bundle_failed_is_said_in_the_users_terms(error, text):
    for part in text.split("|"):
        assert part in explained(error) or part == "Traceback"


def test_the_log_tells_every_evaluation(three, settings, tmp_path, rows_of):
    work(three[:1], settings(tmp_path), Worker())
    found = [event for event in read(tmp_path) if event["event"] == "evaluated"]
    for row in rows_of(tmp_path, three[:1]):
        own = [event for event in found if event["run"] == row["run_id"]]
        assert [{name: event[name] for name in row["history"][0]} for event in own] == row["history"]
    assert all(event["time"] <= time.time() for event in found)
