import asyncio
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import tree
from cnnjax.train import checkpoint
from cnnjax.typing import UsageError


def state(step):
    """A tree as a run has it: named tuples, integers, NaN, and words of random keys."""
    return (
        {"kernel": jnp.arange(60, dtype=jnp.float32).reshape(3, 20) * step, "bias": jnp.full(2, jnp.nan)},
        checkpoint.Restored(jnp.int32(step), {"words": jnp.arange(4, dtype=jnp.uint32)}),
    )


LIKE = jax.eval_shape(lambda: state(0))


OWNER = {"spec": {"model": "mlp", "steps": 12}, "seeds": [0, 1]}


def save(directory, *steps, owner=OWNER, keep=checkpoint.KEEP):
    for step in steps:
        extra = {"step": step, "history": [[{"loss": step / 3}], []]}
        checkpoint.save(directory, owner, step, state(step), extra, keep)


def restored_step(directory, owner=OWNER):
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


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_two_are_kept_and_nothing_else(saved, tmp_path):
    save(tmp_path, 3, 6, 9, 12)
    assert checkpoint.KEEP == 2
    assert names(tmp_path) == ["12", "9"]
    assert names(tmp_path / "9") == ["arrays", "record.json"]
    save(tmp_path, 15, keep=1)
    assert names(tmp_path) == ["15"]
    checkpoint.remove(tmp_path)
    assert not tmp_path.exists()


def test_a_late_writer_removes_nothing_that_a_faster_one_has_written(directory):
    save(directory, 1, 2, 5)
    assert checkpoint.steps(directory) == [3, 5, 6]
    assert restored_step(directory) == 6


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
@pytest.mark.slow
def test_a_damaged_file_is_never_restored_silently(directory, damage, caplog):
    record = directory / "6" / "record.json"
    files = sorted(path for path in (directory / "6").rglob("*") if path.is_file())
    assert record in files
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        if not content and damage != "deleted":
            continue
        caplog.clear()
        DAMAGES[damage](path, content)
        assert restored_step(directory) == 3  # checks every bit of what it gives back
        (line,) = caplog.records
        assert line.message.startswith(f"checkpoint {directory / '6'} passed over: ")
        assert "\n" not in line.message
        assert path == record or path.name in line.message
        path.write_bytes(content)
    assert restored_step(directory) == 6


def test_no_byte_of_the_record_can_change_unnoticed(directory):
    path = directory / "6" / "record.json"
    content = path.read_bytes()
    for at in range(0, len(content), 101):
        path.write_bytes(flip(content, at))
        assert restored_step(directory) in (3, 6)  # 6 where it was the white space between two values
    record = json.loads(content)
    record["record"]["extra"]["step"] = 5
    path.write_text(json.dumps(record))
    assert restored_step(directory) == 3


def test_where_both_are_damaged_there_is_none(directory, caplog):
    for step in ("3", "6"):
        shutil.rmtree(directory / step / "arrays")
    assert restored_step(directory) is None
    assert "copy/3 passed over" in caplog.text
    assert "copy/6 passed over" in caplog.text


def exchange(one, other):
    one.rename(one.with_name("aside"))
    other.rename(one)
    one.with_name("aside").rename(other)


@pytest.mark.parametrize("part", ["", "record.json", "arrays", "arrays/state/d"])
def test_what_is_exchanged_between_two_steps_is_noticed(directory, part, caplog):
    if not (directory / "6" / part).exists():
        pytest.skip("this version of Orbax has no such file")
    exchange(directory / "3" / part, directory / "6" / part)
    assert restored_step(directory) is None
    assert "copy/6 passed over" in caplog.text
    assert "copy/3 passed over" in caplog.text
    assert len(caplog.records) == 2


@pytest.mark.parametrize("part", ["", "record.json", "arrays"])
def test_what_is_exchanged_between_two_runs_is_noticed(directory, tmp_path, part, caplog):
    others = {**OWNER, "seeds": [2, 3]}
    checkpoint.save(tmp_path / "others", others, 6, jax.tree.map(lambda leaf: leaf + 1, state(6)), {"step": 6})
    exchange(directory / "6" / part, tmp_path / "others" / "6" / part)
    if part == "arrays":  # the record says what they should be
        assert restored_step(directory) == 3
        assert "copy/6 passed over" in caplog.text
        assert "is not what was saved" in caplog.text
    else:
        with pytest.raises(UsageError, match="copy/6 is a checkpoint of other runs"):
            restored_step(directory)


