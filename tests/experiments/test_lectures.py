"""The trace from the lectures to what shows them working: its table, its names, its counts."""

import re
import sys
import types

import pytest

from cnnjax.typing import UsageError
from experiments import lectures

CITATION = re.compile(r"(S[0-4]):([1-9]\d*)(?:-([1-9]\d*))?")
COUNTS = {
    "architecture": 36,
    "operation": 52,
    "loss": 21,
    "training": 19,
    "regularisation": 16,
    "task": 22,
    "algorithm": 26,
    "number": 88,
    "finding": 64,
    "dataset": 6,
    "erratum": 31,
}
# The last line of each deck's text extraction.
LAST_LINE = {"S0": 1003, "S1": 1299, "S2": 1101, "S3": 1001, "S4": 1297}


@pytest.fixture(scope="module")
def rows():
    return lectures.read()


def row(number=1, kind="loss", where="", note=""):
    return lectures.Row(number, "S0", "S0:1", kind, "A statement.", where, note)


class TestNames:
    def test_method(self):
        """Resolved by name below."""
        lectures.resolve("tests/experiments/test_lectures.py::TestNames::test_method")


def test_rows_are_numbered_in_order(rows):
    assert [each.row for each in rows] == list(range(1, 382))


def test_every_kind_has_its_rows(rows):
    assert {kind: count.total for kind, count in lectures.working(rows).items()} == COUNTS


def test_citations_parse_and_lie_within_their_deck(rows):
    bad = []
    for each in rows:
        found = [CITATION.fullmatch(citation) for citation in each.lines.split("; ")]
        for match in found:
            if match is None:
                bad.append((each.row, each.lines))
                continue
            first, last = int(match[2]), int(match[3] or match[2])
            if not first <= last <= LAST_LINE[match[1]]:
                bad.append((each.row, match[0]))
        decks = sorted({match[1] for match in found if match})
        if each.lecture.split(";") != decks:
            bad.append((each.row, each.lecture))
    assert not bad


def test_statements_are_distinct_sentences(rows):
    assert len({each.statement for each in rows}) == len(rows)
    assert [each.row for each in rows if len(each.statement) < 10 or not each.statement.endswith(".")] == []


def test_notes_say_one_of_two_things(rows):
    known = re.compile(r"(pointer only: .+|paper figure, not from the lectures)?")
    assert [each.row for each in rows if not known.fullmatch(each.note)] == []


@pytest.mark.slow
def test_every_place_resolves(rows):
    failures = []
    for each in rows:
        try:
            if each.where:
                lectures.resolve(each.where)
        except UsageError as error:
            failures.append(f"row {each.row}: {error}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    "where",
    [
        "cnnjax.rng:permutation",
        "experiments.lectures:Count.total",
        "tests/experiments/test_lectures.py::test_places_that_exist[any-case]",
        "tests/experiments/test_lectures.py::TestNames::test_method",
        "cnnjax.typing:unknown; tests/experiments/test_lectures.py::test_render",
    ],
)
def test_places_that_exist(where):
    lectures.resolve(where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "no known form"),
        ("cnnjax.rng", "no known form"),
        ("cnnjax.rngs:key", "Module 'cnnjax.rngs' does not exist"),
        ("nowhere.at.all:key", "Module 'nowhere.at.all' does not exist"),
        ("cnnjax.rng:permutations", "Did you mean 'permutation'"),
        ("experiments.lectures:Count.totals", "Did you mean 'total'"),
        ("cnnjax.rng:", "attribute in 'cnnjax.rng:'"),
        ("cnnjax.rng:key; cnnjax.rng:nothing", "'nothing'"),
        ("experiments.lectures#claim", "no tuple CLAIMS"),
        ("experiments.nothing#claim", "Module 'experiments.nothing' does not exist"),
        ("tests/experiments/test_nothing.py::test_a", "does not exist in the repository"),
        (
            "tests/experiments/test_lectures.py::test_places_that_exists",
            "Did you mean 'test_places_that_exist'",
        ),
        ("tests/experiments/test_lectures.py::test_method", "'test_method'"),  # it is a class's method
        ("tests/experiments/test_lectures.py::rows", "'rows'"),  # a fixture is not a test
        ("tests/experiments/test_lectures.py::TestNames", "'TestNames'"),  # a class is not a test
        ("tests/experiments/test_lectures.py::TestName::test_method", "Did you mean 'TestNames'"),
        ("tests/experiments/test_lectures.py::TestNames::test_methods", "Did you mean 'test_method'"),
    ],
)
def test_places_that_do_not_exist(where, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        lectures.resolve(where)


def test_claims_resolve_by_id(monkeypatch):
    module = types.ModuleType("experiment_of_this_test")
    module.CLAIMS = (types.SimpleNamespace(id="deeper-plain"), types.SimpleNamespace(id="deeper-residual"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    lectures.resolve("experiment_of_this_test#deeper-plain")
    with pytest.raises(UsageError, match="Did you mean 'deeper-plain'"):
        lectures.resolve("experiment_of_this_test#deeper-plane")


def test_a_missing_import_inside_a_module_is_not_hidden(tmp_path, monkeypatch):
    (tmp_path / "module_of_this_test.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_library_nobody_has"):
        lectures.resolve("module_of_this_test:name")


def test_working_counts_a_pointer_that_works_as_done():
    counts = lectures.working(
        [
            row(1, "loss", where="cnnjax.rng:key"),
            row(2, "loss", note="pointer only: history"),
            row(3, "task", where="cnnjax.rng:key", note="pointer only: history"),
            row(4, "loss", note="paper figure, not from the lectures"),
        ]
    )
    assert counts == {"loss": (1, 3, 1), "task": (1, 1, 0)}


def test_render():
    table = lectures.render([row(1, "loss", where="cnnjax.rng:key"), row(2, "task"), row(3, "task")])
    assert [line.split() for line in table.splitlines()[1:]] == [
        ["loss", "1", "1", "0"],
        ["task", "0", "2", "0"],
        ["all", "1", "3", "0"],
    ]
