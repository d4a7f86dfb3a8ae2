import argparse
import datetime
import json
import re
from pathlib import Path

import pytest

from cnnjax import claims
from cnnjax.cli import evidence, experiment, ledger, missing
from cnnjax.provenance import source_digest
from tests.fixtures import tiny

CREATED = "2026-01-10T12:00:00+00:00"
NOW = datetime.datetime(2026, 1, 13, 12, tzinfo=datetime.UTC)
REPRODUCED, OPEN = [0.1, 0.11, 0.12], [0.04, 0.05, 0.08]  # of the two claims of ``tiny``


@pytest.fixture
def only_tiny(monkeypatch):
    """The tiny experiment is the only one; nothing is committed for it."""
    monkeypatch.setattr(evidence, "experiments", lambda: {"tiny": tiny})


@pytest.fixture
def write(tmp_path):
    """``write(folder, **changes)``: evidence on ``tiny`` in the workdir, with other claims or another manifest."""

    def make(folder="tiny", preset="quick", change=None, **manifest):
        verdicts = claims.judge(tiny.CLAIMS, {"penalty-raises-loss": REPRODUCED, "penalty-keeps-error": OPEN})
        verdict = claims.to_json("tiny", preset, verdicts)
        if change:
            change(verdict["claims"])
        directory = tmp_path / folder
        directory.mkdir(parents=True)
        (directory / "verdict.json").write_text(json.dumps(verdict))
        configuration = {"spec": {"data": {"name": "digits"}}, "seeds": [0, 1, 2]}
        content = {
            "created": CREATED, "signatures": {"b" * 16: {}, "a" * 16: {}}, "data": {"digits": "f"}, "runs": {"1": "a"},
            "configuration": configuration, **manifest,
        }  # fmt: skip
        (directory / "manifest.json").write_text(json.dumps(content))
        return directory

    return make


@pytest.fixture
def call(tmp_path):
    """``call(*argv)``: the exit code of the ledger on the workdir."""
    return lambda *argv: ledger.main([*argv, f"--workdir={tmp_path}"], "Summary.\n\nexamples")


def entries(tmp_path):
    return {entry["name"]: entry for entry in evidence.ledger(tmp_path)}


# The entries


def test_every_experiment_that_makes_claims_is_listed():
    found = evidence.experiments()
    assert {"degradation", "regularization"} <= set(found)
    assert "lectures" not in found  # a table, not an experiment


def test_a_verdict_in_the_workdir_goes_before_the_committed_one(tmp_path):
    own = {"experiment": "degradation", "preset": "paper", "claims": [{"id": "deeper-plain", "verdict": "refuted"}]}
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "verdict.json").write_text(json.dumps(own))
    found = entries(tmp_path)
    assert found["degradation"]["preset"] == "paper"
    first, *others = [claim["verdict"] for claim in found["degradation"]["claims"]]
    assert first == "refuted"
    assert set(others) == {"not run"}
    assert str(tmp_path) in found["degradation"]["from"]
    assert "results" in found["regularization"]["from"]


@pytest.mark.parametrize(
    ("folders", "best"),
    [
        ({"tiny": "quick", "tiny-smoke": "smoke"}, "tiny"),
        ({"tiny": "smoke", "tiny-quick": "quick"}, "tiny-quick"),
        ({"tiny": "smoke", "tiny-paper": "paper", "tiny-quick": "quick"}, "tiny-paper"),
        ({"tiny": "smoke"}, "tiny"),
    ],
)
def test_of_several_presets_the_best_counts(tmp_path, only_tiny, write, folders, best):
    for folder, preset in folders.items():
        write(folder, preset=preset)
    (entry,) = evidence.ledger(tmp_path)
    assert (entry["name"], entry["preset"]) == (best, folders[best])


def test_a_smoke_run_does_not_hide_the_committed_evidence(tmp_path):
    own = {"experiment": "degradation", "preset": "smoke", "claims": []}
    (tmp_path / "degradation").mkdir()
    (tmp_path / "degradation" / "verdict.json").write_text(json.dumps(own))
    entry = entries(tmp_path)["degradation"]
    assert entry["preset"] == "quick"
    assert "results" in entry["from"]


