import json
import multiprocessing
import os
import struct
import subprocess
import sys

import pytest

from cnnjax.sweep.log import Log, histories, read, recent
from cnnjax.sweep.writers import WRITERS, Writer, check_writers
from cnnjax.typing import UsageError


def evaluated(log, run, step, **metrics):
    log.write("evaluated", bundle="b", runs=["a", "b"], run=run, step=step, images=step * 4, **metrics)


def lines(directory):
    return [line for path in (directory / "log").iterdir() for line in path.read_text().splitlines()]


def test_events_come_back_in_each_workers_order(tmp_path):
    logs = [Log(tmp_path, f"host-{number}") for number in range(2)]
    assert not (tmp_path / "log").exists()  # nothing is made before there is something to say
    for step in range(3):
        for log in logs:
            log.write("progress", bundle=log.worker, step=step, text="two\nlines", images_per_second=float("nan"))
    for log in logs:
        log.close()
    events = list(read(tmp_path))
    assert [(event["worker"], event["step"]) for event in events] == [
        (f"host-{number}", step) for number in range(2) for step in range(3)
    ]
    assert (events[0]["text"], events[0]["images_per_second"]) == ("two\nlines", None)
    assert len(lines(tmp_path)) == 6
    assert recent(tmp_path, 60) == sorted(events, key=lambda event: event["time"])
    assert list(read(tmp_path / "none")) == recent(tmp_path / "none", 60) == []


def test_a_torn_line_costs_no_other(tmp_path):
    log = Log(tmp_path, "w")
    log.write("began", bundle="a")
    log.close()
    with open(log.path, "ab") as file:
        file.write(b'{"time": 3, "worker": "w", "ev')  # killed here
    assert [event["bundle"] for event in read(tmp_path)] == ["a"]
    again = Log(tmp_path, "w")
    again.write("began", bundle="b")
    again.close()
    assert [event["bundle"] for event in read(tmp_path)] == ["a", "b"]
    log.path.write_bytes(b'[1]\n{"time": 1}\n\xff\xfe\n' + log.path.read_bytes())
    assert [event["bundle"] for event in read(tmp_path)] == ["a", "b"]


def test_repeated_evaluations_count_once_and_the_last_of_them(tmp_path):
    for worker, loss in (("first", 1.0), ("second", 0.5)):  # killed after step 6, and gone on from the start
        log = Log(tmp_path, worker)
        evaluated(log, "a", 3, train_loss=loss)
        evaluated(log, "a", 6, train_loss=loss / 2)
        log.close()
    assert histories(tmp_path) == {
        "a": [{"step": 3, "images": 12, "train_loss": 0.5}, {"step": 6, "images": 24, "train_loss": 0.25}]
    }


def _write(directory, worker, count):
    log = Log(directory, worker)
    for step in range(count):
        log.write("progress", step=step, filler="x" * 5000)


def test_processes_that_share_a_file_tear_no_line(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, "same", 100)) for _ in range(3)]
    for process in writers:
        process.start()
    for process in writers:
        process.join(60)
    assert sorted(event["step"] for event in read(tmp_path)) == sorted([*range(100)] * 3)


FULL = """
import resource, signal, sys
from pathlib import Path
from cnnjax.sweep.log import Log
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Log(Path(sys.argv[1]), "w")
log.write("began", bundle="first")
resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
for step in range(9):
    log.write("progress", step=step, filler="x" * 100)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write("done", bundle="last")
log.close()
print("alive")
"""


@pytest.mark.slow
def test_a_full_disk_costs_lines_and_no_run(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")
    assert done.stderr.count("\n") == 1
    assert "w.jsonl cannot be written (" in done.stderr
    events = list(read(tmp_path))
    assert [event["event"] for event in (events[0], events[-1])] == ["began", "done"]
    assert 2 < len(events) < 11


def test_a_place_that_cannot_be_written_costs_one_warning(tmp_path, capsys):
    (tmp_path / "log").write_text("a file")
    log = Log(tmp_path, "w")
    for step in range(3):
        log.write("progress", step=step)
    log.close()
    assert capsys.readouterr().err.count("Training goes on without it.") == 1


def test_writers_that_cannot_work_are_refused_before(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"Unknown writer of the log 'tensorbord'\. Did you mean 'tensorboard'"):
        Log(tmp_path, "w", ["tensorbord"])
    monkeypatch.setitem(WRITERS, "wandb", ("no_such_library", WRITERS["wandb"][1]))
    with pytest.raises(UsageError, match=r"'wandb' needs no_such_library. Install it: pip install 'cnnjax\[wandb\]'"):
        check_writers(["wandb"])


def test_a_writer_that_fails_costs_one_warning(tmp_path, monkeypatch, capsys):
    class Failing(Writer):
        def __call__(self, event):
            raise RuntimeError("no service")

    monkeypatch.setitem(WRITERS, "wandb", ("json", Failing))
    log = Log(tmp_path, "w", ["wandb"])
    log.write("began")
    log.write("done")
    assert capsys.readouterr().err.count("wandb cannot be written (no service)") == 1
    assert len(list(read(tmp_path))) == 2


def _train(directory, name):
    """What a worker says of two runs, the second of which is interrupted; rows lie there when they are done."""
    log = Log(directory, "w", [name])
    for step in (3, 6):
        for run in ("a", "b"):
            evaluated(log, run, step, train_loss=1 / step, valid_error=float("nan"))
    (directory / "rows").mkdir()
    row = {"assignment": {"l2": 0.1, "model.hidden": [8]}, "seed": 3, "history": [{"step": 6}]}
    (directory / "rows" / "a.json").write_text(json.dumps(row))
    log.write("done", bundle="b", runs=["a", "b"], run="a", status="done", metrics={"test_error": 0.25}, seconds=1.0)
    log.write("interrupted", bundle="b", runs=["a", "b"])
    log.close()


def _scalars(directory):
    """(tag, step) -> value of TensorBoard's files: records of a length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in directory.iterdir():
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_tensorboard_has_the_scalars_of_each_run(tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra tensorboard is not installed")
    _train(tmp_path, "tensorboard")
    found = _scalars(tmp_path / "tensorboard" / "a")
    assert found["train_loss", 6] == pytest.approx(1 / 6)
    assert found["final/test_error", 6] == 0.25
    assert ("valid_error", 6) not in found  # not a number
    assert any(tag.startswith("_hparams_") for tag, _ in found)
    assert {tag for tag, _ in _scalars(tmp_path / "tensorboard" / "b")} == {"train_loss", "images"}


def test_weights_and_biases_works_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    _train(tmp_path, "wandb")
    assert sorted(path.name.rpartition("-")[2] for path in (tmp_path / "wandb").glob("offline-run-*")) == ["a", "b"]
    stored = next((tmp_path / "wandb").glob("offline-run-*-a/run-a.wandb")).read_bytes()
    assert b"train_loss" in stored
    assert b"test_error" in stored
