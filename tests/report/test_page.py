import csv
import json
import re

import pytest

from cnnjax import claims
from cnnjax.report import page
from cnnjax.report.figures import Curves, Finals
from cnnjax.typing import UsageError
from tests.fixtures.html import Page

HOSTILE = "<script>alert('x')</script>\"'&amp;"


def judged(samples):
    made = [claims.Claim(name, f"The claim {name} holds.", "S2:205", "greater", unit="error") for name in samples]
    return claims.judge(made, samples)


@pytest.fixture
def arguments(depth_rows):
    return {
        "experiment": "degradation",
        "title": "Deeper plain networks train worse",
        "introduction": "First paragraph,\nstill the first.\n\nSecond.\n\n    python -m experiments.x\n",
        "rows": depth_rows,
        "verdicts": judged({"a": [0.1, 0.11, 0.12], "b": [-0.1, -0.11, -0.12], "c": [0.1, -0.05, 0.04]}),
        "figures": [Curves("train_error"), Finals(("train_error", "test_error"))],
        "manifest": {
            "command": "python -m experiments.degradation --seeds=5",
            "versions": {"jax": "0.10.2"},
            "data": "digits sha256:0f3a",
        },
        "metrics": ["train_error", "test_error"],
    }


def read(directory, arguments):
    text = page.write(directory, **arguments).read_text()
    return text, Page(text)


