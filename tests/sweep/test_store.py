import errno
import json
import os
import signal
import threading
import time

import numpy as np
import pytest

from cnnjax import process
from cnnjax.process import write_atomically
from cnnjax.sweep.kept import arrays, encoded, encoded_arrays, outputs
from cnnjax.sweep.place import Unwritable
from cnnjax.sweep.store import Store, dumps
from cnnjax.sweep.validity import check_row, content_digest
from cnnjax.train.spec import digest
from cnnjax.typing import UsageError


def run(name):
    """The id of the run whose spec says so."""
    return digest({"hyper": {}, "seed": 0, "spec": {"name": name}})


def signature(name, threads=1):
    return {"spec": digest({"name": name}), "threads": threads}


def row(name, **content):
    """A whole row, of the run ``name``."""
    made = signature(name)
    return {
        **{"run_id": run(name), "assignment": {}, "seed": 0, "spec": {"name": name}, "hyper": {}, "status": "done"},
        **{"signature": made, "signature_digest": digest(made), "data": "abc", "parameters_digest": "0"},
        **{"metrics": {}, "history": [], "diverged_step": None, **content},
    }


def manifest(*names, threads=1, data="abc", **configuration):
    signatures = {name: signature(name, threads) for name in names}
    return {
        "configuration": {"spec": {"steps": 3}, **configuration},
        "runs": {run(name): digest(made) for name, made in signatures.items()},
        "signatures": {digest(made): made for made in signatures.values()},
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
    assert store.read(run("b")) == row("b", **content)
    assert store.done([run("a"), run("b"), run("c")]) == {run("a"), run("b")}


def test_what_is_not_finite_becomes_null(store):
    store.write(row("b", metrics={"loss": float("nan"), "error": float("inf")}, history=[(1, -float("inf"))]))
    assert store.read(run("b")) == row("b", metrics={"loss": None, "error": None}, history=[[1, None]])


def test_a_row_is_never_written_twice(store):
    before = files(store)
    store.write(row("a", metrics={"loss": 7.0}))
    assert files(store) == before


def test_rows_may_be_read_by_others(store):
    modes = {path.name: path.stat().st_mode & 0o777 for path in store.directory.rglob("*.json")}
    assert modes == {"manifest.json": 0o644, f"{run('a')}.json": 0o644}


@pytest.mark.slow
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
    assert names == sorted(f"{run(name)}.json" for name in ("a", *(f"run{number}" for number in range(200))))
    found = [store.read(run(f"run{number}")) for number in range(200)]
    assert all(each == row(each["spec"]["name"], writer=each["writer"], text="x" * 5000) for each in found)
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
    assert all(len(store.read(path.stem)["text"]) == 100_000 for path in rows if path.stem != run("a"))
    store.checkpoints("bundle", "signature").mkdir(parents=True)
    store.clean([run("a"), run("b")])
    assert store.checkpoints("bundle", "signature").exists()  # b is not done
    store.clean([run("a")])
    assert {path.name for path in store.directory.iterdir()} == {"manifest.json", "rows"}
    assert set((store.directory / "rows").iterdir()) == {*rows, living}


@pytest.mark.parametrize("failing", ["os.fsync", "os.link"])
def test_a_full_disk_leaves_no_row(store, failing, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    before = files(store)
    monkeypatch.setattr(failing, full)
    with pytest.raises(Unwritable, match="No space left"):
        store.write(row("b"))
    monkeypatch.undo()
    assert files(store) == before
    assert store.done([run("b")]) == set()
    store.write(row("b"))
    assert store.read(run("b")) == row("b")


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
    path = store.directory / "rows" / f"{run('b')}.json"
    content = path.read_bytes()
    refused = 0
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        try:
            found = store.read(run("b"))  # where it is white space, or the name of the digest, all is still there
        except UsageError:
            refused += 1
        else:
            assert {name: found[name] for name in intact} == intact
    assert refused > 100
    path.write_bytes(content.replace(b"0.125", b"0.126"))
    with pytest.raises(UsageError, match="it is not what was written"):
        store.read(run("b"))


def test_a_failure_stands_until_the_run_is_done(store):
    store.fail(run("b"), "its worker died", worker="w")
    store.fail(run("b"), "no memory", worker="w")
    (failure,) = store.failures().values()
    assert (failure["run_id"], failure["reason"], failure["worker"]) == (run("b"), "no memory", "w")
    store.write(row("b"))
    assert store.failures() == {}
    store.clean([run("a"), run("b")])
    assert not (store.directory / "failed").exists()


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "b"}', "[]", '{"status": "done"}'])
def test_a_damaged_row_is_named(store, content):
    path = store.directory / "rows" / f"{run('a')}.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"rows/\w+\.json cannot be read .* Remove it to have the run repeated"):
        store.read(run("a"))
    with pytest.raises(UsageError, match=r"rows/\w+\.json cannot be read"):
        store.check(manifest("a", "b"))


def test_a_missing_row_is_named(store):
    with pytest.raises(UsageError, match=r"rows/\w+\.json cannot be read"):
        store.read(run("b"))


def rewritten(store, **changed):
    """The row of a with some parts changed, or without those that are None, and with the digest of what it is now."""
    new = {name: value for name, value in {**row("a"), **changed}.items() if value != "missing"}
    (store.directory / "rows" / f"{run('a')}.json").write_text(dumps({**new, "sha256": content_digest(new)}))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"run_id": run("b")}, "it is not the row of this run"),
        (row("b") | {"run_id": run("a")}, "its spec, numbers and seed are those of another run"),
        ({"seed": 1}, "its spec, numbers and seed are those of another run"),
        ({"hyper": {"l2": 0.1}}, "its spec, numbers and seed are those of another run"),
        ({"signature": signature("a", 2)}, "its execution signature is not the one"),
        ({"signature": signature("b"), "signature_digest": digest(signature("b"))}, "is that of another spec"),
        ({"signature": {}, "signature_digest": digest({})}, "is that of another spec"),
        *[({name: "missing"}, f"it has no {name}") for name in ("seed", "hyper", "signature", "metrics", "data")],
        *[({name: 7}, f"its {name} is 7, not a ") for name in ("spec", "assignment", "metrics", "status", "history")],
        ({"seed": True}, "its seed is true, not a whole number"),
        ({"seed": 0.0}, r"its seed is 0\.0, not a whole number"),
    ],
)
def test_a_row_of_another_run_or_form_is_refused(store, changed, reason):
    rewritten(store, **changed)
    with pytest.raises(UsageError, match=reason):
        store.read(run("a"))
    with pytest.raises(UsageError, match=reason):
        store.check(manifest("a", "b"))