def test_further_evidence_is_listed_after_the_experiments_own():
    found = [(e["experiment"], e["name"]) for e in evidence.ledger(Path("nowhere"))]
    names = [name for experiment, name in found if experiment == "degradation"]
    assert names == ["degradation", "degradation-cifar10"]


def test_an_entry_says_when_and_under_what_it_was_found(tmp_path, only_tiny, write):
    write()
    entry = entries(tmp_path)["tiny"]
    assert (entry["experiment"], entry["preset"], entry["created"]) == ("tiny", "quick", CREATED)
    assert (entry["signatures"], entry["data"]) == (["a" * 16, "b" * 16], ["digits"])
    assert [(c["verdict"], c["n"], c["current"]) for c in entry["claims"]] == [
        ("reproduced", 3, True), ("inconclusive", 3, True)
    ]  # fmt: skip


@pytest.mark.parametrize("key", ["rule", "statement", "unit"])
def test_a_claim_that_was_judged_otherwise_is_not_current(tmp_path, only_tiny, write, key):
    write(change=lambda found: found[0].update({key: "another"}))
    first, second = entries(tmp_path)["tiny"]["claims"]
    assert (first["current"], second["current"]) == (False, True)
    assert first[key] == "another"  # what was judged, not what the code says now


def test_claims_come_from_the_code(tmp_path, only_tiny, write):
    write(change=lambda found: found[0].update(id="gone"))
    first, second = entries(tmp_path)["tiny"]["claims"]
    assert (first["id"], first["verdict"], first["n"]) == ("penalty-raises-loss", "not run", 0)
    assert second["verdict"] == "inconclusive"


def test_an_experiment_without_evidence_is_not_run(tmp_path, only_tiny):
    entry = entries(tmp_path)["tiny"]
    assert (entry["from"], entry["created"], entry["signatures"]) == (None, None, [])
    assert {claim["verdict"] for claim in entry["claims"]} == {"not run"}
    assert [claim["rule"] for claim in entry["claims"]] == [claim.rule for claim in tiny.CLAIMS]


@pytest.mark.parametrize("text", ["{", "[]", '{"experiment": "tiny"}'])
def test_a_damaged_verdict_is_refused(only_tiny, write, call, capsys, text):
    path = write() / "verdict.json"
    path.write_text(text)
    assert call() == 2
    assert f"experiments: {path} " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "part", "value"),
    [
        ("verdict.json", "claims", {}), ("verdict.json", "claims", [7]), ("verdict.json", "claims", [{"id": None}]),
        *(("verdict.json", "claims", [{"id": "penalty-raises-loss", "verdict": "reproduced", **part}]) for part in (
            {"n": "<script>"}, {"effect": "<script>"}, {"interval": "<script>"}, {"interval": ["<script>", 1]},
            {"interval": [1]}, {"seeds_to_decide": [7]}, {"note": 7}, {"rule": None}, {"verdict": "<script>"},
            {"verdict": None}, {"p_adjusted": "x"},
        )),
        ("manifest.json", "signatures", [7]), ("manifest.json", "data", None), ("manifest.json", "created", 7),
        ("manifest.json", "runs", "x"), ("manifest.json", "data", {"digits": 7}),
    ],
)  # fmt: skip
def test_parts_of_another_type_are_refused_by_name(only_tiny, write, call, capsys, name, part, value):
    path = write() / name
    path.write_text(json.dumps({**json.loads(path.read_text()), part: value}))
    assert call() == 2
    told = capsys.readouterr().err
    assert f"experiments: {path} " in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("code", "said"),
    [({}, "did not record its code"), ({"source": "another"}, "cnnjax's sources were another and are")],
)
def test_evidence_of_older_code_says_so(tmp_path, only_tiny, write, code, said):
    write("older", code=code)
    write("now", code={"source": source_digest()})
    found = entries(tmp_path)
    assert said in ledger.heading(found["older"], NOW)
    assert found["now"]["code"] == ""


