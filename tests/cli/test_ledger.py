import json

from cnnjax.cli import ledger


def test_every_experiment_that_makes_claims_is_listed():
    found = ledger.experiments()
    assert {"degradation", "regularization"} <= set(found)
    assert "lectures" not in found  # a table, not an experiment


def test_a_verdict_in_the_workdir_goes_before_the_committed_one(tmp_path):
    own = {"experiment": "degradation", "preset": "quick", "claims": [{"id": "deeper-plain", "verdict": "refuted"}]}
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "verdict.json").write_text(json.dumps(own))
    entries = {entry["experiment"]: entry for entry in ledger.ledger(tmp_path)}
    assert entries["degradation"]["claims"] == own["claims"]
    assert str(tmp_path) in entries["degradation"]["from"]
    assert "results" in entries["regularization"]["from"]


def test_json_has_the_form_of_a_verdict(tmp_path, capsys):
    assert ledger.main(["--json", f"--workdir={tmp_path}"], "") == 0
    for entry in json.loads(capsys.readouterr().out):
        for claim in entry["claims"]:
            assert {"id", "statement", "source", "rule", "verdict", "effect", "interval", "n"} <= set(claim)
            assert claim["verdict"] in ("reproduced", "refuted", "inconclusive", "not run")


def test_the_table_shows_every_claim(tmp_path, capsys):
    assert ledger.main([f"--workdir={tmp_path}"], "") == 0
    printed = capsys.readouterr().out
    for module in ledger.experiments().values():
        for claim in module.CLAIMS:
            assert claim.statement.split()[0] in printed


def test_the_lectures_rows_are_counted(capsys):
    assert ledger.main(["--lectures"], "") == 0
    assert " 381" in capsys.readouterr().out
