"""The verdict on dropout from made-up runs, and the identities of the layer."""

import numpy as np
import pytest

from cnnjax import claims
from cnnjax.data import DataConfig
from cnnjax.typing import UsageError
from experiments import dropout

RATES = (0.0, 0.2, 0.5)


def made(gains, *, seeds=8, noise=0.002, metrics_of=None):
    """Rows in which dropout of 0.2 in all layers lowers the test error by ``gains`` of the normalisation.

    Every other rate and place leaves it; the gap of the losses is half where dropout is on.
    """
    rows = []
    for seed in range(seeds):
        for norm in dropout.NORMS:
            for place, rate in [("dense", 0.0), *((place, rate) for place in dropout.PLACES for rate in RATES[1:])]:
                best = (place, rate) == ("all", 0.2)
                wobble = noise * np.random.default_rng([seed, norm == "none", place == "all", int(10 * rate)]).normal()
                error = 0.3 + 0.02 * seed - (gains[norm] if best else 0.0) + wobble
                metrics = {
                    "test_error": error, "valid_error": 0.3 - 0.1 * best, "train_loss": 0.1,
                    "test_loss": 0.1 + (0.4 if rate else 0.8) + 0.02 * seed + wobble,
                }  # fmt: skip
                assignment = {"model.norm": norm, "model.dropout_at": place, "dropout": rate}
                rows.append({"assignment": assignment, "seed": seed, "status": "done", "metrics": metrics})
    return rows


def outcomes(rows, measured=()):
    return {v.id: v.verdict for v in dropout.verdict(rows, list(measured))}


def test_dropout_that_helps_without_batch_norm_only():
    found = outcomes(made({"none": 0.1, "batch": 0.0}))
    trained = {claim.id for claim in dropout.CLAIMS if claim.test != "exact"}
    assert {found[name] for name in trained} == {"reproduced"}


def test_dropout_that_harms_without_batch_norm_and_helps_with_it():
    found = outcomes(made({"none": -0.1, "batch": 0.1}))
    names = ("dropout-improves-test", "batch-norm-needs-none", "less-use-with-batch-norm")
    assert {found[name] for name in names} == {"refuted"}


def test_noise_decides_nothing():
    found = outcomes(made({"none": 0.0, "batch": 0.0}, noise=0.05))
    assert found["dropout-improves-test"] == found["less-use-with-batch-norm"] == "inconclusive"


def test_the_best_dropout_is_chosen_on_validation_and_is_not_none():
    rows = made({"none": 0.0, "batch": 0.0})
    assert dropout.best_dropout(rows, "none") == {"model.dropout_at": "all", "dropout": 0.2}
    for row in rows:
        row["metrics"]["valid_error"] = 0.1 if row["assignment"]["dropout"] == 0 else 0.2
    assert dropout.best_dropout(rows, "none")["dropout"] > 0


def test_a_diverged_run_counts_with_the_error_of_chance():
    rows = made({"none": 0.1, "batch": 0.0})
    assert claims.chance(rows) == 1  # none did
    for row in rows:
        if row["assignment"] == {"model.norm": "none", "model.dropout_at": "all", "dropout": 0.2} and not row["seed"]:
            row.update(status="diverged", classes=10)
    assert claims.chance(rows) == pytest.approx(0.9)
    assert dropout.best_dropout(rows, "none") == {"model.dropout_at": "all", "dropout": 0.2}  # (0.9 + 7 * 0.2) / 8
    effect = next(v.effect for v in dropout.verdict(rows, []) if v.id == "dropout-improves-test")
    assert effect == pytest.approx((0.6 - 7 * 0.1) / 8, abs=0.003)


def test_runs_without_any_dropout_are_not_judged():
    rows = [row for row in made({"none": 0.1, "batch": 0.0}) if not row["assignment"]["dropout"]]
    with pytest.raises(UsageError, match="rate above 0"):
        dropout.verdict(rows, [])


def test_a_run_without_dropout_is_made_once():
    points = [point for point in dropout.grid("quick", DataConfig()) if not point["dropout"]]
    assert sorted(point["model.norm"] for point in points) == ["batch", "none"]


@pytest.mark.slow
def test_the_identities_hold():
    found = outcomes(made({"none": 0.0, "batch": 0.0}), dropout.measure("smoke", DataConfig()))
    assert found["expectation-kept"] == found["off-at-test"] == "reproduced"


def test_an_output_that_is_not_scaled_has_another_expectation(monkeypatch):
    class Unscaled(dropout.Dropout):
        def __call__(self, activations, rate, train):
            return super().__call__(activations, rate, train) * (1 - rate)

    monkeypatch.setattr(dropout, "Dropout", Unscaled)
    assert dropout.mask_difference(0.5) > 0.1
