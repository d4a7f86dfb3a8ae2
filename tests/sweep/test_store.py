import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cnnjax import process
from cnnjax.process import write_atomically
from cnnjax.sweep.store import Store, arrays, dumps, encoded, encoded_arrays, outputs
from cnnjax.typing import UsageError


def row(run, **content):
    return {"run_id": run, "status": "done", "signature": {"threads": 1}, **content}


def manifest(*runs, threads=1, data="abc", **configuration):
    return {
        "configuration": {"spec": {"steps": 3}, **configuration},
        "runs": dict.fromkeys(runs, f"digest-{threads}"),
        "signatures": {f"digest-{threads}": {"threads": threads}},
        "data": {"digits": data},
        "created": "today",
    }


@pytest.fixture
def store(tmp_path):
    """The directory of a sweep of the runs a and b, of which a is done."""
    store = Store(tmp_path / "results")
    store.open(manifest("a", "b"))
    store.write(row("a"))
    return store


def files(store):
    """Every file of the directory with its content."""
    return {
        str(path.relative_to(store.directory)): path.read_bytes()
        for path in store.directory.rglob("*")
        if path.is_file()
    }


# Rows


def test_rows_come_back_as_they_were(store):
    content = {"metrics": {"loss": 0.1 + 0.2}, "history": [{"step": 3, "loss": 1e-300}], "note": "µ", "error": None}
    store.write(row("b", **content))
    assert store.read("b") == row("b", **content)
    assert store.done(["a", "b", "c"]) == {"a", "b"}


def test_what_is_not_finite_becomes_null(store):
    store.write(row("b", metrics={"loss": float("nan"), "error": float("inf")}, history=[(1, -float("inf"))]))
    assert store.read("b") == row("b", metrics={"loss": None, "error": None}, history=[[1, None]])


def test_a_row_is_never_written_twice(store):
    before = files(store)
    store.write(row("a", metrics={"loss": 7.0}))
    assert files(store) == before


def test_rows_may_be_read_by_others(store):
    modes = {path.name: path.stat().st_mode & 0o777 for path in store.directory.rglob("*.json")}
    assert modes == {"manifest.json": 0o644, "a.json": 0o644}


def test_eight_writers_of_the_same_rows_leave_each_once_and_whole(store):
    start, errors = threading.Barrier(8), []

    def write(writer):
        start.wait()
        try:
            for number in range(200):
                store.write(row(f"run{(number + 25 * writer) % 200}", writer=writer, text="x" * 5000))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    names = sorted(path.name for path in (store.directory / "rows").iterdir())
    assert names == sorted(["a.json", *(f"run{number}.json" for number in range(200))])
    found = [store.read(f"run{number}") for number in range(200)]
    assert all(each == row(each["run_id"], writer=each["writer"], text="x" * 5000) for each in found)
    assert len({each["writer"] for each in found}) > 1


def test_a_killed_writer_leaves_whole_rows_and_clean_removes_the_rest(store):
    for killed in range(3):
        before = len(list((store.directory / "rows").glob("*.json")))
        if not (child := os.fork()):
            try:
                for number in range(10**6):
                    store.write(row(f"run{os.getpid()}-{number}", text="x" * 100_000))
            finally:
                os._exit(1)
        while len(list((store.directory / "rows").glob("*.json"))) < before + 2:
            time.sleep(0.001)
        time.sleep(0.003 * killed)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    living = process.partial(store.directory / "rows", "living")
    living.write_text("half a r")
    rows = list((store.directory / "rows").glob("*.json"))
    assert all(len(store.read(path.stem)["text"]) == 100_000 for path in rows if path.stem != "a")
    store.checkpoints("bundle", "signature").mkdir(parents=True)
    store.clean(["a", "b"])
    assert store.checkpoints("bundle", "signature").exists()  # b is not done
    store.clean(["a"])
    assert {path.name for path in store.directory.iterdir()} == {"manifest.json", "rows"}
    assert set((store.directory / "rows").iterdir()) == {*rows, living}


@pytest.mark.parametrize("failing", ["os.fsync", "os.link"])
def test_a_full_disk_leaves_no_row(store, failing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = files(store)
    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space left"):
        store.write(row("b"))
    monkeypatch.undo()
    assert files(store) == before
    assert store.done(["b"]) == set()
    store.write(row("b"))
    assert store.read("b") == row("b")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "verdict.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new")
    monkeypatch.undo()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("verdict.json", "old")]
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_no_byte_of_a_row_can_change_unnoticed(store):
    intact = row("b", metrics={"loss": 0.125}, text="abc")
    store.write(intact)
    path = store.directory / "rows" / "b.json"
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            found = store.read("b")  # where it is white space, or the name of the digest, all is still there
        except UsageError:
            refused += 1
        else:
            assert {name: found[name] for name in intact} == intact
    assert refused > 100
    path.write_bytes(content.replace(b"0.125", b"0.126"))
    with pytest.raises(UsageError, match="it is not what was written"):
        store.read("b")