def test_json_has_the_form_of_a_verdict(call, capsys):
    assert call("--json") == 0
    for entry in json.loads(capsys.readouterr().out):
        assert {"experiment", "preset", "claims", "created", "signatures", "from"} <= set(entry)
        for claim in entry["claims"]:
            assert {"id", "statement", "source", "rule", "verdict", "effect", "interval", "n"} <= set(claim)
            assert claim["verdict"] in ("reproduced", "refuted", "inconclusive", "not run")


# Printing


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "less than a minute"), (59, "less than a minute"), (60, "1 minute"), (7199, "1 hour"), (7200, "2 hours"),
     (86400, "1 day"), (12.9 * 86400, "12 days"), (-100, "less than a minute")],
)  # fmt: skip
def test_ages_are_in_the_largest_whole_unit(seconds, expected):
    created = NOW - datetime.timedelta(seconds=seconds)
    assert ledger.age(created.isoformat(), NOW) == expected


def test_the_heading_of_an_evidence(tmp_path, only_tiny, write):
    write("tiny-more", signatures={digit * 16: {} for digit in "12345"})
    text = ledger.heading(entries(tmp_path)["tiny-more"], NOW)
    assert text.startswith("tiny-more: preset quick; data digits; 3 days old; signatures 1111111111111111, ")
    assert "3333333333333333 and 2 more" in text
    assert text.endswith("verdict.json")


def test_piped_lines_are_whole(call, capsys):
    assert call() == 0
    printed = capsys.readouterr().out
    for entry in evidence.ledger(Path("no results of ours")):
        for claim in entry["claims"]:
            assert claim["statement"] in printed
            assert claim["rule"] in printed
            assert claim["source"] in printed


def test_effects_and_what_would_decide_are_printed(only_tiny, write, call, capsys):
    write(change=lambda found: found[0].update(rule="an older rule"))
    assert call() == 0
    printed = capsys.readouterr().out
    assert "+0.110 [+0.085, +0.135]" in printed
    assert re.search(r"\? inconclusive, \d+ seeds would decide it: The penalty costs no accuracy\.", printed)
    assert "an older rule\n    note    rule changed since: rerun\n" in printed
    assert "1 experiment, 2 claims: 1 reproduced (in 1 experiment), 0 refuted, 1 inconclusive" in printed
    assert "1 were judged by a rule that has changed since" in printed


@pytest.mark.parametrize("width", [60, 100, 160])
@pytest.mark.slow
def test_a_terminal_is_filled_and_not_overrun(call, capsys, monkeypatch, width):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(width))
    assert call() == 0
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    longest = max(len(line) for line in printed.splitlines() if "/" not in line)  # a path is not broken
    assert 0.9 * width <= longest <= width
    assert ("┃ verdict" in printed) == (width == 160)
    words = " ".join(re.sub("[│┃]", " ", printed).split())
    deeper = next(entry for entry in evidence.ledger(Path("nowhere")) if entry["name"] == "degradation")["claims"][0]
    effect = "{:+.3f} [{:+.3f}, {:+.3f}]".format(deeper["effect"], *deeper["interval"])
    for part in ("✓ reproduced", "? inconclusive", effect, "S2:205-211", "Holm-adjusted", f"{deeper['n']} seeds"):
        assert part in words


def test_verdicts_are_counted_with_their_experiments(tmp_path, only_tiny, write):
    write()
    write("tiny-more", change=lambda found: found[1].update(verdict="refuted"))
    assert ledger.summary(evidence.ledger(tmp_path)) == (
        "1 experiment, 4 claims: 2 reproduced (in 1 experiment), 1 refuted (in 1 experiment), "
        "1 inconclusive (in 1 experiment), 0 not run."
    )


def test_the_lectures_rows_are_counted(capsys):
    assert ledger.main(["--lectures"], "") == 0
    assert " 381" in capsys.readouterr().out


# Flags


