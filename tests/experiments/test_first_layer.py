"""The rule of the first-layer experiment on made-up rows; and that the runs before training are untrained."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import models, rng
from cnnjax.analysis import gabor
from cnnjax.data import DataConfig
from cnnjax.sweep import arrays, run
from cnnjax.sweep.kept import encoded_arrays
from experiments import first_layer
from tests.fixtures.networks import jit

METRICS = ("test_gabor_r2", "test_orientation_selectivity")
BEFORE, AFTER = (0.12, 0.09), (0.6, 0.4)


def fabricated(before=BEFORE, after=AFTER, noise=0.004, seeds=8):
    random = np.random.default_rng(0)
    return [
        {
            "assignment": {"learning_rate": rate, "steps": steps},
            "seed": seed,
            "status": "done",
            "metrics": dict(zip(METRICS, np.array(means) + noise * random.standard_normal(2), strict=True)),
        }
        for rate, steps, means in ((0.0, 1, before), (0.05, 600, after))
        for seed in range(seeds)
    ]


def outcomes(rows):
    return {verdict.id: verdict.verdict for verdict in first_layer.verdict(rows)}


def test_effects_that_are_there_are_reproduced():
    assert set(outcomes(fabricated()).values()) == {"reproduced"}


def test_reversed_effects_are_refuted():
    assert set(outcomes(fabricated(AFTER, BEFORE)).values()) == {"refuted"}


def test_noise_decides_nothing():
    assert set(outcomes(fabricated(BEFORE, BEFORE, noise=0.05)).values()) == {"inconclusive"}


def test_each_claim_reads_its_own_metric():
    for place, claim in enumerate(first_layer.CLAIMS):
        after = [a if i == place else b for i, (a, b) in enumerate(zip(AFTER, BEFORE, strict=True))]
        found = {verdict.id: verdict.effect for verdict in first_layer.verdict(fabricated(after=after, noise=0.0))}
        assert found[claim.id] == pytest.approx(AFTER[place] - BEFORE[place])
        assert sum(abs(effect) > 1e-9 for effect in found.values()) == 1


def test_a_diverged_run_leaves_its_seed_out():
    rows = fabricated()
    rows[-1].update(status="diverged", metrics={}, diverged_step=3)
    assert {verdict.n for verdict in first_layer.verdict(rows)} == {7}


@pytest.mark.slow
def test_before_training_the_filters_are_those_that_the_seed_draws():
    data = DataConfig("shapes")
    spec, hyper = first_layer.spec("smoke", data), first_layer.hyper("smoke", data)
    rows = run(spec, first_layer.grid("smoke", data)[:1], seeds=[3], hyper=hyper)
    model = models.create("vgg_small", **dict(spec.model_fields))
    drawn = jit(model.init)(rng.key(3, "init"), jnp.zeros((1, 12, 12, 3)))["params"]["conv1_1"]["kernel"]
    (row,) = json.loads(json.dumps(rows))
    np.testing.assert_allclose(arrays(row)["kernel"], drawn, rtol=1e-3, atol=1e-6)
    assert row["metrics"]["test_gabor_r2"] == pytest.approx(float(gabor.fit(drawn).r2.mean()), rel=1e-4)
    assert not first_layer.trained(row)


def test_kernels_of_rows_by_seed():
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3, 2)).astype(np.float16).astype(np.float32)
    rows = fabricated(seeds=2)
    for row in rows:
        row["arrays"] = encoded_arrays({"kernel": kernel + row["seed"]})
    rows[0]["status"] = "failed"
    found = first_layer.kernels(rows)
    assert {when: sorted(members) for when, members in found.items()} == {False: [1], True: [0, 1]}
    np.testing.assert_array_equal(found[True][0], kernel)
