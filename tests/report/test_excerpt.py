"""Large sweeps: what is shown of them, and that it is said."""

import csv

import pytest

from cnnjax.report import excerpt, figures, page, table
from cnnjax.report.figures import Curves, Finals, Response

CONDITIONS = 500


@pytest.fixture
def many_rows(make_row):
    """One seed of each condition; the errors rise with warmup; some have diverged."""
    return [
        make_row({"l2": n % 25 / 1000, "warmup": n // 25 / 20}, 0, train=0.1 + n / 1000, valid=0.2 + n / 1000,
                 status="diverged" if n % 2 and n > 50 else "done")
        for n in range(CONDITIONS)
    ]  # fmt: skip


def test_evenly_keeps_both_ends():
    assert excerpt.evenly(range(100), 4) == [0, 33, 66, 99]
    assert excerpt.evenly("abc", 4) == ["a", "b", "c"]


def test_figures_of_many_conditions_draw_some_and_say_so(many_rows):
    some = f"{excerpt.SOME_CONDITIONS} of {CONDITIONS} conditions are drawn"
    for spec in (Curves("train_error"), Finals(("test_error",))):
        assert some in figures.note(spec, many_rows)
        assert len(figures._shown(spec, table.conditions(many_rows))) == excerpt.SOME_CONDITIONS
    done = [row for row in many_rows if row["status"] == "done"]
    drawn = figures._shown(Finals(("test_error",)), table.conditions(done))
    errors = [condition.finals("test_error")[0] for condition in drawn]
    every = [row["metrics"]["test_error"] for row in done]
    assert (min(errors), max(errors)) == (min(every), max(every))
    response = figures._shown(Response("l2"), table.conditions(many_rows))
    assert len({condition.assignment["warmup"] for condition in response}) == excerpt.SOME_PANELS
    assert len(response) == 25 * excerpt.SOME_PANELS
    numbers = [{"assignment": {"l2": n / 1000}, "seed": 0} for n in range(100)]
    kept = [each.assignment["l2"] for each in figures._shown(Response("l2"), table.conditions(numbers))]
    assert (len(kept), kept[0], kept[-1]) == (excerpt.PANEL_NUMBERS, 0.0, 0.099)


def test_small_sweeps_are_drawn_whole(depth_rows, decay_rows):
    for spec, rows in (
        (Curves("train_error"), depth_rows),
        (Finals(("test_error",)), depth_rows),
        (Response("l2"), decay_rows),
    ):
        assert list(figures._shown(spec, table.conditions(rows))) == table.conditions(rows)
        assert "are drawn" not in figures.note(spec, rows)


def test_pages_and_terminals_show_the_extremes_and_the_csv_has_every_run(many_rows, tmp_path):
    manifest = {"runs": {str(n): "s" for n in range(2000)}, "configuration": {"grid": [{}] * 2000, "seeds": [0]}}
    path = page.write(
        tmp_path, experiment="many", title="Many", introduction="", rows=many_rows, verdicts=(), figures=(),
        manifest=manifest, metrics=["test_error"],
    )  # fmt: skip
    text = path.read_text()
    assert (
        f"{CONDITIONS} conditions: shown are those of the 200 lowest and the 200 highest values of test error" in text
    )
    assert "100 between them are left out" in text
    assert f"These are the first {excerpt.LISTED_RUNS} of 225; results.csv has all." in text
    assert text.count("2,000 entries; see manifest.json") == 2
    with open(tmp_path / "results.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == CONDITIONS
    printed = table.render(many_rows, ["test_error"])
    assert printed.row_count == excerpt.TERMINAL_CONDITIONS
    assert "400 between them are left out" in printed.caption
