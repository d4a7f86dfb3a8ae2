"""Nonsense is refused when it is said: settings, parts of a fleet, numbers of runs, names of leases."""

import os

import pytest

from cnnjax import process
from cnnjax.sweep.execution import Execution, Member, fleet_member
from cnnjax.sweep.lease import Leases
from cnnjax.sweep.plan import MOST_RUNS, points
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec
from cnnjax.typing import UsageError

NONSENSE = {  # of numbers: ``test_execution``
    "keep_checkpoints": (1, "yes", None),
    "mix_signatures": (0, "no"),
    "feed": ("fast", "", None, 3),
    "log": ("tensorboard", ["wandb"], (3,), None),
    "driver": (
        "scan",
        Driver("fast"),
        Driver("scan", 0),
        Driver("scan", True),
        Driver("scan", 1, -1),
        Driver("loop", 1.0),
    ),
    "member": (3, (0, 0), (1, 1), (-1, 2), (0.0, 2), Member(2, 2)),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NONSENSE.items() for value in values])
def test_nonsense_is_refused_when_it_is_said(unchecked, name, value):
    with pytest.raises(UsageError, match=name.removesuffix("s")):
        Execution(**{name: value})


@pytest.mark.parametrize(
    "text", ["²/8", "0/²", "1/1", "a/b", "0", "/", "-1/2", "0/8/9", "٠/٨", "0 /8", "9" * 5000 + "/2"]
)
def test_a_part_of_a_fleet_is_two_plain_numbers(monkeypatch, text):
    monkeypatch.setenv("CNNJAX_SHARD", text)
    with pytest.raises(UsageError, match=r"must be INDEX/COUNT with 0 <= INDEX < COUNT"):
        fleet_member()


def test_files_beside_the_leases_are_none(tmp_path):
    (tmp_path / "leases").mkdir()
    for number in ("²", "٣", "0", "01", "1x", "9" * 200):
        (tmp_path / "leases" / f"bundle.{number}").touch()
    leases = Leases(tmp_path / "leases", "ours")
    assert leases.taken() == set()
    assert leases.acquire("bundle").number == 1


@pytest.mark.parametrize("count", [10**20, 3_000_000, MOST_RUNS + 1])
def test_more_runs_than_can_be_planned_are_refused_with_their_number(unchecked, count):
    with pytest.raises(UsageError, match=rf"^{count:,} runs .* more than the {MOST_RUNS:,} .* Use fewer seeds"):
        points(Spec(), Hyper(), ({},), range(count))


def test_what_another_machine_writes_stays_whatever_its_clock_says(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(process.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(process, "_seen", {})
    theirs, grows = (tmp_path / f"{process.PARTIAL}{name}-0123abcd-77-5-9f9f9f9f" for name in ("row", "step"))
    theirs.write_text("half a r")
    (grows / "arrays").mkdir(parents=True)
    os.utime(theirs, (1, 1))  # their clock is at 1970
    for step in range(3):
        process.sweep_up(tmp_path)
        assert theirs.exists() == (step < 2)
        assert grows.exists()
        (grows / "arrays" / str(step)).touch()
        now[0] += process.ABANDONED_SECONDS * 0.6
    assert not theirs.exists()


def test_a_name_of_255_letters_can_be_written(tmp_path):
    path = tmp_path / ("x" * 255)
    process.write_atomically(path, "whole")
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
