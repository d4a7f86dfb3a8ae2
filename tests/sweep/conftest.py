"""A sweep that compiles one small program: a dense net with two lanes, so that runs make several bundles."""

import pytest

from cnnjax.sweep.session import Execution
from cnnjax.train.program import Driver
from cnnjax.train.spec import Spec

TIMES = ("seconds", "compile_seconds", "images_per_second", "worker")


@pytest.fixture(scope="session")
def spec():
    return Spec(model="mlp", model_fields=(("hidden", (8,)),), steps=12, batch_size=16, evaluate_every=6)


@pytest.fixture(scope="session")
def execution():
    return Execution(driver=Driver("scan", 2))


@pytest.fixture(scope="session")
def timeless():
    """``timeless(rows)``: the rows without what may differ between two executions."""
    return lambda rows: [{key: value for key, value in row.items() if key not in TIMES} for row in rows]
