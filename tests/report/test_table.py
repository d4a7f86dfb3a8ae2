import csv
import itertools
import math
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cnnjax import claims, stats
from cnnjax.report import table
from cnnjax.typing import UsageError

GOLDEN_CSV = """\
l2,model,seed,status,diverged_step,test_error,train_error,valid_error,run_id,signature_digest,parameters_digest
0,res8,0,done,,0.2,0.1,0.2,run-res8-0-0,signature-res8,parameters-res8-0-0
1e-05,res8,2,done,,0.2,0.30000000000000004,0.2,run-res8-1e-05-2,signature-res8,parameters-res8-1e-05-2
1e-05,res8,10,diverged,61,,,,run-res8-1e-05-10,signature-res8,
0.001,res8,0,done,,0.2,1,0.2,run-res8-0.001-0,signature-res8,parameters-res8-0.001-0
,"plain, 8",0,failed,,,,,"run-plain, 8-0","signature-plain, 8",
"""


def text_of(renderable, width=160):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(renderable)
    console.file.close()
    return console.export_text()


def test_conditions_come_in_the_order_of_first_appearance_with_their_seeds_sorted(make_row):
    order = [("res8", 2), ("plain8", 1), ("res8", 0), ("plain8", 0), ("res8", 1)]
    found = table.conditions([make_row({"model": model}, seed) for model, seed in order])
    assert [condition.label for condition in found] == ["res8", "plain8"]
    assert [[row["seed"] for row in condition.rows] for condition in found] == [[0, 1, 2], [0, 1]]


def test_the_order_of_an_assignments_keys_does_not_matter(make_row):
    rows = [make_row({"model": "res8", "l2": 0.1}, 0), make_row({"l2": 0.1, "model": "res8"}, 1)]
    assert [condition.label for condition in table.conditions(rows)] == ["model=res8, l2=0.1"]


def test_a_seed_that_counts_twice_is_refused(make_row):
    rows = [make_row({"model": "res8"}, 0), make_row({"model": "res8"}, 0) | {"run_id": "other"}]
    with pytest.raises(UsageError, match="'res8' has seed 0 twice: runs run-res8-0 and other"):
        table.conditions(rows)


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ({}, "all runs"),
        ({"model": "res8"}, "res8"),
        ({"l2": 1e-4}, "0.0001"),
        ({"norm": None}, "null"),
        ({"model": "res8", "augment": True, "kernel": [3, 5]}, "model=res8, augment=true, kernel=[3, 5]"),
    ],
)
def test_labels(assignment, expected):
    assert table.label(assignment) == expected


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_distinct_numbers_never_read_the_same(a, b):
    assert float(table.value_text(a)) == a
    assert (table.value_text(a) == table.value_text(b)) == (a == b and math.copysign(1, a) == math.copysign(1, b))


def test_summaries_are_those_of_stats_over_the_runs_that_are_done(decay_rows):
    decay_rows[0]["metrics"]["fid"] = 7.0
    records = table.summary_table(decay_rows, ["train_error", "fid"])
    assert [record.label for record in records] == [
        "0",
        "1e-05",
        "0.0001",
        "0.0005",
        "0.001",
        "0.005",
        "0.01",
    ]
    assert records[1].metrics["train_error"] == stats.summarize([0.08, 0.09, 0.1])
    assert records[1].metrics["fid"] is None
    assert (records[1].runs, records[6].runs) == ("3 done", "1 done, 2 diverged")
    assert records[6].metrics["train_error"] == stats.summarize([0.02 + 0.06 * 6])


def test_a_metric_that_no_finished_run_has_is_refused(make_row):
    failed = make_row({"model": "res8"}, 0, status="failed")
    assert table.summary_table([failed], ["test_error"])[0].metrics == {"test_error": None}
    with pytest.raises(UsageError, match="Did you mean 'test_error'"):
        table.summary_table([failed, make_row({"model": "res8"}, 1)], ["test_eror"])