@pytest.mark.slow
def test_the_page_and_its_files_are_written(arguments, tmp_path):
    path = page.write(tmp_path, **arguments)
    written = sorted(str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file())
    images = [f"figures/{name}.{kind}" for name in ("1_curves", "2_finals") for kind in ("png", "svg")]
    assert written == [*images, "report.html", "results.csv"]
    with (path.parent / "results.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 30


@pytest.mark.slow
def test_every_verdict_is_there_in_words_with_effect_and_interval(arguments, tmp_path):
    text, parsed = read(tmp_path, arguments)
    for verdict in arguments["verdicts"]:
        assert verdict.statement in parsed.text
        assert f"{verdict.effect:+.3f} [{verdict.interval[0]:+.3f}, {verdict.interval[1]:+.3f}] error" in parsed.text
        assert verdict.rule in parsed.text
    for words in (
        "✓ Reproduced",
        "✗ Refuted",
        "? Inconclusive",
        f"3, about {arguments['verdicts'][2].seeds_to_decide}",
    ):
        assert words in parsed.text
    cards = [attributes["class"] for tag, attributes in parsed.tags if tag == "article"]
    assert cards == ["card reproduced", "card refuted", "card inconclusive"]
    for outcome in ("reproduced", "refuted", "inconclusive"):
        assert f".{outcome} {{" in text  # and has its colour


@pytest.mark.slow
def test_the_page_needs_nothing_from_outside(arguments, tmp_path):
    text, parsed = read(tmp_path, arguments)
    assert {"script", "link", "iframe", "object"}.isdisjoint(tag for tag, _ in parsed.tags)
    for _, attributes in parsed.tags:
        assert not {"href", "srcset", "onload", "onerror", "onclick"} & set(attributes)
        assert attributes.get("src", "data:").startswith("data:")
    assert not re.search(r"http|url\(|@import", text)


@pytest.mark.slow
def test_every_figure_is_inlined_and_described(arguments, tmp_path):
    _, parsed = read(tmp_path, arguments)
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 2
    assert images[0]["alt"] == "Train error during training. Mean and 95 % interval over 5 seeds."
    assert "Figure 2. Large dots are means over seeds" in parsed.text


@pytest.mark.slow
def test_the_table_holds_every_condition_and_unit(arguments, tmp_path):
    _, parsed = read(tmp_path, arguments)
    for words in ("train error (fraction)", "plain44", "0.620 ± 0.122 (5)", "5 done", "mean ± half-width"):
        assert words in parsed.text


@pytest.mark.slow
def test_the_introduction_keeps_paragraphs_and_code(arguments, tmp_path):
    text, _ = read(tmp_path, arguments)
    assert "<p>First paragraph,\nstill the first.</p>\n<p>Second.</p>\n" in text
    assert "<pre>python -m experiments.x</pre>" in text


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.slow
def test_how_it_was_run_counts_a_program_once_per_worker(arguments, tmp_path, repeated):
    """Whether one run of a program carries the seconds of its compilation or all do."""
    for row in arguments["rows"]:
        row["compile_seconds"] = 4.0 if repeated else row["compile_seconds"]
    arguments["rows"][0]["worker"] = 1
    arguments["rows"][0]["compile_seconds"] = 2.5
    arguments["rows"][1]["compile_seconds"] = 4.0
    _, parsed = read(tmp_path, arguments)
    for words in (
        "6 programs for 30 runs",
        "26.5 s compiling, 270.0 s running",
        "3,000 images/s",
        "jax 0.10.2",
        "digits sha256:0f3a",
        "--seeds=5",
        "6 signatures",
        "driver loop",
        json.dumps(arguments["manifest"]["versions"], indent=2)[2:-2].strip(),
    ):
        assert words in parsed.text
    assert "different signatures" not in parsed.text


def test_seeds_of_one_condition_under_two_signatures_are_pointed_out(arguments, tmp_path):
    row = arguments["rows"][3]
    row["signature"], row["signature_digest"] = row["signature"] | {"driver": "scan"}, "other"
    _, parsed = read(tmp_path, arguments)
    assert "different signatures , so they are not exactly comparable: plain8." in parsed.text
    assert "loop (29 runs), scan (1 run)" in parsed.text


def test_runs_that_are_not_done_are_listed(arguments, make_row, tmp_path):
    arguments["rows"] += [
        make_row({"model": "plain110"}, 0, status="diverged"),
        make_row({"model": "plain110"}, 1, status="failed", error="out of memory"),
    ]
    _, parsed = read(tmp_path, arguments)
    assert "plain110 0 diverged at step 61 plain110 1 failed: out of memory" in parsed.text
    assert "32 (1 diverged, 30 done, 1 failed)" in parsed.text
    assert "0 done, 1 diverged, 1 failed" in parsed.text


def test_hostile_strings_are_escaped(arguments, make_row, tmp_path):
    arguments |= dict.fromkeys(("experiment", "title", "introduction"), HOSTILE)
    arguments["rows"] = [
        make_row({HOSTILE: HOSTILE}, 0),
        make_row({HOSTILE: HOSTILE}, 1, status="failed", error=HOSTILE),
    ]
    arguments["rows"][0]["signature"] = {HOSTILE: HOSTILE}
    arguments["rows"][0]["metrics"][HOSTILE] = 0.5
    arguments["metrics"] = [HOSTILE]
    arguments["figures"] = [Finals((HOSTILE,), title=HOSTILE)]
    arguments["manifest"] = {
        "command": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "data": HOSTILE,
        HOSTILE: HOSTILE,
    }
    claim = claims.Claim(HOSTILE, HOSTILE, HOSTILE, "greater", unit=HOSTILE)
    arguments["verdicts"] = claims.judge([claim], {HOSTILE: [0.1, 0.2, 0.3]})
    text, parsed = read(tmp_path, arguments)
    assert "<script" not in text
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert parsed.text.count(HOSTILE) >= 12
    (image,) = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert image["alt"].startswith(HOSTILE)
    assert set(image) == {"alt", "src"}


@pytest.mark.slow
def test_two_writes_are_identical_to_the_byte(arguments, tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.mkdir()
        page.write(path, **arguments)
    page.write(paths[1], **arguments)  # over what is there
    contents = [
        {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()} for path in paths
    ]
    assert contents[0] == contents[1]


def test_without_claims_and_figures_the_page_says_so(arguments, tmp_path):
    _, parsed = read(tmp_path, arguments | {"verdicts": [], "figures": [], "manifest": {}})
    assert "This experiment makes no claim." in parsed.text
    assert "Figures" not in parsed.text


def test_no_rows_are_refused(arguments, tmp_path):
    with pytest.raises(UsageError, match="'degradation' has no finished run"):
        page.write(tmp_path / "none", **arguments | {"rows": []})
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_what_was_measured_without_training_has_its_tables_and_its_file(arguments, tmp_path):
    rows = [claims.measured({"depth": depth}, seed, {"norm": depth / 8}) for depth in (8, 20) for seed in (0, 1)]
    rows += [claims.measured({"kind": "relu <b>"}, 0, {"share": 1.0})]
    text = page.write(tmp_path, **arguments, measured=rows).read_text()
    found = Page(text)
    for part in ("Measured without training", "norm against depth", "2.500 ± 0.000 (2)", "relu <b>"):
        assert part in found.text
    with (tmp_path / "measured.csv").open() as file:
        assert [(line["depth"], line["norm"]) for line in csv.DictReader(file)][:2] == [("8", "1.0"), ("8", "1.0")]


@pytest.mark.slow
def test_an_exact_verdict_shows_its_deviation_and_no_interval(arguments, tmp_path):
    exact = claims.Claim("identity", "The block is the identity.", "S4:446", "exact", 1e-6, unit="largest difference")
    verdicts = claims.judge([exact], {"identity": [0.0, 1e-7]})
    text = Page(page.write(tmp_path, **{**arguments, "verdicts": verdicts}).read_text()).text
    assert "largest deviation +1.00e-07 largest difference cases 2" in text
    assert "effect [95 % interval]" not in text
