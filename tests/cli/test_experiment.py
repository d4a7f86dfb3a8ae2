import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cnnjax import cli
from cnnjax.cli import experiment
from cnnjax.sweep import bundle as bundles
from cnnjax.sweep import rule
from cnnjax.train.program import Driver
from tests.fixtures import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def call(tmp_path):
    """``call(*argv)``: the exit code of the tiny experiment's smoke preset, in this process."""
    return lambda *argv: cli.main(tiny, ["--preset=smoke", "--workers=0", f"--workdir={tmp_path}", *argv])


@pytest.fixture
def results(tmp_path):
    return tmp_path / "tiny"


def times(directory):
    return {path.name: path.stat().st_mtime_ns for path in (directory / "rows").iterdir()}


def table(directory):
    with (directory / "results.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_an_experiment_leaves_rows_table_verdict_report_and_figures(call, results, capsys):
    assert call() == 0
    assert {path.name for path in results.iterdir()} == {
        "manifest.json", "rows", "log", "results.csv", "verdict.json", "report.html", "figures"
    }  # fmt: skip
    assert [(float(line["l2"]), int(line["seed"]), line["status"]) for line in table(results)] == [
        (l2, seed, "done") for l2 in (0.0, 0.01) for seed in (0, 1)
    ]
    verdict = json.loads((results / "verdict.json").read_text())
    assert set(verdict) == {"experiment", "preset", "claims"}
    assert (verdict["experiment"], verdict["preset"]) == ("tiny", "smoke")
    for claim, found in zip(tiny.CLAIMS, verdict["claims"], strict=True):
        assert found["id"] == claim.id
        assert (found["statement"], found["source"], found["rule"]) == (claim.statement, claim.source, claim.rule)
        assert (found["verdict"], found["n"]) == ("inconclusive", 2)
        assert len(found["interval"]) == 2
    assert len(list((results / "figures").glob("*.svg"))) == len(tiny.FIGURES)
    manifest = json.loads((results / "manifest.json").read_text())
    assert (manifest["experiment"], manifest["preset"]) == ("tiny", "smoke")
    printed = capsys.readouterr()
    for part in (tiny.TITLE, "4 of 4 runs to do; 1 training programs", "inconclusive", "report.html"):
        assert part in printed.out
    assert printed.err == ""


@pytest.mark.slow
def test_a_second_call_only_reports(call, results, capsys, monkeypatch):
    assert call() == 0
    before, written = times(results), (results / "results.csv").read_bytes()
    (results / "report.html").unlink()
    monkeypatch.setattr(bundles, "train", lambda *args, **options: pytest.fail("a bundle was trained"))
    capsys.readouterr()
    assert call() == 0
    assert "all 4 runs are done" in capsys.readouterr().out
    assert times(results) == before
    assert (results / "results.csv").read_bytes() == written
    assert (results / "report.html").exists()


@pytest.mark.slow
def test_presets_do_not_stand_in_each_others_way(call, results, tmp_path):
    assert call() == 0
    before = times(results)
    assert call("--preset=quick", "--steps=6", "--evaluate_every=0", "--seeds=2") == 0
    assert call("--preset=quick", "--steps=6", "--evaluate_every=0", "--seeds=2") == 0  # there is nothing left to do
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny", "tiny-quick"]
    presets = [json.loads((path / "verdict.json").read_text())["preset"] for path in (results, tmp_path / "tiny-quick")]
    assert presets == ["smoke", "quick"]
    assert times(results) == before


@pytest.mark.slow
def test_more_seeds_continue_and_other_numbers_are_refused(call, results, capsys):
    assert call() == 0
    before = times(results)
    assert call("--seeds=3") == 0
    assert "2 of 6 runs to do" in capsys.readouterr().out
    assert times(results).items() > before.items()
    assert {claim["n"] for claim in json.loads((results / "verdict.json").read_text())["claims"]} == {3}
    written = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    for argv in (["--learning_rate=0.01", "--seeds=3"], ["--steps=7", "--seeds=3"]):
        assert call(*argv) == 2
        assert "holds results of a different configuration" in capsys.readouterr().err
    assert call("--seeds=1") == 2
    assert "has the seeds 0 to 2; asked: 0. A sweep may grow, not shrink" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == written


@pytest.mark.slow
def test_flags_and_axes_reach_the_runs(call, results):
    assert call("--sweep=l2=0,0.5,0.7", "--sweep=label_noise=0.0,0.3", "--momentum=0.5", "--seeds=1") == 0
    rows = [json.loads(path.read_text()) for path in (results / "rows").iterdir()]
    assert sorted((row["hyper"]["l2"], row["hyper"]["label_noise"]) for row in rows) == [
        (l2, noise) for l2 in (0.0, 0.5, 0.7) for noise in (0.0, 0.3)
    ]
    assert {row["hyper"]["momentum"] for row in rows} == {0.5}
    assert {row["hyper"]["dropout"] for row in rows} == {0.1}


@pytest.mark.slow
def test_seeds_count_from_the_first(call, results):
    assert call("--seeds=1", "--first_seed=7") == 0
    assert [line["seed"] for line in table(results)] == ["7", "7"]
    assert call("--seeds=2", "--first_seed=6") == 0  # one more, before it
    assert sorted({line["seed"] for line in table(results)}) == ["6", "7"]


def test_claims_whose_axis_is_gone_are_not_judged(call, results, capsys):
    assert call("--l2=0.01") == 0
    printed = capsys.readouterr()
    assert "The claims will not be judged: the conditions lack 'l2'" in printed.err
    assert json.loads((results / "verdict.json").read_text())["claims"] == []
    assert len(table(results)) == 2
    assert [path.name for path in (results / "figures").glob("*.svg")] == ["1_finals.svg"]


@pytest.mark.slow
def test_ambiguous_claims_are_not_judged(call, results, capsys):
    assert call("--sweep=label_smoothing=0,0.1", "--seeds=1") == 0
    assert "The claims will not be judged: Two runs of seed 0 match" in capsys.readouterr().err
    assert json.loads((results / "verdict.json").read_text())["claims"] == []
    assert len(table(results)) == 4


@pytest.mark.slow
def test_runs_that_diverge_are_reported(call, results, capsys):
    assert call("--learning_rate=1e30") == 0
    assert {line["status"] for line in table(results)} == {"diverged"}
    assert all(int(line["diverged_step"]) <= 3 for line in table(results))
    verdict = json.loads((results / "verdict.json").read_text())
    assert {(claim["verdict"], claim["n"], claim["effect"]) for claim in verdict["claims"]} == {
        ("inconclusive", 0, None)
    }
    assert "4 diverged" in (results / "report.html").read_text()


def test_the_plan_writes_nothing(call, tmp_path, capsys):
    assert call("--plan", "--sweep=batch_size=16,32") == 0
    printed = capsys.readouterr().out
    for part in ("8 runs (8 to do)", "2 training programs", "minutes", "MiB", "592"):  # multiply-adds per image
        assert part in printed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_help_needs_no_plan(call, tmp_path, capsys):
    for flag in ("--help", "-h"):
        assert call("--learning_rate=-1", flag) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("A dense net with and without a penalty")
        assert "--learning_rate" in printed
    assert list(tmp_path.iterdir()) == []


def test_calibration_is_printed_and_recorded(call, tmp_path, capsys, monkeypatch):
    measured = {Driver("scan", 8): 10.0, Driver("loop", 4): 30.0}
    monkeypatch.setattr(rule, "calibrate", lambda *args: measured)
    pinned = []
    monkeypatch.setattr(experiment, "pin", lambda *args: pinned.append(args))
    assert call("--calibrate") == 0
    assert pinned == [(0, 1)]
    printed = capsys.readouterr().out
    assert "scan (the rule)" in printed
    assert "Fastest here: --driver=loop --lanes=4" in printed
    (record,) = json.loads((tmp_path / "tiny.calibration.json").read_text())
    assert record["best"] == Driver("loop", 4)._asdict()
    assert record["rule"] == Driver("scan", 8)._asdict()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.calibration.json"]


# Failing and stopping


@pytest.mark.slow
def test_a_failed_bundle_gives_1_and_the_same_command_repeats_it(call, results, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(bundles, "train", lambda *args, **options: (_ for _ in ()).throw(MemoryError("too much")))
        assert call() == 1
    message = capsys.readouterr().err
    assert "1 of 1 bundles failed; the first (l2=0.0): " in message
    assert "out of memory (too much). Use a smaller batch_size" in message
    assert "the same command tries the others again" in message
    assert not (results / "verdict.json").exists()
    assert call() == 0
    assert len(table(results)) == 4


@pytest.mark.parametrize("name", ["start", "rows"])
def test_ctrl_c_before_or_after_the_runs(call, capsys, monkeypatch, name):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"cnnjax.cli.experiment.Session.{name}", interrupt)
    assert call() == 130
    assert capsys.readouterr().err == "tiny: stopped. The same command resumes.\n"


@pytest.mark.slow
def test_changed_data_stop_the_sweep(call, results, capsys, monkeypatch):
    assert call() == 0
    changed = json.loads((results / "manifest.json").read_text())
    changed["data"]["digits"] = "0" * 64
    (results / "manifest.json").write_text(json.dumps(changed))
    for row in (results / "rows").iterdir():
        row.unlink()
    before = times(results)
    assert call("--seeds=3") == 2
    assert f"there: digits {'0' * 64}; asked: " in capsys.readouterr().err
    assert times(results) == before


@pytest.fixture
def on_one_core():
    """Processes started by the test have one core, so that their threads are those of a pinned worker."""
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("the system cannot pin processes")
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


@pytest.mark.slow
def test_a_command_that_is_stopped_and_repeated_gives_the_uninterrupted_table(tmp_path, on_one_core):
    def start(directory, *argv):
        command = [sys.executable, "-m", "tests.fixtures.tiny", "--preset=quick", f"--workdir={tmp_path / directory}"]
        return subprocess.Popen(
            [*command, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    stopped = start("stopped", "--workers=1", "--checkpoint_seconds=0")
    deadline = time.monotonic() + 120
    while not list((tmp_path / "stopped").glob("tiny/checkpoints/*/[0-9]*")):
        assert stopped.poll() is None, stopped.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(stopped.pid, signal.SIGTERM)  # as a scheduler does: to the command and its worker
    out, err = stopped.communicate(timeout=60)
    assert stopped.returncode == 130, (out, err)
    assert err == "tiny: stopped; the state is saved. The same command resumes.\n"
    assert not (tmp_path / "stopped" / "tiny" / "results.csv").exists()
    assert list((tmp_path / "stopped").glob("tiny/checkpoints/*/[0-9]*"))

    # The rest without a worker process, on a core of its own: the same signature and the same bits.
    both = [start("stopped", "--workers=0"), start("whole", "--workers=0")]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, ""), out
    tables = [(tmp_path / name / "tiny" / "results.csv").read_bytes() for name in ("stopped", "whole")]
    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + 2 * tiny.SEEDS["quick"]
    assert not list(tmp_path.rglob("checkpoints"))
    assert not list(tmp_path.rglob(".partial*"))
