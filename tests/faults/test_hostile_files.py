"""Files that are written to do harm, and names of runs that point elsewhere; the long form has a larger bomb."""

import pytest

from benchmarks.faults.finding import Place
from benchmarks.faults.inputs import MEBIBYTES, hostile_files


@pytest.mark.slow
def test_hostile_files_are_refused_by_name_and_nothing_of_them_runs_or_grows(tmp_path):
    found = hostile_files(Place(tmp_path, tmp_path / "cache", quick=True))
    assert found.problems == ()
    assert found.figures["files"] > 30
    assert found.figures["mebibytes_above_the_start"] < MEBIBYTES
