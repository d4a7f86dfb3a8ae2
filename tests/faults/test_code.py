"""A network's code that changes between two calls on one directory; results that are exchanged. In full: benchmarks."""

import flax.linen as nn
import pytest

from cnnjax.cli import results
from cnnjax.sweep import Execution, run
from cnnjax.sweep.grid import NOTHING
from cnnjax.train import Spec
from cnnjax.train.program import Driver
from cnnjax.typing import UsageError


def network(factor):
    """A module of one name whatever the factor, as a file has one before and after an edit."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(10)(images.reshape(len(images), -1)) * factor

    Net.__qualname__ = "Net"
    return Net()


def sweep(directory, factor, seeds, mix=False):
    spec = Spec(model=network(factor), steps=2, batch_size=8, evaluate_every=2)
    execution = Execution(driver=Driver("scan", 1), mix_signatures=mix)
    return run(spec, NOTHING, range(seeds), directory=directory, execution=execution)


@pytest.mark.slow
def test_code_that_changes_is_refused_or_marked(tmp_path, caplog):
    (first,) = sweep(tmp_path, 1.0, 1)
    manifest = (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="the network's own code makes another step, evaluation"):
        sweep(tmp_path, 0.5, 2)
    assert (tmp_path / "manifest.json").read_bytes() == manifest
    assert sweep(tmp_path, 0.5, 1) == [first]  # it is done: only reported
    rows = sweep(tmp_path, 0.5, 2, mix=True)
    assert rows[0] == first
    assert rows[0]["signature_digest"] != rows[1]["signature_digest"]
    assert "under another execution signature" in caplog.text
    assert not results.read(tmp_path).damaged


def test_rows_that_are_exchanged_are_refused_by_name(tmp_path):
    sweep(tmp_path, 1.0, 2)
    one, other = sorted((tmp_path / "rows").glob("*.json"))
    one.write_bytes(other.read_bytes())
    with pytest.raises(UsageError, match=f"{one.name} cannot be read .*not the row of this run"):
        sweep(tmp_path, 1.0, 2)
    assert list(results.read(tmp_path).damaged) == [one.stem]
