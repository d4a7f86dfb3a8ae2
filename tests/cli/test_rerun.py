import json
import shutil

import pytest

from cnnjax.cli import results
from cnnjax.cli.command import main
from cnnjax.cli.commands import rerun
from cnnjax.report.table import write_results_csv
from cnnjax.sweep.bundle import threads_here
from cnnjax.train.spec import to_json
from tests.cli.test_compare import change
from tests.fixtures.command import refused, run
from tests.fixtures.finished import finished, original

__all__ = ["finished", "original", "refused", "run"]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_run_is_repeated_to_the_bit_and_its_sweep_stays_as_it_is(run, original, tmp_path):
    before = contents(original)
    name = next(iter(results.read(original).rows))
    text = run("rerun", original, name[:6], f"--keep={tmp_path / 'again'}")
    assert text.endswith("The bits agree.\n")
    assert "parameters digest  yes" in text
    assert "history            yes" in text
    assert contents(original) == before
    old, new = (results.read(each).rows[name] for each in (original, tmp_path / "again"))
    assert (old["signature"], old["history"]) == (new["signature"], new["history"])
    assert main(["rerun", str(original), name, f"--keep={tmp_path / 'again'}"]) == 2  # it is there already


@pytest.mark.slow
def test_other_bits_and_other_versions_are_said(capsys, unchecked, finished):
    name, row = next(iter(results.read(finished).rows.items()))
    metrics = {**row["metrics"], "test_loss": row["metrics"]["test_loss"] + 1}
    change(finished, name, parameters_digest="0" * 64, metrics=metrics, signature={**row["signature"], "jax": "0.9"})
    assert main(["rerun", str(finished), name]) == 1
    out = capsys.readouterr().out
    assert "test_loss differs by 1\n" in out
    assert 'The signatures differ: jax: "0.9" and ' in out
    assert out.endswith("The bits differ.\n")


def test_committed_evidence_has_what_a_run_is_in_its_manifest(original, tmp_path):
    shutil.copy(original / "manifest.json", tmp_path)
    rows = results.read(original).rows
    write_results_csv(tmp_path / "results.csv", rows.values())
    committed = results.read(tmp_path)
    assert committed.committed
    for name, row in rows.items():
        point = rerun.point_of(rerun.chosen(committed, name), committed.manifest)
        assert (point.run_id, to_json(point.spec)) == (name, row["spec"])
        assert rerun.signature(committed.rows[name], committed) == row["signature"]
        assert point == rerun.point_of(row, {})


def test_what_cannot_be_repeated_is_refused(refused, finished):
    found = results.read(finished)
    name, row = next(iter(found.rows.items()))
    assert f"No run of {finished} begins with 'zz'. Nearest: " in refused("rerun", finished, "zz")
    assert "Several runs" in refused("rerun", finished, "")
    cores = threads_here() + 1
    change(finished, name, signature={**row["signature"], "threads": cores})
    assert f"made on {cores} cores" in refused("rerun", finished, name)
    name = change(finished, name, spec={**row["spec"], "stesp": 3}, signature=row["signature"])
    assert "Unknown field of Spec 'stesp'" in refused("rerun", finished, name)
    name = change(finished, name, spec={**row["spec"], "model": {"module": "no.such:Net"}})
    assert "The network 'no.such:Net' of a row cannot be found" in refused("rerun", finished, name)
    name = change(finished, name, spec={**row["spec"], "weights": "sha256:0"})
    assert "No file is known with the weights sha256:0" in refused("rerun", finished, name)
    (finished / "rows" / f"{name}.json").write_text("{")
    assert f"{name}.json cannot be read" in refused("rerun", finished, name)
    manifest = json.loads((finished / "manifest.json").read_text())
    shutil.rmtree(finished / "rows")
    write_results_csv(finished / "results.csv", found.rows.values())
    (finished / "manifest.json").write_text(json.dumps({**manifest, "configuration": {}}))
    assert "The manifest does not say what the run" in refused("rerun", finished, next(iter(found.rows)))


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["runs"], "Name the directory of a sweep and a run"),
        (["/usr", "a"], "/usr is no directory of a sweep"),
        (["a", "b", "c"], "Unexpected argument 'c'"),
        (["a", "b", "--kep=c"], "Did you mean '--keep'"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(refused, argv, part):
    assert part in refused("rerun", *argv)


def test_no_code_runs_that_only_a_row_names(refused, finished, tmp_path, monkeypatch):
    name, row = next(iter(results.read(finished).rows.items()))
    ran = tmp_path / "ran"
    (tmp_path / "evil_module.py").write_text(
        f"open({str(ran)!r}, 'w').close()\nimport flax.linen as nn\nNet = nn.Dense\n"
    )
    monkeypatch.chdir(tmp_path)
    network = {"module": "evil_module:Net", "features": 3}
    places = ({"model": network}, {"model": network, "stesp": 3}, {"model_fields": [["act", "evil_module:Net"]]})
    for changed, part in zip(
        places, ("--code=evil_module", "Unknown field of Spec 'stesp'", "--code=evil_module"), strict=True
    ):
        name = change(finished, name, spec={**row["spec"], **changed})
        assert part in refused("rerun", finished, name)
    name = change(finished, name, spec={**row["spec"], "model": network, "weights": "sha256:0"})
    assert "No file is known with the weights" in refused("rerun", finished, name, "--code=evil_module")
    name = change(finished, name, spec={**row["spec"], "model": network})
    name = change(finished, name, signature={**row["signature"], "threads": threads_here() + 1})
    assert "cores" in refused("rerun", finished, name, "--code=evil_module")
    assert main(["status", str(finished)]) == 0
    assert main(["compare", str(finished), str(finished)]) == 0
    assert not ran.exists()
    monkeypatch.syspath_prepend(tmp_path)
    assert rerun.point_of(results.read(finished).rows[name], {}, ["evil_module"]).spec.model.features == 3
    assert ran.exists()
