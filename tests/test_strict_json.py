"""What is not finite is null, and there is no other place that writes JSON."""

import ast
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax.strict_json import encode, with_nan

ROOT = Path(__file__).parent.parent
ELSEWHERE = {"cnnjax/strict_json.py", "benchmarks/faults/hostile.py"}  # the second makes files that are meant to be bad
WRITERS = {"dump", "dumps", "JSONEncoder"}
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


def same(read, written):
    if isinstance(written, float) and not math.isfinite(written):
        return read is None
    if isinstance(written, dict):
        return read.keys() == written.keys() and all(same(read[name], written[name]) for name in written)
    if isinstance(written, list | tuple):
        return len(read) == len(written) and all(map(same, read, written))
    return read == written


@given(VALUES, st.booleans())
@pytest.mark.slow
def test_every_value_is_read_by_a_strict_reader_and_what_is_finite_stays(value, sort_keys):
    assert same(json.loads(encode(value, sort_keys=sort_keys), parse_constant=refuse), value)


def test_finite_values_are_written_as_python_writes_them():
    value = {"b": [1, 2.5, "x", None, True], "a": {"c": 1e-300}}
    assert encode(value, sort_keys=True) == json.dumps(value, sort_keys=True)
    assert encode(value, indent=1) == json.dumps(value, indent=1)


def test_null_becomes_nan_again():
    read = with_nan(json.loads(encode({"loss": math.inf, "step": 3})))
    assert (math.isnan(read["loss"]), read["step"]) == (True, 3)


@pytest.mark.parametrize("folder", ["cnnjax", "experiments", "launch", "benchmarks"])
@pytest.mark.slow
def test_nothing_else_writes_json(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "json":
                found += [f"{place}:{node.lineno}"] if node.attr in WRITERS else []
            if isinstance(node, ast.ImportFrom) and node.module == "json":
                found += [f"{place}:{node.lineno}"]
    assert found == []
