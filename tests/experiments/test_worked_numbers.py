"""Every worked number of the lectures, rows 193 to 280 of lectures.csv, computed; and the table of them."""

import json
import math
from collections import Counter

import numpy as np
import pytest

from experiments import lectures
from experiments.worked_numbers import command, s0, s1, s2, s3, s4
from experiments.worked_numbers.__main__ import __doc__ as description
from experiments.worked_numbers.number import Number, Printed, outcome
from experiments.worked_numbers.values import About, matrix, plain, same, show

ROWS = {row.row: row for row in lectures.read() if row.kind in ("number", "erratum")}
NUMBERS = sorted((number for deck in (s0, s1, s2, s3, s4) for number in deck.NUMBERS), key=lambda number: number.row)
VERDICTS = {
    **dict.fromkeys((199, 200, 238, 239, 241, 252, 259, 261, 265), "erratum"),
    **dict.fromkeys((207, 211, 250, 260, 277, 278), "open"),
    **dict.fromkeys((231, 233, 236, 245, 246, 248), "stated"),
}


def identities() -> list[str]:
    """Lecture and lines of each number, and its row where these are not enough."""
    lines = [ROWS[number.row].lines.replace("; ", ",") for number in NUMBERS]
    count = Counter(lines)
    return [each if count[each] == 1 else f"{each}-{n.row}" for each, n in zip(lines, NUMBERS, strict=True)]


def test_every_row_has_its_number():
    assert [number.row for number in NUMBERS] == list(range(193, 281))


@pytest.mark.parametrize("deck", [s0, s1, s2, s3, s4], ids=lambda deck: deck.__name__.rpartition(".")[2])
def test_a_deck_has_the_rows_that_cite_it(deck):
    name = deck.__name__.rpartition(".")[2].upper()
    assert [number.row for number in deck.NUMBERS if name not in ROWS[number.row].lecture.split(";")] == []


@pytest.mark.parametrize("number", NUMBERS, ids=identities())
@pytest.mark.slow
def test_worked_number(number):
    found = outcome(number)
    assert same(found.computed, number.right), f"{show(found.computed)} is not {show(number.right)}"
    assert same(number.right, found.computed)  # neither leaves a name out
    assert found.verdict == VERDICTS.get(number.row, "agrees")


# Values


def test_matrices_are_written_as_in_the_lectures():
    found = matrix("1 0 -1; 2.5 _ 12")
    np.testing.assert_array_equal(found, np.array([[1, 0, -1], [2.5, np.nan, 12]], np.float32))
    assert show(found) == "[1 0 -1; 2.5 _ 12]"
    assert plain(found) == [[1, 0, -1], [2.5, None, 12]]


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        (3, 3, True),
        (3, 4, False),
        (0.1 + 0.2, 0.3, True),
        (1.0001, 1, False),
        (120_422_401, 120_422_400, False),  # whole numbers are exact
        (120_422_401.0, 120_422_400, True),  # float32 has seven digits
        (1e-5, 1e-4, False),
        (1e-7, 0, True),
        (matrix("1 _; 3 4"), matrix("1 2; 3 4"), True),
        (matrix("1 2; 3 4"), matrix("1 _; 3 4"), False),  # what is right has no blanks
        (matrix("1 2; 3 4"), matrix("1 2; 3 5"), False),
        (matrix("1 2"), matrix("1; 2"), False),
        (math.nan, 1, True),  # a blank
        ([7], 7, False),
        ("4x4", "4x4", True),
        ("4", 4, False),
        (True, True, True),
        (False, True, False),
        ({"a": 1}, {"a": 1, "b": 2}, True),  # the lecture prints one of two
        ({"a": 1, "b": 2}, {"a": 1}, False),
        ({"a": 1}, 1, False),
        (1, {"a": 1}, False),
        (About(138e6, 1e6), 138_357_544, True),
        (About(137e6, 1e6), 138_357_544, False),
        (About(146, 1), 146.875, False),
        (About(8.8, 0.1), 8.842105, True),
        (About(2, 1), 1.5, True),
    ],
)
def test_what_is_the_same(given, right, expected):
    assert same(given, right) is expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (138_357_544, "138,357,544"),
        (0.098901, "0.0989"),
        (146.875, "146.9"),
        (-25, "-25"),
        (np.float32(2) / 3, "0.6667"),
        (True, "yes"),
        ((3, 5, 7), "[3 5 7]"),
        ({"shape": "4x4x2", "sum": 0}, "shape: 4x4x2, sum: 0"),
        (About(138e6, 1e6), "about 138,000,000"),
        (1_000.26, "1000"),
        (2015, "2015"),
        (12_345.6, "12,346"),
        (1e-5, "1e-05"),
    ],
)
def test_how_values_are_shown(value, text):
    assert show(value) == text