def test_one_step_that_is_damaged_is_replaced_when_it_is_reached_again(directory):
    (directory / "6" / "record.json").unlink()
    assert checkpoint.steps(directory) == [3, 6]
    assert restored_step(directory) == 3
    save(directory, 6)
    assert restored_step(directory) == 6
    assert names(directory) == ["3", "6"]


def test_one_step_that_is_good_stays_when_it_is_saved_again(directory):
    before = (directory / "6" / "record.json").stat().st_ino
    save(directory, 6)
    assert (directory / "6" / "record.json").stat().st_ino == before
    assert names(directory) == ["3", "6"]


def test_damaged_steps_do_not_crowd_out_the_new_ones(directory):
    for step in ("3", "6"):
        (directory / step / "record.json").write_text("{}")
    save(directory, 1, 2)
    assert restored_step(directory) == 2
    save(directory, 4, 7)
    assert restored_step(directory) == 7
    save(directory, 8)
    assert names(directory) == ["7", "8"]


# Whole, but of others


def test_the_checkpoint_of_other_runs_is_refused_with_what_differs(saved):
    asked = {**OWNER, "spec": {"model": "mlp", "steps": 13}}
    with pytest.raises(UsageError) as error:
        restored_step(saved, asked)
    shown = str(error.value).splitlines()
    assert shown[0] == f"{saved / '6'} is a checkpoint of other runs:"
    assert shown[1:3] == ['  there: "spec/steps": 12', '  asked: "spec/steps": 13']
    assert shown[3:] == [f"Remove {saved} to begin anew, or use another --workdir."]
    many = {str(number): number for number in range(30)}
    with pytest.raises(UsageError) as error:
        restored_step(saved, many)
    assert len(str(error.value).splitlines()) == 15
    assert restored_step(saved, dict(reversed(OWNER.items()))) == 6  # the order says nothing


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda leaf: jax.ShapeDtypeStruct((*leaf.shape, 2), leaf.dtype), '"0/bias": "float32 (2, 2)"'),
        (lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), '"0/bias": "bfloat16 (2,)"'),
    ],
    ids=["shape", "type"],
)
def test_a_program_with_other_arrays_is_refused(saved, change, shown):
    with pytest.raises(UsageError, match="is a checkpoint of a program with other arrays") as error:
        checkpoint.restore(saved, OWNER, jax.tree.map(change, LIKE))
    assert '  there: "0/bias": "float32 (2,)"' in str(error.value)
    assert f"  asked: {shown}" in str(error.value)
    with pytest.raises(UsageError, match='there: "1/extra/words"'):
        checkpoint.restore(saved, OWNER, LIKE[:1])


def test_a_damaged_record_does_not_read_as_one_of_others(directory, caplog):
    path = directory / "6" / "record.json"
    path.write_text(path.read_text().replace('"mlp"', '"mlq"'))
    assert restored_step(directory) == 3
    assert "record.json is not what was saved" in caplog.text


# A save that fails, or is killed


@pytest.mark.parametrize("failing", ["os.fsync", "os.rename", "os.mkdir"])
def test_a_save_that_fails_leaves_the_earlier_ones(directory, failing, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match=r"step 9 could not be written to .*copy \(.*No space left.*Make room"):
        save(directory, 9)
    monkeypatch.undo()
    assert names(directory) == ["3", "6"]
    assert restored_step(directory) == 6
    save(directory, 9)
    assert restored_step(directory) == 9
    assert names(directory) == ["6", "9"]


def remove(directory, elsewhere):
    os.rename(directory, elsewhere)
    shutil.rmtree(elsewhere, ignore_errors=True)  # it is written into meanwhile


@pytest.mark.parametrize("move", [os.rename, remove])
def test_a_directory_that_is_moved_or_removed_while_orbax_writes_is_not_made_again(move, tmp_path, monkeypatch):
    from orbax.checkpoint import v1

    def moved(*arguments, real=v1.save):
        ended = threading.Event()

        def move_in_the_middle():
            while not list((tmp_path / "sweep").glob("checkpoints/bundle/.*/*tmp/*")) and not ended.wait(0.001):
                pass
            if not ended.is_set():
                move(tmp_path / "sweep", tmp_path / "elsewhere")

        mover = threading.Thread(target=move_in_the_middle)
        mover.start()
        try:
            real(*arguments)
        finally:
            ended.set()
            mover.join()

    large = {"w": np.random.default_rng(0).random(4_000_000)}  # long enough in writing
    (tmp_path / "sweep").mkdir()
    save(tmp_path / "sweep/checkpoints/bundle", 10)
    monkeypatch.setattr(v1, "save", moved)
    with pytest.raises(OSError, match="The checkpoint of step 20 could not be written"):
        checkpoint.save(tmp_path / "sweep/checkpoints/bundle", OWNER, 20, large, {})
    assert not (tmp_path / "sweep").exists()
    if move is os.rename:
        assert restored_step(tmp_path / "elsewhere/checkpoints/bundle") == 10