def test_a_failure_stands_until_the_run_is_done(store):
    store.fail("b", "its worker died", worker="w")
    store.fail("b", "no memory", worker="w")
    (failure,) = store.failures().values()
    assert (failure["run_id"], failure["reason"], failure["worker"]) == ("b", "no memory", "w")
    store.write(row("b"))
    assert store.failures() == {}
    store.clean(["a", "b"])
    assert not (store.directory / "failed").exists()


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "b"}', "[]", '{"status": "done"}'])
def test_a_damaged_row_is_named(store, content):
    path = store.directory / "rows" / "a.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"rows/a\.json cannot be read .* Remove it to have the run repeated"):
        store.read("a")
    with pytest.raises(UsageError, match=r"rows/a\.json cannot be read"):
        store.check(manifest("a", "b"))


def test_a_missing_row_is_named(store):
    with pytest.raises(UsageError, match=r"rows/b\.json cannot be read"):
        store.read("b")


# What a directory belongs to


def test_a_sweep_may_go_on_and_grow(store):
    before = files(store)
    more_data = manifest("a", "b", "c")
    more_data["data"]["shapes"] = "xyz"
    for wanted in (manifest("a", "b"), manifest("c", "b", "a", seeds=[0, 1, 2]), more_data):
        store.check(wanted)
    assert files(store) == before
    store.open({**manifest("a", "b", "c"), "created": "tomorrow"})
    assert store.manifest == manifest("a", "b", "c")
    assert store.read("a") == row("a")


def test_a_new_directory_is_opened_and_nothing_is_made_before(tmp_path):
    store = Store(tmp_path / "deep" / "results")
    assert store.manifest is None
    assert store.done(["a"]) == set()
    store.check(manifest("a"))
    assert list(tmp_path.iterdir()) == []
    store.open(manifest("a"))
    assert store.manifest == manifest("a")
    store.check(manifest("a"))


def test_a_directory_that_a_kill_left_before_its_manifest_is_taken(tmp_path):
    if not (child := os.fork()):
        process.partial(tmp_path, "manifest.json").write_text("{")
        os._exit(0)
    os.waitpid(child, 0)
    store = Store(tmp_path)
    store.check(manifest("a"))
    store.open(manifest("a"))
    store.clean(["a"])
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("wanted", "parts"),
    [
        (manifest("b", "c", spec={"steps": 5}), ["different configuration", 'there: "steps": 3', 'asked: "steps": 5']),
        (manifest("b"), ["different configuration", "Use another --workdir, or remove the directory"]),
        (manifest("a", "b", data="x"), ["different configuration", 'there: "digits": "abc"', 'asked: "digits": "x"']),
        (manifest("a", "b", threads=2), ["execution signature", 'there: "threads": 1', 'asked: "threads": 2']),
        (manifest("a", "b", threads=2), ["Use another --workdir, or --mix_signatures"]),
    ],
)
def test_something_else_is_refused_and_the_difference_shown(store, wanted, parts):
    before = files(store)
    with pytest.raises(UsageError) as error:
        store.check(wanted)
    for part in ("results", *parts):
        assert part in str(error.value)
    assert files(store) == before


def test_long_differences_are_cut(store):
    with pytest.raises(UsageError) as error:
        store.check(manifest("c", spec={f"field{k}": k for k in range(50)}))
    assert 10 < len(str(error.value).splitlines()) < 20


def test_other_signatures_may_be_mixed_on_demand_or_only_read(store):
    store.check(manifest("a", "b", threads=2), mix_signatures=True)
    store.check(manifest("a", threads=2) | {"runs": {"a": "digest-2", "b": "digest-2"}}, mix_signatures=True)
    store.write(row("b"))
    store.check(manifest("a", "b", threads=2))  # all is done: nothing will be merged


def test_checkpoints_of_another_signature_are_refused_too(tmp_path):
    store = Store(tmp_path)
    store.open(manifest("a"))
    store.check(manifest("a", threads=2))  # nothing was made under the first
    (store.checkpoints("state", "digest-1") / "6").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds checkpoints made under another execution signature"):
        store.check(manifest("a", threads=2))
    store.check(manifest("a", threads=2), mix_signatures=True)
    assert store.other_checkpoints(store.checkpoints("state", "digest-2")) == [store.checkpoints("state", "digest-1")]