def test_a_final_metric_that_is_not_finite_makes_the_mean_nan(make_row):
    rows = [make_row({"model": "res8"}, seed, train=[0.1, math.inf][seed]) for seed in range(2)]
    (record,) = table.summary_table(rows, ["train_error"])
    assert table.cell("train_error", record.metrics["train_error"]) == "nan (2)"


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("train_error", [0.1, 0.2, 0.3], "0.200 ± 0.248 (3)"),  # 4.303 * 0.1 / sqrt(3)
        ("train_error", [0.5, 0.5], "0.500 ± 0.000 (2)"),
        ("train_error", [0.25], "0.250 (1)"),
        ("train_error", [1e-4], "0.000 (1)"),
        ("test_loss", [2.302585], "2.303 (1)"),
        ("test_mse", [16000.0], "1.60e+04 (1)"),
        ("test_mse", [1e-25], "1.00e-25 (1)"),
    ],
)
def test_cells(metric, values, expected):
    assert table.cell(metric, stats.summarize(values)) == expected
    assert table.cell(metric, None) == "–"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("train_error", "train error (fraction)"),
        ("valid_loss", "valid loss (mean per example)"),
        ("psnr", "psnr"),
    ],
)
def test_headings_name_the_unit(metric, expected):
    assert table.heading(metric) == expected


def test_results_csv_is_golden_and_does_not_depend_on_the_order_of_the_rows(make_row, tmp_path):
    rows = [
        make_row({"model": "res8", "l2": 1e-3}, 0, train=1),
        make_row({"model": "res8", "l2": 1e-5}, 10, status="diverged"),
        make_row({"model": "plain, 8"}, 0, status="failed", error="out of memory"),
        make_row({"model": "res8", "l2": 1e-5}, 2, train=0.1 + 0.2),
        make_row({"model": "res8", "l2": 0}, 0),
    ]
    path = tmp_path / "results.csv"
    for order in itertools.permutations(rows):
        table.write_results_csv(path, order)
        assert path.read_text() == GOLDEN_CSV
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.csv"]


def test_no_text_in_the_csv_is_a_formula(make_row, tmp_path):
    hostile = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]
    rows = [make_row({"model": text, "l2": -1.0}, seed) for seed, text in enumerate(hostile)]
    table.write_results_csv(tmp_path / "results.csv", rows)
    with (tmp_path / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["model"] for line in lines} == {*(f"'{text}" for text in hostile[:4]), "\\t=1", "\\r=1"}
    assert {line["l2"] for line in lines} == {"-1.0"}


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=5))
def test_numbers_in_the_csv_read_back_to_the_same_float(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("csv") / "results.csv"
    row = {"assignment": {}, "status": "done", "run_id": "a"}
    rows = [row | {"seed": seed, "metrics": {"loss": value}} for seed, value in enumerate(values)]
    table.write_results_csv(path, rows)
    with path.open(newline="") as file:
        assert [float(line["loss"]) for line in csv.DictReader(file)] == values


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    table.write_atomically(path, b"old")

    def disk_full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space"):
        table.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"


def test_the_terminal_table_names_units_and_counts_and_takes_labels_literally(make_row):
    rows = [make_row({"kernel": "[red]3"}, seed, train=0.1 * (seed + 1)) for seed in range(3)]
    text = text_of(table.render([*rows, make_row({"kernel": "[red]3"}, 3, status="diverged")], ["train_error"]))
    for part in ("kernel", "[red]3", "train error (fraction)", "0.200 ± 0.248 (3)", "3 done, 1 diverged"):
        assert part in text


def verdict(sample, test="greater", **arguments):
    claim = claims.Claim("id", "Deeper [plain] nets train worse.", "S2:205", test, unit="training error", **arguments)
    return claims.judge([claim], {"id": sample})[0]


@pytest.mark.parametrize(
    ("sample", "parts"),
    [
        ([0.1, 0.2, 0.3], ["✓ reproduced", "+0.200 [-0.048, +0.448] training error", "[plain]", "S2:205"]),
        ([-0.11, -0.1, -0.12], ["✗ refuted", "-0.110"]),
        ([0.1, -0.05, 0.05], ["? inconclusive", "needed"]),
        ([0.25], ["? inconclusive", "+0.250 training error"]),
        ([], ["? inconclusive", "–", "0"]),
    ],
)
def test_the_verdict_table_says_the_verdict_in_words(sample, parts):
    text = text_of(table.render_verdicts([verdict(sample)]))
    for part in parts:
        assert part in text
