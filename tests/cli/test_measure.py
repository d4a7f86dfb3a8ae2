"""What an experiment measures without training: computed once, judged with the runs, and reported."""

import json
import types

import pytest

from cnnjax import claims, cli
from tests.fixtures import tiny

IDENTITY = claims.Claim("identity", "Twice half is the whole.", "S0:1", "exact", 1e-9)


@pytest.fixture
def experiment(tmp_path):
    """The tiny experiment with a measurement; its ``calls`` count how often it was made."""
    module = types.ModuleType("measuring", doc=tiny.__doc__)
    vars(module).update({name: getattr(tiny, name) for name in dir(tiny) if not name.startswith("_")})
    module.__file__ = str(tmp_path / "measuring.py")
    (tmp_path / "measuring.py").write_text("a first version")
    module.CLAIMS = (*tiny.CLAIMS, IDENTITY)
    module.calls = []

    def measure(preset, data):
        module.calls.append((preset, data.name))
        return [claims.measured({"number": n}, 0, {"deviation": 2 * (n / 2) - n}) for n in (1, 3)]

    def verdict(rows, measured):
        found = claims.judge((IDENTITY,), {"identity": [row["metrics"]["deviation"] for row in measured]})
        return [*tiny.verdict(rows), *found]

    module.measure, module.verdict = measure, verdict
    return module


@pytest.mark.slow
def test_it_is_measured_once_for_each_version_of_the_experiment(experiment, tmp_path, capsys):
    argv = ["--preset=smoke", "--workers=0", f"--workdir={tmp_path / 'runs'}"]
    assert cli.main(experiment, argv) == 0
    assert cli.main(experiment, argv) == 0
    assert experiment.calls == [("smoke", "digits")]
    results = tmp_path / "runs" / "measuring"
    (*_, found) = json.loads((results / "verdict.json").read_text())["claims"]
    assert (found["id"], found["verdict"], found["n"], found["effect"]) == ("identity", "reproduced", 2, 0.0)
    assert found["interval"] == [None, None]
    assert "Measured without training" in (results / "report.html").read_text()
    assert (results / "measured.csv").read_text().startswith("number,seed,status")

    (results / "measured.json").write_text('{"question"')  # half copied
    assert cli.main(experiment, argv) == 0
    assert len(experiment.calls) == 2
    (tmp_path / "measuring.py").write_text("a second version")
    assert cli.main(experiment, argv) == 0
    assert len(experiment.calls) == 3
    capsys.readouterr()


@pytest.mark.slow
def test_what_is_not_a_number_refutes(experiment, tmp_path, capsys):
    experiment.measure = lambda preset, data: [claims.measured({}, 0, {"deviation": float("nan")})]
    assert cli.main(experiment, ["--preset=smoke", "--workers=0", f"--workdir={tmp_path / 'runs'}"]) == 0
    (*_, found) = json.loads((tmp_path / "runs" / "measuring" / "verdict.json").read_text())["claims"]
    assert (found["verdict"], found["effect"]) == ("refuted", None)
    capsys.readouterr()


def test_nothing_is_measured_for_a_plan(experiment, tmp_path, capsys):
    assert cli.main(experiment, ["--preset=smoke", "--plan", f"--workdir={tmp_path / 'runs'}"]) == 0
    assert experiment.calls == []
    capsys.readouterr()
