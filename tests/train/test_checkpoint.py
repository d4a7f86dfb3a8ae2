import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import tree
from cnnjax.train import checkpoint

# A damaged checkpoint makes Orbax leave coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore:coroutine:RuntimeWarning"
)


@pytest.fixture(autouse=True)
def _collect():
    """What complains does so in the test that it belongs to."""
    yield
    gc.collect()


def state(step):
    """A tree as a run has it: named tuples, integers, NaN, and words of random keys."""
    return (
        {"kernel": jnp.arange(60, dtype=jnp.float32).reshape(3, 20) * step, "bias": jnp.full(2, jnp.nan)},
        checkpoint.Restored(jnp.int32(step), {"words": jnp.arange(4, dtype=jnp.uint32)}),
    )


LIKE = jax.eval_shape(lambda: state(0))


def save(directory, *steps, owner="runs"):
    for step in steps:
        checkpoint.save(directory, owner, step, state(step), {"step": step, "history": [[{"loss": step / 3}], []]})


def restored_step(directory, owner="runs"):
    """The step that is restored, after checking every bit of it; None where there is none."""
    found = checkpoint.restore(directory, owner, LIKE)
    if found is None:
        return None
    step = found.extra["step"]
    assert tree.digest(found.arrays) == tree.digest(state(step))
    assert jax.tree.structure(found.arrays) == jax.tree.structure(LIKE)
    assert found.extra == {"step": step, "history": [[{"loss": step / 3}], []]}
    return step


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two good checkpoints, of the steps 3 and 6."""
    directory = tmp_path_factory.mktemp("checkpoints")
    save(directory, 3, 6)
    return directory


@pytest.fixture
def directory(saved, tmp_path):
    """A copy of them to spoil."""
    return shutil.copytree(saved, tmp_path / "copy")


def test_the_newest_comes_back_to_the_bit(saved, caplog):
    assert checkpoint.steps(saved) == [3, 6]
    assert restored_step(saved) == 6
    assert caplog.text == ""


def test_where_there_is_none(tmp_path):
    assert restored_step(tmp_path / "missing") is None
    assert restored_step(tmp_path) is None
    assert checkpoint.steps(tmp_path / "missing") == []


def test_the_newest_two_are_kept_and_nothing_else(saved, tmp_path):
    save(tmp_path, 3, 6, 9, 12)
    assert checkpoint.KEEP == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["12", "12.json", "9", "9.json"]
    checkpoint.remove(tmp_path)
    assert not tmp_path.exists()


def flip(content, at):
    spoiled = bytearray(content)
    spoiled[at] ^= 0x10
    return bytes(spoiled)


DAMAGES = {
    "deleted": lambda path, content: path.unlink(),
    "empty": lambda path, content: path.write_bytes(b""),
    "halved": lambda path, content: path.write_bytes(content[: len(content) // 2]),
    "first byte": lambda path, content: path.write_bytes(flip(content, 0)),
    "a third in": lambda path, content: path.write_bytes(flip(content, len(content) // 3)),
    "two thirds in": lambda path, content: path.write_bytes(flip(content, 2 * len(content) // 3)),
    "last byte": lambda path, content: path.write_bytes(flip(content, -1)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_never_restored_silently(directory, damage, caplog):
    record = directory / "6.json"
    files = [record, *sorted(path for path in (directory / "6").rglob("*") if path.is_file())]
    fallen_back = set()
    for path in files:
        content = path.read_bytes()
        if not content and damage != "deleted":
            continue
        caplog.clear()
        DAMAGES[damage](path, content)
        step = restored_step(directory)  # checks every bit of what it gives back
        assert step in (3, 6)
        if step == 3:
            fallen_back.add(path)
            assert ("passed over" in caplog.text) == (path != record or damage != "deleted")
        path.write_bytes(content)
        assert restored_step(directory) == 6
    assert record in fallen_back
    assert len(fallen_back) > 1  # Orbax also writes files that it does not read again


def test_no_byte_of_the_record_can_change_unnoticed(directory):
    path = directory / "6.json"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(flip(content, at))
        assert restored_step(directory) in (3, 6)
    record = json.loads(content)
    record["record"]["extra"]["step"] = 5
    path.write_text(json.dumps(record))
    assert restored_step(directory) == 3


def test_where_both_are_damaged_there_is_none(directory, caplog):
    for step in ("3", "6"):
        shutil.rmtree(directory / step)
    assert restored_step(directory) is None
    assert "copy/3 passed over" in caplog.text
    assert "copy/6 passed over" in caplog.text


def test_exchanged_arrays_are_noticed(directory):
    (directory / "3").rename(directory / "other")
    (directory / "6").rename(directory / "3")
    (directory / "other").rename(directory / "6")
    assert restored_step(directory) is None


def test_a_directory_without_its_record_counts_for_nothing(directory):
    (directory / "6.json").unlink()
    assert checkpoint.steps(directory) == [3]
    assert restored_step(directory) == 3
    save(directory, 6)  # a kill between arrays and record; the run comes by again
    assert restored_step(directory) == 6


def test_other_runs_and_other_shapes_are_passed_over(saved, caplog):
    assert restored_step(saved, "others") is None
    assert "passed over: it belongs to other runs" in caplog.text
    wider = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*leaf.shape, 2), leaf.dtype), LIKE)
    assert checkpoint.restore(saved, "runs", wider) is None
    assert "0/bias has shape (2,) and not (2, 2)" in caplog.text
    assert checkpoint.restore(saved, "runs", LIKE[0]) is None


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_a_save_that_fails_leaves_the_earlier_ones(directory, failing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space left"):
        save(directory, 9)
    monkeypatch.undo()
    assert checkpoint.steps(directory) == [3, 6]
    assert restored_step(directory) == 6
    save(directory, 9)
    assert restored_step(directory) == 9
    np.testing.assert_array_equal(checkpoint.steps(directory), [6, 9])
    assert not list(directory.glob(".*"))