@pytest.mark.parametrize(
    "argv",
    [["--bogus"], ["--run"], ["--json", "--report"], ["--json", "--run-missing"], ["--lectures", "--json"], ["--plan"],
     ["--preset=quick"], ["--seeds=3"], ["--data=digits"], ["--workers=0"], ["--run-missing", "--seeds=0"],
     ["--run-missing", "--workers=-1"], ["--run-missing", "--preset=best"], ["--run-missing", "--seeds=many"]],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(call, capsys, argv):
    assert call(*argv) == 2
    assert "error:" in capsys.readouterr().err


def test_help_has_the_examples_and_says_what_counts(call, capsys):
    assert call("--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Only the workdir counts" in printed
    assert printed.endswith("examples")


def test_only_names_experiments(call, capsys):
    assert call("--only=regularization") == 0
    assert "degradation:" not in capsys.readouterr().out
    assert call("--only=degradatoin") == 2
    assert "Unknown experiment 'degradatoin'. Did you mean 'degradation'?" in capsys.readouterr().err


# Filling

SMOKE = ("--run-missing", "--preset=smoke", "--workers=0")


def asked(preset=None, seeds=None, data=None, workers=0):
    return argparse.Namespace(preset=preset, seeds=seeds, data=data, workers=workers)


@pytest.mark.parametrize(
    ("options", "change", "expected"),
    [
        ({}, None, ""),
        ({"seeds": 3}, None, ""),
        ({"seeds": 4}, None, "fewer seeds"),
        ({"preset": "paper"}, None, "preset quick"),
        ({"data": "shapes"}, None, "data digits"),
        ({}, lambda found: found[0].update(rule="another"), "rules changed"),
        ({}, lambda found: found.pop(), "new claims"),
    ],
)
def test_why_an_experiment_is_run_again(tmp_path, write, options, change, expected):
    write(change=change)
    if expected in ("preset quick", "data digits"):  # another configuration: it has no place in that folder
        assert missing.forecast("tiny", tiny, tmp_path, asked(**options)).refusal
    assert missing._why("tiny", tiny, tmp_path / "tiny", asked(**options)) == expected


def test_a_forecast_is_made_of_training_and_compiling(tmp_path):
    found = missing.forecast("tiny", tiny, tmp_path, asked())
    assert (found.name, found.why, found.runs, found.programs) == ("tiny", "no verdict", 6, 1)
    per_image = 64 * 8 + 8 * 10
    training = 3 * per_image * 16 * 2000 / missing.rule.FORECAST_RATE["cpu"]
    assert found.seconds == pytest.approx(missing.COMPILE_SECONDS + 8 * training)  # six runs fill a bundle of eight
    assert (found.measured, found.refusal) == (0.0, "")
    more = missing.forecast("tiny", tiny, tmp_path, asked(seeds=100))
    assert more.runs == 200
    assert more.seconds == pytest.approx(missing.COMPILE_SECONDS + 200 * training)


def test_the_plan_writes_nothing(tmp_path, only_tiny, call, capsys):
    assert call(*SMOKE, "--plan") == 0
    printed = capsys.readouterr().out
    for part in ("tiny", "no verdict", "minutes", "factor of three"):
        assert part in printed
    assert "reproduced" not in printed  # the ledger
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_is_missing_is_run_once(tmp_path, only_tiny, call, capsys, monkeypatch):
    monkeypatch.setattr(tiny, "FIGURES", tiny.FIGURES[-1:])  # drawing takes longer than training
    assert call(*SMOKE) == 0
    printed = capsys.readouterr().out
    assert "[1 of 1] tiny" in printed
    assert "tiny: preset smoke; data digits; less than a minute old" in printed
    assert printed.index("no verdict") < printed.index("[1 of 1]") < printed.index("1 experiment, 2 claims")
    verdict = json.loads((tmp_path / "tiny" / "verdict.json").read_text())
    assert (verdict["preset"], {claim["n"] for claim in verdict["claims"]}) == ("smoke", {2})
    assert missing.forecast("tiny", tiny, tmp_path, asked(preset="smoke")).measured > 0

    with monkeypatch.context() as patch:
        patch.setattr(experiment, "main", lambda *_: pytest.fail("it was run again"))
        assert call(*SMOKE) == 0
        assert "up to date" in capsys.readouterr().out

    verdict["claims"][0]["rule"] = "another"  # no run is needed, only the verdict
    (tmp_path / "tiny" / "verdict.json").write_text(json.dumps(verdict))
    assert call(*SMOKE, "--report") == 0
    printed = capsys.readouterr().out
    assert "rules changed" in printed
    assert "all 4 runs are done" in printed
    assert json.loads((tmp_path / "tiny" / "verdict.json").read_text())["claims"][0]["rule"] == tiny.CLAIMS[0].rule
    page = (tmp_path / "index.html").read_bytes()
    assert page.count(b"data:image/png") == len(tiny.FIGURES)
    assert call("--report") == 0
    assert (tmp_path / "index.html").read_bytes() == page


def test_committed_evidence_does_not_count(tmp_path, call, capsys, monkeypatch):
    found = evidence.experiments()
    monkeypatch.setattr(evidence, "experiments", lambda: {"regularization": found["regularization"]})
    assert call(*SMOKE, "--plan") == 0
    assert re.search(r"regularization\W+no verdict", capsys.readouterr().out)


@pytest.fixture
def three(monkeypatch, tmp_path):
    """Three experiments of rising cost; ``three(name=outcome)`` sets what each does, and the calls are recorded."""
    modules, called = {name: type(tiny)(name) for name in ("cheap", "middle", "dear")}, []
    for name, module in modules.items():
        module.__dict__.update({**vars(tiny), "__name__": name, "__file__": str(tmp_path / "source" / f"{name}.py")})
        module.SEEDS = {"quick": {"cheap": 1, "middle": 20, "dear": 40}[name]}
    monkeypatch.setattr(evidence, "experiments", lambda: modules)

    def give(**outcomes):
        def run(module, argv):
            called.append((module.__name__, argv))
            outcome = outcomes.get(module.__name__, 0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(experiment, "main", run)
        return called

    return give


def test_the_cheapest_goes_first_with_the_flags_given(three, call, tmp_path):
    called = three()
    assert call("--run-missing", "--workers=0") == 0
    assert [name for name, _ in called] == ["cheap", "middle", "dear"]
    assert {tuple(argv) for _, argv in called} == {(f"--workdir={tmp_path}", "--workers=0")}
    called.clear()
    assert call("--run-missing", "--only=dear,cheap", "--preset=quick", "--seeds=2", "--data=digits") == 0
    given = (f"--workdir={tmp_path}", "--preset=quick", "--seeds=2", "--data=digits")
    assert [(name, tuple(argv)) for name, argv in called] == [("cheap", given), ("dear", given)]


def test_a_failure_does_not_stop_the_others(three, call, capsys):
    called = three(cheap=2, middle=ZeroDivisionError("a bug"))
    assert call("--run-missing", "--workers=0") == 1
    assert [name for name, _ in called] == ["cheap", "middle", "dear"]
    error = capsys.readouterr().err
    assert "ZeroDivisionError: a bug" in error
    assert "experiments: failed: cheap, middle" in error


@pytest.mark.parametrize("outcome", [130, KeyboardInterrupt()])
def test_ctrl_c_stops_all(three, call, capsys, outcome):
    called = three(cheap=1, middle=outcome)
    assert call("--run-missing", "--workers=0") == 130
    assert [name for name, _ in called] == ["cheap", "middle"]


def test_an_experiment_that_cannot_be_planned_is_named(three, call, capsys, write):
    called = three()
    evidence.experiments()["middle"].grid = lambda preset, data: 1 / 0
    directory = write("cheap", preset="smoke")
    assert call("--run-missing", "--workers=0") == 1
    assert [name for name, _ in called] == ["dear"]
    printed = capsys.readouterr()
    assert "ZeroDivisionError: division by zero" in printed.err
    assert f"cheap: {directory} holds results of a different configuration" in printed.err
    assert "or remove the directory" in printed.err
    assert "experiments: failed: cheap, middle" in printed.err
    assert "refused" in printed.out


def test_data_that_do_not_exist_are_refused_at_once(three, call, capsys):
    called = three()
    assert call("--run-missing", "--data=digist") == 2
    assert "digist" in capsys.readouterr().err
    assert called == []