def test_a_row_without_its_digest_is_refused(store):
    path = store.directory / "rows" / f"{run('a')}.json"
    path.write_text(dumps(row("a")))
    with pytest.raises(UsageError, match="it has no digest of itself"):
        store.read(run("a"))


def test_a_row_says_what_it_was_assigned():
    found = {**row("a"), "hyper": {"l2": 0.1}, "assignment": {"l2": 0.2}}
    found["run_id"] = digest({"hyper": found["hyper"], "seed": 0, "spec": found["spec"]})
    with pytest.raises(ValueError, match=r"it is assigned l2=0\.2, and its numbers have 0\.1"):
        check_row({**found, "sha256": content_digest(found)}, found["run_id"])


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": "of another"}, r"it was made with other data \(of another\)"),
        (
            {"signature": signature("a", 3), "signature_digest": digest(signature("a", 3))},
            "it was made under a signature .* that the manifest does not have",
        ),
    ],
)
def test_a_row_of_another_sweep_is_refused_also_where_all_is_done(store, changed, reason):
    store.write(row("b"))
    rewritten(store, **changed)
    for look in (lambda: store.check(manifest("a", "b")), lambda: store.read(run("a"), store.manifest)):
        with pytest.raises(UsageError, match=reason):
            look()


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
    assert store.read(run("a")) == row("a")


def test_a_new_directory_is_opened_and_nothing_is_made_before(tmp_path):
    store = Store(tmp_path / "deep" / "results")
    assert store.manifest is None
    assert store.done([run("a")]) == set()
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
    store.clean([run("a")])
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("wanted", "parts"),
    [
        (
            manifest("b", "c", spec={"steps": 5}),
            ["different configuration: there: steps 3; asked: 5", 'there: "steps": 3', 'asked: "steps": 5'],
        ),
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
    store.check(manifest("a", threads=2) | {"runs": manifest("a", "b", threads=2)["runs"]}, mix_signatures=True)
    store.write(row("b"))
    store.check(manifest("a", "b", threads=2))  # all is done: nothing will be merged
    before = files(store)
    store.open({**manifest("a", "b", threads=2), "command": "another"})  # and the manifest says what made the rows
    assert files(store) == before


def test_checkpoints_of_another_signature_are_refused_too(tmp_path):
    store = Store(tmp_path)
    store.open(manifest("a"))
    store.check(manifest("a", threads=2))  # nothing was made under the first
    old, new = (digest(signature("a", threads)) for threads in (1, 2))
    (store.checkpoints("state", old) / "6").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds checkpoints made under another execution signature"):
        store.check(manifest("a", threads=2))
    store.check(manifest("a", threads=2), mix_signatures=True)
    assert store.other_checkpoints(store.checkpoints("state", new)) == [store.checkpoints("state", old)]


def test_a_fleet_looks_at_the_manifest_only(store):
    (store.directory / "rows" / f"{run('a')}.json").write_text("{")
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


@pytest.mark.parametrize(
    "content",
    [
        *["", "{", "[]", "{}", '{"runs": {}}'],
        *[dumps({**manifest("a"), name: value}) for name, value in (("runs", []), ("runs", {"a": 1}), ("data", None))],
        *[dumps({**manifest("a"), name: value}) for name, value in (("signatures", {"a": 1}), ("weights", [1]))],
        *[dumps({**manifest("a"), name: value}) for name, value in (("created", 7), ("code", "x"), ("command", {}))],
    ],
)
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


@pytest.mark.parametrize("call", ["link", "replace", "mkdir"])
def test_a_place_where_something_cannot_be_done_is_refused(tmp_path, monkeypatch, call):
    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(UsageError, match=rf"written to {tmp_path} \(Permission denied\)\. .* use another --workdir"):
        Store(tmp_path / "deep" / "results").check(manifest("a"))
    monkeypatch.undo()
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
