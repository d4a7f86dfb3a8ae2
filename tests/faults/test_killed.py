"""A sweep as a command, killed inside a save, interrupted, killed inside the writing of a row, finished by another.

The long form, a hundred kills at random moments, is ``python -m benchmarks.faults --only=kill,signal,two_sweeps``.
"""

import dataclasses
import os
import signal
from pathlib import Path

import pytest

from benchmarks.faults import storm
from benchmarks.faults.finding import Place
from benchmarks.faults.killed import newest_checkpoint, rows_of_writers
from benchmarks.faults.processes import Sweep, differences, ended_afterwards, wait_for
from cnnjax.data import DataConfig
from cnnjax.sweep import Execution, run
from cnnjax.train.program import Driver

FLAGS = (
    "--preset=smoke",
    "--seeds=2",
    "--steps=300",
    "--evaluate_every=100",
    "--driver=scan",
    "--lanes=2",
    "--workers=0",
)
LIMIT = 120.0


@pytest.mark.slow
def test_a_sweep_that_is_killed_and_interrupted_is_the_one_left_in_peace(tmp_path):
    place = Place(tmp_path, Path(os.environ["CNNJAX_CACHE"]), quick=True)
    flags = (*FLAGS, "--checkpoint_seconds=0")
    peace, sweep = (Sweep(place, tmp_path / name, *flags) for name in ("peace", "storm"))
    data = DataConfig()
    spec = dataclasses.replace(storm.spec("smoke", data), steps=300, evaluate_every=100)
    execution = Execution(driver=Driver("scan", 2))
    grid, hyper = storm.grid("smoke", data), storm.hyper("smoke", data)
    run(spec, grid, range(2), hyper, directory=peace.directory, execution=execution)
    expected = peace.rows()
    assert len(expected) == 6
    assert len({row["parameters_digest"] for row in expected.values()}) == 6

    ended = sweep.run(STORM_KILL="rename:/checkpoints/:before:3", limit=LIMIT)  # the third save, all but named
    assert ended.code == -signal.SIGKILL
    assert newest_checkpoint(sweep) > 0
    assert sweep.rows() == {}

    process = sweep.start()
    with ended_afterwards(process):
        assert wait_for(lambda: len(sweep.events("began")) == 3 or not process.runs)  # the bundle after that one
        process.signal(signal.SIGTERM, group=False)
        ended = process.wait(LIMIT)
    assert ended.code == 130
    assert ended.err.count("\n") == 1
    assert ended.err.endswith("the state is saved. The same command resumes.\n")
    assert f"stopped at step {newest_checkpoint(sweep)} of 300" in ended.err

    first = sweep.start(STORM_KILL="link:/rows/:before:2", CNNJAX_SHARD="0/2")  # the second row of a bundle of two
    with ended_afterwards(first):
        assert wait_for(lambda: len(sweep.events("began")) == 4 or not first.runs)
        second = sweep.start()
        with ended_afterwards(second):
            assert first.wait(LIMIT).code == -signal.SIGKILL
            assert second.wait(LIMIT).code == 0
    assert differences(expected, sweep.rows()) == []
    assert sweep.leftovers() == []


@pytest.mark.slow
def test_rows_of_several_writers_can_all_be_read(tmp_path):
    problems = []
    assert rows_of_writers(Place(tmp_path, Path(os.environ["CNNJAX_CACHE"]), quick=True), 2, 20, problems) == 40
    assert problems == []