def test_a_fleet_looks_at_the_manifest_only(store):
    (store.directory / "rows" / "a.json").write_text("{")
    store.check(manifest("a", "b"), read_rows=False)
    with pytest.raises(UsageError, match="holds rows made under another execution signature"):
        store.check(manifest("a", "b", threads=2), read_rows=False)


def test_a_manifest_that_comes_while_a_sweep_looks_is_seen(tmp_path, monkeypatch):
    store, looks = Store(tmp_path), Store._holds_results

    def slowly(self):
        store.open(manifest("a", "b"))
        return looks(self)

    monkeypatch.setattr(Store, "_holds_results", slowly)
    store.check(manifest("a", "b"))
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(UsageError, match="holds results of a different configuration"):
        store.check(manifest("c"))


def test_processes_that_open_a_directory_at_once_see_each_other(tmp_path):
    """Eight sweeps, of two kinds, start in one new directory: one kind gets it, and the other is refused whole."""
    codes = []
    for number in range(8):
        if not (child := os.fork()):
            code, store = 9, Store(tmp_path / "new")
            wanted = manifest("a") if number % 2 else manifest("b")
            try:
                store.check(wanted)
                with store.opening():
                    store.check(wanted)
                    store.open(wanted)
                code = number % 2
            except UsageError as error:
                code = 2 if "different configuration" in str(error) else 3
            finally:
                os._exit(code)
        codes.append(child)
    found = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in codes]
    assert sorted(found) in ([0, 0, 0, 0, 2, 2, 2, 2], [1, 1, 1, 1, 2, 2, 2, 2])
    assert [path.name for path in (tmp_path / "new").iterdir() if path.name != "leases"] == ["manifest.json"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"runs": {}}'])
def test_a_damaged_manifest_is_named(store, content):
    (store.directory / "manifest.json").write_text(content)
    for look in (lambda: store.manifest, lambda: store.check(manifest("a", "b"))):
        with pytest.raises(UsageError, match=r"manifest\.json cannot be read .*Use another --workdir"):
            look()


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"is not empty and holds no manifest\. Use another --workdir"):
        Store(tmp_path).check(manifest("a"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(UsageError, match=r"file is not a directory. Use another --workdir"):
            Store(place).check(manifest("a"))


def test_a_place_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "results")
    with pytest.raises(UsageError, match=r"results cannot be written \(Not a directory\)\. .* another --workdir"):
        store.open(manifest("a"))
    with (
        pytest.raises(UsageError, match=r"results cannot be made \(Not a directory\)\. Use another --workdir"),
        store.opening(),
    ):
        pass


def test_a_place_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(UsageError, match=f"No permission to write to {tmp_path}. Use another --workdir"):
        Store(tmp_path / "deep" / "results").check(manifest("a"))
    assert list(tmp_path.iterdir()) == []


def test_json_is_strict_and_readable():
    text = dumps({"b": 1, "a": [float("nan"), 2.5, True, None]})
    assert json.loads(text, parse_constant=pytest.fail) == {"b": 1, "a": [None, 2.5, True, None]}
    assert text.startswith('{\n "b": 1')


def test_outputs_survive_the_row(tmp_path):
    probabilities = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], np.float16)
    labels = np.array([1, 0, 1], np.int32)
    text = json.dumps({"assignment": {}, "outputs": encoded({"probabilities": probabilities, "labels": labels})})
    found, found_labels = outputs(json.loads(text))
    assert found.dtype == np.float32
    assert (found == probabilities).all()
    assert (found_labels == labels).all()


def test_a_row_without_outputs_says_how_to_keep_them():
    with pytest.raises(UsageError, match="keep_outputs=True"):
        outputs({"assignment": {"l2": 0.1}, "outputs": encoded(None)})


def test_arrays_of_probes_survive_the_row():
    kernel = np.random.default_rng(0).standard_normal((2, 3, 1, 4))
    text = json.dumps({"assignment": {}, "arrays": encoded_arrays({"kernel": kernel, "empty": np.zeros((0, 2))})})
    found = arrays(json.loads(text))
    np.testing.assert_array_equal(found["kernel"], kernel.astype(np.float16).astype(np.float32))
    assert found["empty"].shape == (0, 2)
    assert found["kernel"].dtype == np.float32


def test_a_row_without_arrays_says_how_to_get_them():
    with pytest.raises(UsageError, match="kept no arrays"):
        arrays({"assignment": {"l2": 0.1}, "arrays": encoded_arrays({})})