@pytest.mark.slow
def test_what_a_failed_write_reports_late_is_dropped_and_nothing_else(directory, caplog):
    write = "async def write():\n    raise ValueError(owner)\n"

    def forgotten(owner, file):
        """A task that fails, and nobody asks for its result; where its code lies tells whose it is."""
        named = {"owner": owner}
        exec(compile(write, file, "exec"), named)

        async def other():
            task = asyncio.ensure_future(named["write"]())
            await asyncio.sleep(0)
            del task

        asyncio.run(other())
        gc.collect()

    save(directory, 9)
    forgotten("theirs", "/site-packages/orbax/checkpoint/type_handlers.py")
    forgotten('Metadata at "w" in OCDBT database does not exist', "/python3.11/asyncio/tasks.py")
    assert caplog.text == ""
    forgotten("another's", "/site-packages/another.py")
    assert "another's" in caplog.text


def test_a_save_whose_arrays_read_otherwise_fails(directory, monkeypatch):
    monkeypatch.setattr(checkpoint, "_load", lambda path, like: jax.tree.map(np.zeros_like, like))
    with pytest.raises(OSError, match="what was written reads otherwise"):
        save(directory, 9)
    monkeypatch.undo()
    assert names(directory) == ["3", "6"]


# One process that forks, so that many children die for the price of one start. None has JAX threads when it forks.
CHILDREN = """
import os, resource, shutil, signal, sys, time
from pathlib import Path
import numpy as np
from orbax.checkpoint import v1
from cnnjax import tree
from cnnjax.train import checkpoint

root, period = Path(sys.argv[1]), int(sys.argv[2])

def state(step):
    return {"kernel": np.arange(3000, dtype=np.float32) * step, "bias": np.full(2, np.nan, np.float32)}

def save(directory, step):
    checkpoint.save(directory, {"runs": 1}, step, state(step), {"step": step, "loss": float("nan")})

def restored(directory):
    found = checkpoint.restore(directory, {"runs": 1}, state(0))
    assert tree.digest(found.arrays) == tree.digest(state(found.extra["step"]))
    return found.extra["step"]

def names(directory):
    return sorted(path.name for path in directory.iterdir())

def in_child(work):
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        import traceback
        traceback.print_exc()
        os._exit(1)

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def killed_at(number):
    left = root / "killed"
    if left.exists():  # by the child before this one
        assert restored(left) in (6, 9), names(left)
        save(left, 12)
        assert names(left) in (["12", "9"], ["12", "6"]), names(left)
        assert restored(left) == 12
        shutil.rmtree(left)
    save(left, 3)
    save(left, 6)
    events = 0
    def kill(event, arguments):
        nonlocal events
        if event.split(".")[0] in ("open", "os", "shutil") and str(root) in str(arguments):
            events += 1
            if events == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(kill)
    save(left, 9)  # the third: one is removed

kills, number = 0, 1
while (code := status(in_child(lambda: killed_at(number)))) == -signal.SIGKILL:
    kills += 1
    number += period
assert code == 0, code
print("killed", kills)

def write(directory, steps):
    for step in steps:
        save(directory, step)

both = root / "both"
writers = [in_child(lambda: write(both, range(1, 13))), in_child(lambda: write(both, (1, 1, 2, 2, 3, 12, 12)))]
assert [status(pid) for pid in writers] == [0, 0]
def whole():
    assert restored(both) == 12
    assert not [name for name in names(both) if not name.isdecimal()], names(both)
assert status(in_child(whole)) == 0
print("both wrote")

def without_room():
    save(root / "full", 3)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    for _ in range(20):  # each may leave TensorStore's threads with something to print
        try:
            save(root / "full", 6)
        except OSError as error:
            assert "step 6 could not be written" in str(error), error
        else:
            raise AssertionError("saved where there was no room")
    assert names(root / "full") == ["3"], names(root / "full")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert restored(root / "full") == 3
    save(root / "full", 6)
    assert restored(root / "full") == 6
assert status(in_child(without_room)) == 0
print("full disk survived")
"""


@pytest.mark.slow
def test_kills_two_writers_and_a_disk_without_room(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", CHILDREN, tmp_path, "12"], cwd=Path(__file__).parents[2], capture_output=True, text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    killed, *others = done.stdout.splitlines()
    assert int(killed.split()[-1]) >= 3
    assert others == ["both wrote", "full disk survived"]
