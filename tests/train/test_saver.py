import logging
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.train import checkpoint, saver
from cnnjax.train.saver import SHARE, Saver, expected_cost, period

OWNER = {"runs": 1}


@given(st.floats(1e-3, 1e4), st.floats(0, 1e4))
def test_saving_takes_at_most_its_share_of_the_time(seconds, cost):
    found = period(seconds, cost)
    assert found >= seconds
    assert cost <= SHARE * found * (1 + 1e-12)
    assert found == seconds or found == pytest.approx(cost / SHARE)
    assert period(0.0, cost) == 0.0


def test_the_first_cost_is_taken_from_the_bytes():
    small, large = (
        expected_cost({"kernel": np.zeros(size, np.float32), "step": np.int32(0)}) for size in (25, 25 * 10**6)
    )
    assert small == pytest.approx(saver.FIRST_SECONDS, rel=1e-3)
    assert large - small == pytest.approx(1.0, rel=1e-3)
    assert period(60.0, small) > 60.0  # importing Orbax alone is worth a minute of training


@pytest.fixture
def slow(monkeypatch):
    """Saves that end when ``slow`` is set, and how many have begun."""
    ended, begun, save = threading.Event(), [], checkpoint.save

    def waiting(*arguments):
        begun.append(threading.current_thread().name)
        assert ended.wait(60)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", waiting)
    yield ended, begun
    ended.set()


def test_the_state_is_copied_and_saved_beside_the_training(slow, tmp_path):
    ended, begun = slow
    state, history = {"kernel": jnp.arange(1000.0)}, [1]
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    with Saver(tmp_path, OWNER, 0.0, 0.0) as saving:
        saving.save(3, state, {"history": history})
        history.append(2)
        for _ in range(3):
            state = step(state)  # takes the memory of the one before
        ended.set()
        saving.wait()
        assert checkpoint.steps(tmp_path) == [3]
        saving.save(6, state, {"history": history})
    assert checkpoint.steps(tmp_path) == [3, 6]
    assert all(name.startswith("checkpoint") for name in begun)
    newest = checkpoint.restore(tmp_path, OWNER, state)
    assert newest.extra == {"history": [1, 2]}
    checkpoint._drop(tmp_path / "6")
    found = checkpoint.restore(tmp_path, OWNER, state)
    np.testing.assert_array_equal(found.arrays["kernel"], np.arange(1000.0))
    assert found.extra == {"history": [1]}


def test_one_save_at_a_time_and_none_is_due_meanwhile(slow, tmp_path):
    ended, begun = slow
    with Saver(tmp_path, OWNER, 1e-6, 0.0) as saving:
        assert saving.due()
        saving.save(1, {"kernel": np.zeros(2)}, {})
        time.sleep(0.01)
        assert not saving.due()
        threading.Timer(0.05, ended.set).start()
        saving.save(2, {"kernel": np.zeros(2)}, {})  # waits
        assert len(begun) >= 1
        assert checkpoint.steps(tmp_path)[:1] == [1]
        saving.wait()
        assert saving.cost > 0
        assert not saving.due()  # it was dear for so short a time
    assert checkpoint.steps(tmp_path) == [1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]


def test_a_save_that_fails_is_a_warning_to_the_training_and_an_error_to_who_waits(tmp_path, caplog):
    state = {"kernel": np.zeros(2)}
    with Saver(tmp_path / "there", OWNER, 0.0, 0.0) as saving:
        saving.save(1, state, {})
        saving.wait()
        (tmp_path / "there").rename(tmp_path / "away")
        (tmp_path / "there").write_text("")
        saving.save(2, state, {})
        with pytest.raises(OSError, match=f"step 2 could not be written to {tmp_path / 'there'} .*Make room"):
            saving.wait()
        assert caplog.records == []
        saving.wait()  # said once
        saving.save(3, state, {})
        assert saving._saving.exception(60) is not None
        (tmp_path / "there").unlink()
        (tmp_path / "away").rename(tmp_path / "there")
        saving.save(4, state, {})
        saving.wait()
    (line,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert line.message.startswith("The checkpoint of step 3 could not be written")
    assert checkpoint.steps(tmp_path / "there") == [1, 4]


def test_without_a_directory_nothing_is_due_or_saved(tmp_path):
    with Saver(None, OWNER, 0.0, 0.0) as saving:
        assert not saving.due()
        saving.save(1, {"kernel": np.zeros(2)}, {})
        saving.wait()
