import json
import shutil
from pathlib import Path

import pytest

from cnnjax.cli.command import main
from cnnjax.cli.results import condition, from_csv, label, read
from cnnjax.report.table import write_results_csv
from cnnjax.sweep.validity import content_digest
from cnnjax.train.spec import digest
from tests.fixtures.command import refused, run
from tests.fixtures.finished import finished, original

__all__ = ["finished", "original", "refused", "run"]

COMMITTED = Path(__file__).parents[2] / "experiments" / "results"


@pytest.fixture
def compare(capsys, unchecked):
    """``compare(DIR, DIR)``: exit code, what is printed, and the same as JSON."""

    def call(*directories):
        names = list(map(str, directories))
        codes = {main(["compare", *names]), main(["compare", *names, "--json"])}
        out = capsys.readouterr().out
        at = out.index('{\n "directories"')
        (code,) = codes
        return code, out[:at], json.loads(out[at:])

    return call


def change(directory, run, **values):
    """A row with other values, as if it had been made so; returns the id of its run, which may be another then."""
    path, manifest = directory / "rows" / f"{run}.json", json.loads((directory / "manifest.json").read_text())
    row = {name: value for name, value in {**json.loads(path.read_text()), **values}.items() if name != "sha256"}
    row["run_id"] = digest({name: row[name] for name in ("hyper", "seed", "spec")})
    row["signature"] = {**row["signature"], "spec": digest(row["spec"])}
    row["signature_digest"] = digest(row["signature"])
    manifest["signatures"][row["signature_digest"]] = row["signature"]
    manifest["runs"][row["run_id"]] = row["signature_digest"]
    path.unlink()
    path.with_stem(row["run_id"]).write_text(json.dumps({**row, "sha256": content_digest(row)}))
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return row["run_id"]


def test_the_same_bits_agree(compare, original, finished):
    code, text, found = compare(original, finished)
    assert code == 0
    assert text == "4 runs are in both: 4 by their ids, 0 by assignment and seed. The bits of 4 agree.\n"
    assert (found["runs"], found["agree"], found["differ"]) == (4, 4, [])


def test_other_bits_under_one_signature_are_not_explained(compare, original, finished):
    run, row = next(iter(read(original).rows.items()))
    error = row["metrics"]["test_error"]
    change(finished, run, parameters_digest="0" * 64, metrics={**row["metrics"], "test_error": error + 0.25})
    code, text, found = compare(original, finished)
    assert (code, found["unexplained"], found["largest"]) == (1, 1, {"test_error": pytest.approx(0.25)})
    assert label(row) in text
    assert "test_error 0.25" in text
    assert "NOT EXPLAINED" in text
    assert "Warning: the bits of 1 runs differ though their signatures are the same." in text


def test_another_signature_explains(compare, original, finished):
    for name, row in read(original).rows.items():
        change(finished, name, parameters_digest="0" * 64, signature={**row["signature"], "jax": "0.9", "lanes": 1})
    code, text, found = compare(original, finished)
    assert (code, found["unexplained"], found["agree"]) == (1, 0, 0)
    assert "4 runs differ, made with lanes: 2 and 1; jax: " in text
    assert "NOT EXPLAINED" not in text


def test_rows_whose_ids_differ_are_matched_by_assignment_and_seed(compare, original, finished):
    names = []
    for name, row in sorted(read(finished).rows.items()):
        older = {name: value for name, value in row["spec"].items() if name != "cache_features"}  # not yet a field
        names.append(change(finished, name, spec=older))
    (finished / "rows" / f"{names[3]}.json").unlink()
    code, text, found = compare(original, finished)
    assert (code, found["runs"], found["by_id"], found["agree"]) == (0, 3, 0, 3)
    assert "3 runs are in both: 0 by their ids, 3 by assignment and seed." in text
    assert f"1 runs are only in {original}:" in text
    change(finished, names[0], spec={**older, "steps": 13}, parameters_digest="0")
    assert compare(original, finished)[2]["differ"][0]["causes"] == ["steps: 12 and 13"]


def test_committed_evidence_is_compared_by_its_csv(compare, original, tmp_path):
    (tmp_path / "committed").mkdir()
    shutil.copy(original / "manifest.json", tmp_path / "committed")
    write_results_csv(tmp_path / "committed" / "results.csv", read(original).rows.values())
    assert compare(original, tmp_path / "committed")[0] == 0
    code, text, found = compare(COMMITTED / "gridding", COMMITTED / "gridding-cifar10")
    assert (code, found["runs"], found["unexplained"]) == (1, 20, 0)
    assert "steps: 150 and 600" in text
    assert compare(original, COMMITTED / "gridding")[0] == 1  # nothing in common
    (tmp_path / "committed" / "results.csv").write_text("a,b\n1,2\n")
    assert main(["compare", str(original), str(tmp_path / "committed")]) == 2


def test_a_text_that_could_be_a_formula_is_the_same_in_a_csv(tmp_path):
    rows = [{"assignment": {"model": "=1+1"}, "seed": 0, "status": "done", "metrics": {}}]
    write_results_csv(tmp_path / "results.csv", rows)
    (line,) = from_csv(tmp_path / "results.csv")
    assert condition(line) == condition(rows[0])


def test_damaged_rows_are_named(compare, original, finished):
    run = next(iter(read(original).rows))
    path = finished / "rows" / f"{run}.json"
    path.write_text(path.read_text().replace('"seed": ', '"seed": 1'))
    code, text, found = compare(original, finished)
    assert (code, found["runs"], list(found["damaged"][1])) == (0, 3, [run])
    assert "1 rows of" in text
    assert f"{run}.json cannot be read (it is not what was written)" in text


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        ([], "Name two directories"),
        (["/usr", "/usr"], "/usr is no directory of a sweep"),
        (["/no/such", "/usr"], "There is no directory /no/such"),
        (["a", "b", "c"], "Unexpected argument 'c'"),
        (["--jsn"], "Did you mean '--json'"),
    ],
    ids=" ".join,
)
def test_bad_arguments_are_refused(refused, argv, part):
    assert part in refused("compare", *argv)
