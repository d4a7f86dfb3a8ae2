"""A sweep that compiles one small program: a dense net with two lanes, so that runs make several bundles."""

import dataclasses

import jax
import pytest

from cnnjax.data.catalog import DataConfig, load
from cnnjax.sweep.bundle import signature
from cnnjax.sweep.execution import Execution
from cnnjax.sweep.plan import plan, points
from cnnjax.sweep.store import Store
from cnnjax.sweep.work import Job, Settings
from cnnjax.train.program import Driver
from cnnjax.train.spec import Hyper, Spec

ELSEWHERE = DataConfig(valid_fraction=0.2)  # the same digits by another name
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


@pytest.fixture(scope="session")
def fingerprint():
    return load(DataConfig()).fingerprint


@pytest.fixture(scope="session")
def jobs(spec):
    """``jobs(grid, seeds, **changes)``: the bundles of two lanes, under a worker's signature."""

    def make(grid, seeds, **changes):
        made = points(dataclasses.replace(spec, **changes), Hyper(dropout=0.2, label_noise=0.1), grid, seeds)
        bundles = plan(made, "cpu", Driver("scan", 2)).bundles
        return [Job(bundle, signature(bundle, 1, "cpu", jax.devices()[0].device_kind)) for bundle in bundles]

    return make


@pytest.fixture(scope="session")
def settings(fingerprint):
    """``settings(directory, failed=None, **execution)``: of a sweep; the data ELSEWHERE are said to have changed."""
    fingerprints = {DataConfig(): fingerprint, ELSEWHERE: "changed"}
    return lambda directory, failed=None, **execution: Settings(directory, fingerprints, Execution(**execution), failed)


@pytest.fixture(scope="session")
def rows_of():
    """``rows_of(directory, jobs)``: the rows, in the order of the jobs."""
    return lambda directory, jobs: [Store(directory).read(p.run_id) for job in jobs for p in job.bundle.points]
