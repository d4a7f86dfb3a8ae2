import json

import jax
import numpy as np
import pytest

from cnnjax import tree
from cnnjax.train import peers
from cnnjax.typing import UsageError


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("localhost:1", None, None), "coordinator, processes and process belong together"),
        ((None, 2, 0), "belong together"),
        (("localhost:1", 2, 2), "process=2 must be from 0 to 1"),
        (("localhost", 2, 1), "coordinator='localhost' must be HOST:PORT"),
    ],
)
def test_numbers_that_make_no_sense_join_nothing(given, message):
    with pytest.raises(UsageError, match=message):
        peers.join(*given)
    assert not jax.distributed.is_initialized()


def test_a_process_alone_agrees_with_itself():
    value = {"a": [1, 2]}
    assert peers.told(value) is value
    peers.agree(value, "the end")
    assert peers.leads()
    question = lambda: True  # noqa: E731
    assert peers.any_of(question) is question


def test_a_checkpoint_counts_only_with_the_commits_of_all(tmp_path):
    arrays = {"w": np.arange(3.0)}
    digest = tree.digest(arrays)
    commits = [tmp_path / f"5.commit-{process}" for process in (0, 1)]
    for process, path in enumerate(commits):
        path.write_text(json.dumps({"process": process, "processes": 2, "digest": digest}))
    assert peers._uncommitted(tmp_path, 5, arrays, 2) is None
    assert "another state" in str(peers._uncommitted(tmp_path, 5, {"w": np.arange(1.0, 4.0)}, 2))
    assert "another state" in str(peers._uncommitted(tmp_path, 5, arrays, 3))  # of two, not of three
    commits[1].write_text("{")
    assert peers._uncommitted(tmp_path, 5, arrays, 2) == "process 1 of 2 has not committed it"
    commits[1].unlink()
    assert peers._uncommitted(tmp_path, 5, arrays, 2) == "process 1 of 2 has not committed it"
    assert peers._uncommitted(tmp_path, 5, arrays, 1) is None