def number(computed, right, printed=Printed.RIGHT, stated=False):
    return Number(193, lambda: computed, right, printed, stated)


@pytest.mark.parametrize(
    ("entry", "verdict"),
    [
        (number(2, 2), "agrees"),
        (number(2, 2, printed=About(2.4, 1)), "agrees"),
        (number(2, 2, printed=3), "erratum"),
        (number(2, 2, printed=lambda: 1 + 2), "erratum"),
        (number(2, 2, printed=Printed.NOTHING), "open"),
        (number(2, 2, stated=True), "stated"),
        (number(2, 2, printed=3, stated=True), "erratum"),
        (number(3, 2), "differs"),
        (number(3, 2, printed=3), "differs"),
        (number({"a": 1}, {"a": 1, "b": 2}), "differs"),
        (number({"a": 1, "b": 2}, {"a": 1}), "differs"),
        (number(math.nan, 2), "differs"),
    ],
)
def test_verdicts(entry, verdict):
    assert outcome(entry).verdict == verdict


# The table


@pytest.fixture
def call(capsys):
    """``call(*argv)``: exit code, output and errors of the command."""

    def run(*argv):
        code = command.main(list(argv), description)
        return code, *capsys.readouterr()

    return run


def test_the_table_shows_an_erratum_beside_what_is_printed(call):
    code, out, error = call("261")
    assert (code, error) == (0, "")
    assert "S4:204" in out
    assert "n=7 f=3 s=2: 3, n=227 f=11 s=4: 55 (printed: n=7 f=3 s=2: 2, n=227 f=11 s=4: 54)" in out
    assert "1 computed: 1 erratum." in out


def test_the_table_shows_what_agrees(call):
    out = call("253")[1]
    assert "[0 30 30 0; 0 30 30 0; 0 30 30 0; 0 30 30 0]" in out
    assert "printed" not in out
    assert "1 computed: 1 agrees." in out


def test_json(call):
    code, out, _ = call("2,560", "--json", "--lecture=S0")
    entries = json.loads(out)
    assert code == 0
    assert [entry["row"] for entry in entries] == [198, 199, 378]
    assert entries[1] == {
        "row": 199, "kind": "number", "lines": "S0:241-246", "statement": ROWS[199].statement,
        "computed": {"units": 2560, "weights to 100 units": 256000},
        "right": {"units": 2560, "weights to 100 units": 256000}, "printed": {"units": 160}, "verdict": "erratum",
        "note": "",
    }  # fmt: skip


def test_an_open_answer_is_null_in_json(call):
    assert json.loads(call("260", "--json")[1])[0]["printed"] is None


def test_filters(call):
    def rows(*argv):
        code, out, _ = call("--list", *argv)
        assert code == 0
        return [int(line.split()[0]) for line in out.splitlines()]

    assert rows() == list(range(193, 281)) + list(range(351, 382))
    assert rows("--errata") == list(range(351, 382))
    assert rows("--errata", "--lecture=S0") == [375, 376, 377, 378, 379]
    assert rows("--lecture=s3") == [row for row in rows() if "S3" in ROWS[row].lecture.split(";")]
    assert rows("sobel") == [256]
    assert rows("274") == [274]


def test_a_number_that_differs_fails(call, monkeypatch):
    monkeypatch.setattr(command, "numbers", lambda: {193: number(computed=3, right=2)})
    code, out, _ = call("193")
    assert code == 1
    assert "3 (right: 2)" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lecture=S9"], "Unknown lecture 'S9'"),
        (["--lecture=S44"], "Did you mean 'S4'"),
        (["--lectures=S4"], "Did you mean '--lecture'"),
        (["sobbel"], "Did you mean 'sobel'"),
        (["300"], "rows 193 to 280"),
        (["274", "--errata"], "No row matches '274'"),
        (["274", "275"], "Unexpected argument '275'"),
    ],
)
def test_bad_input_is_refused(call, argv, message):
    code, out, error = call(*argv)
    assert (code, out) == (2, "")
    assert error.startswith("experiments.worked_numbers: ")
    assert message in error


def test_help(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "python -m experiments.worked_numbers --lecture=S4" in out
    assert "--errata" in out
