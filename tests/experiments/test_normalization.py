"""The rule of the normalisation experiment on made-up rows, and its exact properties."""

import numpy as np
import pytest

from cnnjax.data import DataConfig
from experiments import normalization

RATES = (0.01, 0.1, 1.0)
STAGES = ((16, 2), (32, 2))
TRAINED = [claim.id for claim in normalization.CLAIMS if claim.test != "exact"]
# kind -> training error at each rate, test error in batches of 32 and of 2, its 100 steps up to the end's error
TRUE = {
    "none": ((0.1, 0.6, 0.9), 0.25, None, 100),
    "batch": ((0.1, 0.1, 0.15), 0.20, 0.35, 20),
    "instance": ((0.1, 0.1, 0.9), 0.30, None, 50),
    "group": ((0.1, 0.1, 0.9), 0.22, 0.23, 50),
}
MISMATCH = {32: 0.01, 2: 0.2}


def row(kind, rate, seed, metrics, batch=32, steps_needed=100, stages=STAGES, status="done"):
    end = metrics["train_error"]
    history = [{"step": step, "train_error": 0.9 if step < steps_needed else end} for step in range(10, 101, 10)]
    assignment = {"model.norm": kind, "model.stages": stages, "batch_size": batch, "steps": 100, "learning_rate": rate}
    return {
        "assignment": assignment, "seed": seed, "status": status, "metrics": metrics, "history": history, "classes": 10
    }  # fmt: skip


def fabricated(kinds=TRUE, mismatch=MISMATCH, noise=0.002, seeds=8):
    """Runs scattered about what ``kinds`` says; the smallest rate is the best on the validation split."""
    random = np.random.default_rng(0)
    rows = []
    for kind, (train, test, small, steps) in kinds.items():
        for batch, error in ((32, test), (2, small)):
            for rate, end in zip(RATES, train, strict=True) if error is not None else ():
                for seed in range(seeds):
                    jitter = noise * random.standard_normal(3)
                    metrics = {
                        "train_error": end,
                        "valid_error": rate,
                        "test_error": error + jitter[0],
                        "test_loss": 1.0,
                        "test_loss_batch_statistics": 1 + mismatch[batch] + jitter[1],
                    }
                    late = steps + 10 * int(np.sign(jitter[2])) if steps < 100 else steps
                    rows.append(row(kind, rate, seed, metrics, batch, late))
    return rows


def outcomes(rows, measured=()):
    return {verdict.id: verdict.verdict for verdict in normalization.verdict(rows, list(measured))}


def test_effects_that_are_there_are_reproduced():
    found = outcomes(fabricated())
    assert {found[name] for name in TRAINED} == {"reproduced"}


def test_reversed_effects_are_refuted():
    kinds = {
        "none": ((0.1, 0.1, 0.1), 0.25, None, 20),
        "batch": ((0.1, 0.6, 0.9), 0.35, 0.20, 60),
        "instance": ((0.1, 0.1, 0.9), 0.20, None, 50),
        "group": ((0.1, 0.1, 0.9), 0.22, 0.23, 50),
    }
    found = outcomes(fabricated(kinds, mismatch={32: 0.2, 2: 0.01}))
    assert {found[name] for name in TRAINED} == {"refuted"}


def test_noise_decides_nothing():
    alike = dict.fromkeys(TRUE, ((0.1, 0.1, 0.1), 0.3, 0.3, 50))
    found = outcomes(fabricated(alike, mismatch={32: 0.3, 2: 0.3}, noise=0.1))
    undecided = set(TRAINED) - {"five-times-larger-rates"}  # equal rates refute that one
    assert {found[name] for name in undecided} == {"inconclusive"}
    assert found["five-times-larger-rates"] == "refuted"


def test_a_rate_is_stable_while_it_costs_little_and_a_diverged_run_costs_all():
    errors = {0.01: 0.30, 0.1: 0.20, 1.0: 0.29}
    rows = [row("batch", rate, 0, {"train_error": error}) for rate, error in errors.items()]
    assert normalization.stable_rate(rows, guess=0.9) == {0: 1.0}
    rows[-1]["status"] = "diverged"
    assert normalization.stable_rate(rows, guess=0.9) == {0: 0.1}
    rows[1]["metrics"]["train_error"] = 0.45
    assert normalization.stable_rate(rows, guess=0.9) == {0: 0.01}


def test_the_rate_is_chosen_on_validation():
    errors = {0.01: (0.3, 0.1), 0.1: (0.2, 0.5)}
    rows = [
        row("batch", rate, 0, {"train_error": 0.1, "valid_error": valid, "test_error": test})
        for rate, (valid, test) in errors.items()
    ]
    assert normalization.chosen_rate(rows, guess=0.9) == 0.1
    rows[1]["status"] = "diverged"
    assert normalization.chosen_rate(rows, guess=0.9) == 0.01


def test_steps_are_counted_up_to_the_error_that_the_plain_net_ends_with():
    plain = row("none", 0.1, 0, {"train_error": 0.2}, steps_needed=80)
    fast = row("batch", 0.1, 0, {"train_error": 0.0}, steps_needed=20)
    never = row("batch", 0.1, 0, {"train_error": 0.3}, steps_needed=20)
    assert normalization.steps_saved([plain], [fast]) == [2.0]
    assert normalization.steps_saved([plain], [never]) == [np.log2(0.8)]  # counted with all its 100 steps
    assert normalization.steps_saved([{**plain, "status": "failed"}], [fast]) == []
    (saved,) = normalization.steps_saved([{**plain, "status": "diverged"}], [fast])
    assert np.isnan(saved)  # there is no place where it ends, and the pair is not left out


def test_nets_of_other_depth_are_no_part_of_the_comparison():
    rows = fabricated()
    metrics = {"train_error": 0.9, "valid_error": 0.0, "test_error": 0.9}
    deep = [row("batch", rate, seed, metrics, stages=((16, 4),) * 2) for rate in RATES for seed in range(8)]
    assert outcomes(rows + deep) == outcomes(rows)
    assert normalization.Runs(rows + deep).depths == [4, 8]


@pytest.fixture(scope="module")
def measured():
    return normalization.measure("quick", DataConfig())


@pytest.mark.slow
def test_the_layers_are_invariant_and_put_out_unit_variance(measured):
    found = outcomes(fabricated(), measured)
    assert (found["invariant-output"], found["unit-interface"]) == ("reproduced", "reproduced")
    # Epsilon, 1e-5, changes a variance of 1 by that much, and no less: the measurement sees it.
    assert all(5e-6 < each["metrics"]["variance"] < 2e-5 for each in measured)


def test_a_layer_that_does_not_normalise_is_found_out(monkeypatch):
    plain = normalization.norm_layer("none")
    monkeypatch.setattr(normalization, "norm_layer", lambda kind, groups: plain)
    found = normalization.layer_deviations("layer", 0)
    assert found["invariance"] > 1
    assert found["mean"] < 1e-6  # what goes in is standardised already
