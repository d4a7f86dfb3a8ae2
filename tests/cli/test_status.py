import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjax.cli.command import main
from cnnjax.cli.commands import status
from cnnjax.sweep.log import Log
from cnnjax.sweep.store import Store
from tests.fixtures.command import refused, rows_of, run
from tests.fixtures.finished import finished, original

__all__ = ["finished", "original", "refused", "run"]

ROOT = Path(__file__).parents[2]


def told(run, directory):
    """The status of one sweep as JSON."""
    (found,) = json.loads(run("status", directory, "--json"))
    return found


def rows(directory):
    return sorted((directory / "rows").glob("*.json"))


def test_a_finished_sweep(run, original):
    found = told(run, original)
    assert (found["total"], found["done"], found["diverged"], found["failed"]) == (4, 4, 0, {})
    assert (found["running"], found["waiting"], found["problems"], found["damaged"]) == (0, 0, [], [])
    assert found["per_minute"] == pytest.approx(0.4)
    assert rows_of(run("status", original))[str(original)][:6] == ["4", "4", "0", "0", "0", "0"]
    run("status", original, "--follow")  # ends


def test_running_waiting_failed_and_diverged_runs(run, finished):
    kept, busy, lost, bad = (path.stem for path in rows(finished))
    for path in rows(finished)[1:]:
        path.unlink()
    path = finished / "rows" / f"{kept}.json"
    path.write_text(path.read_text().replace('\n "status": "done"', '\n "status": "diverged"'))
    store = Store(finished)
    lease = store.leases("host-1-0", 60.0).acquire("bundle1", runs=[kept, busy], program="p")
    log = Log(finished, "host-1-0")
    log.write("progress", bundle="bundle1", runs=[kept, busy], step=6, steps=12, images_per_second=40.0)
    log.close()
    store.leases("host-2-0", 60.0).acquire("bundle2", runs=[lost], program="p")
    hour_ago = time.time() - 3600
    os.utime(finished / "leases" / "bundle2.1", (hour_ago, hour_ago))
    store.fail(bad, "Traceback\nValueError: no such thing", worker="host-1-0")
    found = told(run, finished)
    counts = {name: found[name] for name in ("total", "done", "diverged", "running", "waiting")}
    assert counts == {"total": 4, "done": 0, "diverged": 1, "running": 1, "waiting": 1}
    assert found["failed"] == {bad: "Traceback\nValueError: no such thing"}
    assert [(each["runs"], each["live"], each["step"]) for each in found["working"]] == [
        ([busy], True, 6), ([lost], False, None),
    ]  # fmt: skip
    mean = json.loads(path.read_text())["seconds"]
    assert found["seconds_left"] == pytest.approx(1.5 * mean)  # half of the one, and the other; one worker
    text = run("status", finished)
    assert f"running {busy}: step 6 of 12, 40 images/s; host-1-0" in text
    assert f"lost    {lost}: host-2-0" in text
    assert "silent since 60 min" in text
    assert f"failed {bad}: ValueError: no such thing" in text
    lease.release()
    assert told(run, finished)["running"] == 0


@pytest.mark.slow
def test_a_holder_that_was_killed_is_lost_at_once(run, finished):
    rows(finished)[0].rename(finished / "gone")
    name = (finished / "gone").read_text().split('"run_id": "')[1][:16]
    code = (
        "import sys; from pathlib import Path; from cnnjax.sweep.lease import Leases\n"
        f"Leases(Path({str(finished / 'leases')!r}), 'w').acquire('b', runs=[{name!r}])"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    found = told(run, finished)
    assert [(each["worker"], each["live"]) for each in found["working"]] == [("w", False)]
    assert (found["running"], found["waiting"]) == (0, 1)


def test_half_copied_and_damaged_directories_say_what_is_missing(run, finished, tmp_path):
    path = rows(finished)[0]
    path.write_text(path.read_text()[:-100])
    (finished / "rows" / "stranger.json").write_text(json.dumps({"run_id": "stranger", "status": "done", "seconds": 1}))
    found = told(run, finished)
    assert (found["total"], found["done"], found["waiting"], found["damaged"]) == (4, 3, 0, [path.stem])
    assert "The manifest does not name 1 (stranger)." in found["problems"]
    assert f"refuse to read: 1 ({path.stem})." in run("status", finished)
    rows(finished)[1].unlink()
    assert told(run, finished)["waiting"] == 1
    (finished / "manifest.json").write_text("{")
    assert "manifest.json cannot be read" in told(run, finished)["problems"][0]
    (finished / "manifest.json").unlink()
    found = told(run, finished)
    assert (found["total"], found["done"]) == (4, 3)
    assert "It has no manifest.json" in found["problems"][0]


@pytest.mark.parametrize("part", ["data", "signature_digest"])
def test_rows_of_another_sweep_are_named(run, finished, part):
    path = rows(finished)[0]
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, part: "0" * 16}, indent=1) + "\n")
    assert told(run, finished)["problems"] == [
        f"Rows of other data or of another signature than the manifest has: 1 ({path.stem})."
    ]


def test_a_folder_of_several_and_committed_evidence(run, finished):
    shutil.copytree(finished, finished.parent / "other" / "inner")
    found = json.loads(run("status", finished.parent, "--json"))
    assert [Path(each["directory"]).name for each in found] == ["sweep", "inner"][::-1]
    (each,) = json.loads(run("status", ROOT / "experiments" / "results" / "gridding", "--json"))
    assert (each["total"], each["done"], each["waiting"]) == (20, 20, 0)


def test_following_prints_changes_and_ends_with_the_sweep(capsys, unchecked, finished, monkeypatch):
    hidden = [path.rename(finished / path.name) for path in rows(finished)[:2]]

    def sleep(seconds):
        if not hidden:
            raise AssertionError("it goes on although all is done")
        path = hidden.pop()
        path.rename(finished / "rows" / path.name)

    monkeypatch.setattr(status.time, "sleep", sleep)
    assert main(["status", str(finished), "--follow"]) == 0
    lines = [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["2 of 4 done, 2 waiting", "3 of 4 done, 1 waiting", "4 of 4 done"]


@pytest.mark.slow
def test_ctrl_c_ends_following_with_130(finished):
    rows(finished)[0].unlink()
    command = [sys.executable, "-m", "cnnjax", "status", str(finished), "--follow"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    ) as process:  # fmt: skip
        try:
            assert "3 of 4 done, 1 waiting" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (130, "", "cnnjax status: stopped.\n")


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "Name the directory of a sweep"),
        (["/no/such"], "There is no directory /no/such"),
        (["tests"], "tests is no directory of a sweep"),
        (["runs", "--folow"], "Did you mean '--follow'"),
        (["runs", "--follow", "--json"], "exclude each other"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(refused, argv, part):
    assert part in refused("status", *argv)
